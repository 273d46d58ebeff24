"""The depthwise tile for any kernel: one output pixel by four vectors of channels, `group` taps at a time."""

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.depthwise_operands import VECTORS, add_dots, interleave_taps
from qcompiler.runtime.codegen.epilogue import emit_epilogue
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, emitted_primitive
from qcompiler.runtime.codegen.rescale import field, record_bytes
from qcompiler.runtime.codegen.vectors import I8, I64, branch_back, constant, load, offset, vector


@emitted(types.void, *[types.int64] * 10)
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
    """
    p = emitted_primitive()
    record = [offset(builder, records, v * record_bytes(p)) for v in range(VECTORS)]
    entry = builder.block
    loop, next_pixel, done = (builder.append_basic_block(name) for name in ("pixel", "next", "row_done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    pixel, source, target = builder.phi(I64), builder.phi(I64), builder.phi(I64)
    accs = _emit_sums(builder, p, source, taps, tap_groups, weights, record)
    emit_epilogue(builder, p, [accs], record, [[target]], parameters, next_pixel)
    builder.position_at_end(next_pixel)
    following = builder.add(pixel, constant(1))
    for phi, start, again in (
        (pixel, constant(0), following),
        (source, base, builder.add(source, pixel_step)),
        (target, out, builder.add(target, out_step)),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(again, next_pixel)
    branch_back(builder, builder.icmp_signed("<", following, pixels), loop, done)
    builder.position_at_end(done)


def _emit_sums(
    builder: ir.IRBuilder,
    p: Primitive,
    source: ir.Value,
    taps: ir.Value,
    tap_groups: ir.Value,
    weights: ir.Value,
    records: list[ir.Value],
) -> list[ir.Value]:
    """One pixel's accumulators, bias included."""
    biases = [field(builder, p, record, "bias") for record in records]
    entry = builder.block
    loop, done = builder.append_basic_block("taps"), builder.append_basic_block("taps_done")
    builder.branch(loop)
    builder.position_at_end(loop)
    g, at_weights, at_taps = builder.phi(I64), builder.phi(I64), builder.phi(I64)
    carried = [builder.phi(p.s32) for _ in records]
    offsets = [load(builder, offset(builder, at_taps, 8 * i), I64, 8) for i in range(p.group)]
    rows = [load(builder, builder.add(source, o), vector(I8, p.vector_bytes), 1) for o in offsets]
    accs = add_dots(builder, p, carried, interleave_taps(builder, p, rows), at_weights)
    following = builder.add(g, constant(1))
    for phi, start, again in (
        (g, constant(0), following),
        (at_weights, weights, offset(builder, at_weights, VECTORS * p.vector_bytes)),
        (at_taps, taps, offset(builder, at_taps, 8 * p.group)),
        *zip(carried, biases, accs, strict=True),
    ):
        phi.add_incoming(start, entry)
        phi.add_incoming(again, loop)
    branch_back(builder, builder.icmp_signed("<", following, tap_groups), loop, done)
    builder.position_at_end(done)
    return accs
