"""The matrix tile: `pixels` rows of activations by `vectors` vectors of output channels, in registers.

A row of activations is a pixel of the convolution: a list of *runs* of neighbouring bytes, one run for each kernel
row, at the same offsets for each pixel. So a 1x1 convolution or a matrix product has one run, and nothing is copied
into columns. Every four bytes of a run (`group` activations) meet one weight vector.

The channels of a tile's lanes are in the order of `epilogue.channel_of`; weights and records are packed in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.epilogue import emit_epilogue
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.matrix_unit import ROWS, MatrixUnit
from qcompiler.runtime.codegen.matrix_unit_tile import (
    Channels,
    Operands,
    Results,
    add_row_terms,
    emit_unit_tile,
)
from qcompiler.runtime.codegen.primitives import Primitive, TileShape, emitted_primitive
from qcompiler.runtime.codegen.rescale import FIELDS, record_bytes
from qcompiler.runtime.codegen.vectors import (
    I8,
    I32,
    I64,
    PREFETCH_BYTES,
    branch_back,
    constant,
    load,
    offset,
    prefetch,
    splat,
)


@emitted(types.void, types.int64, types.int64)
def begin_tiles(builder: ir.IRBuilder, register_rows: ir.Value, register_bytes: ir.Value) -> None:
    """Before the first `matrix_tiles` of a kernel; the arguments as there."""
    unit = emitted_primitive().matrix_unit
    if unit is not None:
        unit.begin(builder, register_rows, register_bytes)


@emitted(types.void)
def end_tiles(builder: ir.IRBuilder) -> None:
    """After the last `matrix_tiles` of a kernel."""
    unit = emitted_primitive().matrix_unit
    if unit is not None:
        unit.end(builder)


@emitted(types.void, *[types.int64] * 16)
def matrix_tiles(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    variant: ir.Value,
    tiles: ir.Value,
    count: ir.Value,
    base: ir.Value,
    rows: ir.Value,
    runs: ir.Value,
    run_count: ir.Value,
    run_bytes: ir.Value,
    weights: ir.Value,
    register_rows: ir.Value,
    register_bytes: ir.Value,
    records: ir.Value,
    out: ir.Value,
    out_stride: ir.Value,
    residual_distance: ir.Value,
    parameters: ir.Value,
) -> None:
    """Compute and store tiles of neighbouring pixels with the primitive in use.

    Args:
        builder: at the place of the call.
        variant: 2i for the i-th of the tiles of `Primitive.forms`, one after the other, 2i + 1 for the same on one
            pixel.
        tiles: number of tiles, at least 1.
        count: pixels of each. Fewer than the variant has, but at least `Primitive.least_pixels`, only for one tile.
        base: address of the activations.
        rows: address of s64[tiles * pixels], the byte offset of each pixel's activations.
        runs: address of s64[run_count], the byte offset of each run within a pixel's activations.
        run_count: number of runs, at least 1.
        run_bytes: length of each run, a multiple of 4, at least 4.
        weights: address of [run, run_bytes / 4, vectors, lanes, group], aligned to the vector.
        register_rows: pixels of one register of a matrix unit, if there is one: a tile has this many of each 16.
        register_bytes: activations of one of its steps, a multiple of 4, at most 64.
        records: address of one record for each vector.
        out: address of the first pixel's first channel.
        out_stride: bytes from pixel to pixel.
        residual_distance: from the address of a result to that of its residual, in bytes, where residuals are added;
            0 if results take their place.
        parameters: address of the words `rescale.PARAMETERS` and `rescale.RESIDUAL_PARAMETERS`.
    """
    operands = Operands(base, rows, runs, run_count, run_bytes, weights, register_rows, register_bytes)
    results = Results(out, out_stride, parameters, residual_distance=residual_distance)

    def channels(p: Primitive, vectors: int) -> Channels:
        own = [offset(builder, records, v * record_bytes(p)) for v in range(vectors)]
        return Channels([offset(builder, record, FIELDS.index("bias") * p.vector_bytes) for record in own], own)

    _emit_variants(builder, emitted_primitive().forms, variant, tiles, count, operands, channels, results)


@emitted(types.void, *[types.int64] * 16)
def product_tiles(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    variant: ir.Value,
    tiles: ir.Value,
    count: ir.Value,
    base: ir.Value,
    rows: ir.Value,
    run: ir.Value,
    run_bytes: ir.Value,
    weights: ir.Value,
    register_rows: ir.Value,
    register_bytes: ir.Value,
    biases: ir.Value,
    record: ir.Value,
    row_terms: ir.Value,
    out: ir.Value,
    out_stride: ir.Value,
    parameters: ir.Value,
) -> None:
    """The same for a product of two activations: pixels are rows of the first, channels columns of the second.

    Args:
        builder: at the place of the call.
        variant: as for `matrix_tiles`, like all that is not said here.
        tiles: as there.
        count: as there.
        base: as there.
        rows: as there.
        run: address of the s64 offset of the only run.
        run_bytes: as there.
        weights: as there.
        register_rows: as there.
        register_bytes: as there.
        biases: address of s32[vectors, lanes].
        record: address of the one record of all vectors, whose biases are not used.
        row_terms: address of s32[tiles * pixels], added to all sums of a row.
        out: as there.
        out_stride: as there.
        parameters: address of the words `rescale.PARAMETERS`.
    """
    operands = Operands(base, rows, run, constant(1), run_bytes, weights, register_rows, register_bytes)
    results = Results(out, out_stride, parameters, row_terms=row_terms)

    def channels(p: Primitive, vectors: int) -> Channels:
        return Channels([offset(builder, biases, v * p.vector_bytes) for v in range(vectors)], [record] * vectors)

    forms = [emitted_primitive()]  # the narrow form needs a proof for constant weights
    _emit_variants(builder, forms, variant, tiles, count, operands, channels, results)


def _emit_variants(
    builder: ir.IRBuilder,
    forms: Sequence[Primitive],
    variant: ir.Value,
    tiles: ir.Value,
    count: ir.Value,
    operands: Operands,
    channels: Callable[[Primitive, int], Channels],
    results: Results,
) -> None:
    """Compute and store tiles of `variant`, a form and shape; `channels` emits what belongs to that many vectors."""
    done = builder.append_basic_block("tile_done")
    switch = builder.switch(variant, done)
    shapes = [(form, full) for form in forms for full in form.tiles]
    for index, (form, full) in enumerate(shapes):
        for single, shape in enumerate((full, TileShape(full.vectors, 1))):
            body = builder.append_basic_block(f"tile_{shape.vectors}x{shape.pixels}")
            switch.add_case(constant(2 * index + single), body)
            builder.position_at_end(body)
            unit = None if single else form.matrix_unit
            _emit_tiles(builder, form, unit, shape, tiles, count, operands, channels(form, shape.vectors), results)
            builder.branch(done)
    builder.position_at_end(done)


def _emit_tiles(
    builder: ir.IRBuilder,
    p: Primitive,
    unit: MatrixUnit | None,
    shape: TileShape,
    tiles: ir.Value,
    count: ir.Value,
    operands: Operands,
    channels: Channels,
    results: Results,
) -> None:
    """Compute and store tiles of one shape, on the matrix unit or in vector registers."""
    pixels = constant(shape.pixels)
    if unit is not None:
        pixels = builder.mul(operands.register_rows, constant(shape.pixels // ROWS))
    entry = builder.block
    loop, next_tile, done = (builder.append_basic_block(name) for name in ("tile", "next_tile", "tiles_done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    left, rows, tile_out = builder.phi(I64), builder.phi(I64), builder.phi(I64)
    of_tile, own = replace(operands, rows=rows), replace(results, out=tile_out)
    if results.row_terms is not None:
        own = replace(own, row_terms=builder.phi(I64))
    if unit is not None:
        is_first = builder.icmp_signed("==", left, tiles)
        emit_unit_tile(builder, p, unit, shape, count, of_tile, channels, own, is_first)
        builder.branch(next_tile)
    else:
        accs = _emit_sums(builder, p, shape, of_tile, channels.biases)
        if own.row_terms is not None:
            accs = add_row_terms(builder, accs, [offset(builder, own.row_terms, 4 * m) for m in range(shape.pixels)])
        outs = [[builder.add(tile_out, builder.mul(results.stride, constant(m)))] for m in range(shape.pixels)]
        emit_epilogue(
            builder, p, accs, channels.records, outs, results.parameters, next_tile, results.residual_distance
        )
    builder.position_at_end(next_tile)
    following = builder.sub(left, constant(1))
    moving = [
        (left, tiles, following),
        (rows, operands.rows, builder.add(rows, builder.shl(pixels, constant(3)))),
        (tile_out, results.out, builder.add(tile_out, builder.mul(pixels, results.stride))),
    ]
    if own.row_terms is not None:
        moving.append((own.row_terms, results.row_terms, builder.add(own.row_terms, builder.shl(pixels, constant(2)))))
    for phi, start, again in moving:
        phi.add_incoming(start, entry)
        phi.add_incoming(again, next_tile)
    branch_back(builder, builder.icmp_signed(">", following, constant(0)), loop, done)
    builder.position_at_end(done)


def _emit_sums(
    builder: ir.IRBuilder, p: Primitive, shape: TileShape, operands: Operands, biases: Sequence[ir.Value]
) -> list[list[ir.Value]]:
    """The two loops; s32 accumulators [pixel][vector], bias included."""
    base, rows, runs = operands.base, operands.rows, operands.runs
    tile_range = [(m, v) for m in range(shape.pixels) for v in range(shape.vectors)]
    bias = [load(builder, address, p.s32, 4) for address in biases]
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
    last = builder.add(first, operands.run_bytes)
    builder.branch(loop)

    builder.position_at_end(loop)
    at_byte, at_weights = builder.phi(I64), builder.phi(I64)
    acc = {at: builder.phi(p.s32) for at in tile_range}
    vectors = [
        load(builder, offset(builder, at_weights, v * p.vector_bytes), p.operand_type, p.vector_bytes)
        for v in range(shape.vectors)
    ]
    if shape.pixels == 1:  # each weight is read once, and memory is the limit
        prefetch(builder, offset(builder, at_weights, PREFETCH_BYTES), shape.vectors * p.vector_bytes)
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
    branch_back(builder, builder.icmp_signed("<", next_run, operands.run_count), run_loop, end)

    for phi, start, again in ((run, constant(0), next_run), (run_weights, operands.weights, next_weights)):
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
