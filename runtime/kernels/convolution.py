"""The kernel of convolutions and matrix products: stage a block of activations, then run tiles over it.

Its plan (`qcompiler.runtime.kernels.convolution_plan`) divides the output into *units*: pixels, or rows of pixels.
A block of units is staged into the share's scratch (or read in place), so that every output pixel finds its
activations as runs at the offsets `rows[pixel] + runs[i]`. For a matrix unit and few pixels they are then collected
into the order in which it reads them, where each step is a run; such a block may have the pixels of several images,
which are staged one part after the other. The tiles of output channels go over the block, and over some of the runs,
those in which a tile has weights other than zero.

Pixels lie at one distance in the output within a *segment*: a whole block, or, where each row of pixels becomes a row
of blocks of pixels, a unit.
"""

from itertools import chain

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.codegen.rescale import PARAMETERS, RESIDUAL_PARAMETERS
from qcompiler.runtime.codegen.staging import stage_activations
from qcompiler.runtime.codegen.tile import begin_tiles, end_tiles, matrix_tiles
from qcompiler.runtime.kernels.memory import copy_bytes, load_s64, word_loader
from qcompiler.runtime.kernels.registry import kernel
from qcompiler.runtime.kernels.rows import collect_steps, stage_padded_rows, stage_sampled_rows

IN_PLACE, PIXELS, SAMPLED_ROWS, PADDED_ROWS = range(4)
"""Staging: none; neighbouring pixels; every `column_step`-th pixel of rows (1x1 with stride); rows with borders."""

TILE_WORDS = 13
"""s64 of a tile's entry: variant, pixels, fewest pixels, output offset, weights offset, records offset, input offset,
bytes of a pixel if they are fewer than the tile's (else 0), bytes of a pixel in the tile, first of its runs, number of
them, bytes of each, bytes of a matrix unit's step."""

PARTIAL_BYTES = 4096
"""At the start of a share's scratch, room for a tile that is wider than the output, and for its residuals."""

PARTIAL_RESIDUALS = 2048
"""Where the latter are: results that residuals are added to have 8 bits, and fill at most as much."""

_GROUPS = (
    ("x", "residual", "out", "weights", "records", "tiles", "offsets", "scratch"),
    PARAMETERS,
    RESIDUAL_PARAMETERS,
    ("scratch_bytes", "share_limit", "by_tiles", "staging", "flip_in", "zp_in", "item_bytes"),
    ("units", "image_units", "block_units", "staged_units", "unit_pixels"),
    ("tile_count", "run_count", "step_bytes", "panel_bytes", "panels_bytes"),
    ("staged_run_count", "staged_run_bytes", "register_rows"),
    ("image_bytes", "unit_bytes", "out_stride", "out_unit_bytes", "segment_pixels"),
    ("cin", "column_step", "height", "row_items", "row_step", "window_rows"),
    ("pad_top", "pad_left", "pad_right", "pixel_bytes"),
)
WORDS = tuple(chain.from_iterable(_GROUPS))
_load_words = word_loader(_GROUPS)
_PARAMETERS_OFFSET = 8 * WORDS.index(PARAMETERS[0])


@inlined
def next_tiles(pixel: int, pixels: int, full: int, least: int) -> tuple[int, int, int, int]:
    """What comes after `pixel` pixels of a block: the first pixel, tiles, 1 if they are of one pixel, pixels of each.

    A tile has `full` pixels, and can be told to compute any number from `least` on.
    """
    left = pixels - pixel
    if left >= full:
        return pixel, left // full, 0, full
    if left >= least:
        return pixel, 1, 0, left
    if 3 * left >= full and pixels >= full:  # move back over pixels that are done already
        return pixels - full, 1, 0, full
    return pixel, left, 1, 1


@kernel("int_conv", words=WORDS, per_isa=True)
def int_conv(operands: int, share: int, shares: int) -> None:  # noqa: C901, PLR0912, PLR0915 - one hot loop
    """Convolution or matrix product of 8-bit activations (NHWC) and s8 weights, see `convolution_plan`."""
    (
        (x, residual, out, weights, records, tiles, runs, scratch),
        _parameters,
        _residual_parameters,
        (scratch_bytes, share_limit, by_tiles, staging, flip_in, zp_in, item_bytes),
        (units, image_units, block_units, staged_units, unit_pixels),
        (tile_count, run_count, step_bytes, panel_bytes, panels_bytes),
        (staged_run_count, staged_run_bytes, register_rows),
        (image_bytes, unit_bytes, out_stride, out_unit_bytes, segment_pixels),
        (cin, column_step, height, row_items, row_step, window_rows),
        (pad_top, pad_left, pad_right, pixel_bytes),
    ) = _load_words(operands)
    rows = runs + 8 * run_count
    staged_runs = rows + 8 * block_units * unit_pixels

    if share >= share_limit:
        return
    shares = min(shares, share_limit)
    unit, last_unit, first_tile, last_tile = 0, units, 0, tile_count
    if by_tiles:
        first_tile, last_tile = tile_count * share // shares, tile_count * (share + 1) // shares
    else:
        unit, last_unit = units * share // shares, units * (share + 1) // shares
    if first_tile == last_tile:
        return
    partial = scratch + share * scratch_bytes
    panels = partial + PARTIAL_BYTES
    stage = panels + panels_bytes

    register_bytes = 0
    while unit < last_unit:
        count = min(block_units, last_unit - unit)
        if panels_bytes == 0:  # a block that is not collected is of one image
            count = min(count, image_units - unit % image_units)
        pixels = count * unit_pixels
        base, staged = stage, 0
        while staged < count:
            image, local = (unit + staged) // image_units, (unit + staged) % image_units
            part = min(count - staged, staged_units, image_units - local)
            source = x + image * image_bytes + local * unit_bytes
            base = stage
            if staging == IN_PLACE:
                base = source
            elif staging == PIXELS:
                stage_activations(stage, source, part * unit_bytes, flip_in, item_bytes)
            elif staging == SAMPLED_ROWS:
                stage_sampled_rows(stage, source, part, unit_pixels, unit_bytes, column_step, cin, flip_in, item_bytes)
            else:
                stage_padded_rows(
                    stage,
                    x + image * image_bytes,
                    local * row_step - pad_top,
                    (part - 1) * row_step + window_rows,
                    height,
                    row_items,
                    pad_left,
                    pad_right,
                    cin,
                    pixel_bytes,
                    zp_in,
                    flip_in,
                    item_bytes,
                )
            if panels_bytes:
                collect_steps(
                    panels + staged * unit_pixels * step_bytes,
                    base,
                    staged_runs + 8 * staged_run_count,
                    part * unit_pixels,
                    staged_runs,
                    staged_run_count,
                    staged_run_bytes,
                    step_bytes,
                    panel_bytes,
                )
            staged += part
        if panels_bytes:
            base = panels
        block_out = out + unit * out_unit_bytes
        for t in range(first_tile, last_tile):
            entry = tiles + t * (8 * TILE_WORDS)
            variant, full, least = load_s64(entry, 0), load_s64(entry, 1), load_s64(entry, 2)
            tile_out = block_out + load_s64(entry, 3)
            valid, width = load_s64(entry, 7), load_s64(entry, 8)
            tile_runs = runs + 8 * load_s64(entry, 9)
            if register_bytes != load_s64(entry, 12):
                register_bytes = load_s64(entry, 12)
                begin_tiles(register_rows, register_bytes)
            pixel, first, last = 0, 0, min(segment_pixels, pixels)
            while pixel < pixels:
                if pixel == last:
                    first, last = last, min(last + segment_pixels, pixels)
                    tile_out += out_unit_bytes
                place, repeats, single, step = next_tiles(pixel - first, last - first, full, least)
                already_done = pixel - first - place  # of the first of these pixels
                pixel = first + place
                target, stride, residual_distance = tile_out + place * out_stride, out_stride, residual - out
                copied_bytes = valid
                if already_done and residual == out:  # their results have taken the residuals' place
                    copied_bytes = valid or width
                if copied_bytes:
                    if residual:
                        for m in range(step):
                            own = target + residual_distance + m * out_stride
                            copy_bytes(partial + PARTIAL_RESIDUALS + m * width, own, copied_bytes)
                    repeats, target, stride, residual_distance = 1, partial, width, PARTIAL_RESIDUALS
                matrix_tiles(
                    variant + single,
                    repeats,
                    step,
                    base + load_s64(entry, 6),
                    rows + 8 * pixel,
                    tile_runs,
                    load_s64(entry, 10),
                    load_s64(entry, 11),
                    weights + load_s64(entry, 4),
                    register_rows,
                    register_bytes,
                    records + load_s64(entry, 5),
                    target,
                    stride,
                    residual_distance,
                    operands + _PARAMETERS_OFFSET,
                )
                if copied_bytes:
                    for m in range(already_done, step):
                        copy_bytes(tile_out + (place + m) * out_stride, partial + m * width, copied_bytes)
                pixel += repeats * step
        unit += count
    end_tiles()
