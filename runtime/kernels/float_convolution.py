"""Float32 convolution and matrix products, for calibration and for operators that stay float.

Activations are NCHW. Each output element is one chain of multiply-adds over K in a fixed order, whatever the batch,
the position in it and the number of shares, so an observed value depends on its sample only.

A convolution gathers the windows of a tile's width of output pixels into a panel f32[K, width] in the share's scratch,
K being (channel, kernel row, kernel column), and multiplies the rows of the weights with it. A fully connected layer
has such panels already: its weights are packed so.
"""

from qcompiler.runtime.codegen.deferred import compiled
from qcompiler.runtime.codegen.float_tile import VECTORS, product_tile, tile_lanes, tile_rows
from qcompiler.runtime.codegen.vectors import PREFETCH_BYTES
from qcompiler.runtime.kernels.float_bits import float_of_bits
from qcompiler.runtime.kernels.float_rows import inside, stage_run
from qcompiler.runtime.kernels.memory import copy_bytes, fill_bytes, load_s64
from qcompiler.runtime.kernels.registry import kernel

JOB_WORDS = 4
"""s64 of a job's entry: byte offsets of its part of x, weights, bias and out."""

WINDOW_WORDS = (
    *("channels", "height", "width", "out_height", "out_width", "kernel_h", "kernel_w"),
    *("stride_h", "stride_w", "pad_h", "pad_w", "dilation_h", "dilation_w"),
)
"""Geometry of one job; `channels` are its input channels, pad_h and pad_w those at the beginning."""

_CONV_WORDS = (
    *("x", "weights", "bias", "out", "jobs", "job_count", "scratch", "scratch_bytes"),
    *("cout", "chunks", "lo", "hi"),
)
GEOMETRY = len(_CONV_WORDS)


@kernel("float_conv", words=(*_CONV_WORDS, *WINDOW_WORDS), per_isa=True)
def float_conv(operands: int, share: int, shares: int) -> None:
    """`conv`, or `matmul` as a 1x1 convolution of its right operand: one job an image and group, or a matrix.

    Each share has `scratch_bytes` of scratch; the output channels of a block of pixels are cut into `chunks`.
    """
    x, weights, bias, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    jobs, job_count = load_s64(operands, 4), load_s64(operands, 5)
    panel = load_s64(operands, 6) + share * load_s64(operands, 7)
    cout, chunks = load_s64(operands, 8), load_s64(operands, 9)
    lo, hi = float_of_bits(load_s64(operands, 10)), float_of_bits(load_s64(operands, 11))
    geometry = operands + 8 * GEOMETRY
    depth = load_s64(geometry, 0) * load_s64(geometry, 5) * load_s64(geometry, 6)
    pixels = load_s64(geometry, 3) * load_s64(geometry, 4)
    lanes, tile = tile_lanes(), tile_rows()
    width = VECTORS * lanes
    partial = panel + 4 * width * depth
    blocks = (pixels + width - 1) // width
    row_tiles = (cout + tile - 1) // tile
    staged = -1
    units = job_count * blocks * chunks
    for unit in range(units * share // shares, units * (share + 1) // shares):
        block = unit // chunks
        job = block // blocks
        entry = jobs + 8 * JOB_WORDS * job
        first = (block - job * blocks) * width
        count = min(width, pixels - first)
        if block != staged:
            gather_windows(panel, x + load_s64(entry, 0), geometry, first, count, width)
            staged = block
        chunk = unit - block * chunks
        vectors = (count + lanes - 1) // lanes
        for row_tile in range(row_tiles * chunk // chunks, row_tiles * (chunk + 1) // chunks):
            row = row_tile * tile
            rows = min(tile, cout - row)
            target = out + load_s64(entry, 3) + 4 * (row * pixels + first)
            whole = count == vectors * lanes
            product_tile(
                vectors,
                rows - 1,
                weights + load_s64(entry, 1) + 4 * row * depth,
                4 * depth,
                panel,
                depth,
                weights + load_s64(entry, 1) + 4 * (row + tile) * depth,  # the next tile's rows
                4 * tile,
                bias + load_s64(entry, 2) + 4 * row,
                0,
                target if whole else partial,
                4 * pixels if whole else 4 * width,
                lo,
                hi,
            )
            if not whole:
                for i in range(rows):
                    copy_bytes(target + 4 * i * pixels, partial + 4 * i * width, 4 * count)


@kernel(
    "float_gemm",
    words=("x", "weights", "bias", "out", "scratch", "rows", "depth", "features", "lo", "hi"),
    per_isa=True,
)
def float_gemm(operands: int, share: int, shares: int) -> None:
    """`gemm`; weights f32[block, depth, width] and bias f32[block, width], filled up with zeros.

    Each share has scratch for one tile.
    """
    x, weights, bias, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    rows, depth, features = load_s64(operands, 5), load_s64(operands, 6), load_s64(operands, 7)
    lo, hi = float_of_bits(load_s64(operands, 8)), float_of_bits(load_s64(operands, 9))
    lanes, tile = tile_lanes(), tile_rows()
    width = VECTORS * lanes
    partial = load_s64(operands, 4) + share * 4 * tile * width
    blocks = (features + width - 1) // width
    for block in range(blocks * share // shares, blocks * (share + 1) // shares):
        first = block * width
        count = min(width, features - first)
        vectors = (count + lanes - 1) // lanes
        whole = count == vectors * lanes
        for row in range(0, rows, tile):
            group = min(tile, rows - row)
            target = out + 4 * (row * features + first)
            product_tile(
                vectors,
                group - 1,
                x + 4 * row * depth,
                4 * depth,
                weights + 4 * block * depth * width,
                depth,
                weights + 4 * block * depth * width + PREFETCH_BYTES,
                4 * width,
                0,
                bias + 4 * first,
                target if whole else partial,
                4 * features if whole else 4 * width,
                lo,
                hi,
            )
            if not whole:
                for i in range(group):
                    copy_bytes(target + 4 * i * features, partial + 4 * i * width, 4 * count)


@compiled
def gather_windows(panel: int, x: int, geometry: int, first: int, count: int, panel_width: int) -> None:
    """Fill a panel f32[channel, kernel row, kernel column, panel_width] for `count` output pixels from `first` on.

    `geometry` is the address of the words `WINDOW_WORDS`. Columns after `count` are zero.
    """
    channels, height, width = load_s64(geometry, 0), load_s64(geometry, 1), load_s64(geometry, 2)
    out_width, kernel_h, kernel_w = load_s64(geometry, 4), load_s64(geometry, 5), load_s64(geometry, 6)
    stride_h, stride_w = load_s64(geometry, 7), load_s64(geometry, 8)
    pad_h, pad_w = load_s64(geometry, 9), load_s64(geometry, 10)
    dilation_h, dilation_w = load_s64(geometry, 11), load_s64(geometry, 12)
    pitch = 4 * panel_width
    taps = kernel_h * kernel_w
    if count < panel_width:
        fill_bytes(panel, 0, channels * taps * pitch)
    pixel = first
    while pixel < first + count:  # a run of pixels of one output row
        row = pixel // out_width
        column = pixel - row * out_width
        run = min(out_width - column, first + count - pixel)
        start = panel + 4 * (pixel - first)
        for ky in range(kernel_h):
            y = row * stride_h - pad_h + ky * dilation_h
            for kx in range(kernel_w):
                target = start + (ky * kernel_w + kx) * pitch
                left = column * stride_w - pad_w + kx * dilation_w
                first_inside, end = inside(left, stride_w, width, run)
                if y < 0 or y >= height:
                    first_inside, end = run, run
                source = x + 4 * (y * width + left)
                for _ in range(channels):
                    stage_run(target, source, stride_w, first_inside, end, run)
                    target += taps * pitch
                    source += 4 * height * width
        pixel += run
