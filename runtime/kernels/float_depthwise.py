"""Float32 convolution with one input channel a group.

In general an input plane is staged strip by strip with its borders, its columns sorted by their remainder modulo the
stride: then the windows of neighbouring output pixels read neighbouring floats at every tap, and vectors run along
output rows. The common 3x3 windows read the plane itself.
"""

from qcompiler.runtime.codegen.deferred import compiled
from qcompiler.runtime.codegen.float_tile import WINDOW_ROWS, tile_lanes, window_tile
from qcompiler.runtime.codegen.float_window import TILE_ROWS, WINDOW, plane_tile
from qcompiler.runtime.kernels.float_bits import float_of_bits
from qcompiler.runtime.kernels.float_rows import inside, stage_run
from qcompiler.runtime.kernels.memory import copy_bytes, fill_bytes, load_f32, load_s64
from qcompiler.runtime.kernels.registry import kernel


@kernel(
    "float_depthwise",
    words=(
        *("x", "weights", "bias", "out", "taps", "scratch", "scratch_bytes", "batch", "channels", "multiplier"),
        *("height", "width", "out_height", "out_width", "stride_h", "stride_w", "pad_h", "pad_w"),
        *("tap_count", "strip", "strip_rows", "pitch", "lo", "hi"),
    ),
    per_isa=True,
)
def float_depthwise(operands: int, share: int, shares: int) -> None:
    """`conv` with `multiplier` output channels for each of `channels` groups.

    A plane is done in strips of `strip` output rows, for which `strip_rows` input rows are staged, each as `stride_w`
    parts of `pitch` floats; `taps` s64[tap_count] are byte offsets into that. `scratch_bytes` are those of one share.
    """
    x, weights, bias, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    taps, stage = load_s64(operands, 4), load_s64(operands, 5) + share * load_s64(operands, 6)
    batch, channels, multiplier = load_s64(operands, 7), load_s64(operands, 8), load_s64(operands, 9)
    height, width = load_s64(operands, 10), load_s64(operands, 11)
    out_height, out_width = load_s64(operands, 12), load_s64(operands, 13)
    stride_h, stride_w = load_s64(operands, 14), load_s64(operands, 15)
    pad_h, pad_w = load_s64(operands, 16), load_s64(operands, 17)
    tap_count, strip, strip_rows = load_s64(operands, 18), load_s64(operands, 19), load_s64(operands, 20)
    pitch = load_s64(operands, 21)
    lo, hi = float_of_bits(load_s64(operands, 22)), float_of_bits(load_s64(operands, 23))
    lanes, row_bytes = tile_lanes(), 4 * stride_w * pitch
    partial = stage + strip_rows * row_bytes
    strips = (out_height + strip - 1) // strip
    units = batch * channels * strips
    for unit in range(units * share // shares, units * (share + 1) // shares):
        plane = unit // strips
        first = (unit - plane * strips) * strip
        rows = min(strip, out_height - first)
        source = x + 4 * plane * height * width
        stage_plane(stage, source, first * stride_h - pad_h, strip_rows, height, width, pad_w, stride_w, pitch)
        channel = plane % channels
        for m in range(multiplier):
            number = channel * multiplier + m
            filtered, start = weights + 4 * number * tap_count, load_f32(bias, number)
            target = out + 4 * ((plane * multiplier + m) * out_height + first) * out_width
            for row in range(0, rows, WINDOW_ROWS):
                group = min(WINDOW_ROWS, rows - row)
                line, line_out = stage + row * stride_h * row_bytes, target + 4 * row * out_width
                # Whole vectors run over the end of a row into the next one, so that has to be written later.
                for column in range((out_width - 1) // lanes * lanes, -1, -lanes):
                    fits = (rows - row - group + 1) * out_width - column >= lanes
                    window_tile(
                        group - 1,
                        line + 4 * column,
                        stride_h * row_bytes,
                        taps,
                        filtered,
                        tap_count,
                        line_out + 4 * column if fits else partial,
                        4 * out_width if fits else 4 * lanes,
                        start,
                        lo,
                        hi,
                    )
                    if not fits:
                        count = min(lanes, out_width - column)
                        for i in range(group):
                            copy_bytes(line_out + 4 * (i * out_width + column), partial + 4 * i * lanes, 4 * count)


@kernel(
    "float_depthwise_3x3",
    words=(
        *("x", "weights", "bias", "out", "zeros", "planes", "channels", "multiplier"),
        *("height", "width", "out_height", "out_width", "stride", "pad_h", "pad_w", "lo", "hi"),
    ),
    per_isa=True,
)
def float_depthwise_3x3(operands: int, share: int, shares: int) -> None:
    """The same for a 3x3 window with stride 1 or 2 and without dilation; `zeros` is f32[width]."""
    x, weights, bias, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    zeros, planes = load_s64(operands, 4), load_s64(operands, 5)
    channels, multiplier = load_s64(operands, 6), load_s64(operands, 7)
    height, width = load_s64(operands, 8), load_s64(operands, 9)
    out_height, out_width = load_s64(operands, 10), load_s64(operands, 11)
    stride, pad_h, pad_w = load_s64(operands, 12), load_s64(operands, 13), load_s64(operands, 14)
    lo, hi = float_of_bits(load_s64(operands, 15)), float_of_bits(load_s64(operands, 16))
    lanes = tile_lanes()
    units = planes * multiplier
    for unit in range(units * share // shares, units * (share + 1) // shares):
        plane = unit // multiplier
        number = plane % channels * multiplier + unit - plane * multiplier
        source, target = x + 4 * plane * height * width, out + 4 * unit * out_height * out_width
        start = load_f32(bias, number)
        for row in range(0, out_height, TILE_ROWS):
            for column in range(0, out_width, lanes):
                plane_tile(
                    stride,
                    source,
                    zeros,
                    weights + 4 * number * WINDOW * WINDOW,
                    row * stride - pad_h,
                    column * stride - pad_w,
                    height,
                    width,
                    target + 4 * (row * out_width + column),
                    4 * out_width,
                    out_height - row,
                    out_width - column,
                    start,
                    lo,
                    hi,
                )


@compiled
def stage_plane(
    target: int,
    plane: int,
    top: int,
    rows: int,
    height: int,
    width: int,
    pad_w: int,
    stride_w: int,
    pitch: int,
) -> None:
    """Stage `rows` input rows from row `top` on; what lies outside of the plane is zero."""
    for r in range(rows):
        y = top + r
        if y < 0 or y >= height:
            fill_bytes(target, 0, 4 * stride_w * pitch)
            target += 4 * stride_w * pitch
            continue
        for phase in range(stride_w):
            left = phase - pad_w
            first, end = inside(left, stride_w, width, pitch)
            stage_run(target, plane + 4 * (y * width + left), stride_w, first, end, pitch)
            target += 4 * pitch
