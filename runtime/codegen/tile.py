"""The matrix tile: `pixels` rows of activations by `vectors` vectors of output channels, in registers.

A row of activations is a pixel of the convolution: a list of *runs* of neighbouring bytes, one run for each kernel
row, at the same offsets for each pixel. So a 1x1 convolution or a matrix product has one run, and nothing is copied
into columns. Every four bytes of a run (`group` activations) meet one weight vector.

Within a tile the channel of lane l of vector v is `channel_of(...)`, such that the saturating packs of the epilogue,
which work in 16-byte lanes, put the channels in order. Weights and records are packed in that order.
"""

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, TileShape, emitted_primitive
from qcompiler.runtime.codegen.rescale import (
    FORM_S32,
    FORM_U8,
    emit_byte_range,
    emit_rescale,
    emit_s16_stores,
    emit_s32_stores,
    emit_u8,
    field,
    parameter,
    record_bytes,
)
from qcompiler.runtime.codegen.vectors import I8, I32, I64, branch_back, constant, load, offset, shuffle, splat, store


def channel_of(shape: TileShape, vector: int, lane: int) -> int:
    """Channel, within a tile, of one lane of one vector."""
    return 4 * shape.vectors * (lane // 4) + 4 * vector + lane % 4


@emitted(types.void, *[types.int64] * 12)
def matrix_tiles(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    variant: ir.Value,
    tiles: ir.Value,
    base: ir.Value,
    rows: ir.Value,
    runs: ir.Value,
    run_count: ir.Value,
    run_bytes: ir.Value,
    weights: ir.Value,
    records: ir.Value,
    out: ir.Value,
    out_stride: ir.Value,
    parameters: ir.Value,
) -> None:
    """Compute and store tiles of neighbouring pixels with the primitive in use.

    Args:
        builder: at the place of the call.
        variant: 2i for the i-th of `Primitive.tiles`, 2i + 1 for the same on one pixel.
        tiles: number of tiles, at least 1.
        base: address of the activations.
        rows: address of s64[tiles * pixels], the byte offset of each pixel's activations.
        runs: address of s64[run_count], the byte offset of each run within a pixel's activations.
        run_count: number of runs, at least 1.
        run_bytes: length of each run, a multiple of 4, at least 4.
        weights: address of [run, run_bytes / 4, vectors, lanes, group], aligned to the vector.
        records: address of one record for each vector.
        out: address of the first pixel's first channel.
        out_stride: bytes from pixel to pixel.
        parameters: address of the words `rescale.PARAMETERS`.
    """
    p = emitted_primitive()
    done = builder.append_basic_block("tile_done")
    switch = builder.switch(variant, done)
    for index, full in enumerate(p.tiles):
        for single, shape in enumerate((full, TileShape(full.vectors, 1))):
            body = builder.append_basic_block(f"tile_{shape.vectors}x{shape.pixels}")
            switch.add_case(constant(2 * index + single), body)
            builder.position_at_end(body)
            record = [offset(builder, records, v * record_bytes(p)) for v in range(shape.vectors)]
            loop, next_tile = builder.append_basic_block("tile"), builder.append_basic_block("next_tile")
            builder.branch(loop)
            builder.position_at_end(loop)
            left, tile_rows, tile_out = builder.phi(I64), builder.phi(I64), builder.phi(I64)
            accs = _accumulate(builder, p, shape, [base, tile_rows, runs, run_count, run_bytes, weights], record)
            outs = [builder.add(tile_out, builder.mul(out_stride, constant(m))) for m in range(shape.pixels)]
            _finish(builder, p, shape, accs, record, outs, parameters, next_tile)
            builder.position_at_end(next_tile)
            following = builder.sub(left, constant(1))
            for phi, start, again in (
                (left, tiles, following),
                (tile_rows, rows, offset(builder, tile_rows, 8 * shape.pixels)),
                (tile_out, out, builder.add(outs[-1], out_stride)),
            ):
                phi.add_incoming(start, body)
                phi.add_incoming(again, next_tile)
            branch_back(builder, builder.icmp_signed(">", following, constant(0)), loop, done)
    builder.position_at_end(done)


def _accumulate(
    builder: ir.IRBuilder, p: Primitive, shape: TileShape, operands: list[ir.Value], records: list[ir.Value]
) -> list[list[ir.Value]]:
    """The two loops; s32 accumulators [pixel][vector], bias included."""
    base, rows, runs, run_count, run_bytes, weights = operands
    tile_range = [(m, v) for m in range(shape.pixels) for v in range(shape.vectors)]
    bias = [field(builder, p, record, "bias") for record in records]
    row = [
        builder.inttoptr(builder.add(base, load(builder, offset(builder, rows, 8 * m), I64, 8)), I8.as_pointer())
        for m in range(shape.pixels)
    ]
    entry = builder.block
    run_loop, loop, run_end, end = (builder.append_basic_block(name) for name in ("run", "dot", "run_end", "dots_done"))
    builder.branch(run_loop)

    builder.position_at_end(run_loop)
    run, run_weights = builder.phi(I64), builder.phi(I64)
    run_acc = {at: builder.phi(p.s32) for at in tile_range}
    first = load(builder, builder.add(runs, builder.shl(run, constant(3))), I64, 8)
    last = builder.add(first, run_bytes)
    builder.branch(loop)

    builder.position_at_end(loop)
    at_byte, at_weights = builder.phi(I64), builder.phi(I64)
    acc = {at: builder.phi(p.s32) for at in tile_range}
    vectors = [
        load(builder, offset(builder, at_weights, v * p.vector_bytes), p.operand_type, p.vector_bytes)
        for v in range(shape.vectors)
    ]
    new = {}
    for m in range(shape.pixels):
        address = builder.gep(row[m], [at_byte], source_etype=I8)
        group = builder.load(builder.bitcast(address, I32.as_pointer()), typ=I32)
        group.align = 1
        activations = builder.bitcast(splat(builder, group, p.s32), p.operand_type)
        for v in range(shape.vectors):
            new[m, v] = p.dot(builder, acc[m, v], activations, vectors[v])
    next_byte = builder.add(at_byte, constant(4))
    next_weights = offset(builder, at_weights, shape.vectors * p.vector_bytes)
    branch_back(builder, builder.icmp_signed("<", next_byte, last), loop, run_end)

    builder.position_at_end(run_end)
    next_run = builder.add(run, constant(1))
    branch_back(builder, builder.icmp_signed("<", next_run, run_count), run_loop, end)

    for phi, start, again in ((run, constant(0), next_run), (run_weights, weights, next_weights)):
        phi.add_incoming(start, entry)
        phi.add_incoming(again, run_end)
    for phi, start, again in ((at_byte, first, next_byte), (at_weights, run_weights, next_weights)):
        phi.add_incoming(start, run_loop)
        phi.add_incoming(again, loop)
    for m, v in tile_range:
        run_acc[m, v].add_incoming(bias[v], entry)
        run_acc[m, v].add_incoming(new[m, v], run_end)
        acc[m, v].add_incoming(run_acc[m, v], run_loop)
        acc[m, v].add_incoming(new[m, v], loop)
    builder.position_at_end(end)
    return [[new[m, v] for v in range(shape.vectors)] for m in range(shape.pixels)]


def _finish(
    builder: ir.IRBuilder,
    p: Primitive,
    shape: TileShape,
    accs: list[list[ir.Value]],
    records: list[ir.Value],
    outs: list[ir.Value],
    parameters: ir.Value,
    done: ir.Block,
) -> None:
    """Rescale and store in the form that the parameters ask for, and branch to `done`."""
    raw, rescaled, as_u8, as_s16 = (builder.append_basic_block(n) for n in ("s32", "rescaled", "u8", "s16"))
    form = parameter(builder, parameters, "form")
    builder.cbranch(builder.icmp_signed("==", form, constant(FORM_S32)), raw, rescaled)
    tile_range = [(m, v) for v in range(shape.vectors) for m in range(shape.pixels)]

    builder.position_at_end(raw)
    for m, v in tile_range:
        emit_s32_stores(builder, accs[m][v], _quarters(builder, p, shape, outs[m], v, 4))
    builder.branch(done)

    builder.position_at_end(rescaled)
    large = parameter(builder, parameters, "large")
    flat = emit_rescale(builder, p, [accs[m][v] for m, v in tile_range], [records[v] for _, v in tile_range], large)
    values = dict(zip(tile_range, flat, strict=True))
    builder.cbranch(builder.icmp_signed("==", form, constant(FORM_U8)), as_u8, as_s16)

    builder.position_at_end(as_u8)
    limits = emit_byte_range(builder, p, parameters)
    together = 4 // shape.vectors  # pixels that fill one vector of bytes
    width = 4 * shape.vectors  # bytes of one pixel in each 16-byte lane
    for start in range(0, shape.pixels, together):
        pixels = [min(start + i, shape.pixels - 1) for i in range(together)]
        packed = emit_u8(builder, p, [values[m, v] for m in pixels for v in range(shape.vectors)], limits)
        for i, m in enumerate(range(start, min(start + together, shape.pixels))):
            lanes = range(0, packed.type.count, 16)
            own = [lane + width * i + byte for lane in lanes for byte in range(width)]
            store(builder, shuffle(builder, packed, packed, own), outs[m])
    builder.branch(done)

    builder.position_at_end(as_s16)
    for m, v in tile_range:
        emit_s16_stores(builder, values[m, v], _quarters(builder, p, shape, outs[m], v, 2), parameters)
    builder.branch(done)


def _quarters(
    builder: ir.IRBuilder, p: Primitive, shape: TileShape, out: ir.Value, v: int, itemsize: int
) -> list[ir.Value]:
    """Where each four lanes of vector `v` go: they are neighbouring channels."""
    return [offset(builder, out, itemsize * channel_of(shape, v, lane)) for lane in range(0, p.lanes, 4)]
