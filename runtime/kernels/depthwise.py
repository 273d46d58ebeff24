"""The kernel of depthwise convolutions: go over the pixels, after staging rows with their borders where needed.

Its plan is made by `qcompiler.runtime.kernels.depthwise_plan`. A unit is one output row; shares divide the rows, or
the blocks of channels where rows are few. A step computes one vector, or one in each of two rows: a block of the
channels of one pixel or, if they are few, of several neighbouring pixels.
"""

from itertools import chain

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.codegen.depthwise_columns import depthwise_columns
from qcompiler.runtime.codegen.depthwise_tile import depthwise_row
from qcompiler.runtime.codegen.rescale import PARAMETERS
from qcompiler.runtime.kernels.memory import copy_bytes, fill_bytes, load_s64, word_loader
from qcompiler.runtime.kernels.registry import kernel
from qcompiler.runtime.kernels.rows import stage_padded_rows

TILE_WORDS = 6
"""s64 of an entry for a block of channels: first channel, output offset, weights offset, records offset, pixels of a
step, and with columns the variant for a single row."""

PARTIAL_BYTES = 256
"""At the start of a share's scratch, room for a block that is wider than what it stores."""

_GROUPS = (
    ("x", "out", "weights", "records", "tiles", "taps", "scratch"),
    PARAMETERS,
    ("scratch_bytes", "share_limit", "by_tiles", "staged", "outside_bytes", "flip_in", "zp_in"),
    ("units", "image_units", "block_units", "unit_pixels", "by_columns", "paired"),
    ("step_bytes", "tile_count", "tap_groups", "image_bytes", "out_stride", "column_bytes"),
    ("pixel_step", "height", "row_items", "row_step", "window_rows"),
    ("pad_top", "pad_left", "pad_right", "channels", "pixel_bytes"),
)
WORDS = tuple(chain.from_iterable(_GROUPS))
_load_words = word_loader(_GROUPS)
_PARAMETERS_OFFSET = 8 * WORDS.index(PARAMETERS[0])


@kernel("int_depthwise", words=WORDS, per_isa=True)
def int_depthwise(operands: int, share: int, shares: int) -> None:
    """Depthwise convolution of 8-bit activations (NHWC) and s8 weights, see `depthwise_plan`."""
    (
        (x, out, weights, records, tiles, taps, scratch),
        _parameters,
        (scratch_bytes, share_limit, by_tiles, staged, outside_bytes, flip_in, zp_in),
        (units, image_units, block_units, unit_pixels, by_columns, paired),
        (step_bytes, tile_count, tap_groups, image_bytes, out_stride, column_bytes),
        (pixel_step, height, row_items, row_step, window_rows),
        (pad_top, pad_left, pad_right, channels, pixel_bytes),
    ) = _load_words(operands)
    parameters = operands + _PARAMETERS_OFFSET

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
    stage = partial + PARTIAL_BYTES
    pitch, left = row_items, pad_left
    if staged:
        pitch, left = pad_left + row_items + pad_right, 0
    else:
        fill_bytes(stage, zp_in, outside_bytes)

    while unit < last_unit:
        image, local = unit // image_units, unit % image_units
        count = min(block_units, last_unit - unit, image_units - local)
        pixels, top, rows = x + image * image_bytes, local * row_step - pad_top, height
        if staged:
            needed = (count - 1) * row_step + window_rows
            stage_padded_rows(
                stage,
                pixels,
                top,
                needed,
                height,
                row_items,
                pad_left,
                pad_right,
                channels,
                pixel_bytes,
                zp_in,
                flip_in,
                1,
            )
            pixels, top, rows = stage, 0, needed
        r = 0
        while r < count:
            pair = min(paired, count - 1 - r)
            y = top + r * row_step
            row_out = out + (unit + r) * unit_pixels * out_stride
            for t in range(first_tile, last_tile):
                entry = tiles + t * (8 * TILE_WORDS)
                channel, step_pixels = load_s64(entry, 0), load_s64(entry, 4)
                pixel = 0
                while pixel < unit_pixels:
                    # All whole steps at once, then one that overlaps the last; or one by one by way of `partial`.
                    steps = 1 if step_bytes else max(1, (unit_pixels - pixel) // step_pixels)
                    first = min(pixel, unit_pixels - step_pixels)
                    stored = row_out + load_s64(entry, 1) + first * out_stride
                    if by_columns:
                        depthwise_columns(
                            load_s64(entry, 5) + pair,
                            (
                                _row(pixels, y, rows, pitch, stage) + channel,
                                _row(pixels, y + 1, rows, pitch, stage) + channel,
                                _row(pixels, y + 2, rows, pitch, stage) + channel,
                                _row(pixels, y + 3, rows, pitch, stage) + channel,
                            ),
                            pitch,
                            stage,
                            first * pixel_step - left,
                            column_bytes,
                            steps,
                            weights + load_s64(entry, 2),
                            records + load_s64(entry, 3),
                            stored,
                            unit_pixels * out_stride,
                            out_stride,
                            parameters,
                        )
                    else:
                        depthwise_row(
                            pixels + y * pitch + channel + first * pixel_step,
                            taps,
                            tap_groups,
                            steps,
                            step_pixels * pixel_step,
                            weights + load_s64(entry, 2),
                            records + load_s64(entry, 3),
                            partial if step_bytes else stored,
                            step_pixels * out_stride,
                            parameters,
                        )
                    if step_bytes:
                        copy_bytes(stored, partial, step_bytes)
                    pixel = first + steps * step_pixels
            r += 1 + pair
        unit += count


@inlined
def _row(pixels: int, y: int, rows: int, pitch: int, outside: int) -> int:
    """Address of row `y`; of bytes of the zero point if it is above or below the image."""
    return pixels + y * pitch if 0 <= y < rows else outside
