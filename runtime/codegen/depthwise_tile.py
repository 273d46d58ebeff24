"""The depthwise tile: one row of output pixels by four vectors of channels.

The bytes of `group` taps (kernel positions) are interleaved within 16-byte lanes until each lane of a vector holds
one channel's taps side by side, which is what the primitive's dot product wants: a vector then does `group` taps of
all its channels. The interleaving puts channels into the lanes in the order in which the packs of the epilogue take
them out: lane l of vector v is channel 16·(l // 4) + 4·v + l % 4.
"""

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, TileShape, emitted_primitive
from qcompiler.runtime.codegen.rescale import (
    FORM_S32,
    FORM_U8,
    emit_rescale,
    emit_s16_stores,
    emit_s32_stores,
    emit_u8,
    field,
    parameter,
    record_bytes,
)
from qcompiler.runtime.codegen.tile import channel_of
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
    store,
    vector,
)

CHANNEL_SHAPE = TileShape(vectors=4, pixels=1)


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
    nine, any_number, done = (builder.append_basic_block(n) for n in ("nine_taps", "any_taps", "row_done"))
    builder.cbranch(builder.icmp_signed("!=", unrolled, constant(0)), nine, any_number)
    operands = [base, taps, tap_groups, pixels, pixel_step, weights, records, out, out_step, parameters]
    for block, groups in ((nine, -(-9 // p.group)), (any_number, 0)):
        builder.position_at_end(block)
        _emit_row(builder, p, operands, groups, done)
    builder.position_at_end(done)


def _emit_row(
    builder: ir.IRBuilder, p: Primitive, operands: list[ir.Value], unrolled_groups: int, done: ir.Block
) -> None:
    base, taps, tap_groups, pixels, pixel_step, weights, records, out, out_step, parameters = operands
    record = [offset(builder, records, v * record_bytes(p)) for v in range(4)]
    tap_offsets = [load(builder, offset(builder, taps, 8 * t), I64, 8) for t in range(unrolled_groups * p.group)]
    entry, loop, finish, next_pixel = (
        builder.block,
        *(builder.append_basic_block(n) for n in ("pixel", "finish", "next_pixel")),
    )
    builder.branch(loop)
    builder.position_at_end(loop)
    pixel, at, target = builder.phi(I64), builder.phi(I64), builder.phi(I64)
    accs = [field(builder, p, r, "bias") for r in record]
    if unrolled_groups:
        for g in range(unrolled_groups):
            group_weights = offset(builder, weights, g * 4 * p.vector_bytes)
            offsets = tap_offsets[g * p.group : (g + 1) * p.group]
            accs = _add_taps(builder, p, accs, [builder.add(at, o) for o in offsets], group_weights)
    else:
        tap_loop, tap_end = builder.append_basic_block("taps"), builder.append_basic_block("taps_done")
        before = builder.block
        builder.branch(tap_loop)
        builder.position_at_end(tap_loop)
        g, group_weights, group_taps = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        carried = [builder.phi(p.s32) for _ in range(4)]
        addresses = [builder.add(at, load(builder, offset(builder, group_taps, 8 * i), I64, 8)) for i in range(p.group)]
        new = _add_taps(builder, p, carried, addresses, group_weights)
        following = builder.add(g, constant(1))
        for phi, start, again in (
            (g, constant(0), following),
            (group_weights, weights, offset(builder, group_weights, 4 * p.vector_bytes)),
            (group_taps, taps, offset(builder, group_taps, 8 * p.group)),
            *zip(carried, accs, new, strict=True),
        ):
            phi.add_incoming(start, before)
            phi.add_incoming(again, tap_loop)
        branch_back(builder, builder.icmp_signed("<", following, tap_groups), tap_loop, tap_end)
        builder.position_at_end(tap_end)
        accs = new
    builder.branch(finish)
    builder.position_at_end(finish)
    _finish(builder, p, accs, record, target, parameters, next_pixel)

    builder.position_at_end(next_pixel)
    following_pixel = builder.add(pixel, constant(1))
    for phi, start, again in (
        (pixel, constant(0), following_pixel),
        (at, base, builder.add(at, pixel_step)),
        (target, out, builder.add(target, out_step)),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(again, next_pixel)
    branch_back(builder, builder.icmp_signed("<", following_pixel, pixels), loop, done)


def _add_taps(
    builder: ir.IRBuilder, p: Primitive, accs: list[ir.Value], addresses: list[ir.Value], weights: ir.Value
) -> list[ir.Value]:
    """Accumulators plus one group of taps; `addresses`: where each tap's bytes are."""
    kind = vector(I8, p.vector_bytes)
    taps = [load(builder, address, kind, 1) for address in addresses]
    pairs = [
        [interleave(builder, x, y, high=high) for high in (False, True)]
        for x, y in zip(taps[::2], taps[1::2], strict=True)
    ]
    if p.group == 2:
        zero = splat_constant(kind, 0)
        operands = [interleave(builder, half, zero, high=high) for half in pairs[0] for high in (False, True)]
    else:
        words = vector(I16, p.vector_bytes // 2)
        firsts, seconds = ([builder.bitcast(half, words) for half in pair] for pair in pairs)
        operands = [
            interleave(builder, x, y, high=high) for x, y in zip(firsts, seconds, strict=True) for high in (False, True)
        ]
    return [
        p.dot(
            builder,
            acc,
            builder.bitcast(operand, p.operand_type),
            load(builder, offset(builder, weights, v * p.vector_bytes), p.operand_type, p.vector_bytes),
        )
        for v, (acc, operand) in enumerate(zip(accs, operands, strict=True))
    ]


def _finish(
    builder: ir.IRBuilder,
    p: Primitive,
    accs: list[ir.Value],
    records: list[ir.Value],
    out: ir.Value,
    parameters: ir.Value,
    done: ir.Block,
) -> None:
    """Rescale and store one pixel in the form that the parameters ask for, and branch to `done`."""
    raw, rescaled, as_u8, as_s16 = (builder.append_basic_block(n) for n in ("s32", "rescaled", "u8", "s16"))
    form = parameter(builder, parameters, "form")
    builder.cbranch(builder.icmp_signed("==", form, constant(FORM_S32)), raw, rescaled)

    def quarters(v: int, itemsize: int) -> list[ir.Value]:
        lanes = range(0, p.lanes, 4)
        return [offset(builder, out, itemsize * channel_of(CHANNEL_SHAPE, v, lane)) for lane in lanes]

    builder.position_at_end(raw)
    for v, acc in enumerate(accs):
        emit_s32_stores(builder, acc, quarters(v, 4))
    builder.branch(done)

    builder.position_at_end(rescaled)
    values = emit_rescale(builder, p, accs, records, parameter(builder, parameters, "large"))
    builder.cbranch(builder.icmp_signed("==", form, constant(FORM_U8)), as_u8, as_s16)

    builder.position_at_end(as_u8)
    store(builder, emit_u8(builder, p, values, parameters), out)
    builder.branch(done)

    builder.position_at_end(as_s16)
    for v, value in enumerate(values):
        emit_s16_stores(builder, value, quarters(v, 2), parameters)
    builder.branch(done)
