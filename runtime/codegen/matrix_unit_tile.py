"""The matrix tile on a matrix unit: 16 or 32 pixels, whose sums go through memory to the vectors' epilogue.

While the vectors rescale one tile's sums the unit already computes the next tile's, and neither needs the other's
execution ports. Activations are read where they are, unless the pixels' distances
differ (at the end of an image row) or less than a register's row is left: then they are gathered first, which is
loads and stores only.
"""

from dataclasses import dataclass, replace

from llvmlite import ir

from qcompiler.runtime.codegen.epilogue import emit_epilogue
from qcompiler.runtime.codegen.matrix_unit import ROW_BYTES, ROWS, TILE_BYTES, MatrixUnit
from qcompiler.runtime.codegen.primitives import Primitive, TileShape
from qcompiler.runtime.codegen.rescale import FIELDS
from qcompiler.runtime.codegen.vectors import (
    I1,
    I8,
    I32,
    I64,
    branch_back,
    call,
    constant,
    emit_loop,
    load,
    offset,
    splat_constant,
    stack_bytes,
    store,
    vector,
)

_MOST_PIXELS = 2 * ROWS
_FIRST_ACTIVATIONS = 4  # registers 0 to 3 have the sums, then come the activations, then the weights
_REGISTERS = 8


@dataclass(frozen=True)
class Operands:
    """Where a tile finds its factors; see `tile.matrix_tiles`."""

    base: ir.Value
    rows: ir.Value
    runs: ir.Value
    run_count: ir.Value
    run_bytes: ir.Value
    weights: ir.Value


def emit_unit_tiles(
    builder: ir.IRBuilder,
    p: Primitive,
    unit: MatrixUnit,
    shape: TileShape,
    tiles: ir.Value,
    count: ir.Value,
    operands: Operands,
    records: list[ir.Value],
    out: ir.Value,
    out_stride: ir.Value,
    parameters: ir.Value,
) -> None:
    """Compute and store the first `count` pixels of each tile; the arguments are those of `tile.matrix_tiles`."""
    # The sums of a tile are begun before those of the tile before it are rescaled, into another buffer.
    buffer_bytes = _FIRST_ACTIVATIONS * TILE_BYTES
    buffers = stack_bytes(builder, 2 * buffer_bytes, "tile_sums")

    def buffer_of(tile: ir.Value) -> ir.Value:
        return builder.add(buffers, builder.mul(builder.and_(tile, constant(1)), constant(buffer_bytes)))

    entry = builder.block
    loop, begin, begun, finish, finished, done = (
        builder.append_basic_block(name) for name in ("tile", "begin", "begun", "finish", "finished", "tiles_done")
    )
    builder.branch(loop)
    builder.position_at_end(loop)
    tile = builder.phi(I64)
    builder.cbranch(builder.icmp_signed("<", tile, tiles), begin, begun)
    builder.position_at_end(begin)
    rows = builder.add(operands.rows, builder.mul(tile, constant(8 * shape.pixels)))
    _emit_sums(builder, unit, shape, replace(operands, rows=rows), records, count, buffer_of(tile))
    builder.branch(begun)
    builder.position_at_end(begun)
    builder.cbranch(builder.icmp_signed(">", tile, constant(0)), finish, finished)
    builder.position_at_end(finish)
    before = builder.sub(tile, constant(1))
    tile_out = builder.add(out, builder.mul(builder.mul(before, constant(shape.pixels)), out_stride))
    _emit_rescaling(builder, p, shape, buffer_of(before), records, tile_out, out_stride, count, parameters, finished)
    builder.position_at_end(finished)
    following = builder.add(tile, constant(1))
    tile.add_incoming(constant(0), entry)
    tile.add_incoming(following, finished)
    branch_back(builder, builder.icmp_signed("<=", following, tiles), loop, done)
    builder.position_at_end(done)


def _emit_rescaling(
    builder: ir.IRBuilder,
    p: Primitive,
    shape: TileShape,
    sums: ir.Value,
    records: list[ir.Value],
    out: ir.Value,
    out_stride: ir.Value,
    count: ir.Value,
    parameters: ir.Value,
    done: ir.Block,
) -> None:
    """Store `count` pixels, at least `p.least_pixels(shape)`, from s32[pixel, vector, lane]; go on at `done`."""
    step = p.least_pixels(shape)
    before, loop, next_step = builder.block, builder.append_basic_block("rescale"), builder.append_basic_block("next")
    builder.branch(loop)
    builder.position_at_end(loop)
    pixel = builder.phi(I64)
    vector_at = builder.mul(pixel, constant(shape.vectors))
    accs = [
        [_emit_sum(builder, p, sums, offset(builder, vector_at, m * shape.vectors + v)) for v in range(shape.vectors)]
        for m in range(step)
    ]
    outs = [builder.add(out, builder.mul(offset(builder, pixel, m), out_stride)) for m in range(step)]
    emit_epilogue(builder, p, accs, records, outs, parameters, next_step)
    builder.position_at_end(next_step)
    following, last = builder.add(pixel, constant(step)), builder.sub(count, constant(step))
    pixel.add_incoming(constant(0), before)
    pixel.add_incoming(_least(builder, following, last), next_step)  # the last step overlaps the one before
    branch_back(builder, builder.icmp_signed("<", following, count), loop, done)


def _emit_sum(builder: ir.IRBuilder, p: Primitive, sums: ir.Value, index: ir.Value) -> ir.Value:
    return load(builder, builder.add(sums, builder.mul(index, constant(ROW_BYTES))), p.s32, ROW_BYTES)


def _emit_sums(
    builder: ir.IRBuilder,
    unit: MatrixUnit,
    shape: TileShape,
    operands: Operands,
    records: list[ir.Value],
    count: ir.Value,
    sums: ir.Value,
) -> None:
    """Store s32[pixel, vector, lane], bias included; pixels from `count` on repeat the last one or are unspecified."""
    halves = shape.pixels // ROWS
    vectors = range(shape.vectors)
    weight_registers = range(_FIRST_ACTIVATIONS + halves, _REGISTERS)
    addresses = _emit_addresses(builder, shape, operands, count)
    activations = [_emit_half(builder, half, addresses, count) for half in range(halves)]
    for v, record in enumerate(records):
        for half in range(halves):
            bias = offset(builder, record, FIELDS.index("bias") * ROW_BYTES)
            unit.load(builder, half * shape.vectors + v, bias, constant(0))  # each pixel starts from the same biases

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
    for half in activations:
        half.emit_load(builder, unit, source, left)
    for v in vectors:
        own = weight_registers[v % len(weight_registers)]
        unit.load(builder, own, offset(builder, at_weights, v * ROW_BYTES), constant(shape.vectors * ROW_BYTES))
        for half in range(halves):
            unit.dot(builder, half * shape.vectors + v, _FIRST_ACTIVATIONS + half, own)
    next_at = builder.add(at, constant(ROW_BYTES))
    # The last step of a run has fewer weights: what follows them meets activations that are zero.
    used = _least(builder, left, constant(ROW_BYTES))
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
    for half in range(halves):
        for v in vectors:
            target = offset(builder, sums, (half * ROWS * shape.vectors + v) * ROW_BYTES)
            unit.store(builder, half * shape.vectors + v, target, constant(shape.vectors * ROW_BYTES))


def _emit_addresses(builder: ir.IRBuilder, shape: TileShape, operands: Operands, count: ir.Value) -> ir.Value:
    """Store the address of each pixel's activations, the last pixel's for those from `count` on; where they are."""
    addresses = stack_bytes(builder, 8 * _MOST_PIXELS, "pixel_addresses")
    last = builder.sub(builder.shl(count, constant(3)), constant(8))
    for m in range(shape.pixels):
        row = load(builder, builder.add(operands.rows, _least(builder, constant(8 * m), last)), I64, 8)
        store(builder, builder.add(operands.base, row), offset(builder, addresses, 8 * m), align=8)
    return addresses


@dataclass(frozen=True)
class _Half:
    """The activations of 16 pixels.

    Attributes:
        index: of these pixels within the tile.
        addresses: of s64[16], each pixel's address.
        first: the first pixel's.
        step: from pixel to pixel, where `evenly`.
        evenly: i1, whether all have this distance.
    """

    index: int
    addresses: ir.Value
    first: ir.Value
    step: ir.Value
    evenly: ir.Value

    def emit_load(self, builder: ir.IRBuilder, unit: MatrixUnit, source: ir.Value, left: ir.Value) -> None:
        """Load the 64 activations at the offset `source` of each pixel; zeros for what is beyond `left` bytes."""
        register = _FIRST_ACTIVATIONS + self.index
        direct, gather, loaded = (builder.append_basic_block(n) for n in ("direct", "gather", "loaded"))
        whole = builder.icmp_signed(">=", left, constant(ROW_BYTES))
        builder.cbranch(builder.and_(self.evenly, whole), direct, gather)
        builder.position_at_end(direct)
        unit.load(builder, register, builder.add(self.first, source), self.step)
        builder.branch(loaded)

        builder.position_at_end(gather)
        kind = vector(I8, ROW_BYTES)
        beyond = builder.sub(constant(ROW_BYTES), _least(builder, left, constant(ROW_BYTES)))
        mask = builder.bitcast(builder.lshr(constant(-1), beyond), vector(I1, ROW_BYTES))
        gathered = offset(
            builder, stack_bytes(builder, _MOST_PIXELS * ROW_BYTES, "gathered"), self.index * TILE_BYTES
        )

        def gather_pixel(at: ir.Value) -> None:
            address = builder.add(load(builder, builder.add(self.addresses, at), I64, 8), source)
            pointer = builder.inttoptr(address, kind.as_pointer())
            nothing = splat_constant(kind, 0)
            name = f"llvm.masked.load.v{ROW_BYTES}i8.p0"
            row = call(builder, name, kind, pointer, ir.Constant(I32, 1), mask, nothing)
            store(builder, row, builder.add(gathered, builder.mul(at, constant(ROW_BYTES // 8))), align=ROW_BYTES)

        emit_loop(builder, constant(8 * ROWS), 8, gather_pixel)
        unit.load(builder, register, gathered, constant(ROW_BYTES))
        builder.branch(loaded)
        builder.position_at_end(loaded)


def _emit_half(builder: ir.IRBuilder, index: int, addresses: ir.Value, count: ir.Value) -> _Half:
    own = offset(builder, addresses, 8 * ROWS * index)
    first, second, last = (load(builder, offset(builder, own, 8 * m), I64, 8) for m in (0, 1, ROWS - 1))
    # Neighbours within an image row have one distance, and row ends another: equal sums mean equal distances.
    step = builder.sub(second, first)
    even = builder.icmp_signed("==", builder.sub(last, first), builder.mul(step, constant(ROWS - 1)))
    complete = builder.icmp_signed(">=", count, constant(ROWS * (index + 1)))
    return _Half(index, own, first, step, builder.and_(even, complete))


def _least(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed("<", x, y), x, y)
