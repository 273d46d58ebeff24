"""Integer functions element by element: addition, multiplication, division, rescaling, PRelu."""

import numpy as np

from qcompiler.runtime.kernels.arithmetic import (
    add_i32,
    clamp,
    clamp_i32,
    load_integer,
    mul_i32,
    requantize,
    rescale_i32,
    share_start,
    shift_right_i32,
    store_integer,
)
from qcompiler.runtime.kernels.broadcast import BROADCAST_WORDS, PARAMETERS, row_of_a, row_of_b
from qcompiler.runtime.kernels.memory import load_s32, load_s64, load_u8, store_u8
from qcompiler.runtime.kernels.registry import kernel

_FLIPS = ("flip_a", "flip_b", "flip_out")  # see arithmetic.SIGN_FLIP
_DTYPES = ("dtype_a", "dtype_b", "dtype_out")  # see arithmetic.DTYPE_CODES


@kernel(
    "int_add8",
    words=(*BROADCAST_WORDS, *_FLIPS, "multiplier_a", "multiplier_b", "addend", "shift", "zp_out", "lo", "hi"),
)
def int_add8(operands: int, share: int, shares: int) -> None:
    """`int.add` of 8-bit tensors in 32 bits; addend = 2^(shift−1) − zp_a·multiplier_a − zp_b·multiplier_b."""
    a, b, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    inner, a0, b0 = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    flip_a, flip_b = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    flip_out = load_s64(operands, PARAMETERS + 2)
    multiplier_a = np.int32(load_s64(operands, PARAMETERS + 3))
    multiplier_b = np.int32(load_s64(operands, PARAMETERS + 4))
    addend = np.int32(load_s64(operands, PARAMETERS + 5))
    shift = np.int32(load_s64(operands, PARAMETERS + 6))
    zp_out = np.int32(load_s64(operands, PARAMETERS + 7))
    lo, hi = np.int32(load_s64(operands, PARAMETERS + 8)), np.int32(load_s64(operands, PARAMETERS + 9))
    position = min(count, share_start(count, share, shares))
    end = min(count, share_start(count, share + 1, shares))
    while position < end:
        row = position // inner
        column = position - row * inner
        n = min(inner - column, end - position)
        x = a + row_of_a(operands, row) + column * a0
        y = b + row_of_b(operands, row) + column * b0
        z = out + position
        if a0 == 1 and b0 == 1:
            for i in range(n):
                left = mul_i32(np.int32(load_u8(x, i) ^ flip_a), multiplier_a)
                right = mul_i32(np.int32(load_u8(y, i) ^ flip_b), multiplier_b)
                total = shift_right_i32(add_i32(add_i32(left, right), addend), shift)
                store_u8(z, i, clamp_i32(add_i32(zp_out, total), lo, hi) ^ flip_out)
        elif a0 == 1 and b0 == 0:
            constant = add_i32(mul_i32(np.int32(load_u8(y, 0) ^ flip_b), multiplier_b), addend)
            for i in range(n):
                left = mul_i32(np.int32(load_u8(x, i) ^ flip_a), multiplier_a)
                total = shift_right_i32(add_i32(left, constant), shift)
                store_u8(z, i, clamp_i32(add_i32(zp_out, total), lo, hi) ^ flip_out)
        else:
            for i in range(n):
                left = mul_i32(np.int32(load_u8(x, i * a0) ^ flip_a), multiplier_a)
                right = mul_i32(np.int32(load_u8(y, i * b0) ^ flip_b), multiplier_b)
                total = shift_right_i32(add_i32(add_i32(left, right), addend), shift)
                store_u8(z, i, clamp_i32(add_i32(zp_out, total), lo, hi) ^ flip_out)
        position += n


@kernel("int_mul8", words=(*BROADCAST_WORDS, *_FLIPS, "zp_a", "zp_b", "multiplier", "shift", "zp_out", "lo", "hi"))
def int_mul8(operands: int, share: int, shares: int) -> None:
    """`int.mul` of 8-bit tensors for shifts of at least 32."""
    a, b, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    inner, a0, b0 = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    flip_a, flip_b = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    flip_out = load_s64(operands, PARAMETERS + 2)
    minus_zp_a = np.int32(-load_s64(operands, PARAMETERS + 3))
    minus_zp_b = np.int32(-load_s64(operands, PARAMETERS + 4))
    multiplier = np.int32(load_s64(operands, PARAMETERS + 5))
    half = np.int64(1) << (load_s64(operands, PARAMETERS + 6) - 1)
    shift = np.int32(load_s64(operands, PARAMETERS + 6) - 32)
    zp_out = np.int32(load_s64(operands, PARAMETERS + 7))
    lo, hi = np.int32(load_s64(operands, PARAMETERS + 8)), np.int32(load_s64(operands, PARAMETERS + 9))
    position = min(count, share_start(count, share, shares))
    end = min(count, share_start(count, share + 1, shares))
    while position < end:
        row = position // inner
        column = position - row * inner
        n = min(inner - column, end - position)
        x = a + row_of_a(operands, row) + column * a0
        y = b + row_of_b(operands, row) + column * b0
        z = out + position
        if a0 == 1 and b0 == 1:
            for i in range(n):
                left = add_i32(np.int32(load_u8(x, i) ^ flip_a), minus_zp_a)
                right = add_i32(np.int32(load_u8(y, i) ^ flip_b), minus_zp_b)
                product = rescale_i32(mul_i32(left, right), multiplier, half, shift)
                store_u8(z, i, clamp_i32(add_i32(zp_out, product), lo, hi) ^ flip_out)
        else:
            for i in range(n):
                left = add_i32(np.int32(load_u8(x, i * a0) ^ flip_a), minus_zp_a)
                right = add_i32(np.int32(load_u8(y, i * b0) ^ flip_b), minus_zp_b)
                product = rescale_i32(mul_i32(left, right), multiplier, half, shift)
                store_u8(z, i, clamp_i32(add_i32(zp_out, product), lo, hi) ^ flip_out)
        position += n


@kernel(
    "int_add",
    words=(
        *(*BROADCAST_WORDS, *_DTYPES, "zp_a", "zp_b"),
        *("multiplier_a", "multiplier_b", "shift", "zp_out", "lo", "hi"),
    ),
)
def int_add(operands: int, share: int, shares: int) -> None:
    """`int.add` of any dtypes, the sum in 64 bits."""
    a, b, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    inner, a0, b0 = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    dtype_a, dtype_b = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    dtype_out = load_s64(operands, PARAMETERS + 2)
    zp_a, zp_b = load_s64(operands, PARAMETERS + 3), load_s64(operands, PARAMETERS + 4)
    multiplier_a, multiplier_b = load_s64(operands, PARAMETERS + 5), load_s64(operands, PARAMETERS + 6)
    shift, zp_out = load_s64(operands, PARAMETERS + 7), load_s64(operands, PARAMETERS + 8)
    lo, hi = load_s64(operands, PARAMETERS + 9), load_s64(operands, PARAMETERS + 10)
    half = np.int64(1) << (shift - 1)
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        row = i // inner
        column = i - row * inner
        x = load_integer(a, row_of_a(operands, row) + column * a0, dtype_a) - zp_a
        y = load_integer(b, row_of_b(operands, row) + column * b0, dtype_b) - zp_b
        total = (x * multiplier_a + y * multiplier_b + half) >> shift
        store_integer(out, i, clamp(zp_out + total, lo, hi), dtype_out)


@kernel("int_mul", words=(*BROADCAST_WORDS, *_DTYPES, "zp_a", "zp_b", "multiplier", "shift", "zp_out", "lo", "hi"))
def int_mul(operands: int, share: int, shares: int) -> None:
    """`int.mul` of any dtypes."""
    a, b, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    inner, a0, b0 = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    dtype_a, dtype_b = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    dtype_out = load_s64(operands, PARAMETERS + 2)
    zp_a, zp_b = load_s64(operands, PARAMETERS + 3), load_s64(operands, PARAMETERS + 4)
    multiplier, shift = load_s64(operands, PARAMETERS + 5), load_s64(operands, PARAMETERS + 6)
    zp_out, lo = load_s64(operands, PARAMETERS + 7), load_s64(operands, PARAMETERS + 8)
    hi = load_s64(operands, PARAMETERS + 9)
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        row = i // inner
        column = i - row * inner
        x = load_integer(a, row_of_a(operands, row) + column * a0, dtype_a) - zp_a
        y = load_integer(b, row_of_b(operands, row) + column * b0, dtype_b) - zp_b
        store_integer(out, i, requantize(x * y, multiplier, shift, zp_out, lo, hi), dtype_out)


@kernel("int_div", words=(*BROADCAST_WORDS, *_DTYPES, "zp_a", "zp_b", "multiplier", "shift", "zp_out", "lo", "hi"))
def int_div(operands: int, share: int, shares: int) -> None:
    """`int.div` of any dtypes, one 64-bit division an element."""
    a, b, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    inner, a0, b0 = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    dtype_a, dtype_b = load_s64(operands, PARAMETERS), load_s64(operands, PARAMETERS + 1)
    dtype_out = load_s64(operands, PARAMETERS + 2)
    zp_a, zp_b = load_s64(operands, PARAMETERS + 3), load_s64(operands, PARAMETERS + 4)
    multiplier, shift = load_s64(operands, PARAMETERS + 5), load_s64(operands, PARAMETERS + 6)
    zp_out, lo = load_s64(operands, PARAMETERS + 7), load_s64(operands, PARAMETERS + 8)
    hi = load_s64(operands, PARAMETERS + 9)
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        row = i // inner
        column = i - row * inner
        n = (load_integer(a, row_of_a(operands, row) + column * a0, dtype_a) - zp_a) * multiplier
        d = (load_integer(b, row_of_b(operands, row) + column * b0, dtype_b) - zp_b) << shift
        if d < 0:
            n, d = -n, -d
        if d > 0:
            value = zp_out + (2 * n + d) // (2 * d)
        elif n == 0:
            value = zp_out
        else:
            value = hi if n > 0 else lo
        store_integer(out, i, clamp(value, lo, hi), dtype_out)


@kernel(
    "int_rescale",
    words=("x", "out", "count", "dtype_x", "dtype_out", "zp_in", "multiplier", "shift", "zp_out", "lo", "hi"),
)
def int_rescale(operands: int, share: int, shares: int) -> None:
    """`int.rescale` between any dtypes."""
    x, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    dtype_x, dtype_out, zp_in = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    multiplier, shift, zp_out = load_s64(operands, 6), load_s64(operands, 7), load_s64(operands, 8)
    lo, hi = load_s64(operands, 9), load_s64(operands, 10)
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        difference = load_integer(x, i, dtype_x) - zp_in
        store_integer(out, i, requantize(difference, multiplier, shift, zp_out, lo, hi), dtype_out)


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
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        channel = (i // inner) % channels
        difference = load_integer(x, i, dtype_x) - zp_in
        multiplier = positive_multiplier if difference >= 0 else load_s32(multipliers, channel)
        shift = positive_shift if difference >= 0 else load_s32(shifts, channel)
        store_integer(out, i, requantize(difference, multiplier, shift, zp_out, lo, hi), dtype_out)
