"""Sliding windows, means and softmax over float32.

Sums are kept in double precision and run over the window in a fixed order, so that no result depends on the batch or on
the number of threads.
"""

import math

import numpy as np

from qcompiler.runtime.kernels.memory import load_f32, load_s64, store_f32
from qcompiler.runtime.kernels.pooling import PARAMETERS, WINDOW_WORDS, counted_taps, end_tap, first_tap
from qcompiler.runtime.kernels.registry import kernel


@kernel("max_pool_f32", words=WINDOW_WORDS)
def max_pool_f32(operands: int, share: int, shares: int) -> None:
    """`max_pool` of float32; a window over padding alone gives minus infinity, one with a NaN gives NaN."""
    x, out, batch = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    h, w, c = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    out_h, out_w = load_s64(operands, 6), load_s64(operands, 7)
    kernel_h, kernel_w = load_s64(operands, 8), load_s64(operands, 9)
    stride_h, stride_w = load_s64(operands, 10), load_s64(operands, 11)
    pad_h, pad_w = load_s64(operands, 12), load_s64(operands, 13)
    dilation_h, dilation_w = load_s64(operands, 14), load_s64(operands, 15)
    rows = batch * out_h
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        n = row // out_h
        top = (row - n * out_h) * stride_h - pad_h
        first_y, end_y = first_tap(top, dilation_h), end_tap(top, h, dilation_h, kernel_h)
        for ox in range(out_w):
            left = ox * stride_w - pad_w
            first_x, end_x = first_tap(left, dilation_w), end_tap(left, w, dilation_w, kernel_w)
            for i in range(c):
                best = np.float32(-np.inf)
                for ky in range(first_y, end_y):
                    line = (n * h + top + ky * dilation_h) * w + left
                    for kx in range(first_x, end_x):
                        value = load_f32(x, (line + kx * dilation_w) * c + i)
                        if not value <= best:
                            best = value
                store_f32(out, (row * out_w + ox) * c + i, best)


@kernel(
    "average_pool_f32",
    words=(*WINDOW_WORDS, "count_top", "count_bottom", "count_left", "count_right"),
)
def average_pool_f32(operands: int, share: int, shares: int) -> None:
    """`average_pool` of float32; a window over nothing gives 0."""
    x, out, batch = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    h, w, c = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    out_h, out_w = load_s64(operands, 6), load_s64(operands, 7)
    kernel_h, kernel_w = load_s64(operands, 8), load_s64(operands, 9)
    stride_h, stride_w = load_s64(operands, 10), load_s64(operands, 11)
    pad_h, pad_w = load_s64(operands, 12), load_s64(operands, 13)
    dilation_h, dilation_w = load_s64(operands, 14), load_s64(operands, 15)
    count_top, count_bottom = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    count_left, count_right = load_s64(operands, PARAMETERS + 2), load_s64(operands, PARAMETERS + 3)
    rows = batch * out_h
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        n = row // out_h
        top = (row - n * out_h) * stride_h - pad_h
        first_y, end_y = first_tap(top, dilation_h), end_tap(top, h, dilation_h, kernel_h)
        counted_y = counted_taps(top, count_top, count_bottom, dilation_h, kernel_h)
        for ox in range(out_w):
            left = ox * stride_w - pad_w
            first_x, end_x = first_tap(left, dilation_w), end_tap(left, w, dilation_w, kernel_w)
            counted = counted_y * counted_taps(left, count_left, count_right, dilation_w, kernel_w)
            for i in range(c):
                total = 0.0
                for ky in range(first_y, end_y):
                    line = (n * h + top + ky * dilation_h) * w + left
                    for kx in range(first_x, end_x):
                        total += load_f32(x, (line + kx * dilation_w) * c + i)
                mean = total / counted if counted > 0 else 0.0
                store_f32(out, (row * out_w + ox) * c + i, np.float32(mean))


@kernel("mean_f32", words=("x", "out", "outer", "length", "inner"))
def mean_f32(operands: int, share: int, shares: int) -> None:
    """`reduce_mean` over the middle axis of [outer, length, inner]."""
    x, out, outer = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    length, inner = load_s64(operands, 3), load_s64(operands, 4)
    items = outer * inner
    for item in range(items * share // shares, items * (share + 1) // shares):
        row = item // inner
        start = row * length * inner + item - row * inner
        total = 0.0
        for k in range(length):
            total += load_f32(x, start + k * inner)
        store_f32(out, item, np.float32(total / length))


@kernel("softmax_f32", words=("x", "out", "outer", "length", "inner"))
def softmax_f32(operands: int, share: int, shares: int) -> None:
    """`softmax` along the middle axis of [outer, length, inner]."""
    x, out, outer = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    length, inner = load_s64(operands, 3), load_s64(operands, 4)
    items = outer * inner
    for item in range(items * share // shares, items * (share + 1) // shares):
        row = item // inner
        start = row * length * inner + item - row * inner
        largest = load_f32(x, start)
        for k in range(1, length):
            value = load_f32(x, start + k * inner)
            if not value <= largest:
                largest = value
        total = 0.0
        for k in range(length):
            total += math.exp(load_f32(x, start + k * inner) - largest)
        for k in range(length):
            share_of_one = math.exp(load_f32(x, start + k * inner) - largest) / total
            store_f32(out, start + k * inner, np.float32(share_of_one))
