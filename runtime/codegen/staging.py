"""Copies of activations into a kernel's scratch, in the form that the tiles of the primitive in use read."""

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, emitted_primitive
from qcompiler.runtime.codegen.vectors import I8, I16, I64, constant, load, splat, store, vector


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def stage_activations(
    builder: ir.IRBuilder, target: ir.Value, source: ir.Value, count: ir.Value, flip: ir.Value
) -> None:
    """Copy `count` bytes, xor `flip` (128 turns s8 into u8), widened to s16 if the primitive reads pairs."""
    p = emitted_primitive()
    width = 16
    tail, wide, done = (builder.append_basic_block(n) for n in ("stage_bytes", "stage_vectors", "stage_done"))
    builder.cbranch(builder.icmp_signed("<", count, constant(width)), tail, wide)

    builder.position_at_end(wide)  # the last vector overlaps the one before
    loop = builder.append_basic_block("stage_loop")
    last = builder.sub(count, constant(width))
    builder.branch(loop)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    _move(builder, p, target, source, at, flip, width)
    step = builder.add(at, constant(width))
    near = builder.select(builder.icmp_signed("<", step, last), step, last)
    at.add_incoming(constant(0), wide)
    at.add_incoming(near, loop)
    builder.cbranch(builder.icmp_signed("<", at, last), loop, done)

    builder.position_at_end(tail)
    byte_loop = builder.append_basic_block("stage_byte")
    builder.cbranch(builder.icmp_signed(">", count, constant(0)), byte_loop, done)
    builder.position_at_end(byte_loop)
    index = builder.phi(I64)
    _move(builder, p, target, source, index, flip, 1)
    following = builder.add(index, constant(1))
    index.add_incoming(constant(0), tail)
    index.add_incoming(following, byte_loop)
    builder.cbranch(builder.icmp_signed("<", following, count), byte_loop, done)
    builder.position_at_end(done)


def _move(  # noqa: PLR0913
    builder: ir.IRBuilder, p: Primitive, target: ir.Value, source: ir.Value, at: ir.Value, flip: ir.Value, n: int
) -> None:
    kind = vector(I8, n)
    value = load(builder, builder.add(source, at), kind, 1)
    value = builder.xor(value, splat(builder, builder.trunc(flip, I8), kind))
    if p.activation_bytes == 2:
        value = builder.zext(value, vector(I16, n))
    store(builder, value, builder.add(target, builder.mul(at, constant(p.activation_bytes))))


@emitted(types.void, types.int64, types.int64, types.int64)
def stage_constant(builder: ir.IRBuilder, target: ir.Value, value: ir.Value, count: ir.Value) -> None:
    """Set `count` activations, in the form that the primitive reads, to `value`."""
    p = emitted_primitive()
    element = I8 if p.activation_bytes == 1 else I16
    entry, loop, done = builder.block, builder.append_basic_block("fill"), builder.append_basic_block("fill_done")
    builder.cbranch(builder.icmp_signed(">", count, constant(0)), loop, done)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    store(builder, builder.trunc(value, element), builder.add(target, builder.mul(at, constant(element.width // 8))))
    following = builder.add(at, constant(1))
    at.add_incoming(constant(0), entry)
    at.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
