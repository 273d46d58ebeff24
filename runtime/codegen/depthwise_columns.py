"""The depthwise tile for 3x3: it goes along one or two output rows and keeps the columns that the next pixel needs.

Four neighbouring input rows of one column are interleaved, so that one dot product has all taps of a column for an
output row, and with the weights moved down by one those for the row below. A column serves up to three neighbouring
pixels. Where few channels are left, a vector holds those of 2 or 4 pixels.

Input pixels are read where they are: rows above and below the image are the caller's, and what lies left and right of
a row is read from bytes of the zero point, so nothing has to be copied for padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.depthwise_operands import VECTORS, add_dots, interleave_taps
from qcompiler.runtime.codegen.epilogue import emit_epilogue
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, emitted_primitive
from qcompiler.runtime.codegen.rescale import field, record_bytes
from qcompiler.runtime.codegen.vectors import I8, I64, branch_back, constant, load, offset, shuffle, vector

COLUMNS = 3
ROWS = 4
"""Input rows that are interleaved; one output row uses three of them."""


@dataclass(frozen=True)
class ColumnVariant:
    """A form of the tile.

    Attributes:
        pieces: pixels whose channels are loaded and stored separately to fill a vector: 1, 2 or 4.
        stride: from pixel to pixel of a row, 1 or 2.
        rows: output rows, 1 or 2; two are `stride` 1 apart.
    """

    pieces: int
    stride: int
    rows: int

    def place(self, column: int) -> tuple[int, int]:
        """The stream that a column of the windows belongs to, and how many of its pixels it is ahead of the first.

        A stream has every `stride`-th pixel of a row. Its vectors hold `pieces` pixels, one after the other.
        """
        return column % self.stride, column // self.stride

    def vectors_ahead(self, stream: int) -> int:
        """How many vectors of a stream a step needs besides its own."""
        ahead = max(ahead for of, ahead in map(self.place, range(COLUMNS)) if of == stream)
        return -(-ahead // self.pieces)


VARIANTS = tuple(
    ColumnVariant(pieces, stride, rows) for pieces in (1, 2, 4) for stride, rows in ((1, 1), (1, 2), (2, 1))
)


@emitted(types.void, types.int64, types.UniTuple(types.int64, 4), *[types.int64] * 11)
def depthwise_columns(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    variant: ir.Value,
    rows: ir.Value,
    row_bytes: ir.Value,
    outside: ir.Value,
    start: ir.Value,
    column_bytes: ir.Value,
    steps: ir.Value,
    weights: ir.Value,
    records: ir.Value,
    out: ir.Value,
    out_row: ir.Value,
    out_piece: ir.Value,
    parameters: ir.Value,
) -> None:
    """Compute and store neighbouring pixels with the primitive in use.

    Args:
        builder: at the place of the call.
        variant: index into `VARIANTS`.
        rows: addresses of four input rows, of their first pixel's first channel; the last is read for two output rows
            only.
        row_bytes: of a row; the bytes of pixels before and behind it are read from `outside`.
        outside: address of a vector of bytes.
        start: bytes from the beginning of a row to the first pixel of the first window, negative left of it.
        column_bytes: from input pixel to input pixel.
        steps: at least 1.
        weights: address of [2, 3 columns, 4 / group, 4, lanes, group], aligned to the vector: those for the first
            output row and, moved down by one input row, those for the second.
        records: address of four records.
        out: address of the first pixel's first channel.
        out_row: bytes from output row to output row.
        out_piece: bytes from an output pixel to the next.
        parameters: address of the words `rescale.PARAMETERS`.
    """
    p = emitted_primitive()
    record = [offset(builder, records, v * record_bytes(p)) for v in range(VECTORS)]
    done = builder.append_basic_block("columns_done")
    switch = builder.switch(variant, done)
    for index, form in enumerate(VARIANTS):
        entry = builder.append_basic_block(f"pieces{form.pieces}_stride{form.stride}_rows{form.rows}")
        switch.add_case(constant(index), entry)
        builder.position_at_end(entry)
        read = tuple(builder.extract_value(rows, row) for row in range(COLUMNS - 1 + form.rows))
        source = _Source(p, form, read, row_bytes, outside, column_bytes)
        first = [
            [source.vectors(builder, start, stream, ahead) for ahead in range(form.vectors_ahead(stream))]
            for stream in range(form.stride)
        ]
        loop, next_step = builder.append_basic_block("step"), builder.append_basic_block("next")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, window, target = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        carried = [[[builder.phi(x.type) for x in vectors] for vectors in ahead] for ahead in first]
        streams = [
            [*ahead, source.vectors(builder, window, stream, len(ahead))] for stream, ahead in enumerate(carried)
        ]
        accs = _emit_sums(builder, p, form, source.columns(builder, streams), weights, record)
        outs = [
            [
                builder.add(builder.add(target, builder.mul(out_row, constant(m))), builder.mul(out_piece, constant(i)))
                for i in range(form.pieces)
            ]
            for m in range(form.rows)
        ]
        emit_epilogue(builder, p, accs, record, outs, parameters, next_step)
        builder.position_at_end(next_step)
        following = builder.add(step, constant(1))
        window_step = builder.mul(column_bytes, constant(form.pieces * form.stride))
        chains = [
            (step, constant(0), following),
            (window, start, builder.add(window, window_step)),
            (target, out, builder.add(target, builder.mul(out_piece, constant(form.pieces)))),
            *zip(_flat(carried), _flat(first), _flat(ahead[1:] for ahead in streams), strict=True),
        ]
        for phi, before, again in chains:
            phi.add_incoming(before, entry)
            phi.add_incoming(again, next_step)
        branch_back(builder, builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)


def _flat(streams: "Iterator[list[list[ir.Value]]] | list[list[list[ir.Value]]]") -> list[ir.Value]:
    return [value for ahead in streams for vectors in ahead for value in vectors]


@dataclass(frozen=True)
class _Source:
    """How input pixels become operands of dot products.

    What is carried from step to step is interleaved already, unless a pixel of several in a vector has less than the
    16 bytes in which interleaving works: then rows are carried.
    """

    p: Primitive
    form: ColumnVariant
    rows: tuple[ir.Value, ...]
    row_bytes: ir.Value
    outside: ir.Value
    column_bytes: ir.Value

    @property
    def _piece_bytes(self) -> int:
        return self.p.vector_bytes // self.form.pieces

    @property
    def _carries_operands(self) -> bool:
        return self._piece_bytes % 16 == 0

    def vectors(self, builder: ir.IRBuilder, window: ir.Value, stream: int, ahead: int) -> list[ir.Value]:
        """What is carried of vector `ahead` of a stream, for windows that begin `window` bytes from a row's start."""
        loads: list[list[ir.Value]] = [[] for _ in self.rows]
        for i in range(self.form.pieces):
            pixel = (ahead * self.form.pieces + i) * self.form.stride + stream
            at = builder.add(window, builder.mul(self.column_bytes, constant(pixel)))
            is_inside = builder.icmp_unsigned("<", at, self.row_bytes)
            for own, row in zip(loads, self.rows, strict=True):
                address = builder.select(is_inside, builder.add(row, at), self.outside)
                own.append(load(builder, address, vector(I8, self._piece_bytes), 1))
        rows = [_joined(builder, own) for own in loads]
        return self._interleaved(builder, rows) if self._carries_operands else rows

    def columns(self, builder: ir.IRBuilder, streams: list[list[list[ir.Value]]]) -> list[list[ir.Value]]:
        """Operands [group of rows][vector], flat, of each column."""
        found = []
        for column in range(COLUMNS):
            stream, ahead = self.form.place(column)
            whole, piece = divmod(ahead, self.form.pieces)
            vectors = streams[stream][whole]
            if piece:
                later = streams[stream][whole + 1]
                vectors = [self._moved(builder, x, y, piece) for x, y in zip(vectors, later, strict=True)]
            found.append(vectors if self._carries_operands else self._interleaved(builder, vectors))
        return found

    def _moved(self, builder: ir.IRBuilder, x: ir.Value, y: ir.Value, piece: int) -> ir.Value:
        """The vector that begins at a later pixel of x; y is the vector after it."""
        kind = vector(I8, self.p.vector_bytes)
        first = piece * self._piece_bytes
        order = range(first, first + self.p.vector_bytes)
        moved = shuffle(builder, builder.bitcast(x, kind), builder.bitcast(y, kind), order)
        return builder.bitcast(moved, x.type)

    def _interleaved(self, builder: ir.IRBuilder, rows: list[ir.Value]) -> list[ir.Value]:
        """Operands [group of rows][vector], flat."""
        rows = rows + rows[-1:] * (ROWS - len(rows))  # its weights are zero
        groups = [rows[first : first + self.p.group] for first in range(0, ROWS, self.p.group)]
        return [operand for group in groups for operand in interleave_taps(builder, self.p, group)]


def _joined(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """One vector of 1, 2 or 4 vectors, one after the other."""
    while len(parts) > 1:
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [shuffle(builder, x, y, range(2 * x.type.count)) for x, y in pairs]
    return parts[0]


def _emit_sums(
    builder: ir.IRBuilder,
    p: Primitive,
    form: ColumnVariant,
    columns: list[list[ir.Value]],
    weights: ir.Value,
    records: list[ir.Value],
) -> list[list[ir.Value]]:
    """Accumulators [output row][vector], bias included."""
    groups = ROWS // p.group
    accs = [[field(builder, p, record, "bias") for record in records] for _ in range(form.rows)]
    for c, column in enumerate(columns):
        for g in range(groups):
            operands = column[g * VECTORS : (g + 1) * VECTORS]
            for m in range(form.rows):
                block = ((m * COLUMNS + c) * groups + g) * VECTORS * p.vector_bytes
                accs[m] = add_dots(builder, p, accs[m], operands, offset(builder, weights, block))
    return accs
