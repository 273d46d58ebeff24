"""The depthwise tile for 3x3: it goes along one or two output rows and keeps the columns that the next pixel needs.

Four neighbouring input rows of one column are interleaved, so that one dot product has all taps of a column for an
output row, and with the weights moved down by one those for the row below, if the stride is 1. A column serves up
to three neighbouring pixels. Where few channels are left, a vector holds those of 2 or 4 pixels.
"""

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
        new: columns to load for each step; the others are those of the step before.
        rows: output rows, 1 or 2.
    """

    pieces: int
    new: int
    rows: int


VARIANTS = tuple(
    ColumnVariant(pieces, new, rows) for pieces, new in ((1, 1), (1, 2), (1, 3), (2, 3), (4, 3)) for rows in (1, 2)
)


@emitted(types.void, *[types.int64] * 14)
def depthwise_columns(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    builder: ir.IRBuilder,
    variant: ir.Value,
    base: ir.Value,
    row_bytes: ir.Value,
    column_bytes: ir.Value,
    piece_bytes: ir.Value,
    steps: ir.Value,
    step_bytes: ir.Value,
    weights: ir.Value,
    records: ir.Value,
    out: ir.Value,
    out_row: ir.Value,
    out_piece: ir.Value,
    out_step: ir.Value,
    parameters: ir.Value,
) -> None:
    """Compute and store neighbouring pixels with the primitive in use.

    Args:
        builder: at the place of the call.
        variant: index into `VARIANTS`.
        base: address of the first channel of the first pixel's window.
        row_bytes: from input row to input row.
        column_bytes: from input pixel to input pixel.
        piece_bytes: from the window of a vector's pixel to that of its next.
        steps: at least 1.
        step_bytes: from the window of a step to that of the next; `new * column_bytes` if `new` is less than 3.
        weights: address of [2, 3 columns, 4 / group, 4, lanes, group], aligned to the vector: those for the first
            output row and, moved down by one input row, those for the second.
        records: address of four records.
        out: address of the first pixel's first channel.
        out_row: bytes from output row to output row.
        out_piece: bytes from a vector's pixel to its next.
        out_step: bytes from step to step.
        parameters: address of the words `rescale.PARAMETERS`.
    """
    p = emitted_primitive()
    record = [offset(builder, records, v * record_bytes(p)) for v in range(VECTORS)]
    done = builder.append_basic_block("columns_done")
    switch = builder.switch(variant, done)
    for index, form in enumerate(VARIANTS):
        entry = builder.append_basic_block(f"pieces{form.pieces}_new{form.new}_rows{form.rows}")
        switch.add_case(constant(index), entry)
        builder.position_at_end(entry)
        source = _Source(p, form, row_bytes, piece_bytes)
        kept = COLUMNS - form.new
        first = [source.column(builder, builder.add(base, builder.mul(column_bytes, constant(c)))) for c in range(kept)]
        loop, next_step = builder.append_basic_block("step"), builder.append_basic_block("next")
        builder.branch(loop)
        builder.position_at_end(loop)
        step, window, target = builder.phi(I64), builder.phi(I64), builder.phi(I64)
        columns = [[builder.phi(p.operand_type) for _ in column] for column in first]
        carried = list(columns)
        columns += [
            source.column(builder, builder.add(window, builder.mul(column_bytes, constant(c))))
            for c in range(kept, COLUMNS)
        ]
        accs = _emit_sums(builder, p, form, columns, weights, record)
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
        chains = [
            (step, constant(0), following),
            (window, base, builder.add(window, step_bytes)),
            (target, out, builder.add(target, out_step)),
        ]
        for phis, starts, agains in zip(carried, first, columns[form.new :], strict=True):
            chains += zip(phis, starts, agains, strict=True)
        for phi, start, again in chains:
            phi.add_incoming(start, entry)
            phi.add_incoming(again, next_step)
        branch_back(builder, builder.icmp_signed("<", following, steps), loop, done)
    builder.position_at_end(done)


@dataclass(frozen=True)
class _Source:
    """How a column of input pixels becomes operands of dot products."""

    p: Primitive
    form: ColumnVariant
    row_bytes: ir.Value
    piece_bytes: ir.Value

    def column(self, builder: ir.IRBuilder, address: ir.Value) -> list[ir.Value]:
        """Operands [group of rows][vector], flat, of the rows that begin at `address`."""
        rows = [
            self._row(builder, builder.add(address, builder.mul(self.row_bytes, constant(r))))
            for r in range(COLUMNS - 1 + self.form.rows)
        ]
        rows += rows[-1:] * (ROWS - len(rows))  # its weights are zero
        groups = [rows[start : start + self.p.group] for start in range(0, ROWS, self.p.group)]
        return [operand for group in groups for operand in interleave_taps(builder, self.p, group)]

    def _row(self, builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
        """One vector of bytes: the channels of one pixel, or of `pieces` pixels one after the other."""
        count = self.p.vector_bytes // self.form.pieces
        parts = []
        for i in range(self.form.pieces):
            at = builder.add(address, builder.mul(self.piece_bytes, constant(i)))
            parts.append(load(builder, at, vector(I8, count), 1))
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
