"""The depthwise tile: one row of output pixels by four vectors of channels.

The bytes of `group` taps (kernel positions) are interleaved within 16-byte lanes until each lane of a vector holds
one channel's taps side by side, which is what the primitive's dot product wants: a vector then does `group` taps of
all its channels. The interleaving puts channels into the lanes in the order in which the packs of the epilogue take
them out: lane l of vector v is channel 16·(l // 4) + 4·v + l % 4.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.epilogue import emit_epilogue
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, emitted_primitive
from qcompiler.runtime.codegen.rescale import field, record_bytes
from qcompiler.runtime.codegen.vectors import (
    I8,
    I16,
    I64,
    branch_back,
    constant,
    interleave,
    load,
    offset,
    splat_constant,
    vector,
)

VECTORS = 4
"""Of s32 in a tile: their channels fill one vector of bytes."""


@emitted(types.void, *[types.int64] * 11)
def depthwise_row(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    base: ir.Value,
    taps: ir.Value,
    tap_groups: ir.Value,
    pixels: ir.Value,
    pixel_step: ir.Value,
    weights: ir.Value,
    records: ir.Value,
    out: ir.Value,
    out_step: ir.Value,
    parameters: ir.Value,
    unrolled: ir.Value,
) -> None:
    """Compute and store one row of pixels with the primitive in use.

    Args:
        builder: at the place of the call.
        base: address of the first channel of the first pixel's window.
        taps: address of s64[tap_groups * group], the byte offset of each tap in the window.
        tap_groups: groups of taps, at least 1; weights of taps that fill up the last are zero.
        pixels: at least 1.
        pixel_step: bytes from window to window.
        weights: address of [tap_groups, 4, lanes, group], aligned to the vector.
        records: address of four records.
        out: address of the first pixel's first channel.
        out_step: bytes from pixel to pixel.
        parameters: address of the words `rescale.PARAMETERS`.
        unrolled: not 0 if `tap_groups` is that of nine taps.
    """
    p = emitted_primitive()
    row = _Row(p, base, taps, tap_groups, pixels, pixel_step, weights, records, out, out_step, parameters)
    nine, any_number, done = (builder.append_basic_block(n) for n in ("nine_taps", "any_taps", "row_done"))
    enough = builder.icmp_signed(">=", pixels, constant(2))
    builder.cbranch(builder.and_(builder.icmp_signed("!=", unrolled, constant(0)), enough), nine, any_number)
    builder.position_at_end(nine)
    _emit_nine_taps(builder, row, done)
    builder.position_at_end(any_number)
    _emit_any_taps(builder, row, done)
    builder.position_at_end(done)


@dataclass(frozen=True)
class _Row:
    """The operands of `depthwise_row`."""

    p: Primitive
    base: ir.Value
    taps: ir.Value
    tap_groups: ir.Value
    pixels: ir.Value
    pixel_step: ir.Value
    weights: ir.Value
    records: ir.Value
    out: ir.Value
    out_step: ir.Value
    parameters: ir.Value

    def record(self, builder: ir.IRBuilder) -> list[ir.Value]:
        """Addresses of the four vectors' records."""
        return [offset(builder, self.records, v * record_bytes(self.p)) for v in range(4)]


def _emit_nine_taps(builder: ir.IRBuilder, row: _Row, done: ir.Block) -> None:
    """Two pixels at a time, which share the loads of weights and records; the last two may overlap."""
    p, record = row.p, row.record(builder)
    groups = -(-9 // p.group)
    tap_offsets = [load(builder, offset(builder, row.taps, 8 * t), I64, 8) for t in range(groups * p.group)]

    def emit_pixels(sources: list[ir.Value]) -> list[list[ir.Value]]:
        accs = [[field(builder, p, r, "bias") for r in record] for _ in sources]
        for g in range(groups):
            offsets = tap_offsets[g * p.group : (g + 1) * p.group]
            weights = offset(builder, row.weights, g * 4 * p.vector_bytes)
            accs = [
                _add_taps(builder, p, acc, [builder.add(source, o) for o in offsets], weights)
                for source, acc in zip(sources, accs, strict=True)
            ]
        return accs

    _emit_pixel_loop(builder, row, record, 2, emit_pixels, done)


def _emit_any_taps(builder: ir.IRBuilder, row: _Row, done: ir.Block) -> None:
    p, record = row.p, row.record(builder)

    def emit_pixel(sources: list[ir.Value]) -> list[list[ir.Value]]:
        start_accs = [field(builder, p, r, "bias") for r in record]
        tap_loop, tap_end = builder.append_basic_block("taps"), builder.append_basic_block("taps_done")
        before = builder.block
        builder.branch(tap_loop)
        builder.position_at_end(tap_loop)
        g, weights, taps = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        carried = [builder.phi(p.s32) for _ in range(4)]
        offsets = [load(builder, offset(builder, taps, 8 * i), I64, 8) for i in range(p.group)]
        accs = _add_taps(builder, p, carried, [builder.add(sources[0], o) for o in offsets], weights)
        following = builder.add(g, constant(1))
        for phi, start, again in (
            (g, constant(0), following),
            (weights, row.weights, offset(builder, weights, 4 * p.vector_bytes)),
            (taps, row.taps, offset(builder, taps, 8 * p.group)),
            *zip(carried, start_accs, accs, strict=True),
        ):
            phi.add_incoming(start, before)
            phi.add_incoming(again, tap_loop)
        branch_back(builder, builder.icmp_signed("<", following, row.tap_groups), tap_loop, tap_end)
        builder.position_at_end(tap_end)
        return [accs]

    _emit_pixel_loop(builder, row, record, 1, emit_pixel, done)


def _emit_pixel_loop(
    builder: ir.IRBuilder,
    row: _Row,
    record: list[ir.Value],
    step: int,
    emit_pixels: Callable[[list[ir.Value]], list[list[ir.Value]]],
    done: ir.Block,
) -> None:
    """Go over the row `step` pixels at a time; `emit_pixels`: addresses of windows -> accumulators of each pixel."""
    entry, loop, next_step = builder.block, builder.append_basic_block("pixel"), builder.append_basic_block("next")
    builder.branch(loop)
    builder.position_at_end(loop)
    pixel = builder.phi(I64)
    each = [builder.add(pixel, constant(i)) for i in range(step)]
    accs = emit_pixels([builder.add(row.base, builder.mul(i, row.pixel_step)) for i in each])
    outs = [builder.add(row.out, builder.mul(i, row.out_step)) for i in each]
    emit_epilogue(builder, row.p, accs, record, outs, row.parameters, next_step)
    builder.position_at_end(next_step)
    following, last = builder.add(pixel, constant(step)), builder.sub(row.pixels, constant(step))
    near = builder.select(builder.icmp_signed("<", following, last), following, last)
    pixel.add_incoming(constant(0), entry)
    pixel.add_incoming(near, next_step)
    branch_back(builder, builder.icmp_signed("<", following, row.pixels), loop, done)


def _add_taps(
    builder: ir.IRBuilder, p: Primitive, accs: list[ir.Value], addresses: list[ir.Value], weights: ir.Value
) -> list[ir.Value]:
    """Accumulators plus one group of taps; `addresses`: where each tap's bytes are."""
    taps = [load(builder, address, vector(I8, p.vector_bytes), 1) for address in addresses]
    return _add_dots(builder, p, accs, _interleave_taps(builder, p, taps), weights)


def _interleave_taps(builder: ir.IRBuilder, p: Primitive, taps: list[ir.Value]) -> list[ir.Value]:
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


def _add_dots(
    builder: ir.IRBuilder, p: Primitive, accs: list[ir.Value], operands: list[ir.Value], weights: ir.Value
) -> list[ir.Value]:
    return [
        p.dot(
            builder,
            acc,
            operand,
            load(builder, offset(builder, weights, v * p.vector_bytes), p.operand_type, p.vector_bytes),
        )
        for v, (acc, operand) in enumerate(zip(accs, operands, strict=True))
    ]
