"""Float parameters in operand words, and the bit patterns that float algorithms work on."""

import struct

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.intrinsics import emitted

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
