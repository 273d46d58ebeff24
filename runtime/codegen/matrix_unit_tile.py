"""The matrix tile on a matrix unit: registers of pixels, whose sums go through memory to the epilogue.

A tile has as many registers of sums as the unit: by shape one register of pixels with four vectors of channels, two
with two, or four with one. Where fewer pixels are left, a register starts early and computes some of the one before.

Activations are read where they are, unless the distances of a register's pixels differ (at the end
of an image row) or less than a step is left of a run: then they are gathered first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from qcompiler.runtime.codegen.epilogue import emit_epilogue
from qcompiler.runtime.codegen.matrix_unit import (
    ACTIVATIONS,
    REGISTER_BYTES,
    ROW_BYTES,
    ROWS,
    SUMS,
    WEIGHTS,
    MatrixUnit,
)
from qcompiler.runtime.codegen.primitives import EPILOGUE_VECTORS, Primitive, TileShape
from qcompiler.runtime.codegen.vectors import (
    I1,
    I8,
    I32,
    I64,
    PREFETCH_BYTES,
    branch_back,
    call,
    constant,
    emit_loop,
    load,
    offset,
    prefetch,
    splat,
    splat_constant,
    stack_bytes,
    store,
    vector,
)


@dataclass(frozen=True)
class Operands:
    """Where a tile finds its factors, see `tile.matrix_tiles`, and how a matrix unit takes them.

    Attributes:
        register_rows: pixels of one register of activations.
        register_bytes: activations of one step, a multiple of 4.
    """

    base: ir.Value
    rows: ir.Value
    runs: ir.Value
    run_count: ir.Value
    run_bytes: ir.Value
    weights: ir.Value
    register_rows: ir.Value
    register_bytes: ir.Value


@dataclass(frozen=True)
class Channels:
    """Where a tile finds what belongs to its channels: for each vector of them the address of biases and record."""

    biases: Sequence[ir.Value]
    records: Sequence[ir.Value]


@dataclass(frozen=True)
class Results:
    """Where a tile puts its results; see `tile.matrix_tiles`.

    Attributes:
        residual_distance: None in kernels that add no residual.
        row_terms: address of s32[pixels], added to the sums of each pixel; None in kernels that add none.
    """

    out: ir.Value
    stride: ir.Value
    parameters: ir.Value
    residual_distance: ir.Value | None = None
    row_terms: ir.Value | None = None


def emit_unit_tile(
    builder: ir.IRBuilder,
    p: Primitive,
    unit: MatrixUnit,
    shape: TileShape,
    count: ir.Value,
    operands: Operands,
    channels: Channels,
    results: Results,
    is_first: ir.Value,
) -> None:
    """Compute and store the first `count` pixels of one tile.

    `is_first` says whether it is the first that reads these weights; the others are as for `tile.matrix_tiles`.
    """
    sums = stack_bytes(builder, len(SUMS) * REGISTER_BYTES, "tile_sums")
    _emit_sums(builder, unit, shape, operands, channels.biases, count, sums, is_first)
    done = builder.append_basic_block("tile_done")
    _emit_rescaling(builder, p, shape, sums, channels.records, results, count, done)
    builder.position_at_end(done)


def _emit_rescaling(
    builder: ir.IRBuilder,
    p: Primitive,
    shape: TileShape,
    sums: ir.Value,
    records: Sequence[ir.Value],
    results: Results,
    count: ir.Value,
    done: ir.Block,
) -> None:
    """Store `count` pixels from s32[pixel, vector, lane]; go on at `done`.

    No pixel's residual is read once its result is stored, which may take its place: the last step has the last pixel
    several times.
    """
    step = EPILOGUE_VECTORS // shape.vectors
    before, loop, next_step = builder.block, builder.append_basic_block("rescale"), builder.append_basic_block("next")
    builder.branch(loop)
    builder.position_at_end(loop)
    pixel = builder.phi(I64)
    last = builder.sub(count, constant(1))
    pixels = [pixel, *(_least(builder, offset(builder, pixel, m), last) for m in range(1, step))]
    accs = []
    for own in pixels:
        first = builder.mul(own, constant(shape.vectors))
        accs.append([_emit_sum(builder, p, sums, offset(builder, first, v)) for v in range(shape.vectors)])
    if results.row_terms is not None:
        terms = [builder.add(results.row_terms, builder.shl(own, constant(2))) for own in pixels]
        accs = add_row_terms(builder, accs, terms)
    outs = [[builder.add(results.out, builder.mul(own, results.stride))] for own in pixels]
    emit_epilogue(builder, p, accs, records, outs, results.parameters, next_step, results.residual_distance)
    builder.position_at_end(next_step)
    following = builder.add(pixel, constant(step))
    pixel.add_incoming(constant(0), before)
    pixel.add_incoming(following, next_step)
    branch_back(builder, builder.icmp_signed("<", following, count), loop, done)


def add_row_terms(builder: ir.IRBuilder, accs: list[list[ir.Value]], terms: Sequence[ir.Value]) -> list[list[ir.Value]]:
    """Add to each pixel's accumulators the s32 at its address of `terms`, modulo 2^32."""
    added = []
    for vectors, address in zip(accs, terms, strict=True):
        term = splat(builder, load(builder, address, I32, 4), vectors[0].type)
        added.append([builder.add(acc, term) for acc in vectors])
    return added


def _emit_sum(builder: ir.IRBuilder, p: Primitive, sums: ir.Value, index: ir.Value) -> ir.Value:
    return load(builder, builder.add(sums, builder.mul(index, constant(ROW_BYTES))), p.s32, ROW_BYTES)


def _emit_sums(
    builder: ir.IRBuilder,
    unit: MatrixUnit,
    shape: TileShape,
    operands: Operands,
    biases: Sequence[ir.Value],
    count: ir.Value,
    sums: ir.Value,
    is_first: ir.Value,
) -> None:
    """Store s32[pixel, vector, lane], bias included; pixels from `count` on are unspecified."""
    vectors = range(shape.vectors)
    registers = [_emit_pixels(builder, index, operands, count) for index in range(shape.pixels // ROWS)]
    for v, bias in enumerate(biases):
        for index in range(len(registers)):
            unit.load(builder, index * shape.vectors + v, bias, constant(0))  # each pixel starts from the same biases

    entry = builder.block
    run_loop, loop, run_end, end = (builder.append_basic_block(name) for name in ("run", "dot", "run_end", "dots_done"))
    builder.branch(run_loop)
    builder.position_at_end(run_loop)
    run, run_weights = builder.phi(I64), builder.phi(I64)
    first = load(builder, builder.add(operands.runs, builder.shl(run, constant(3))), I64, 8)
    builder.branch(loop)

    builder.position_at_end(loop)
    at, at_weights = builder.phi(I64), builder.phi(I64)
    left = builder.sub(operands.run_bytes, at)
    source = builder.add(first, at)
    _emit_prefetch(builder, shape, at_weights, is_first)
    for v in vectors:
        own = WEIGHTS[v % len(WEIGHTS)]
        unit.load(builder, own, offset(builder, at_weights, v * ROW_BYTES), constant(shape.vectors * ROW_BYTES))
        for index, pixels in enumerate(registers):
            if v == 0:  # more registers of pixels than `ACTIVATIONS` meet one vector only
                pixels.emit_load(builder, unit, source, left)
            unit.dot(builder, index * shape.vectors + v, pixels.register, own)
    next_at = builder.add(at, operands.register_bytes)
    # The last step of a run may have fewer weights: what follows them meets activations that are zero.
    used = _least(builder, left, operands.register_bytes)
    next_weights = builder.add(at_weights, builder.mul(used, constant(shape.vectors * ROW_BYTES // 4)))
    loop_end = builder.block
    branch_back(builder, builder.icmp_signed("<", next_at, operands.run_bytes), loop, run_end)

    builder.position_at_end(run_end)
    next_run = builder.add(run, constant(1))
    branch_back(builder, builder.icmp_signed("<", next_run, operands.run_count), run_loop, end)
    for phi, start, again, before, after in (
        (run, constant(0), next_run, entry, run_end),
        (run_weights, operands.weights, next_weights, entry, run_end),
        (at, constant(0), next_at, run_loop, loop_end),
        (at_weights, run_weights, next_weights, run_loop, loop_end),
    ):
        phi.add_incoming(start, before)
        phi.add_incoming(again, after)

    builder.position_at_end(end)
    pixel_bytes = constant(shape.vectors * ROW_BYTES)
    for index, pixels in enumerate(registers):
        of_register = builder.add(sums, builder.mul(pixels.start, pixel_bytes))
        for v in vectors:
            unit.store(builder, index * shape.vectors + v, offset(builder, of_register, v * ROW_BYTES), pixel_bytes)


def _emit_prefetch(builder: ir.IRBuilder, shape: TileShape, weights: ir.Value, is_first: ir.Value) -> None:
    """Ask for weights of a later step, if this is the tile that reads them first; those of other tiles follow them."""
    ahead, prefetched = builder.append_basic_block("prefetch"), builder.append_basic_block("prefetched")
    builder.cbranch(is_first, ahead, prefetched)
    builder.position_at_end(ahead)
    prefetch(builder, offset(builder, weights, PREFETCH_BYTES), shape.vectors * REGISTER_BYTES)
    builder.branch(prefetched)
    builder.position_at_end(prefetched)


@dataclass(frozen=True)
class _Pixels:
    """The pixels of one register of activations.

    Attributes:
        index: of the register within the tile.
        start: the first pixel's index within the tile.
        operands: of the tile.
        addresses: of s64[16], each pixel's address, if any is to be gathered; those of the last one repeat.
        first: the first pixel's.
        step: from pixel to pixel, where `evenly`.
        evenly: i1, whether all have this distance.
    """

    index: int
    start: ir.Value
    operands: Operands
    addresses: ir.Value
    first: ir.Value
    step: ir.Value
    evenly: ir.Value

    @property
    def register(self) -> int:
        return ACTIVATIONS[self.index % len(ACTIVATIONS)]

    def emit_load(self, builder: ir.IRBuilder, unit: MatrixUnit, source: ir.Value, left: ir.Value) -> None:
        """Load each pixel's activations at the offset `source`; zeros for what is beyond `left` bytes."""
        direct, gather, loaded = (builder.append_basic_block(n) for n in ("direct", "gather", "loaded"))
        whole = builder.icmp_signed(">=", left, self.operands.register_bytes)
        builder.cbranch(builder.and_(self.evenly, whole), direct, gather)
        builder.position_at_end(direct)
        unit.load(builder, self.register, builder.add(self.first, source), self.step)
        builder.branch(loaded)

        builder.position_at_end(gather)
        kind = vector(I8, ROW_BYTES)
        beyond = builder.sub(constant(ROW_BYTES), _least(builder, left, self.operands.register_bytes))
        mask = builder.bitcast(builder.lshr(constant(-1), beyond), vector(I1, ROW_BYTES))
        gathered = stack_bytes(builder, REGISTER_BYTES, f"gathered_{self.index}")

        def gather_pixel(at: ir.Value) -> None:
            address = builder.add(load(builder, builder.add(self.addresses, at), I64, 8), source)
            pointer = builder.inttoptr(address, kind.as_pointer())
            nothing = splat_constant(kind, 0)
            name = f"llvm.masked.load.v{ROW_BYTES}i8.p0"
            row = call(builder, name, kind, pointer, ir.Constant(I32, 1), mask, nothing)
            store(builder, row, builder.add(gathered, builder.mul(at, constant(ROW_BYTES // 8))), align=ROW_BYTES)

        emit_loop(builder, builder.shl(self.operands.register_rows, constant(3)), 8, gather_pixel)
        unit.load(builder, self.register, gathered, constant(ROW_BYTES))
        builder.branch(loaded)
        builder.position_at_end(loaded)


def _emit_pixels(builder: ir.IRBuilder, index: int, operands: Operands, count: ir.Value) -> _Pixels:
    """Find how the pixels of the `index`-th register lie; note their addresses if they have to be gathered."""
    rows = operands.register_rows
    addresses = stack_bytes(builder, 8 * ROWS, f"pixel_addresses_{index}")
    start = constant(0)
    if index > 0:
        left_over = builder.sub(count, rows)
        start = _least(builder, builder.mul(rows, constant(index)), left_over)
        start = builder.select(builder.icmp_signed("<", left_over, constant(0)), constant(0), start)

    def address_of(m: ir.Value) -> ir.Value:
        own = _least(builder, builder.add(start, m), builder.sub(count, constant(1)))
        return builder.add(
            operands.base, load(builder, builder.add(operands.rows, builder.shl(own, constant(3))), I64, 8)
        )

    last_row = builder.sub(rows, constant(1))
    first, second, last = (address_of(m) for m in (constant(0), constant(1), last_row))
    # Neighbours within an image row have one distance, and row ends another: equal sums mean equal distances.
    step = builder.sub(second, first)
    even = builder.icmp_signed("==", builder.sub(last, first), builder.mul(step, last_row))
    complete = builder.icmp_signed(">=", count, rows)
    evenly = builder.and_(even, complete)
    uneven, noted = builder.append_basic_block("uneven"), builder.append_basic_block("noted")
    whole = builder.icmp_signed("==", builder.srem(operands.run_bytes, operands.register_bytes), constant(0))
    builder.cbranch(builder.and_(evenly, whole), noted, uneven)
    builder.position_at_end(uneven)

    def note(m: ir.Value) -> None:
        store(builder, address_of(m), builder.add(addresses, builder.shl(m, constant(3))), align=8)

    emit_loop(builder, rows, 1, note)
    builder.branch(noted)
    builder.position_at_end(noted)
    return _Pixels(index, start, operands, addresses, first, step, evenly)


def _least(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed("<", x, y), x, y)
