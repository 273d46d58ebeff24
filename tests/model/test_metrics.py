import math

import numpy as np
import pytest

from qcompiler.metrics import Classification, SignalToNoise


def test_sqnr_is_a_ratio_of_powers_in_decibels():
    noise = SignalToNoise()
    noise.add(np.array([3.0, 4.0]), np.array([3.0, 4.5]))
    assert noise.decibels == pytest.approx(10 * math.log10(25 / 0.25))


def test_sqnr_does_not_depend_on_the_batches():
    rng = np.random.default_rng(0)
    exact, got = rng.normal(size=(2, 12, 5)).astype(np.float32)
    whole, parts = SignalToNoise(), SignalToNoise()
    whole.add(exact, got)
    for i in range(12):
        parts.add(exact[i], got[i])
    assert parts.decibels == pytest.approx(whole.decibels, rel=1e-12)


def test_sqnr_of_equal_and_of_silent_outputs():
    equal, silent, wrong = SignalToNoise(), SignalToNoise(), SignalToNoise()
    equal.add(np.ones(3), np.ones(3))
    silent.add(np.zeros(3), np.zeros(3))
    wrong.add(np.zeros(3), np.ones(3))
    assert equal.decibels == math.inf
    assert silent.decibels is None
    assert wrong.decibels is None


def test_classification_counts_agreement_and_top1():
    scores = Classification()
    exact = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]])
    got = np.array([[0.2, 0.8], [0.1, 0.9], [0.5, 0.5]])
    scores.add(exact, got, np.array([1, 0, 1]))
    assert scores.agreement == 2 / 3
    assert scores.top1_float == 2 / 3
    assert scores.top1_integer == 1 / 3


def test_classification_without_labels_tells_agreement_only():
    scores = Classification()
    scores.add(np.eye(2), np.eye(2), None)
    assert scores.agreement == 1
    assert scores.top1_float is None
    assert scores.top1_integer is None
