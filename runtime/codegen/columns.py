"""Packing of a matrix at run time into what the tiles read as weights, and the sums that correct zero points.

The matrix is b[terms, columns] of bytes, s8 after an xor of `flip`. A tile wants, for each group of terms, the vectors
of its columns in the order of `epilogue.channel_of`: 16-byte lane i of vector v has the 4 columns from
4·(vectors·i + v) on, with the terms of a group next to each other. Interleaving within 16-byte lanes makes that of rows
of neighbouring columns as well as of columns of neighbouring terms.
"""

from collections.abc import Callable

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import Primitive, TileShape, emitted_primitive
from qcompiler.runtime.codegen.vectors import (
    I8,
    I16,
    I32,
    I64,
    call,
    constant,
    emit_loop,
    interleave,
    load,
    offset,
    shuffle,
    splat,
    splat_constant,
    store,
    vector,
)

TRANSPOSED_GROUPS = 4
"""Groups of terms that `pack_transposed` packs at a time: it needs as many."""

Body = Callable[[Primitive, TileShape], None]


@emitted(types.void, *[types.int64] * 6)
def pack_rows(
    builder: ir.IRBuilder,
    shape: ir.Value,
    source: ir.Value,
    term_step: ir.Value,
    groups: ir.Value,
    flip: ir.Value,
    target: ir.Value,
) -> None:
    """Pack the columns of one tile, whose elements are neighbours in memory, with the primitive in use.

    Args:
        builder: at the place of the call.
        shape: index into `Primitive.tiles`.
        source: address of the first term's first column.
        term_step: bytes from term to term.
        groups: whole groups of terms.
        flip: what each byte is xored with.
        target: address of [groups, vectors, lanes, group], s8 or s16.
    """

    def body(p: Primitive, tile: TileShape) -> None:
        columns = vector(I8, tile.vectors * p.lanes)
        flips = splat(builder, builder.trunc(flip, I8), columns)

        def pack_group(g: ir.Value) -> None:
            first = builder.mul(g, constant(p.group))
            rows = []
            for i in range(p.group):
                address = builder.add(source, builder.mul(offset(builder, first, i), term_step))
                rows.append(_spread(builder, p, tile, builder.xor(load(builder, address, columns, 1), flips)))
            at = builder.add(target, builder.mul(g, constant(tile.vectors * p.vector_bytes)))
            for v, packed in enumerate(_interleave_terms(builder, p, tile, rows)):
                store(builder, packed, offset(builder, at, v * p.vector_bytes), align=p.vector_bytes)

        emit_loop(builder, groups, 1, pack_group)

    _emit_shapes(builder, shape, body)


@emitted(types.void, *[types.int64] * 6)
def pack_transposed(
    builder: ir.IRBuilder,
    shape: ir.Value,
    source: ir.Value,
    column_step: ir.Value,
    groups: ir.Value,
    flip: ir.Value,
    target: ir.Value,
) -> None:
    """Pack the columns of one tile, each of which has its terms next to each other; else as `pack_rows`.

    Args:
        builder: at the place of the call.
        shape: index into `Primitive.tiles`.
        source: address of the first column's first term.
        column_step: bytes from column to column.
        groups: whole groups of terms, at least `TRANSPOSED_GROUPS`.
        flip: what each byte is xored with.
        target: address of [groups, vectors, lanes, group], s8 or s16.
    """

    def body(p: Primitive, tile: TileShape) -> None:
        last = builder.sub(groups, constant(TRANSPOSED_GROUPS))

        def pack(g: ir.Value) -> None:
            terms = builder.add(source, builder.mul(g, constant(p.group)))
            at = builder.add(target, builder.mul(g, constant(tile.vectors * p.vector_bytes)))
            for v in range(tile.vectors):
                four = [_column_lanes(builder, p, tile, 4 * v + j, terms, column_step, flip) for j in range(4)]
                for i, packed in enumerate(_transpose_lanes(builder, p, four)):
                    address = offset(builder, at, (i * tile.vectors + v) * p.vector_bytes)
                    store(builder, packed, address, align=p.vector_bytes)

        emit_loop(builder, last, TRANSPOSED_GROUPS, pack)
        pack(last)  # overlaps the step before

    _emit_shapes(builder, shape, body)


@emitted(types.void, *[types.int64] * 6)
def column_biases(
    builder: ir.IRBuilder,
    shape: ir.Value,
    packed: ir.Value,
    groups: ir.Value,
    factor: ir.Value,
    base: ir.Value,
    out: ir.Value,
) -> None:
    """For each column of a packed tile ``base + factor · sum of its terms``, modulo 2^32.

    Args:
        builder: at the place of the call.
        shape: index into `Primitive.tiles`.
        packed: address of [groups, vectors, lanes, group], s8 or s16.
        groups: groups of terms.
        factor: reduced modulo 2^32.
        base: reduced modulo 2^32.
        out: address of s32[vectors, lanes].
    """

    def body(p: Primitive, tile: TileShape) -> None:
        ones = splat_constant(p.operand_type, 1)
        nothing = [splat_constant(p.s32, 0)] * tile.vectors

        def add_group(g: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(packed, builder.mul(g, constant(tile.vectors * p.vector_bytes)))
            return [
                p.dot(
                    builder,
                    total,
                    ones,
                    load(builder, offset(builder, at, v * p.vector_bytes), p.operand_type, p.vector_bytes),
                )
                for v, total in enumerate(sums)
            ]

        sums = _emit_sums(builder, groups, nothing, add_group)
        factors, bases = (splat(builder, builder.trunc(value, I32), p.s32) for value in (factor, base))
        for v, total in enumerate(sums):
            value = builder.add(bases, builder.mul(total, factors))
            store(builder, value, offset(builder, out, v * p.vector_bytes), align=4)

    _emit_shapes(builder, shape, body)


@emitted(types.void, *[types.int64] * 6)
def row_terms(
    builder: ir.IRBuilder,
    base: ir.Value,
    row_step: ir.Value,
    rows: ir.Value,
    vectors: ir.Value,
    factor: ir.Value,
    out: ir.Value,
) -> None:
    """For each row of activations as the tiles read them ``factor · sum of its elements``, modulo 2^32.

    Args:
        builder: at the place of the call.
        base: address of the first row.
        row_step: bytes from row to row.
        rows: number of rows.
        vectors: vectors that each row has: it is padded with zeros to whole ones.
        factor: reduced modulo 2^32.
        out: address of s32[rows].
    """
    p = emitted_primitive()
    ones = splat_constant(p.operand_type, 1)
    factor = builder.trunc(factor, I32)

    def sum_row(r: ir.Value) -> None:
        row = builder.add(base, builder.mul(r, row_step))

        def add_vector(j: ir.Value, sums: list[ir.Value]) -> list[ir.Value]:
            at = builder.add(row, builder.mul(j, constant(p.vector_bytes)))
            return [p.dot(builder, sums[0], load(builder, at, p.operand_type, 1), ones)]

        (sums,) = _emit_sums(builder, vectors, [splat_constant(p.s32, 0)], add_vector)
        total = call(builder, f"llvm.vector.reduce.add.v{p.lanes}i32", I32, sums)
        store(builder, builder.mul(total, factor), builder.add(out, builder.shl(r, constant(2))), align=4)

    emit_loop(builder, rows, 1, sum_row)


def _emit_shapes(builder: ir.IRBuilder, shape: ir.Value, body: Body) -> None:
    """`body` for the shape of tiles that `shape` says."""
    p = emitted_primitive()
    done = builder.append_basic_block("shape_done")
    switch = builder.switch(shape, done)
    for index, tile in enumerate(p.tiles):
        block = builder.append_basic_block(f"shape_{tile.vectors}")
        switch.add_case(constant(index), block)
        builder.position_at_end(block)
        body(p, tile)
        builder.branch(done)
    builder.position_at_end(done)


def _emit_sums(
    builder: ir.IRBuilder,
    count: ir.Value,
    starts: list[ir.Value],
    add: Callable[[ir.Value, list[ir.Value]], list[ir.Value]],
) -> list[ir.Value]:
    """Values after `add(i, values)` for i = 0 ... count − 1, count being at least 1."""
    before, loop, after = builder.block, builder.append_basic_block("sum"), builder.append_basic_block("summed")
    builder.branch(loop)
    builder.position_at_end(loop)
    i, sums = builder.phi(I64), [builder.phi(start.type) for start in starts]
    new = add(i, sums)
    following = builder.add(i, constant(1))
    for phi, start, again in ((i, constant(0), following), *zip(sums, starts, new, strict=True)):
        phi.add_incoming(start, before)
        phi.add_incoming(again, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    return new


def _spread(builder: ir.IRBuilder, p: Primitive, tile: TileShape, row: ir.Value) -> ir.Value:
    """Give each 16-byte lane of a vector its 4·vectors of a row's bytes, first in the lane."""
    own = 4 * tile.vectors
    if own == 16:
        return row
    return shuffle(builder, row, row, [lane * own + byte % own for lane in range(p.lanes // 4) for byte in range(16)])


def _interleave_terms(builder: ir.IRBuilder, p: Primitive, tile: TileShape, rows: list[ir.Value]) -> list[ir.Value]:
    """The vectors of one group from its rows, as `_spread` gives them."""
    halves = (False, True) if tile.vectors > 2 else (False,)
    pairs = [
        [interleave(builder, x, y, high=high) for x, y in zip(rows[::2], rows[1::2], strict=True)] for high in halves
    ]
    zero = splat_constant(rows[0].type, 0)
    words = vector(I16, 2 * p.lanes)
    packed = []
    for pair in pairs:
        for high in (False, True)[: tile.vectors]:
            if p.group == 4:
                both = [builder.bitcast(each, words) for each in pair]
                packed.append(builder.bitcast(interleave(builder, *both, high=high), p.operand_type))
            else:  # a byte as the high one of a word, then shifted down, is the byte widened
                wide = builder.bitcast(interleave(builder, zero, pair[0], high=high), words)
                packed.append(builder.ashr(wide, splat_constant(words, 8)))
    return packed


def _column_lanes(
    builder: ir.IRBuilder,
    p: Primitive,
    tile: TileShape,
    first: int,
    terms: ir.Value,
    column_step: ir.Value,
    flip: ir.Value,
) -> ir.Value:
    """One vector with 4 groups of terms in each 16-byte lane i: those of column `first` + 4·vectors·i."""
    count = TRANSPOSED_GROUPS * p.group
    pieces = [
        load(builder, builder.add(terms, builder.mul(column_step, constant(column))), vector(I8, count), 1)
        for column in range(first, tile.vectors * p.lanes, 4 * tile.vectors)
    ]
    while len(pieces) > 1:
        pairs = zip(pieces[::2], pieces[1::2], strict=True)
        pieces = [shuffle(builder, x, y, range(2 * x.type.count)) for x, y in pairs]
    flipped = builder.xor(pieces[0], splat(builder, builder.trunc(flip, I8), pieces[0].type))
    return flipped if p.group == 4 else builder.sext(flipped, p.operand_type)


def _transpose_lanes(builder: ir.IRBuilder, p: Primitive, four: list[ir.Value]) -> list[ir.Value]:
    """Transpose the 4 by 4 s32 that each 16-byte lane of four vectors has."""
    pairs, words = vector(I64, p.lanes // 2), [builder.bitcast(value, p.s32) for value in four]
    result = []
    for high in (False, True):
        low, up = (builder.bitcast(interleave(builder, *words[i : i + 2], high=high), pairs) for i in (0, 2))
        result += [builder.bitcast(interleave(builder, low, up, high=half), p.operand_type) for half in (False, True)]
    return result
