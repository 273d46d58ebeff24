"""The kernels of products of two activations: one packs the second operand, one runs tiles over the first.

Their plan is `qcompiler.runtime.kernels.product_plan`. Each matrix of the second operand b[terms, columns] becomes the
weights of the tiles, and a bias for each of its columns; rows of the first are the tiles' pixels. With a' = a − zp_a
and b' = b − zp_b, sums over terms are

    Σ a'·b' = Σ a·b − zp_a·Σ b + terms·zp_a·zp_b − zp_b·Σ a

of which the second and third term are a column's bias, and the last is added to all of a row. All of it is modulo 2^32.
"""

from itertools import chain

from qcompiler.runtime.codegen.columns import (
    TRANSPOSED_GROUPS,
    column_biases,
    pack_rows,
    pack_transposed,
    row_terms,
)
from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.codegen.rescale import PARAMETERS
from qcompiler.runtime.codegen.staging import stage_activations, stage_constant
from qcompiler.runtime.codegen.tile import begin_tiles, end_tiles, product_tiles
from qcompiler.runtime.kernels.convolution import PARTIAL_BYTES, next_tiles
from qcompiler.runtime.kernels.memory import (
    copy_bytes,
    fill_bytes,
    load_s64,
    load_u8,
    store_s8,
    store_s16,
    word_loader,
)
from qcompiler.runtime.kernels.registry import kernel

PRODUCT_TILE_WORDS = 9
"""s64 of a tile's entry: shape, pixels, fewest pixels, first column, weights offset, biases offset, bytes of a row if
they are fewer than the tile's (else 0), bytes of a row in the tile, columns."""

_ENTRY_BYTES = 8 * PRODUCT_TILE_WORDS

_PACK_GROUPS = (
    ("source", "packed", "tiles", "matrices", "matrix_count", "matrix_bytes", "tile_count"),
    ("terms", "term_step", "column_step", "lanes", "group", "flip", "factor", "base"),
)
PACK_WORDS = tuple(chain.from_iterable(_PACK_GROUPS))
_load_pack_words = word_loader(_PACK_GROUPS)


@kernel("int_product_pack", words=PACK_WORDS, per_isa=True)
def int_product_pack(operands: int, share: int, shares: int) -> None:
    """Pack matrices: `matrices` is s64[matrix_count], the byte offset of each."""
    (
        (source, packed, tiles, matrices, matrix_count, matrix_bytes, tile_count),
        (terms, term_step, column_step, lanes, group, flip, factor, base),
    ) = _load_pack_words(operands)
    whole, groups = terms // group, (terms + group - 1) // group
    items = matrix_count * tile_count
    for item in range(items * share // shares, items * (share + 1) // shares):
        matrix, entry = item // tile_count, tiles + (item % tile_count) * _ENTRY_BYTES
        shape, columns, narrow = load_s64(entry, 0), load_s64(entry, 8), load_s64(entry, 6)
        first = source + load_s64(matrices, matrix) + load_s64(entry, 3) * column_step
        start = packed + matrix * matrix_bytes
        target, done = start + load_s64(entry, 4), 0
        if not narrow:
            if column_step == 1:
                pack_rows(shape, first, term_step, whole, flip, target)
                done = whole
            elif term_step == 1 and whole >= TRANSPOSED_GROUPS:
                pack_transposed(shape, first, column_step, whole, flip, target)
                done = whole
        width = load_s64(entry, 7)
        _pack_elements(first, term_step, column_step, terms, columns, width, lanes, group, flip, done, groups, target)
        column_biases(shape, target, groups, factor, base, start + load_s64(entry, 5))


@inlined
def _pack_elements(  # noqa: PLR0913, PLR0917 - a kernel's inner call has no structs
    first: int,
    term_step: int,
    column_step: int,
    terms: int,
    columns: int,
    width: int,
    lanes: int,
    group: int,
    flip: int,
    start: int,
    end: int,
    target: int,
) -> None:
    """Pack groups `start` to `end` of a tile that is `width` columns wide, with zeros beyond `terms` and `columns`."""
    vectors = width // lanes
    for g in range(start, end):
        for v in range(vectors):
            for lane in range(lanes):
                column = 4 * vectors * (lane // 4) + 4 * v + lane % 4
                for i in range(group):
                    term, value = g * group + i, 0
                    if term < terms and column < columns:
                        value = load_u8(first + term * term_step + column * column_step, 0) ^ flip
                        value = (value ^ 128) - 128  # as s8
                    at = ((g * vectors + v) * lanes + lane) * group + i
                    if group == 4:
                        store_s8(target, at, value)
                    else:
                        store_s16(target, at, value)


_PRODUCT_GROUPS = (
    ("a", "packed", "out", "scratch", "record", "tiles", "jobs", "offsets"),
    PARAMETERS,
    ("scratch_bytes", "job_count", "rows", "block_rows", "blocks", "chunks", "tile_count"),
    ("terms", "row_step", "staged", "flip_a", "item_bytes", "pitch", "run_bytes"),
    ("register_rows", "register_bytes", "row_vectors", "row_factor", "out_step", "itemsize"),
)
PRODUCT_WORDS = tuple(chain.from_iterable(_PRODUCT_GROUPS))
_load_words = word_loader(_PRODUCT_GROUPS)
_PARAMETERS_OFFSET = 8 * PRODUCT_WORDS.index(PARAMETERS[0])


@kernel("int_product", words=PRODUCT_WORDS, per_isa=True)
def int_product(operands: int, share: int, shares: int) -> None:
    """Multiply matrices of bytes by packed ones: `jobs` is s64[job_count, 3], byte offsets in a, packed and out.

    A unit is a block of rows of one job by a chunk of its tiles.
    """
    (
        (a, packed, out, scratch, record, tiles, jobs, offsets),
        _parameters,
        (scratch_bytes, job_count, rows, block_rows, blocks, chunks, tile_count),
        (terms, row_step, staged, flip_a, item_bytes, pitch, run_bytes),
        (register_rows, register_bytes, row_vectors, row_factor, out_step, itemsize),
    ) = _load_words(operands)

    units = job_count * blocks * chunks
    unit, last_unit = units * share // shares, units * (share + 1) // shares
    if unit == last_unit:
        return
    partial = scratch + share * scratch_bytes
    terms_of_rows = partial + PARTIAL_BYTES
    stage = terms_of_rows + (4 * block_rows + 63) // 64 * 64
    fill_bytes(terms_of_rows, 0, 4 * block_rows)
    prepared = -1

    begin_tiles(register_rows, register_bytes)
    while unit < last_unit:
        piece, chunk = unit // chunks, unit % chunks
        job, row = jobs + 24 * (piece // blocks), piece % blocks * block_rows
        pixels = min(block_rows, rows - row)
        source = a + load_s64(job, 0) + row * row_step
        base, step = source, row_step
        if staged:
            base, step = stage, pitch
        if piece != prepared:
            if staged:
                for r in range(pixels):
                    at = stage + r * pitch
                    stage_activations(at, source + r * row_step, terms, flip_a, item_bytes)
                    end = at + terms * item_bytes
                    stage_constant(end, 0, (at + pitch - end) // item_bytes, item_bytes)
            if row_factor:
                row_terms(base, step, pixels, row_vectors, row_factor, terms_of_rows)
            prepared = piece
        matrix = packed + load_s64(job, 1)
        block_out = out + load_s64(job, 2) + row * out_step
        for t in range(tile_count * chunk // chunks, tile_count * (chunk + 1) // chunks):
            entry = tiles + t * _ENTRY_BYTES
            variant, full, least = 2 * load_s64(entry, 0), load_s64(entry, 1), load_s64(entry, 2)
            tile_out = block_out + load_s64(entry, 3) * itemsize
            narrow, width = load_s64(entry, 6), load_s64(entry, 7) * itemsize
            pixel = 0
            while pixel < pixels:
                pixel, repeats, single, count = next_tiles(pixel, pixels, full, least)
                target, stride = tile_out + pixel * out_step, out_step
                if narrow:
                    repeats, target, stride = 1, partial, width
                product_tiles(
                    variant + single,
                    repeats,
                    count,
                    base,
                    offsets + 8 * (pixel + 1),
                    offsets,
                    run_bytes,
                    matrix + load_s64(entry, 4),
                    register_rows,
                    register_bytes,
                    matrix + load_s64(entry, 5),
                    record,
                    terms_of_rows + 4 * pixel,
                    target,
                    stride,
                    operands + _PARAMETERS_OFFSET,
                )
                if narrow:
                    for m in range(count):
                        copy_bytes(tile_out + (pixel + m) * out_step, partial + m * width, narrow)
                pixel += repeats * count
        unit += 1
    end_tiles()
