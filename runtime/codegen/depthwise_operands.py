"""What the depthwise tiles have in common: bytes of several taps, side by side in the lanes of their channels.

The bytes of `group` taps (kernel positions) are interleaved within 16-byte lanes until each lane of a vector holds
one channel's taps, which is what the primitive's dot product wants: a vector then does `group` taps of all its
channels. The interleaving puts channels into the lanes in the order in which the packs of the epilogue take them out:
lane l of vector v is channel 16·(l // 4) + 4·v + l % 4.
"""

from llvmlite import ir

from qcompiler.runtime.codegen.primitives import Primitive
from qcompiler.runtime.codegen.vectors import I16, interleave, load, offset, splat_constant, vector

VECTORS = 4
"""Of s32 in a tile: their channels fill one vector of bytes."""


def interleave_taps(builder: ir.IRBuilder, p: Primitive, taps: list[ir.Value]) -> list[ir.Value]:
    """The bytes of `group` taps to the operands of four dot products."""
    pairs = [
        [interleave(builder, x, y, high=high) for high in (False, True)]
        for x, y in zip(taps[::2], taps[1::2], strict=True)
    ]
    if p.group == 2:
        zero = splat_constant(taps[0].type, 0)
        operands = [interleave(builder, half, zero, high=high) for half in pairs[0] for high in (False, True)]
    else:
        words = vector(I16, p.vector_bytes // 2)
        firsts, seconds = ([builder.bitcast(half, words) for half in pair] for pair in pairs)
        operands = [
            interleave(builder, x, y, high=high) for x, y in zip(firsts, seconds, strict=True) for high in (False, True)
        ]
    return [builder.bitcast(operand, p.operand_type) for operand in operands]


def add_dots(
    builder: ir.IRBuilder, p: Primitive, accs: list[ir.Value], operands: list[ir.Value], weights: ir.Value
) -> list[ir.Value]:
    """Accumulators plus one dot product each; `weights`: address of [4, lanes, group]."""
    return [
        p.dot(
            builder,
            acc,
            operand,
            load(builder, offset(builder, weights, v * p.vector_bytes), p.operand_type, p.vector_bytes),
        )
        for v, (acc, operand) in enumerate(zip(accs, operands, strict=True))
    ]
