"""Calibration: reading samples, statistics of every observed value, and the ranges chosen from them."""
