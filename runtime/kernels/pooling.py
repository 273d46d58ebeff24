"""Sliding windows and means over integers.

Tensors are [batch, h, w, c] with c innermost; a tensor in NCHW is taken as [n·c, h, w, 1], a 1-d window as h = 1. Sums
are kept in `sums`, s32[BLOCK] for each share, so that the loops over channels are vector loops.
"""

import numpy as np

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.arithmetic import (
    add_i32,
    clamp,
    clamp_i32,
    load_flipped,
    load_integer,
    requantize,
    rescale_i32,
    store_flipped,
    store_integer,
)
from qcompiler.runtime.kernels.memory import (
    copy_bytes,
    fill_bytes,
    load_s32,
    load_s64,
    load_u8,
    store_s32,
    store_u8,
)
from qcompiler.runtime.kernels.registry import kernel

BLOCK = 256
"""Channels summed at a time."""
FAST_SHIFT = 32
"""From here on the low half of a product only rounds."""

WINDOW_WORDS = (
    *("x", "out", "batch", "h", "w", "c", "out_h", "out_w"),
    *("kernel_h", "kernel_w", "stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
)
"""Geometry of a pooling kernel: pad_h and pad_w are those at the beginning."""
PARAMETERS = len(WINDOW_WORDS)


@inlined
def load_words(operands: int, first: int) -> tuple[int, int, int, int, int, int, int, int]:
    """Eight operand words: `WINDOW_WORDS` are the first and the second eight."""
    return (
        load_s64(operands, first),
        load_s64(operands, first + 1),
        load_s64(operands, first + 2),
        load_s64(operands, first + 3),
        load_s64(operands, first + 4),
        load_s64(operands, first + 5),
        load_s64(operands, first + 6),
        load_s64(operands, first + 7),
    )


@inlined
def first_tap(start: int, dilation: int) -> int:
    """The first tap k with start + k·dilation >= 0."""
    return 0 if start >= 0 else (dilation - 1 - start) // dilation


@inlined
def end_tap(start: int, size: int, dilation: int, taps: int) -> int:
    """One after the last of `taps` taps with start + k·dilation < size."""
    return 0 if start >= size else min(taps, (size - start + dilation - 1) // dilation)


@kernel("max_pool8", words=(*WINDOW_WORDS, "line", "flip", "x_pitch", "out_pitch"))
def max_pool8(operands: int, share: int, shares: int) -> None:
    """`max_pool` of u8, or of s8 with flip = 128 (see SIGN_FLIP). A window over padding alone gives the least value.

    The rows under a window are first reduced to one, in `line`, u8[w·c] for each share: long vector loops. Pixels of x
    and of the result begin x_pitch and out_pitch bytes apart.
    """
    x, out, batch, h, w, c, out_h, out_w = load_words(operands, 0)
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = load_words(operands, 8)
    line = load_s64(operands, PARAMETERS) + share * w * c
    flip, x_pitch = load_s64(operands, PARAMETERS + 1), load_s64(operands, PARAMETERS + 2)
    out_pitch = load_s64(operands, PARAMETERS + 3)
    rows = batch * out_h
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        n = row // out_h
        top = (row - n * out_h) * stride_h - pad_h
        first, end = first_tap(top, dilation_h), end_tap(top, h, dilation_h, kernel_h)
        if first >= end:
            fill_bytes(line, flip, w * c)
        for ky in range(first, end):
            source = x + (n * h + top + ky * dilation_h) * w * x_pitch
            if x_pitch == c:
                if ky == first:
                    copy_bytes(line, source, w * c)
                else:
                    take_larger(line, source, w * c, flip)
            else:
                for p in range(w):
                    if ky == first:
                        copy_bytes(line + p * c, source + p * x_pitch, c)
                    else:
                        take_larger(line + p * c, source + p * x_pitch, c, flip)
        for ox in range(out_w):
            left = ox * stride_w - pad_w
            pixel = out + (row * out_w + ox) * out_pitch
            first, end = first_tap(left, dilation_w), end_tap(left, w, dilation_w, kernel_w)
            if first < end:
                copy_bytes(pixel, line + (left + first * dilation_w) * c, c)
            else:
                fill_bytes(pixel, flip, c)
            for kx in range(first + 1, end):
                take_larger(pixel, line + (left + kx * dilation_w) * c, c, flip)


@inlined
def take_larger(target: int, source: int, count: int, flip: int) -> None:
    """Each byte of the target becomes the larger of the two, as u8 after XOR `flip`."""
    for i in range(count):
        store_flipped(target, i, max(load_flipped(target, i, flip), load_flipped(source, i, flip)), flip)


@kernel("max_pool", words=(*WINDOW_WORDS, "dtype", "least"))
def max_pool(operands: int, share: int, shares: int) -> None:
    """`max_pool` of any integer dtype, whose smallest value is `least`."""
    x, out, batch, h, w, c, out_h, out_w = load_words(operands, 0)
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = load_words(operands, 8)
    dtype, least = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    rows = batch * out_h
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        n = row // out_h
        top = (row - n * out_h) * stride_h - pad_h
        first_y, end_y = first_tap(top, dilation_h), end_tap(top, h, dilation_h, kernel_h)
        for ox in range(out_w):
            left = ox * stride_w - pad_w
            first_x, end_x = first_tap(left, dilation_w), end_tap(left, w, dilation_w, kernel_w)
            for i in range(c):
                best = least
                for ky in range(first_y, end_y):
                    line = (n * h + top + ky * dilation_h) * w + left
                    for kx in range(first_x, end_x):
                        best = max(best, load_integer(x, (line + kx * dilation_w) * c + i, dtype))
                store_integer(out, (row * out_w + ox) * c + i, best, dtype)


@inlined
def add_to_sums(sums: int, x: int, index: int, n: int, dtype: int) -> None:
    """``sums[i] += x[index + i]`` for i < n."""
    if dtype == 0:
        for i in range(n):
            store_s32(sums, i, load_s32(sums, i) + load_u8(x, index + i))
    else:
        for i in range(n):
            store_s32(sums, i, load_s32(sums, i) + load_integer(x, index + i, dtype))


@inlined
def finish_sums(  # noqa: PLR0913, PLR0917  # kernels have no structs
    sums: int,
    out: int,
    index: int,
    n: int,
    dtype: int,
    offset: int,
    multiplier: int,
    shift: int,
    zp_out: int,
    lo: int,
    hi: int,
) -> None:
    """``out[index + i] = requantize(sums[i] − offset)`` for i < n; only the difference is sure to fit 32 bits."""
    minus_offset = np.int32(-offset)
    if dtype <= 1 and shift >= FAST_SHIFT:
        half, above_32 = np.int64(1) << (shift - 1), np.int32(shift - FAST_SHIFT)
        zero, low, high, factor = np.int32(zp_out), np.int32(lo), np.int32(hi), np.int32(multiplier)
        for i in range(n):
            total = add_i32(np.int32(load_s32(sums, i)), minus_offset)
            rounded = rescale_i32(total, factor, half, above_32)
            store_u8(out, index + i, clamp_i32(add_i32(zero, rounded), low, high))
    elif dtype <= 1:
        for i in range(n):
            value = requantize(add_i32(np.int32(load_s32(sums, i)), minus_offset), multiplier, shift, zp_out, lo, hi)
            store_u8(out, index + i, value)
    else:
        for i in range(n):
            value = requantize(add_i32(np.int32(load_s32(sums, i)), minus_offset), multiplier, shift, zp_out, lo, hi)
            store_integer(out, index + i, value, dtype)


@inlined
def counted_taps(start: int, low: int, high: int, dilation: int, taps: int) -> int:
    """How many of start, start + dilation, ... (`taps` of them) lie in [low, high)."""
    return max(0, end_tap(start - low, high - low, dilation, taps) - first_tap(start - low, dilation))


@kernel(
    "int_average_pool",
    words=(
        *(*WINDOW_WORDS, "multipliers", "shifts", "sums", "count_top", "count_bottom", "count_left", "count_right"),
        *("dtype_x", "dtype_out", "zp_in", "zp_out", "lo", "hi", "x_pitch", "out_pitch"),
    ),
)
def int_average_pool(operands: int, share: int, shares: int) -> None:
    """`int.average_pool`; a window counts its taps in rows [count_top, count_bottom) and columns [count_left, ...).

    Pixels of x and of the result begin x_pitch and out_pitch elements apart.
    """
    x, out, batch, h, w, c, out_h, out_w = load_words(operands, 0)
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w = load_words(operands, 8)
    multipliers, shifts = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    sums = load_s64(operands, PARAMETERS + 2) + share * 4 * BLOCK
    count_top, count_bottom = load_s64(operands, PARAMETERS + 3), load_s64(operands, PARAMETERS + 4)
    count_left, count_right = load_s64(operands, PARAMETERS + 5), load_s64(operands, PARAMETERS + 6)
    dtype_x, dtype_out = load_s64(operands, PARAMETERS + 7), load_s64(operands, PARAMETERS + 8)
    zp_in, zp_out = load_s64(operands, PARAMETERS + 9), load_s64(operands, PARAMETERS + 10)
    lo, hi = load_s64(operands, PARAMETERS + 11), load_s64(operands, PARAMETERS + 12)
    x_pitch, out_pitch = load_s64(operands, PARAMETERS + 13), load_s64(operands, PARAMETERS + 14)
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
            multiplier, shift = load_s32(multipliers, counted), load_s32(shifts, counted)
            offset = max(0, end_y - first_y) * max(0, end_x - first_x) * zp_in
            for block in range(0, c, BLOCK):
                width = min(BLOCK, c - block)
                fill_bytes(sums, 0, 4 * width)
                for ky in range(first_y, end_y):
                    line = (n * h + top + ky * dilation_h) * w + left
                    for kx in range(first_x, end_x):
                        add_to_sums(sums, x, (line + kx * dilation_w) * x_pitch + block, width, dtype_x)
                index = (row * out_w + ox) * out_pitch + block
                finish_sums(sums, out, index, width, dtype_out, offset, multiplier, shift, zp_out, lo, hi)


@kernel(
    "int_mean",
    words=(
        *("x", "out", "sums", "outer", "length", "inner", "dtype_x", "dtype_out"),
        *("zp_in", "multiplier", "shift", "zp_out", "lo", "hi"),
    ),
)
def int_mean(operands: int, share: int, shares: int) -> None:
    """`int.mean` over the middle axis of [outer, length, inner]."""
    x, out = load_s64(operands, 0), load_s64(operands, 1)
    sums = load_s64(operands, 2) + share * 4 * BLOCK
    outer, length, inner = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    dtype_x, dtype_out = load_s64(operands, 6), load_s64(operands, 7)
    zp_in, multiplier, shift = load_s64(operands, 8), load_s64(operands, 9), load_s64(operands, 10)
    zp_out, lo, hi = load_s64(operands, 11), load_s64(operands, 12), load_s64(operands, 13)
    offset = length * zp_in
    blocks = (inner + BLOCK - 1) // BLOCK
    items = outer * blocks
    for item in range(items * share // shares, items * (share + 1) // shares):
        row = item // blocks
        block = (item - row * blocks) * BLOCK
        width = min(BLOCK, inner - block)
        if width == 1:
            start, total = row * length * inner + block, np.int64(0)
            if inner == 1 and dtype_x == 0:
                for r in range(length):
                    total += load_u8(x, start + r)
            else:
                for r in range(length):
                    total += load_integer(x, start + r * inner, dtype_x)
            value = requantize(total - offset, multiplier, shift, zp_out, lo, hi)
            store_integer(out, row * inner + block, value, dtype_out)
        else:
            fill_bytes(sums, 0, 4 * width)
            for r in range(length):
                add_to_sums(sums, x, (row * length + r) * inner + block, width, dtype_x)
            index = row * inner + block
            finish_sums(sums, out, index, width, dtype_out, offset, multiplier, shift, zp_out, lo, hi)


@kernel(
    "int_softmax",
    words=(
        *("x", "exp_high", "exp_low", "out", "outer", "length", "inner"),
        *("dtype_x", "dtype_out", "one", "hi"),
    ),
)
def int_softmax(operands: int, share: int, shares: int) -> None:
    """`int.softmax` along the middle axis of [outer, length, inner]; exp_low is read for 16-bit operands only."""
    x, exp_high, exp_low = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    out, outer, length = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    inner, dtype_x, dtype_out = load_s64(operands, 6), load_s64(operands, 7), load_s64(operands, 8)
    one, hi = load_s64(operands, 9), load_s64(operands, 10)
    rows = outer * inner
    first = rows * share // shares
    column = first % inner if rows else 0
    start = (first - column) * length + column
    for _row in range(first, rows * (share + 1) // shares):
        largest = load_integer(x, start, dtype_x)
        for k in range(1, length):
            largest = max(largest, load_integer(x, start + k * inner, dtype_x))
        total = np.int64(0)
        for k in range(length):
            below = largest - load_integer(x, start + k * inner, dtype_x)
            total += exponential(below, exp_high, exp_low, dtype_x)
        for k in range(length):
            below = largest - load_integer(x, start + k * inner, dtype_x)
            numerator = 2 * exponential(below, exp_high, exp_low, dtype_x) * one + total
            store_integer(out, start + k * inner, clamp(numerator // (2 * total), 0, hi), dtype_out)
        start, column = start + 1, column + 1
        if column == inner:
            start, column = start + (length - 1) * inner, 0


@inlined
def exponential(below: int, exp_high: int, exp_low: int, dtype: int) -> int:
    """exp(−scale · below) in Q30 from the tables."""
    if dtype <= 1:
        value: int = load_s32(exp_high, below)
    else:
        value = (load_s32(exp_high, below >> 8) * load_s32(exp_low, below & 255) + (1 << 29)) >> 30
    return value
