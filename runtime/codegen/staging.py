"""Copies of activations into a kernel's scratch, as bytes or widened to the s16 that some primitives read."""

from collections.abc import Callable

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.vectors import I8, I16, I64, branch_back, constant, load, splat, store, vector

_WIDTH = 16


@emitted(types.void, types.int64, types.int64, types.int64, types.int64, types.int64)
def stage_activations(
    builder: ir.IRBuilder,
    target: ir.Value,
    source: ir.Value,
    count: ir.Value,
    flip: ir.Value,
    item_bytes: ir.Value,
) -> None:
    """Copy `count` bytes, xor `flip` (128 turns s8 into u8), each to an item of 1 or 2 bytes."""
    done = builder.append_basic_block("staged")

    def emit_copy(size: int) -> None:
        kind = I8 if size == 1 else I16

        def move(at: ir.Value, n: int) -> None:
            value = load(builder, builder.add(source, at), vector(I8, n), 1)
            value = builder.xor(value, splat(builder, builder.trunc(flip, I8), value.type))
            value = value if size == 1 else builder.zext(value, vector(kind, n))
            store(builder, value, builder.add(target, builder.mul(at, constant(size))))

        short, long = builder.append_basic_block("short"), builder.append_basic_block("long")
        builder.cbranch(builder.icmp_signed("<", count, constant(_WIDTH)), short, long)
        builder.position_at_end(short)
        _emit_steps(builder, count, 1, lambda at: move(at, 1), done)
        builder.position_at_end(long)  # the last vector overlaps the one before
        last = builder.sub(count, constant(_WIDTH))
        _emit_steps(builder, last, _WIDTH, lambda at: move(at, _WIDTH), None)
        move(last, _WIDTH)
        builder.branch(done)

    _emit_sizes(builder, item_bytes, emit_copy)
    builder.position_at_end(done)


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def stage_constant(
    builder: ir.IRBuilder, target: ir.Value, value: ir.Value, count: ir.Value, item_bytes: ir.Value
) -> None:
    """Set `count` items of 1 or 2 bytes to `value`."""
    done = builder.append_basic_block("filled")

    def emit_fill(size: int) -> None:
        item = builder.trunc(value, I8 if size == 1 else I16)

        def put(at: ir.Value) -> None:
            store(builder, item, builder.add(target, builder.mul(at, constant(size))))

        _emit_steps(builder, count, 1, put, done)

    _emit_sizes(builder, item_bytes, emit_fill)
    builder.position_at_end(done)


def _emit_sizes(builder: ir.IRBuilder, item_bytes: ir.Value, emit: Callable[[int], None]) -> None:
    one, two = builder.append_basic_block("bytes"), builder.append_basic_block("words")
    builder.cbranch(builder.icmp_signed("==", item_bytes, constant(1)), one, two)
    for size, block in ((1, one), (2, two)):
        builder.position_at_end(block)
        emit(size)


def _emit_steps(
    builder: ir.IRBuilder, end: ir.Value, step: int, body: Callable[[ir.Value], None], exit_block: ir.Block | None
) -> None:
    """`body` for 0, step, 2·step ... below `end`; then on to the exit block, or to a new one if there is none."""
    before, loop = builder.block, builder.append_basic_block("step")
    after = exit_block or builder.append_basic_block("steps_done")
    builder.cbranch(builder.icmp_signed("<", constant(0), end), loop, after)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    body(at)
    following = builder.add(at, constant(step))
    at.add_incoming(constant(0), before)
    at.add_incoming(following, loop)
    branch_back(builder, builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)
