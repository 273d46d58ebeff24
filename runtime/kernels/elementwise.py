"""Integer functions element by element: addition, multiplication, division, rescaling, PRelu."""

from collections.abc import Callable

import numpy as np

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.arithmetic import (
    add_i32,
    clamp,
    clamp_i32,
    load_flipped,
    load_integer,
    mul_i32,
    requantize,
    rescale_i32,
    share_range,
    shift_left_i32,
    shift_right_i32,
    store_flipped,
    store_integer,
    weighted_sum_i32,
)
from qcompiler.runtime.kernels.broadcast import BROADCAST_WORDS, PARAMETERS, out_at, run_at
from qcompiler.runtime.kernels.memory import load_s16, load_s32, load_s64, load_u8, store_s16, store_u8
from qcompiler.runtime.kernels.registry import kernel

_FLIPS = ("flip_a", "flip_b", "flip_out")  # see arithmetic.SIGN_FLIP
_DTYPES = ("dtype_a", "dtype_b", "dtype_out", "itemsize_a", "itemsize_b")  # see arithmetic.DTYPE_CODES
_SUM = ("multiplier_a", "multiplier_b", "addend", "shift", "zp_out", "lo", "hi")
_Parameters = tuple[int, int, int, int, int, int, int]
_PRODUCT = ("zp_a", "zp_b", "multiplier", "shift", "zp_out", "lo", "hi")


@kernel("int_add8", words=(*BROADCAST_WORDS, *_FLIPS, *_SUM))
def int_add8(operands: int, share: int, shares: int) -> None:
    """`int.add` of 8-bit tensors in 32 bits; addend = 2^(shift−1) − zp_a·multiplier_a − zp_b·multiplier_b."""
    out, a0, b0 = load_s64(operands, 2), load_s64(operands, 5), load_s64(operands, 6)
    words = operands + 8 * PARAMETERS
    flip_a, flip_b, flip_out = load_s64(words, 0), load_s64(words, 1), load_s64(words, 2)
    multiplier_a, multiplier_b = np.int32(load_s64(words, 3)), np.int32(load_s64(words, 4))
    addend, shift = np.int32(load_s64(words, 5)), np.int32(load_s64(words, 6))
    zp_out, lo, hi = np.int32(load_s64(words, 7)), np.int32(load_s64(words, 8)), np.int32(load_s64(words, 9))
    position, end = share_range(load_s64(operands, 3), share, shares)
    while position < end:
        n, x, y = run_at(operands, position, end, 1, 1)
        z = out + out_at(operands, position)
        if a0 == 1 and b0 == 1:
            for i in range(n):
                left = mul_i32(load_flipped(x, i, flip_a), multiplier_a)
                right = mul_i32(load_flipped(y, i, flip_b), multiplier_b)
                total = shift_right_i32(add_i32(add_i32(left, right), addend), shift)
                store_flipped(z, i, clamp_i32(add_i32(zp_out, total), lo, hi), flip_out)
        elif a0 == 1 and b0 == 0:
            constant = add_i32(mul_i32(load_flipped(y, 0, flip_b), multiplier_b), addend)
            for i in range(n):
                left = mul_i32(load_flipped(x, i, flip_a), multiplier_a)
                total = shift_right_i32(add_i32(left, constant), shift)
                store_flipped(z, i, clamp_i32(add_i32(zp_out, total), lo, hi), flip_out)
        else:
            for i in range(n):
                left = mul_i32(load_flipped(x, i * a0, flip_a), multiplier_a)
                right = mul_i32(load_flipped(y, i * b0, flip_b), multiplier_b)
                total = shift_right_i32(add_i32(add_i32(left, right), addend), shift)
                store_flipped(z, i, clamp_i32(add_i32(zp_out, total), lo, hi), flip_out)
        position += n


@kernel("int_add16", words=(*BROADCAST_WORDS, "wide_a", "wide_out", "flip_a", "flip_out", "left_shift", *_SUM))
def int_add16(operands: int, share: int, shares: int) -> None:
    """`int.add` of tensors of one shape, b being s16, with a 64-bit sum; addend as in `int_add8`.

    a and the result are s16 where wide_a and wide_out say so (a wide result goes with a wide a), else 8-bit. The shift
    is at least 32; `left_shift` is what a smaller one was raised by.
    """
    a, b, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    words = operands + 8 * PARAMETERS
    wide_a, wide_out, flip_a = load_s64(words, 0), load_s64(words, 1), load_s64(words, 2)
    flip_out, left_shift = load_s64(words, 3), load_s64(words, 4)
    multiplier_a, multiplier_b = np.int32(load_s64(words, 5)), np.int32(load_s64(words, 6))
    addend, shift = load_s64(words, 7), np.int32(load_s64(words, 8) - 32)
    zp_out, lo, hi = np.int32(load_s64(words, 9)), np.int32(load_s64(words, 10)), np.int32(load_s64(words, 11))
    start, end = share_range(load_s64(operands, 3), share, shares)
    if wide_out:
        for i in range(start, end):
            left, right = np.int32(load_s16(a, i)), np.int32(load_s16(b, i))
            total = weighted_sum_i32(left, multiplier_a, right, multiplier_b, addend, left_shift, shift)
            store_s16(out, i, clamp_i32(add_i32(zp_out, total), lo, hi))
    elif wide_a:
        for i in range(start, end):
            left, right = np.int32(load_s16(a, i)), np.int32(load_s16(b, i))
            total = weighted_sum_i32(left, multiplier_a, right, multiplier_b, addend, left_shift, shift)
            store_flipped(out, i, clamp_i32(add_i32(zp_out, total), lo, hi), flip_out)
    else:
        for i in range(start, end):
            left, right = load_flipped(a, i, flip_a), np.int32(load_s16(b, i))
            total = weighted_sum_i32(left, multiplier_a, right, multiplier_b, addend, left_shift, shift)
            store_flipped(out, i, clamp_i32(add_i32(zp_out, total), lo, hi), flip_out)


@kernel("int_mul8", words=(*BROADCAST_WORDS, *_FLIPS, *_PRODUCT))
def int_mul8(operands: int, share: int, shares: int) -> None:
    """`int.mul` of 8-bit tensors for shifts of at least 32."""
    out, a0, b0 = load_s64(operands, 2), load_s64(operands, 5), load_s64(operands, 6)
    words = operands + 8 * PARAMETERS
    flip_a, flip_b, flip_out = load_s64(words, 0), load_s64(words, 1), load_s64(words, 2)
    minus_zp_a, minus_zp_b = np.int32(-load_s64(words, 3)), np.int32(-load_s64(words, 4))
    multiplier, shift = np.int32(load_s64(words, 5)), np.int32(load_s64(words, 6) - 32)
    half = np.int64(1) << (load_s64(words, 6) - 1)
    zp_out, lo, hi = np.int32(load_s64(words, 7)), np.int32(load_s64(words, 8)), np.int32(load_s64(words, 9))
    position, end = share_range(load_s64(operands, 3), share, shares)
    while position < end:
        n, x, y = run_at(operands, position, end, 1, 1)
        z = out + out_at(operands, position)
        if a0 == 1 and b0 == 1:
            for i in range(n):
                left = add_i32(load_flipped(x, i, flip_a), minus_zp_a)
                right = add_i32(load_flipped(y, i, flip_b), minus_zp_b)
                product = rescale_i32(mul_i32(left, right), multiplier, half, shift)
                store_flipped(z, i, clamp_i32(add_i32(zp_out, product), lo, hi), flip_out)
        elif a0 == 1 and b0 == 0:
            right = add_i32(load_flipped(y, 0, flip_b), minus_zp_b)
            for i in range(n):
                left = add_i32(load_flipped(x, i, flip_a), minus_zp_a)
                product = rescale_i32(mul_i32(left, right), multiplier, half, shift)
                store_flipped(z, i, clamp_i32(add_i32(zp_out, product), lo, hi), flip_out)
        else:
            for i in range(n):
                left = add_i32(load_flipped(x, i * a0, flip_a), minus_zp_a)
                right = add_i32(load_flipped(y, i * b0, flip_b), minus_zp_b)
                product = rescale_i32(mul_i32(left, right), multiplier, half, shift)
                store_flipped(z, i, clamp_i32(add_i32(zp_out, product), lo, hi), flip_out)
        position += n


@inlined
def load_parameters(words: int) -> _Parameters:
    """The seven words after `_DTYPES`."""
    return (
        load_s64(words, 5),
        load_s64(words, 6),
        load_s64(words, 7),
        load_s64(words, 8),
        load_s64(words, 9),
        load_s64(words, 10),
        load_s64(words, 11),
    )


@inlined
def combine(operands: int, share: int, shares: int, function: Callable[[int, int, _Parameters], int]) -> None:
    """``out = function(a, b, parameters)`` for any dtypes."""
    out, a0, b0 = load_s64(operands, 2), load_s64(operands, 5), load_s64(operands, 6)
    words = operands + 8 * PARAMETERS
    dtype_a, dtype_b, dtype_out = load_s64(words, 0), load_s64(words, 1), load_s64(words, 2)
    itemsize_a, itemsize_b = load_s64(words, 3), load_s64(words, 4)
    parameters = load_parameters(words)
    position, end = share_range(load_s64(operands, 3), share, shares)
    while position < end:
        n, x, y = run_at(operands, position, end, itemsize_a, itemsize_b)
        for i in range(n):
            value = function(load_integer(x, i * a0, dtype_a), load_integer(y, i * b0, dtype_b), parameters)
            store_integer(out, position + i, value, dtype_out)
        position += n


@inlined
def add(a: int, b: int, parameters: _Parameters) -> int:
    """The addend holds the zero points, as in `int_add8`."""
    multiplier_a, multiplier_b, addend, shift, zp_out, lo, hi = parameters
    return clamp(zp_out + ((a * multiplier_a + b * multiplier_b + addend) >> shift), lo, hi)


@inlined
def multiply(a: int, b: int, parameters: _Parameters) -> int:
    """`numerics.mul`."""
    zp_a, zp_b, multiplier, shift, zp_out, lo, hi = parameters
    return requantize((a - zp_a) * (b - zp_b), multiplier, shift, zp_out, lo, hi)


@inlined
def divide(a: int, b: int, parameters: _Parameters) -> int:
    """`numerics.div`: one 64-bit division."""
    zp_a, zp_b, multiplier, shift, zp_out, lo, hi = parameters
    n, d = (a - zp_a) * multiplier, (b - zp_b) << shift
    if d < 0:
        n, d = -n, -d
    if d > 0:
        value = zp_out + (2 * n + d) // (2 * d)
    elif n == 0:
        value = zp_out
    else:
        value = hi if n > 0 else lo
    return clamp(value, lo, hi)


@kernel("int_add", words=(*BROADCAST_WORDS, *_DTYPES, *_SUM))
def int_add(operands: int, share: int, shares: int) -> None:
    """`int.add` of any dtypes, the sum in 64 bits."""
    combine(operands, share, shares, add)


@kernel("int_mul", words=(*BROADCAST_WORDS, *_DTYPES, *_PRODUCT))
def int_mul(operands: int, share: int, shares: int) -> None:
    """`int.mul` of any dtypes; of neighbours with s16, one or as many, to s16 in loops that LLVM makes vectors of."""
    words = operands + 8 * PARAMETERS
    dtype_a, a0, b0 = load_s64(words, 0), load_s64(operands, 5), load_s64(operands, 6)
    is_wide = load_s64(words, 1) == 2 and load_s64(words, 2) == 2 and a0 == 1 and 0 <= b0 <= 1
    if is_wide and dtype_a == 2:
        multiply_by_words(operands, share, shares, 2, load_s16)
    elif is_wide and dtype_a == 0:
        multiply_by_words(operands, share, shares, 1, load_u8)
    else:
        combine(operands, share, shares, multiply)


@inlined
def multiply_by_words(operands: int, share: int, shares: int, itemsize: int, load: Callable[[int, int], int]) -> None:
    """`int.mul` of s16 by elements of `itemsize` bytes, which `load` reads."""
    parameters = load_parameters(operands + 8 * PARAMETERS)
    position, end = share_range(load_s64(operands, 3), share, shares)
    while position < end:
        n, x, y = run_at(operands, position, end, itemsize, 2)
        out = load_s64(operands, 2) + 2 * position
        if load_s64(operands, 6) == 1:
            for i in range(n):
                store_s16(out, i, multiply(load(x, i), load_s16(y, i), parameters))
        else:
            right = load_s16(y, 0)
            for i in range(n):
                store_s16(out, i, multiply(load(x, i), right, parameters))
        position += n


@kernel("int_div", words=(*BROADCAST_WORDS, *_DTYPES, *_PRODUCT))
def int_div(operands: int, share: int, shares: int) -> None:
    """`int.div` of any dtypes."""
    combine(operands, share, shares, divide)


@kernel(
    "int_rescale",
    words=("x", "out", "count", "dtype_x", "dtype_out", "zp_in", "multiplier", "shift", "zp_out", "lo", "hi"),
)
def int_rescale(operands: int, share: int, shares: int) -> None:
    """`int.rescale` between any dtypes; s16 to u8 or s8, the commonest, as a loop of its own."""
    x, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    dtype_x, dtype_out, zp_in = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    multiplier, shift, zp_out = load_s64(operands, 6), load_s64(operands, 7), load_s64(operands, 8)
    lo, hi = load_s64(operands, 9), load_s64(operands, 10)
    start, end = share_range(count, share, shares)
    if dtype_x == 2 and dtype_out <= 1:
        for i in range(start, end):
            store_u8(out, i, requantize(load_s16(x, i) - zp_in, multiplier, shift, zp_out, lo, hi))
    else:
        for i in range(start, end):
            difference = load_integer(x, i, dtype_x) - zp_in
            store_integer(out, i, requantize(difference, multiplier, shift, zp_out, lo, hi), dtype_out)


@kernel(
    "int_prelu8",
    words=(
        *("x", "multipliers", "halves", "shifts", "out", "outer", "channels", "inner", "flip_x", "flip_out", "zp_in"),
        *("left_shift", "positive_multiplier", "positive_half", "positive_shift", "zp_out", "lo", "hi"),
    ),
)
def int_prelu8(operands: int, share: int, shares: int) -> None:
    """`int.prelu` of [outer, channels, inner] from 8 to 8 bits.

    Shifts are at least 32, and 32 is subtracted; halves are s64. Differences are shifted by `left_shift`, by
    which smaller shifts were raised.
    """
    x, multipliers, halves, shifts = (
        load_s64(operands, 0),
        load_s64(operands, 1),
        load_s64(operands, 2),
        load_s64(operands, 3),
    )
    out, outer, channels, inner = (
        load_s64(operands, 4),
        load_s64(operands, 5),
        load_s64(operands, 6),
        load_s64(operands, 7),
    )
    flip_x, flip_out, minus_zp = load_s64(operands, 8), load_s64(operands, 9), np.int32(-load_s64(operands, 10))
    left_shift, multiplier = np.int32(load_s64(operands, 11)), np.int32(load_s64(operands, 12))
    half, shift = load_s64(operands, 13), np.int32(load_s64(operands, 14))
    zp_out, lo, hi = (
        np.int32(load_s64(operands, 15)),
        np.int32(load_s64(operands, 16)),
        np.int32(load_s64(operands, 17)),
    )
    for row in range(outer * share // shares, outer * (share + 1) // shares):
        if inner == 1:
            source, target = x + row * channels, out + row * channels
            for c in range(channels):
                difference = shift_left_i32(add_i32(load_flipped(source, c, flip_x), minus_zp), left_shift)
                slope = np.int32(load_s32(multipliers, c))
                below = rescale_i32(difference, slope, load_s64(halves, c), np.int32(load_s32(shifts, c)))
                above = rescale_i32(difference, multiplier, half, shift)
                value = above if difference >= 0 else below
                store_flipped(target, c, clamp_i32(add_i32(zp_out, value), lo, hi), flip_out)
        else:
            for c in range(channels):
                start = (row * channels + c) * inner
                slope, slope_half = np.int32(load_s32(multipliers, c)), load_s64(halves, c)
                slope_shift = np.int32(load_s32(shifts, c))
                for i in range(start, start + inner):
                    difference = shift_left_i32(add_i32(load_flipped(x, i, flip_x), minus_zp), left_shift)
                    below = rescale_i32(difference, slope, slope_half, slope_shift)
                    above = rescale_i32(difference, multiplier, half, shift)
                    value = above if difference >= 0 else below
                    store_flipped(out, i, clamp_i32(add_i32(zp_out, value), lo, hi), flip_out)


@kernel(
    "int_prelu",
    words=(
        *("x", "multipliers", "shifts", "out", "count", "channels", "inner", "dtype_x", "dtype_out", "zp_in"),
        *("positive_multiplier", "positive_shift", "zp_out", "lo", "hi"),
    ),
)
def int_prelu(operands: int, share: int, shares: int) -> None:
    """`int.prelu` of any dtypes; element i belongs to channel (i / inner) mod channels."""
    x, multipliers, shifts = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    out, count, channels = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    inner, dtype_x, dtype_out = load_s64(operands, 6), load_s64(operands, 7), load_s64(operands, 8)
    zp_in, positive_multiplier = load_s64(operands, 9), load_s64(operands, 10)
    positive_shift, zp_out = load_s64(operands, 11), load_s64(operands, 12)
    lo, hi = load_s64(operands, 13), load_s64(operands, 14)
    start, end = share_range(count, share, shares)
    for i in range(start, end):
        channel = (i // inner) % channels
        difference = load_integer(x, i, dtype_x) - zp_in
        multiplier = positive_multiplier if difference >= 0 else load_s32(multipliers, channel)
        shift = positive_shift if difference >= 0 else load_s32(shifts, channel)
        store_integer(out, i, requantize(difference, multiplier, shift, zp_out, lo, hi), dtype_out)
