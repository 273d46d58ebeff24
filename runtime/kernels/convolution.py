"""The kernel of convolutions and matrix products: stage a block of activations, then run tiles over it.

Its plan (`qcompiler.runtime.kernels.convolution_plan`) divides the output into *units*: pixels, or rows of pixels.
A block of units is staged into the share's scratch (or read in place), so that every output pixel finds its
activations as runs at the offsets `rows[pixel] + runs[i]`. The tiles of output channels then go over the block.
"""

from qcompiler.runtime.codegen.rescale import PARAMETERS
from qcompiler.runtime.codegen.staging import stage_activations, stage_constant
from qcompiler.runtime.codegen.tile import matrix_tile
from qcompiler.runtime.kernels.memory import copy_bytes, load_s64
from qcompiler.runtime.kernels.registry import kernel

IN_PLACE, PIXELS, SAMPLED_ROWS, PADDED_ROWS = range(4)
"""Staging: none; neighbouring pixels; every `column_step`-th pixel of rows (1x1 with stride); rows with borders."""

TILE_WORDS = 8
"""s64 of a tile's entry: variant, pixels, output offset, weights offset, records offset, input offset, bytes of a
pixel if they are fewer than the tile's (else 0), bytes of a pixel in the tile."""

PARTIAL_BYTES = 2048
"""At the start of a share's scratch, room for a tile that is wider than the output."""

WORDS = (
    "x",
    "out",
    "weights",
    "records",
    "tiles",
    "offsets",
    "scratch",
    *PARAMETERS,
    "scratch_bytes",
    "share_limit",
    "by_tiles",
    "staging",
    "flip_in",
    "zp_in",
    "item_bytes",
    "units",
    "image_units",
    "block_units",
    "unit_pixels",
    "tile_count",
    "run_count",
    "run_bytes",
    "image_bytes",
    "unit_bytes",
    "out_stride",
    "cin",
    "column_step",
    "height",
    "row_items",
    "row_step",
    "window_rows",
    "pad_top",
    "pad_left",
    "pad_right",
)


@kernel("int_conv", words=WORDS)
def int_conv(operands: int, share: int, shares: int) -> None:
    """Convolution or matrix product of 8-bit activations (NHWC) and s8 weights, see `convolution_plan`."""
    x, out, weights, records = (
        load_s64(operands, 0),
        load_s64(operands, 1),
        load_s64(operands, 2),
        load_s64(operands, 3),
    )
    tiles, runs = load_s64(operands, 4), load_s64(operands, 5)
    parameters = operands + 8 * 7
    share_limit, by_tiles = load_s64(operands, 14), load_s64(operands, 15)
    staging, flip_in, zp_in = load_s64(operands, 16), load_s64(operands, 17), load_s64(operands, 18)
    item_bytes, units, image_units = load_s64(operands, 19), load_s64(operands, 20), load_s64(operands, 21)
    block_units, unit_pixels = load_s64(operands, 22), load_s64(operands, 23)
    tile_count, run_count, run_bytes = load_s64(operands, 24), load_s64(operands, 25), load_s64(operands, 26)
    image_bytes, unit_bytes, out_stride = load_s64(operands, 27), load_s64(operands, 28), load_s64(operands, 29)
    cin, column_step = load_s64(operands, 30), load_s64(operands, 31)
    height, row_items, row_step = load_s64(operands, 32), load_s64(operands, 33), load_s64(operands, 34)
    window_rows, pad_top = load_s64(operands, 35), load_s64(operands, 36)
    pad_left, pad_right = load_s64(operands, 37), load_s64(operands, 38)
    rows = runs + 8 * run_count

    if share >= share_limit:
        return
    shares = min(shares, share_limit)
    first_unit, last_unit, first_tile, last_tile = 0, units, 0, tile_count
    if by_tiles:
        first_tile, last_tile = tile_count * share // shares, tile_count * (share + 1) // shares
    else:
        first_unit, last_unit = units * share // shares, units * (share + 1) // shares
    if first_tile == last_tile:
        return
    partial = load_s64(operands, 6) + share * load_s64(operands, 13)
    stage = partial + PARTIAL_BYTES

    unit = first_unit
    while unit < last_unit:
        image, local = unit // image_units, unit % image_units
        count = min(block_units, last_unit - unit, image_units - local)
        source = x + image * image_bytes + local * unit_bytes
        base = stage
        if staging == IN_PLACE:
            base = source
        elif staging == PIXELS:
            stage_activations(stage, source, count * unit_bytes, flip_in)
        elif staging == SAMPLED_ROWS:
            for r in range(count):
                for c in range(unit_pixels):
                    at = (r * unit_pixels + c) * cin * item_bytes
                    stage_activations(stage + at, source + r * unit_bytes + c * column_step, cin, flip_in)
        else:
            pitch = (pad_left + row_items + pad_right) * item_bytes
            top = local * row_step - pad_top
            for r in range((count - 1) * row_step + window_rows):
                at, y = stage + r * pitch, top + r
                if y < 0 or y >= height:
                    stage_constant(at, zp_in, pad_left + row_items + pad_right)
                else:
                    middle = at + pad_left * item_bytes
                    stage_constant(at, zp_in, pad_left)
                    stage_activations(middle, x + image * image_bytes + y * row_items, row_items, flip_in)
                    stage_constant(middle + row_items * item_bytes, zp_in, pad_right)

        pixels = count * unit_pixels
        block_out = out + unit * unit_pixels * out_stride
        for t in range(first_tile, last_tile):
            entry = tiles + t * (8 * TILE_WORDS)
            variant, full = load_s64(entry, 0), load_s64(entry, 1)
            tile_out = block_out + load_s64(entry, 2)
            tile_weights, tile_records = weights + load_s64(entry, 3), records + load_s64(entry, 4)
            tile_base = base + load_s64(entry, 5)
            valid, width = load_s64(entry, 6), load_s64(entry, 7)
            pixel = 0
            while pixel < pixels:
                left = pixels - pixel
                single, step = 0, full
                if left < full:
                    if 3 * left >= full and pixels >= full:  # move back over pixels that are done already
                        pixel = pixels - full
                    else:
                        single, step = 1, 1
                target, stride = tile_out + pixel * out_stride, out_stride
                if valid:
                    target, stride = partial, width
                matrix_tile(
                    variant + single,
                    tile_base,
                    rows + 8 * pixel,
                    runs,
                    run_count,
                    run_bytes,
                    tile_weights,
                    tile_records,
                    target,
                    stride,
                    parameters,
                )
                if valid:
                    for m in range(step):
                        copy_bytes(tile_out + (pixel + m) * out_stride, partial + m * width, valid)
                pixel += step
        unit += count
