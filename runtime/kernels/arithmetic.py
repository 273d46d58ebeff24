"""Integer arithmetic of `qcompiler.numerics` and the division of work, inlined into kernels.

Numba widens integer arithmetic to int64, as the loads of `qcompiler.runtime.kernels.memory` do. Where a loop is to use
32-bit lanes it has to say so with the functions on int32 below: LLVM does not narrow a whole expression by itself.
"""

import numpy as np
from llvmlite import ir

from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.deferred import inlined, types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.kernels.memory import (
    load_s8,
    load_s16,
    load_s32,
    load_u8,
    store_s16,
    store_s32,
    store_u8,
)

DTYPE_CODES = {DType.U8: 0, DType.S8: 1, DType.S16: 2, DType.S32: 3}
"""How a kernel that takes several dtypes is told which: `load_integer`, `store_integer`."""

SIGN_FLIP = {DType.U8: 0, DType.S8: 128}
"""8-bit kernels see s8 as u8: q XOR 128 is q + 128, so zero points and bounds of an s8 tensor move by 128."""


_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_BINARY_I32 = (types.int32, types.int32, types.int32)


@emitted(*_BINARY_I32)
def add_i32(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The sum modulo 2^32."""
    return builder.add(a, b)


@emitted(*_BINARY_I32)
def mul_i32(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The product modulo 2^32."""
    return builder.mul(a, b)


@emitted(*_BINARY_I32)
def shift_left_i32(builder: ir.IRBuilder, a: ir.Value, count: ir.Value) -> ir.Value:
    """The shift by 0..31, modulo 2^32."""
    return builder.shl(a, count)


@emitted(*_BINARY_I32)
def shift_right_i32(builder: ir.IRBuilder, a: ir.Value, count: ir.Value) -> ir.Value:
    """The arithmetic shift by 0..31."""
    return builder.ashr(a, count)


@emitted(types.int32, types.int64, types.int64, types.int64)
def load_flipped(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, flip: ir.Value) -> ir.Value:
    """The byte XOR `flip` (see `SIGN_FLIP`), 0..255."""
    byte = builder.load(_byte(builder, base, index), typ=_I8)
    return builder.zext(builder.xor(byte, builder.trunc(flip, _I8)), _I32)


@emitted(types.void, types.int64, types.int64, types.int32, types.int64)
def store_flipped(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, value: ir.Value, flip: ir.Value) -> None:
    """Store the low 8 bits of `value` XOR `flip`."""
    byte = builder.xor(builder.trunc(value, _I8), builder.trunc(flip, _I8))
    builder.store(byte, _byte(builder, base, index))


def _byte(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    return builder.gep(builder.inttoptr(base, _I8.as_pointer()), [index], source_etype=_I8)


@emitted(types.int32, types.int32, types.int32, types.int32)
def clamp_i32(builder: ir.IRBuilder, value: ir.Value, lo: ir.Value, hi: ir.Value) -> ir.Value:
    """``min(max(value, lo), hi)``."""
    raised = builder.select(builder.icmp_signed(">", value, lo), value, lo)
    return builder.select(builder.icmp_signed("<", raised, hi), raised, hi)


@emitted(types.int32, types.int32, types.int32, types.int64, types.int32)
def rescale_i32(
    builder: ir.IRBuilder, acc: ir.Value, multiplier: ir.Value, half: ir.Value, shift_above_32: ir.Value
) -> ir.Value:
    """RESCALE for shifts of 32 to 63: the low half of the 64-bit product only rounds, so it is dropped at once."""
    product = builder.mul(builder.sext(acc, _I64), builder.sext(multiplier, _I64))
    high = builder.trunc(builder.lshr(builder.add(product, half), _I64(32)), _I32)
    return builder.ashr(high, shift_above_32)


@emitted(types.int32, types.int32, types.int32, types.int32, types.int32, types.int64, types.int64, types.int32)
def weighted_sum_i32(
    builder: ir.IRBuilder,
    a: ir.Value,
    multiplier_a: ir.Value,
    b: ir.Value,
    multiplier_b: ir.Value,
    addend: ir.Value,
    left_shift: ir.Value,
    shift_above_32: ir.Value,
) -> ir.Value:
    """``((a·multiplier_a + b·multiplier_b + addend) << left_shift) >> (32 + shift_above_32)`` of a 64-bit sum."""
    pairs = ((a, multiplier_a), (b, multiplier_b))
    left, right = (builder.mul(builder.sext(x, _I64), builder.sext(m, _I64)) for x, m in pairs)
    total = builder.shl(builder.add(builder.add(left, right), addend), left_shift)
    return builder.ashr(builder.trunc(builder.lshr(total, _I64(32)), _I32), shift_above_32)


@inlined
def share_start(total: int, share: int, shares: int) -> int:
    """First of `total` items that belongs to `share`; shares begin at multiples of 64: whole cache lines."""
    return (((total + 63) // 64) * share // shares) * 64


@inlined
def share_range(total: int, share: int, shares: int) -> tuple[int, int]:
    """First of the items that belong to `share`, and one after the last."""
    return min(total, share_start(total, share, shares)), min(total, share_start(total, share + 1, shares))


@inlined
def clamp(value: int, lo: int, hi: int) -> int:
    """``min(max(value, lo), hi)``."""
    return min(max(value, lo), hi)


@inlined
def requantize(acc: int, multiplier: int, shift: int, zero_point: int, lo: int, hi: int) -> int:
    """``clamp(zero_point + RESCALE(acc, multiplier, shift), lo, hi)`` with a 64-bit product."""
    rounded = int((acc * multiplier + (np.int64(1) << (shift - 1))) >> shift)
    return min(max(zero_point + rounded, lo), hi)


@inlined
def load_integer(base: int, index: int, code: int) -> int:
    """Element of any of the dtypes in `DTYPE_CODES`, for paths where speed is not the point."""
    if code == 0:
        value: int = load_u8(base, index)
    elif code == 1:
        value = load_s8(base, index)
    elif code == 2:
        value = load_s16(base, index)
    else:
        value = load_s32(base, index)
    return value


@inlined
def store_integer(base: int, index: int, value: int, code: int) -> None:
    """The counterpart of `load_integer`."""
    if code <= 1:
        store_u8(base, index, value)
    elif code == 2:
        store_s16(base, index, value)
    else:
        store_s32(base, index, value)
