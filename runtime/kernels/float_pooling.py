"""Sliding windows over float32; geometry as in `qcompiler.runtime.kernels.pooling`."""

import numpy as np

from qcompiler.runtime.codegen.deferred import compiled
from qcompiler.runtime.kernels.float_bits import largest_f32
from qcompiler.runtime.kernels.memory import load_f32, load_s64, store_f32
from qcompiler.runtime.kernels.pooling import PARAMETERS, WINDOW_WORDS, counted_taps, end_tap, first_tap, load_words
from qcompiler.runtime.kernels.registry import kernel


@kernel("float_max_pool", words=WINDOW_WORDS)
def float_max_pool(operands: int, share: int, shares: int) -> None:
    """`max_pool`; a window over padding alone gives minus infinity, one with a NaN gives NaN."""
    x, out, batch, h, w, c, out_h, out_w = load_words(operands, 0)
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = load_words(operands, 8)
    rows = batch * out_h
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        n = row // out_h
        top = (row - n * out_h) * stride_h - pad_h
        target = out + 4 * row * out_w * c
        for i in range(out_w * c):
            store_f32(target, i, np.float32(-np.inf))
        for ky in range(first_tap(top, dilation_h), end_tap(top, h, dilation_h, kernel_h)):
            line = x + 4 * (n * h + top + ky * dilation_h) * w * c
            for kx in range(kernel_w):
                # Positions whose tap kx lies in the line: taps and positions change roles.
                left = kx * dilation_w - pad_w
                first, end = first_tap(left, stride_w), end_tap(left, w, stride_w, out_w)
                raise_line(target, line + 4 * left * c, first, end, stride_w, c)


@compiled
def raise_line(target: int, source: int, first: int, end: int, stride: int, c: int) -> None:
    """``target[p] = max(target[p], source[p · stride])`` for pixels `first` ... `end` − 1 of c channels."""
    if c == 1 and stride == 1:
        for p in range(first, end):
            store_f32(target, p, largest_f32(load_f32(target, p), load_f32(source, p)))
    elif c == 1 and stride == 2:
        for p in range(first, end):
            store_f32(target, p, largest_f32(load_f32(target, p), load_f32(source, 2 * p)))
    else:
        for p in range(first, end):
            for i in range(c):
                best = largest_f32(load_f32(target, p * c + i), load_f32(source, p * stride * c + i))
                store_f32(target, p * c + i, best)


@kernel("float_average_pool", words=(*WINDOW_WORDS, "count_top", "count_bottom", "count_left", "count_right"))
def float_average_pool(operands: int, share: int, shares: int) -> None:
    """`average_pool`, sums in double precision; a window over nothing gives 0."""
    x, out, batch, h, w, c, out_h, out_w = load_words(operands, 0)
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = load_words(operands, 8)
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
