"""Float32 tiles: rows of scalars by vectors of lanes, for convolution and matrix products.

Each element is one chain ``acc = fmuladd(a[k], b[k], acc)`` in the order of k, starting from its bias. LLVM makes
`fmuladd` a fused instruction wherever the target has one, in vectors and scalars alike, so an element has the same
bits in whatever lane, row or tile it is computed.

The intrinsics here have to be called by kernels themselves. Numba compiles a function that several kernels call once in
a process, for the primitive of the first.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from qcompiler.runtime import isa
from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.vectors import I64, branch_back, call, constant, load, offset, splat, store, vector

F32 = ir.FloatType()


@dataclass(frozen=True)
class FloatTile:
    """Registers of a tile: `rows` by up to `VECTORS` vectors of `lanes`."""

    lanes: int
    rows: int

    @property
    def width(self) -> int:
        """Elements of a full row of the tile: the width of a panel of vector operands."""
        return VECTORS * self.lanes


VECTORS = 3
WINDOW_ROWS = 4
_TILES = {
    # 12 accumulators of 16 registers; 24 of 32
    **dict.fromkeys(("amx", "vnni512", "avx512"), FloatTile(16, 8)),
    **dict.fromkeys(("vnni256", "avx2"), FloatTile(8, 4)),
    **dict.fromkeys(("neon_i8mm", "neon_dot", "neon"), FloatTile(4, 8)),
    "generic": FloatTile(4, 4),
}


def float_tile_for(isa_name: str) -> FloatTile:
    """The tile that kernels compiled for a primitive use."""
    return _TILES[isa_name]


def bounded(builder: ir.IRBuilder, value: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """min(max(value, low), high); NaN stays NaN."""
    value = builder.select(builder.fcmp_ordered("<", value, low), low, value)
    return builder.select(builder.fcmp_ordered(">", value, high), high, value)


def prefetch_line(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for a cache line that is read soon; the address may lie outside of all memory."""
    i32, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
    arguments = builder.inttoptr(address, pointer), i32(0), i32(3), i32(1)  # to read, into all caches, data
    call(builder, "llvm.prefetch.p0", ir.VoidType(), *arguments)


@emitted(types.int64)
def tile_lanes(_builder: ir.IRBuilder) -> ir.Value:
    """Lanes of a vector of the primitive in use."""
    return constant(_TILES[isa.emitted()].lanes)


@emitted(types.int64)
def tile_rows(_builder: ir.IRBuilder) -> ir.Value:
    """Rows of a tile of the primitive in use."""
    return constant(_TILES[isa.emitted()].rows)


@emitted(types.void, *[types.int64] * 12, types.float32, types.float32)
def product_tile(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    vectors: ir.Value,
    last_row: ir.Value,
    a: ir.Value,
    a_stride: ir.Value,
    b: ir.Value,
    depth: ir.Value,
    ahead: ir.Value,
    ahead_step: ir.Value,
    row_bias: ir.Value,
    lane_bias: ir.Value,
    out: ir.Value,
    out_stride: ir.Value,
    low: ir.Value,
    high: ir.Value,
) -> None:
    """``out[i, j] = clamp(bias + sum_k a[i, k] · b[k, j])`` for the rows of a tile and `vectors` vectors of j.

    Args:
        builder: at the place of the call.
        vectors: 1 to `VECTORS`.
        last_row: rows after this one are computed as copies of it, and stored in its place.
        a: address of f32[row, depth].
        a_stride: bytes from row to row of `a`.
        b: address of f32[depth, tile width], a panel.
        depth: terms of the sum, at least 1.
        ahead: where to ask for what is read later, a cache line for each vector; it may lie outside of all memory.
        ahead_step: by how many bytes it moves on with each k.
        row_bias: address of f32[row], or 0.
        lane_bias: address of f32[vectors · lanes] where `row_bias` is 0.
        out: address of the first element; whole vectors are stored.
        out_stride: bytes from row to row of `out`.
        low: least result.
        high: largest result.
    """
    shape = _TILES[isa.emitted()]
    kind = vector(F32, shape.lanes)
    rows = [_least(builder, constant(i), last_row) for i in range(shape.rows)]
    starts = [builder.add(a, builder.mul(row, a_stride)) for row in rows]
    targets = [builder.add(out, builder.mul(row, out_stride)) for row in rows]
    bounds = splat(builder, low, kind), splat(builder, high, kind)

    def body(count: int) -> None:
        acc = _biases(builder, kind, rows, count, row_bias, lane_bias)
        acc = _products(builder, shape, starts, (ahead, ahead_step), b, depth, acc)
        for row, target in zip(acc, targets, strict=True):
            for v, value in enumerate(row):
                store(builder, bounded(builder, value, *bounds), offset(builder, target, 4 * shape.lanes * v), 4)

    done = builder.append_basic_block("tile_done")
    switch = builder.switch(vectors, done)
    for count in range(1, VECTORS + 1):
        block = builder.append_basic_block(f"vectors_{count}")
        switch.add_case(constant(count), block)
        builder.position_at_end(block)
        body(count)
        builder.branch(done)
    builder.position_at_end(done)


@emitted(types.void, *[types.int64] * 8, types.float32, types.float32, types.float32)
def window_tile(  # noqa: PLR0913, PLR0917 - the same
    builder: ir.IRBuilder,
    last_row: ir.Value,
    base: ir.Value,
    row_step: ir.Value,
    taps: ir.Value,
    weights: ir.Value,
    count: ir.Value,
    out: ir.Value,
    out_step: ir.Value,
    bias: ir.Value,
    low: ir.Value,
    high: ir.Value,
) -> None:
    """``out[i, j] = clamp(bias + sum_t weights[t] · base[i, taps[t] + j])``, one vector of j in `WINDOW_ROWS` rows.

    Args:
        builder: at the place of the call.
        last_row: rows after this one are computed as copies of it, and stored in its place.
        base: address of the first window's first element.
        row_step: bytes from row to row of `base`.
        taps: address of s64[count], byte offsets.
        weights: address of f32[count].
        count: taps, at least 1.
        out: address of the first element; whole vectors are stored, row after row.
        out_step: bytes from row to row of `out`.
        bias: where the sum starts.
        low: least result.
        high: largest result.
    """
    kind = vector(F32, _TILES[isa.emitted()].lanes)
    rows = [_least(builder, constant(i), last_row) for i in range(WINDOW_ROWS)]
    sources = [builder.add(base, builder.mul(row, row_step)) for row in rows]

    def step(t: ir.Value, acc: list[ir.Value]) -> list[ir.Value]:
        tap = load(builder, builder.add(taps, builder.shl(t, constant(3))), I64, 8)
        weight = splat(builder, load(builder, builder.add(weights, builder.shl(t, constant(2))), F32, 4), kind)
        windows = [load(builder, builder.add(source, tap), kind, 4) for source in sources]
        return [_fmuladd(builder, weight, window, value) for window, value in zip(windows, acc, strict=True)]

    bounds = splat(builder, low, kind), splat(builder, high, kind)
    results = _loop(builder, count, [splat(builder, bias, kind)] * WINDOW_ROWS, step)
    for row, value in zip(rows, results, strict=True):
        store(builder, bounded(builder, value, *bounds), builder.add(out, builder.mul(row, out_step)), 4)


def _products(
    builder: ir.IRBuilder,
    shape: FloatTile,
    starts: list[ir.Value],
    ahead: tuple[ir.Value, ir.Value],
    panel: ir.Value,
    depth: ir.Value,
    acc: list[list[ir.Value]],
) -> list[list[ir.Value]]:
    kind, count = vector(F32, shape.lanes), len(acc[0])

    def step(k: ir.Value, flat: list[ir.Value]) -> list[ir.Value]:
        later = builder.add(ahead[0], builder.mul(k, ahead[1]))
        for v in range(count):
            prefetch_line(builder, offset(builder, later, 4 * shape.lanes * v))
        row = builder.add(panel, builder.mul(k, constant(4 * shape.width)))
        lanes = [load(builder, offset(builder, row, 4 * shape.lanes * v), kind, 4) for v in range(count)]
        result = []
        for i, start in enumerate(starts):
            element = load(builder, builder.add(start, builder.shl(k, constant(2))), F32, 4)
            scalar = splat(builder, element, kind)
            result += [_fmuladd(builder, scalar, lanes[v], flat[i * count + v]) for v in range(count)]
        return result

    flat = _loop(builder, depth, [value for row in acc for value in row], step)
    return [flat[i * count : (i + 1) * count] for i in range(len(acc))]


def _biases(
    builder: ir.IRBuilder,
    kind: ir.VectorType,
    rows: list[ir.Value],
    count: int,
    row_bias: ir.Value,
    lane_bias: ir.Value,
) -> list[list[ir.Value]]:
    by_row, by_lane, after = (builder.append_basic_block(n) for n in ("row_bias", "lane_bias", "biased"))
    builder.cbranch(builder.icmp_signed("!=", row_bias, constant(0)), by_row, by_lane)
    builder.position_at_end(by_row)
    scalars = [load(builder, builder.add(row_bias, builder.shl(row, constant(2))), F32, 4) for row in rows]
    splats = [splat(builder, scalar, kind) for scalar in scalars]
    builder.branch(after)
    builder.position_at_end(by_lane)
    lanes = [load(builder, offset(builder, lane_bias, 4 * kind.count * v), kind, 4) for v in range(count)]
    builder.branch(after)
    builder.position_at_end(after)
    result: list[list[ir.Value]] = []
    for value in splats:
        result.append([builder.phi(kind) for _ in range(count)])
        for phi, lane in zip(result[-1], lanes, strict=True):
            phi.add_incoming(value, by_row)
            phi.add_incoming(lane, by_lane)
    return result


def _loop(
    builder: ir.IRBuilder,
    count: ir.Value,
    starts: list[ir.Value],
    step: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """``acc = step(i, acc)`` for i in 0 ... count − 1, count >= 1."""
    entry, body, end = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("loop_end")
    builder.branch(body)
    builder.position_at_end(body)
    index, acc = builder.phi(I64), [builder.phi(start.type) for start in starts]
    new = step(index, list(acc))
    following = builder.add(index, constant(1))
    for phi, start, again in zip([index, *acc], [constant(0), *starts], [following, *new], strict=True):
        phi.add_incoming(start, entry)
        phi.add_incoming(again, body)
    branch_back(builder, builder.icmp_signed("<", following, count), body, end)
    builder.position_at_end(end)
    return new


def _fmuladd(builder: ir.IRBuilder, a: ir.Value, b: ir.Value, acc: ir.Value) -> ir.Value:
    return call(builder, f"llvm.fmuladd.v{acc.type.count}f32", acc.type, a, b, acc)


def _least(builder: ir.IRBuilder, a: ir.Value, b: ir.Value) -> ir.Value:
    return builder.select(builder.icmp_signed("<", a, b), a, b)
