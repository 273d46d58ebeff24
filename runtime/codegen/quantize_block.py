"""float32 to 8 bits, a block of elements at a time, without dividing most of them."""

import struct

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.vectors import I8, I32, call, load, offset, splat, splat_constant, store, vector

F32 = ir.FloatType()
_LANES, _VECTORS = 16, 4
BLOCK = _LANES * _VECTORS
"""Elements of a block."""

_MAGIC = 1.5 * 2**23
_MAGIC_BITS = struct.unpack("i", struct.pack("f", _MAGIC))[0]
_DOUBT = 2.0**-14
_SCALES = 2.0**-100, 2.0**100


def round_quotient(
    builder: ir.IRBuilder, quotient: ir.Value, zero_point: ir.Value, low: ir.Value, high: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """round_half_even(quotient) clamped to [low, high] plus `zero_point`, s32; and how far rounding went.

    `low` and `high` are integers of at most 17 bits; NaN gives low. Clamping first changes nothing, and below 2^22 a
    sum with 1.5 · 2^23 is rounded to an integer, ties to even, in plain float32 arithmetic: exact on every target, and
    no call where there is no rounding instruction. Its bits are those of 1.5 · 2^23 plus that integer.
    """
    raised = builder.select(builder.fcmp_ordered(">", quotient, low), quotient, low)
    bounded = builder.select(builder.fcmp_ordered("<", raised, high), raised, high)
    magic = _filled(bounded.type, _MAGIC)
    moved = builder.fadd(bounded, magic)
    distance = builder.fsub(bounded, builder.fsub(moved, magic))
    whole = builder.bitcast(moved, zero_point.type)
    return builder.add(whole, builder.sub(zero_point, _filled(zero_point.type, _MAGIC_BITS))), distance


@emitted(types.void, types.int64, types.int64, types.float32, types.int32, types.float32, types.float32)
def quantize_block(
    builder: ir.IRBuilder,
    target: ir.Value,
    source: ir.Value,
    scale: ir.Value,
    zero_point: ir.Value,
    low: ir.Value,
    high: ir.Value,
) -> None:
    """Quantize `BLOCK` float32 at `source` to bytes at `target`: `round_quotient(x / scale, ...)`.

    With q = fl(x / scale) and r = fl(x · fl(1 / scale)), both at most 257, |q − r| is at most 257 · 3 · 2^-24, less
    than 2^-14. So they round to the same integer unless r is that close to the middle between two; a block with such an
    element is divided. `low` and `high` are within ±255, and beyond them both are clamped.
    """
    fast, again, done = (builder.append_basic_block(name) for name in ("multiply", "divide", "quantized"))
    floats, words = vector(F32, _LANES), vector(I32, _LANES)
    one, least, most = (ir.Constant(F32, value) for value in (1.0, *_SCALES))
    divisor, bounds = splat(builder, scale, floats), [splat(builder, bound, floats) for bound in (low, high)]
    zero_points = splat(builder, zero_point, words)
    in_range = builder.and_(builder.fcmp_ordered(">=", scale, least), builder.fcmp_ordered("<=", scale, most))
    builder.cbranch(in_range, fast, again)

    def elements(v: int) -> ir.Value:
        return load(builder, offset(builder, source, 4 * _LANES * v), floats, 4)

    def put(v: int, values: ir.Value) -> None:
        store(builder, builder.trunc(values, vector(I8, _LANES)), offset(builder, target, _LANES * v))

    builder.position_at_end(fast)
    inverse = splat(builder, builder.fdiv(one, scale), floats)
    is_certain = ir.Constant(vector(ir.IntType(1), _LANES), [1] * _LANES)
    for v in range(_VECTORS):
        values, distance = round_quotient(builder, builder.fmul(elements(v), inverse), zero_points, *bounds)
        away = call(builder, f"llvm.fabs.v{_LANES}f32", floats, distance)
        is_certain = builder.and_(is_certain, builder.fcmp_ordered("<", away, splat_constant(floats, 0.5 - _DOUBT)))
        put(v, values)
    flags = builder.bitcast(is_certain, ir.IntType(_LANES))
    builder.cbranch(builder.icmp_signed("==", flags, ir.Constant(flags.type, -1)), done, again)

    builder.position_at_end(again)
    for v in range(_VECTORS):
        put(v, round_quotient(builder, builder.fdiv(elements(v), divisor), zero_points, *bounds)[0])
    builder.branch(done)
    builder.position_at_end(done)


def _filled(kind: ir.Type, value: float) -> ir.Constant:
    return splat_constant(kind, value) if isinstance(kind, ir.VectorType) else ir.Constant(kind, value)
