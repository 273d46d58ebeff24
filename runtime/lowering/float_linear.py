"""Lowering of float32 convolutions and products."""

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.ir import AnyArray, Node
from qcompiler.ir.ops import Clamp, Conv, Gemm, MatMul
from qcompiler.ir.types import DType
from qcompiler.runtime import isa
from qcompiler.runtime.codegen.float_tile import WINDOW_ROWS, FloatTile, float_tile_for
from qcompiler.runtime.codegen.float_window import TILE_ROWS, WINDOW, has_plane_tile
from qcompiler.runtime.kernels import float_convolution as kernels
from qcompiler.runtime.kernels import float_depthwise  # noqa: F401  # registers the kernel
from qcompiler.runtime.lowering.context import Lowering, shares_for
from qcompiler.runtime.lowering.float_rules import clamp_words, lowers_f32
from qcompiler.runtime.program import Buffer, Operand

_MULTIPLY_NS = 0.02  # a multiply-add in a tile
_GATHER_NS = 0.2  # an element of a panel
_SCALE_NS = 0.2  # an element times a number
_TAP_NS, _VECTOR_NS = 0.5, 2.0  # a multiply-add of vectors along a row; a vector besides that
_PLANE_TILE_NS = 15.0
_STRIP_BYTES = 1 << 16
"""Of the staged rows of a plane: together with the output they stay in the second-level cache."""
_WORTH_CUTTING = 8
"""Blocks of pixels from which on their rows are not cut as well: each cut gathers the block again."""


@lowers_f32(Conv)
def lower_conv(lowering: Lowering, node: Node, op: Conv) -> None:
    """A kernel of its own for one input channel a group; a 1x1 window over whole images is one long row.

    Over images of one pixel it is a fully connected layer: no lanes are left empty, and the bits are the same.
    """
    window = *lowering.shape(node.operands[0])[2:], *lowering.shape(node.operands[1])[2:]
    if op.group == 1 and math.prod(window) == 1 and not any(op.pads) and _has_constants(node):
        _emit_gemm(lowering, node, op.clamp)
        return
    x, weight = lowering.buffer(node.operands[0]), lowering.buffer(node.operands[1])
    bias = _bias(lowering, node, weight.shape[0])
    lower_windows(lowering, node, op, x, weight, bias, lowering.result(node.result))


def lower_windows(
    lowering: Lowering, node: Node, op: Conv, x: Buffer, weight: Buffer, bias: Buffer, out: Buffer
) -> None:
    """Emit the convolution `op` of these operands for `node`."""
    rank = len(x.shape) - 2
    if rank > 2:
        raise lowering.unsupported(node, f"it has {rank} spatial axes, the kernels take 1 or 2")
    cout, per_group = weight.shape[0] // op.group, weight.shape[1]
    size, result_size = (1, *x.shape[2:])[-2:], (1, *out.shape[2:])[-2:]
    geometry = dict(zip(kernels.WINDOW_WORDS, (per_group, *size, *result_size), strict=False))
    for name, values in (
        ("kernel", weight.shape[2:]), ("stride", op.strides), ("pad", (0,) * (2 - rank) + op.pads[:rank]),
        ("dilation", op.dilations),
    ):  # fmt: skip
        geometry[f"{name}_h"], geometry[f"{name}_w"] = (1, *values)[-2:]
    if _is_pointwise(geometry):  # pixels need no rows
        geometry |= {"height": 1, "width": math.prod(size), "out_height": 1, "out_width": math.prod(result_size)}
    words: dict[str, Operand] = {"x": x, "weights": weight, "bias": bias, "out": out}
    words |= clamp_words(op.clamp)
    if per_group == 1 and op.group > 1:
        _emit_depthwise(lowering, node, words, geometry, x.shape[0], op.group, cout)
        return
    depth = per_group * geometry["kernel_h"] * geometry["kernel_w"]
    group = np.arange(op.group)
    sizes = (per_group * math.prod(size), cout * depth, cout, cout * math.prod(result_size))
    every = np.arange(x.shape[0] * op.group)
    of_group = np.tile(group, x.shape[0])
    jobs = np.stack([every * sizes[0], of_group * sizes[1], of_group * sizes[2], every * sizes[3]], 1)
    words |= geometry
    _emit_conv(lowering, node, words, jobs, cout)


@lowers_f32(MatMul)
def lower_matmul(lowering: Lowering, node: Node, op: MatMul) -> None:
    """A 1x1 convolution for each matrix: rows of `a` are weights, columns of `b` pixels. Then the factor alpha."""
    a, b = (lowering.buffer(v) for v in node.operands)
    result = lowering.result(node.result)
    out = result if op.alpha == 1 else lowering.build.tensor(f"{node.name}.product", DType.F32, result.shape)
    *batch, rows, columns = out.shape
    depth = a.shape[-1]

    def starts(shape: Sequence[int]) -> AnyArray:
        matrices = np.arange(math.prod(shape[:-2])).reshape(shape[:-2])
        return np.broadcast_to(matrices, batch).reshape(-1) * math.prod(shape[-2:])

    every = np.arange(math.prod(batch)) * rows * columns
    jobs = np.stack([starts(b.shape), starts(a.shape), np.zeros_like(every), every], 1)
    geometry = dict(zip(kernels.WINDOW_WORDS, (depth, 1, columns, 1, columns, *[1] * 4, 0, 0, 1, 1), strict=True))
    words: dict[str, Operand] = {"x": b, "weights": a, "out": out, **geometry, **clamp_words(None)}
    words["bias"] = lowering.constant(node, f"zeros {rows}", lambda: np.zeros(rows, np.float32))
    _emit_conv(lowering, node, words, jobs, rows)
    if out is not result:
        count = math.prod(result.shape)
        walk: dict[str, Operand] = {"a": out, "out": result, "count": count, "a0": 1, "b0": 0}
        walk |= {"inner": count, "out_inner": count}
        walk |= {f"d{i}": 1 for i in range(1, 4)} | {f"{x}{i}": 0 for x in "ab" for i in range(1, 5)}
        walk["b"] = lowering.constant(node, f"alpha {op.alpha}", lambda: np.array([op.alpha], np.float32))
        lowering.emit(node, "float_mul", walk | clamp_words(None), cost=_SCALE_NS * count, items=count // 64)


@lowers_f32(Gemm)
def lower_gemm(lowering: Lowering, node: Node, op: Gemm) -> None:
    """Only with a constant weight and bias."""
    if not _has_constants(node):
        raise lowering.unsupported(node, "its weight and bias have to be constants; use matmul and add")
    _emit_gemm(lowering, node, op.clamp)


def _has_constants(node: Node) -> bool:
    return all(operand.is_constant for operand in node.operands[1:])


def _emit_gemm(lowering: Lowering, node: Node, clamp: Clamp) -> None:
    """Emit `float_gemm` for constants weight[features, depth, 1...] and bias, packed into panels as wide as a tile."""
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    weight: AnyArray = np.asarray(node.operands[1].data)
    bias: AnyArray = np.asarray(node.operands[2].data) if len(node.operands) > 2 else np.zeros(1, np.float32)
    features, depth = weight.shape[0], weight.shape[1]
    if math.prod(out.shape) == 0:
        return
    if depth == 0:
        raise lowering.unsupported(node, "its sums have no terms")
    rows = math.prod(out.shape) // features
    chosen = isa.current()
    tile = float_tile_for(chosen)
    blocks = -(-features // tile.width)

    def pack() -> AnyArray:
        filled = np.zeros((blocks * tile.width, depth), np.float32)
        filled[:features] = weight.reshape(features, depth)
        return np.ascontiguousarray(filled.reshape(blocks, tile.width, depth).swapaxes(1, 2))

    def pack_bias() -> AnyArray:
        filled = np.zeros(blocks * tile.width, np.float32)
        filled[:features] = bias
        return filled

    words: dict[str, Operand] = {"x": x, "out": out, "rows": rows, "depth": depth, "features": features}
    words["weights"] = lowering.constant(node, f"weights for {chosen}", pack)
    words["bias"] = lowering.constant(node, f"bias for {chosen}", pack_bias)
    words |= clamp_words(clamp)
    cost = _MULTIPLY_NS * rows * features * depth
    words["scratch"] = _scratch(lowering, node, shares_for(cost, blocks) * 4 * tile.rows * tile.width)
    lowering.emit(node, "float_gemm", words, scratch=("scratch",), cost=cost, items=blocks)


def _emit_conv(lowering: Lowering, node: Node, words: dict[str, Operand], jobs: AnyArray, cout: int) -> None:
    """Emit `float_conv` for jobs s64[count, 4] of element offsets; `words` lacks what follows from them."""
    tile = float_tile_for(isa.current())
    shape = {word: operand for word, operand in words.items() if isinstance(operand, int)}
    depth = shape["channels"] * shape["kernel_h"] * shape["kernel_w"]
    pixels = shape["out_height"] * shape["out_width"]
    blocks = len(jobs) * -(-pixels // tile.width)
    if blocks == 0 or cout == 0:
        return
    chunks = 1 if blocks >= _WORTH_CUTTING else min(_WORTH_CUTTING, -(-cout // tile.rows))
    cost = blocks * tile.width * depth * (cout * _MULTIPLY_NS + chunks * _GATHER_NS)
    shares = shares_for(cost, blocks * chunks)
    scratch_bytes = _scratch_bytes(tile, depth)
    words |= {"jobs": lowering.build.constant(f"{node.name}.jobs", (4 * jobs).astype(np.int64))}
    words |= {"job_count": len(jobs), "cout": cout, "chunks": chunks, "scratch_bytes": scratch_bytes}
    words["scratch"] = _scratch(lowering, node, shares * scratch_bytes)
    lowering.emit(node, "float_conv", words, scratch=("scratch",), cost=cost, items=blocks * chunks)


def _emit_depthwise(
    lowering: Lowering,
    node: Node,
    words: dict[str, Operand],
    geometry: dict[str, int],
    batch: int,
    channels: int,
    multiplier: int,
) -> None:
    """Emit `float_depthwise`; `words` has operands and clamp."""
    lanes = float_tile_for(isa.current()).lanes
    kernel_h, kernel_w, stride_w = geometry["kernel_h"], geometry["kernel_w"], geometry["stride_w"]
    out_height, out_width = geometry["out_height"], geometry["out_width"]
    if batch * channels * out_height * out_width == 0:
        return
    square = geometry["stride_h"] == stride_w and geometry["dilation_h"] == geometry["dilation_w"] == 1
    if (kernel_h, kernel_w) == (WINDOW, WINDOW) and square and stride_w <= 2 and has_plane_tile(isa.current()):
        _emit_planes(lowering, node, words, geometry, batch * channels, channels, multiplier)
        return
    columns = np.arange(kernel_w) * geometry["dilation_w"]
    pitch = -(-out_width // lanes) * lanes + int(columns[-1]) // stride_w
    rows = np.arange(kernel_h) * geometry["dilation_h"]
    taps = (rows[:, None] * stride_w + columns % stride_w) * pitch + columns // stride_w
    window_rows = int(rows[-1]) + 1
    strip = _STRIP_BYTES // (4 * stride_w * pitch) - window_rows
    strip = min(max(strip // geometry["stride_h"] + 1, 1), out_height)
    strip_rows = (strip - 1) * geometry["stride_h"] + window_rows
    units = batch * channels * -(-out_height // strip)
    vectors = -(-out_width // lanes) * out_height * batch * channels * multiplier
    cost = vectors * (_VECTOR_NS + taps.size * _TAP_NS) + units * strip_rows * stride_w * pitch * _GATHER_NS
    scratch_bytes = 4 * (strip_rows * stride_w * pitch + WINDOW_ROWS * lanes)
    names = ("height", "width", "out_height", "out_width", "stride_h", "stride_w", "pad_h", "pad_w")
    words |= {name: geometry[name] for name in names}
    words |= {"taps": lowering.build.constant(f"{node.name}.taps", 4 * taps.astype(np.int64).reshape(-1))}
    words |= {"batch": batch, "channels": channels, "multiplier": multiplier, "tap_count": taps.size}
    words |= {"strip": strip, "strip_rows": strip_rows, "pitch": pitch, "scratch_bytes": scratch_bytes}
    words["scratch"] = _scratch(lowering, node, shares_for(cost, units) * scratch_bytes)
    lowering.emit(node, "float_depthwise", words, scratch=("scratch",), cost=cost, items=units)


def _emit_planes(
    lowering: Lowering,
    node: Node,
    words: dict[str, Operand],
    geometry: dict[str, int],
    planes: int,
    channels: int,
    multiplier: int,
) -> None:
    """Emit `float_depthwise_3x3`."""
    lanes = float_tile_for(isa.current()).lanes
    names = ("height", "width", "out_height", "out_width", "pad_h", "pad_w")
    words |= {name: geometry[name] for name in names}
    words |= {"planes": planes, "channels": channels, "multiplier": multiplier, "stride": geometry["stride_w"]}
    words["zeros"] = lowering.build.constant(f"{node.name}.zeros", np.zeros(geometry["width"], np.float32))
    tiles = -(-geometry["out_height"] // TILE_ROWS) * -(-geometry["out_width"] // lanes)
    items = planes * multiplier
    lowering.emit(node, "float_depthwise_3x3", words, cost=_PLANE_TILE_NS * tiles * items, items=items)


def _scratch_bytes(tile: FloatTile, depth: int) -> int:
    """Of one share: a panel and a tile."""
    return 4 * tile.width * (depth + tile.rows)


def _scratch(lowering: Lowering, node: Node, nbytes: int) -> Buffer:
    return lowering.build.tensor(f"{node.name}.scratch", DType.U8, (nbytes,))


def _bias(lowering: Lowering, node: Node, channels: int) -> Buffer:
    if len(node.operands) > 2:
        return lowering.buffer(node.operands[2])
    return lowering.constant(node, "bias", lambda: np.zeros(channels, np.float32))


def _is_pointwise(geometry: dict[str, int]) -> bool:
    ones = ("kernel_h", "kernel_w", "stride_h", "stride_w")
    no_pads = geometry["out_height"] == geometry["height"] and geometry["out_width"] == geometry["width"]
    return all(geometry[name] == 1 for name in ones) and no_pads
