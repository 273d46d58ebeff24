"""Float parameters in operand words, bit patterns, and the two operations on NaN that plain comparisons get wrong."""

import struct

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.float_tile import bounded
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.vectors import call

_F32, _F64, _I32, _I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)


def bits_of_f32(value: float) -> int:
    """The operand word of a float32 parameter."""
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def bits_of_f64(value: float) -> int:
    """The operand word of a float64 parameter."""
    return int(struct.unpack("<q", struct.pack("<d", value))[0])


@emitted(types.float32, types.int64)
def float_of_bits(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The float32 in the low 32 bits of an operand word."""
    return builder.bitcast(builder.trunc(bits, _I32), _F32)


@emitted(types.float64, types.int64)
def double_of_bits(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The float64 in an operand word."""
    return builder.bitcast(bits, _F64)


@emitted(types.int64, types.float64)
def bits_of_double(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The bits of a float64."""
    return builder.bitcast(value, _I64)


@emitted(types.float32, types.float32, types.float32, types.float32)
def clamp_f32(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """min(max(value, low), high); NaN stays NaN."""
    return bounded(builder, value, low, high)


@emitted(types.float64, types.float64, types.float64, types.float64)
def clamp_f64(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """The same in double precision."""
    return bounded(builder, value, low, high)


@emitted(types.float32, types.float32, types.float32)
def largest_f32(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    """The maximum; NaN if either is NaN."""
    return call(builder, "llvm.maximum.f32", _F32, a, b)
