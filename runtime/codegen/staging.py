"""Copies of activations into a kernel's scratch, as bytes or widened to the s16 that some primitives read."""

from collections.abc import Callable

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.matrix_unit import ROW_BYTES
from qcompiler.runtime.codegen.vectors import (
    I1,
    I8,
    I16,
    I64,
    LINE_BYTES,
    constant,
    emit_loop,
    load,
    splat,
    store,
    vector,
)

_WIDTH = 16  # items of one step


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
    done, plain, other = (builder.append_basic_block(n) for n in ("staged", "plain", "other"))
    builder.cbranch(builder.icmp_signed("==", builder.or_(flip, item_bytes), constant(1)), plain, other)
    builder.position_at_end(plain)
    pointer = I8.as_pointer()
    memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, I64])
    ends = [builder.inttoptr(address, pointer) for address in (target, source)]
    builder.call(memcpy, [*ends, count, ir.Constant(I1, 0)])
    builder.branch(done)

    def item(at: ir.Value, n: int, size: int) -> ir.Value:
        value = load(builder, builder.add(source, at), vector(I8, n), 1)
        value = builder.xor(value, splat(builder, builder.trunc(flip, I8), value.type))
        return value if size == 1 else builder.zext(value, vector(I16, n))

    builder.position_at_end(other)
    _emit_items(builder, target, count, item_bytes, item, done)
    builder.position_at_end(done)


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def stage_constant(
    builder: ir.IRBuilder, target: ir.Value, value: ir.Value, count: ir.Value, item_bytes: ir.Value
) -> None:
    """Set `count` items of 1 or 2 bytes to `value`."""
    done = builder.append_basic_block("filled")

    def item(_at: ir.Value, n: int, size: int) -> ir.Value:
        kind = I8 if size == 1 else I16
        return splat(builder, builder.trunc(value, kind), vector(kind, n))

    _emit_items(builder, target, count, item_bytes, item, done)
    builder.position_at_end(done)


@emitted(types.void, types.int64, types.int64)
def copy_row(builder: ir.IRBuilder, target: ir.Value, source: ir.Value) -> None:
    """Copy the 64 bytes of a matrix unit's row."""
    store(builder, load(builder, source, vector(I8, ROW_BYTES), 1), target)


def _emit_items(
    builder: ir.IRBuilder,
    target: ir.Value,
    count: ir.Value,
    item_bytes: ir.Value,
    item: Callable[[ir.Value, int, int], ir.Value],
    done: ir.Block,
) -> None:
    """Store `item(first, number, size)` for `count` items, then branch to `done`."""
    one, two = builder.append_basic_block("bytes"), builder.append_basic_block("words")
    builder.cbranch(builder.icmp_signed("==", item_bytes, constant(1)), one, two)
    for size, block in ((1, one), (2, two)):

        def put(at: ir.Value, n: int, size: int = size) -> None:
            store(builder, item(at, n, size), builder.add(target, builder.mul(at, constant(size))))

        builder.position_at_end(block)
        short, long = builder.append_basic_block("short"), builder.append_basic_block("long")
        builder.cbranch(builder.icmp_signed("<", count, constant(_WIDTH)), short, long)
        builder.position_at_end(short)
        emit_loop(builder, count, 1, lambda at: put(at, 1))
        builder.branch(done)
        builder.position_at_end(long)  # the last step overlaps the one before
        last = builder.sub(count, constant(_WIDTH))
        emit_loop(builder, last, _WIDTH, lambda at: put(at, _WIDTH))
        put(last, _WIDTH)
        builder.branch(done)


@emitted(types.void, *[types.int64] * 5)
def copy_pixels(
    builder: ir.IRBuilder,
    target: ir.Value,
    source: ir.Value,
    pixels: ir.Value,
    step: ir.Value,
    count: ir.Value,
) -> None:
    """Copy `count` bytes, at least 16, of each of `pixels` pixels that begin `step` bytes apart, next to each other."""
    done, long, short = (builder.append_basic_block(n) for n in ("copied", "long_pixels", "short_pixels"))
    builder.cbranch(builder.icmp_signed(">=", count, constant(LINE_BYTES)), long, short)
    for width, block in ((LINE_BYTES, long), (_WIDTH, short)):
        kind = vector(I8, width)
        builder.position_at_end(block)
        last = builder.sub(count, constant(width))

        def pixel(index: ir.Value, kind: ir.Type = kind, width: int = width, last: ir.Value = last) -> None:
            start, end = builder.add(source, builder.mul(index, step)), builder.add(target, builder.mul(index, count))

            def move(at: ir.Value) -> None:
                store(builder, load(builder, builder.add(start, at), kind, 1), builder.add(end, at))

            emit_loop(builder, last, width, move)
            move(last)  # overlaps the one before

        emit_loop(builder, pixels, 1, pixel)
        builder.branch(done)
    builder.position_at_end(done)
