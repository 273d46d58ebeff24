"""The float32 tile of 3x3 depthwise convolution: it reads the plane itself, where `window_tile` wants it staged.

A tile is `TILE_ROWS` output rows by one vector. An input row is loaded once for all output rows that it is in, and what
lies left and right of the plane is masked out. Rows above and below it are a row of zeros elsewhere, so that all tiles
have the same code, and each output element is one chain ``acc = fmuladd(w[t], x[t], acc)`` over all nine taps.
"""

from llvmlite import ir

from qcompiler.runtime import isa
from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.float_tile import F32, bounded, float_tile_for
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.vectors import I32, call, constant, load, offset, shuffle, splat, vector

TILE_ROWS = 4
WINDOW = 3
_LEAST_LANES = 8


def has_plane_tile(isa_name: str) -> bool:
    """Whether the vectors of a primitive have masked loads and stores."""
    return float_tile_for(isa_name).lanes >= _LEAST_LANES


@emitted(types.void, *[types.int64] * 12, types.float32, types.float32, types.float32)
def plane_tile(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    stride: ir.Value,
    plane: ir.Value,
    zeros: ir.Value,
    weights: ir.Value,
    top: ir.Value,
    left: ir.Value,
    height: ir.Value,
    width: ir.Value,
    out: ir.Value,
    out_pitch: ir.Value,
    rows: ir.Value,
    columns: ir.Value,
    bias: ir.Value,
    low: ir.Value,
    high: ir.Value,
) -> None:
    """``out[i, j] = clamp(bias + sum weights[r, c] · plane[top + stride·i + r, left + stride·j + c])``.

    The plane is 0 outside.

    Args:
        builder: at the place of the call.
        stride: 1 or 2, in both directions.
        plane: address of f32[height, width].
        zeros: address of f32[width], all 0.
        weights: address of f32[3, 3].
        top: row of the first window, which may lie outside.
        left: its column.
        height: rows of the plane.
        width: its columns.
        out: address of the first element.
        out_pitch: bytes from row to row of `out`.
        rows: how many rows of `out` there are; no more than `TILE_ROWS` are stored.
        columns: how many columns there are; no more than one vector is stored.
        bias: where the sum starts.
        low: least result.
        high: largest result.
    """
    done, single, double = (builder.append_basic_block(name) for name in ("plane_done", "stride_1", "stride_2"))
    builder.cbranch(builder.icmp_signed("==", stride, constant(1)), single, double)
    for step, block in ((1, single), (2, double)):
        builder.position_at_end(block)
        tile = _PlaneTile(builder, step, plane, zeros, top, left, height, width)
        results = tile.sums(weights, bias)
        stored = _inside(builder, tile.kind.count, constant(0), 0, columns)
        for i, result in enumerate(results):
            value = bounded(builder, result, splat(builder, low, tile.kind), splat(builder, high, tile.kind))
            mine = builder.icmp_signed("<", constant(i), rows)
            mask = builder.and_(stored, splat(builder, mine, stored.type))
            pointer = builder.inttoptr(builder.add(out, builder.mul(out_pitch, constant(i))), tile.kind.as_pointer())
            name = f"llvm.masked.store.v{tile.kind.count}f32.p0"
            call(builder, name, ir.VoidType(), value, pointer, I32(4), mask)
        builder.branch(done)
    builder.position_at_end(done)


class _PlaneTile:
    """The sums of one tile."""

    def __init__(
        self,
        builder: ir.IRBuilder,
        stride: int,
        plane: ir.Value,
        zeros: ir.Value,
        top: ir.Value,
        left: ir.Value,
        height: ir.Value,
        width: ir.Value,
    ) -> None:
        self.kind = vector(F32, float_tile_for(isa.emitted()).lanes)
        self._builder, self._stride = builder, stride
        self._plane, self._zeros, self._top, self._height = plane, zeros, top, height
        self._pitch = builder.mul(width, constant(4))
        self._left = builder.mul(left, constant(4))
        # A vector of every second column is made of two vectors, from each tap's column on.
        columns = range(WINDOW) if stride == 1 else (0, self.kind.count, 2, 2 + self.kind.count)
        self._loads = {at: _inside(builder, self.kind.count, left, at, width) for at in columns}

    def sums(self, weights: ir.Value, bias: ir.Value) -> list[ir.Value]:
        """One vector for each row."""
        builder, stride = self._builder, self._stride
        taps = [
            splat(builder, load(builder, offset(builder, weights, 4 * t), F32, 4), self.kind) for t in range(WINDOW**2)
        ]
        acc = [splat(builder, bias, self.kind)] * TILE_ROWS
        for y in range(stride * (TILE_ROWS - 1) + WINDOW):
            columns = self._columns(y)
            for i in range(TILE_ROWS):
                if 0 <= (r := y - stride * i) < WINDOW:
                    for c in range(WINDOW):
                        name = f"llvm.fmuladd.v{self.kind.count}f32"
                        acc[i] = call(builder, name, self.kind, taps[WINDOW * r + c], columns[c], acc[i])
        return acc

    def _columns(self, y: int) -> list[ir.Value]:
        """The vectors of input row `y` of the tile for each column of the window."""
        builder = self._builder
        row = builder.add(self._top, constant(y))
        inside = builder.icmp_unsigned("<", row, self._height)
        start = builder.select(inside, builder.add(self._plane, builder.mul(row, self._pitch)), self._zeros)
        start = builder.add(start, self._left)
        loaded = {}
        for at, mask in self._loads.items():
            pointer = builder.inttoptr(offset(builder, start, 4 * at), self.kind.as_pointer())
            nothing = ir.Constant(self.kind, [0.0] * self.kind.count)
            name = f"llvm.masked.load.v{self.kind.count}f32.p0"
            loaded[at] = call(builder, name, self.kind, pointer, I32(4), mask, nothing)
        if self._stride == 1:
            return list(loaded.values())
        lanes = self.kind.count
        even, odd = range(0, 2 * lanes, 2), range(1, 2 * lanes, 2)
        first, second = (loaded[0], loaded[lanes]), (loaded[2], loaded[2 + lanes])
        return [
            shuffle(builder, *first, list(even)),
            shuffle(builder, *first, list(odd)),
            shuffle(builder, *second, list(even)),
        ]


def _inside(builder: ir.IRBuilder, lanes: int, start: ir.Value, at: int, end: ir.Value) -> ir.Value:
    """The lanes i with 0 <= start + at + i < end, as a mask."""
    kind = vector(I32, lanes)
    column = builder.add(
        splat(builder, builder.trunc(start, I32), kind), ir.Constant(kind, [I32(i + at) for i in range(lanes)])
    )
    return builder.icmp_unsigned("<", column, splat(builder, builder.trunc(end, I32), kind))
