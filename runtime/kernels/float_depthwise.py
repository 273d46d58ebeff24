"""Float32 convolution with one input channel a group.

An input plane is staged strip by strip with its borders, its columns sorted by their remainder modulo the stride: then
the windows of neighbouring output pixels read neighbouring floats at every tap, and vectors run along output rows.
"""

from numba import njit

from qcompiler.runtime.codegen.float_tile import tile_lanes, window_tile
from qcompiler.runtime.codegen.staging import stage_activations
from qcompiler.runtime.kernels.float_bits import float_of_bits
from qcompiler.runtime.kernels.memory import copy_bytes, fill_bytes, load_f32, load_s64, store_f32
from qcompiler.runtime.kernels.registry import kernel

LONG = 4
"""Vectors of the long tile."""


@kernel(
    "float_depthwise",
    words=(
        *("x", "weights", "bias", "out", "taps", "scratch", "scratch_bytes", "batch", "channels", "multiplier"),
        *("height", "width", "out_height", "out_width", "stride_h", "stride_w", "pad_h", "pad_w"),
        *("tap_count", "strip", "strip_rows", "pitch", "lo", "hi"),
    ),
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
            for r in range(rows):
                line, column = stage + r * stride_h * row_bytes, 0
                while column < out_width:
                    # Whole vectors run over the end of a row into the next one, which comes later.
                    vectors = LONG if column + LONG * lanes <= out_width else 1
                    left = (rows - r) * out_width - column
                    place = target + 4 * (r * out_width + column) if left >= lanes else partial
                    window_tile(vectors, line + 4 * column, taps, filtered, tap_count, place, start, lo, hi)
                    if left < lanes:
                        copy_bytes(target + 4 * (r * out_width + column), partial, 4 * left)
                    column += vectors * lanes


@njit(error_model="numpy", boundscheck=False)
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
            before = 0 if left >= 0 else min(pitch, (stride_w - 1 - left) // stride_w)
            end = 0 if left >= width else max(before, min(pitch, (width - left + stride_w - 1) // stride_w))
            source = plane + 4 * (y * width + left)
            for i in range(before):
                store_f32(target, i, 0.0)
            if stride_w == 1 and before < end:
                stage_activations(target + 4 * before, source + 4 * before, 4 * (end - before), 0, 1)
            else:
                for i in range(before, end):
                    store_f32(target, i, load_f32(source, i * stride_w))
            for i in range(max(before, end), pitch):
                store_f32(target, i, 0.0)
            target += 4 * pitch
