"""Lowering of sliding windows, means and softmax over integers; max pooling of any dtype."""

import math

import numpy as np

from qcompiler.ir import Node
from qcompiler.ir.ops import IntAveragePool, IntMean, IntSoftmax, MaxPool
from qcompiler.ir.ops.shapes import normalize_axis
from qcompiler.ir.types import DType
from qcompiler.runtime.kernels import (
    float_pooling,  # noqa: F401  # registers the kernels
    softmax,
)
from qcompiler.runtime.kernels import pooling as kernels
from qcompiler.runtime.kernels.arithmetic import DTYPE_CODES, SIGN_FLIP
from qcompiler.runtime.lowering.context import Lowering, lowers, shares_for
from qcompiler.runtime.lowering.geometry import contiguous_steps, merged_walk, split_at
from qcompiler.runtime.lowering.movement import gather_into
from qcompiler.runtime.lowering.rows import reads_rows
from qcompiler.runtime.program import Buffer, Operand

_TAP_NS, _SLOW_TAP_NS, _RESULT_NS, _EXPONENTIAL_NS = 0.05, 3.0, 1.0, 5.0
_TABLE_NS, _LOOK_UP_NS = 100.0, 1.0  # a row's table of a softmax, and an element
_LONG_ROWS = range(48, 2**20)
"""Lengths of a softmax for which a table for each row pays, and sums fit."""
_ROW_TABLE_ONES = tuple(2**bits for bits in range(9))
_CALL_NS = 5.0  # of the loop over the channels of a tap


def window_words(
    lowering: Lowering,
    node: Node,
    *,
    layout: str,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    dilations: tuple[int, ...],
) -> dict[str, int]:
    """The numbers of `WINDOW_WORDS`: a 1-d window gets a second axis, NCHW becomes [n·c, h, w, 1].

    Raises:
        UnsupportedOpError: the window has three axes or more.
    """
    shape, result = lowering.shape(node.operands[0]), lowering.shape(node.result)
    rank = len(shape) - 2
    if not 1 <= rank <= 2:
        raise lowering.unsupported(node, f"it has {rank} spatial axes, the kernels take 1 or 2")
    last = layout == "nhwc"
    h, w = (1, *(shape[1:-1] if last else shape[2:]))[-2:]
    out_h, out_w = (1, *(result[1:-1] if last else result[2:]))[-2:]
    pad_h, pad_w = (0, *pads[:rank])[-2:]
    words = {"batch": shape[0] if last else shape[0] * shape[1], "h": h, "w": w, "c": shape[-1] if last else 1}
    words |= {"out_h": out_h, "out_w": out_w, "pad_h": pad_h, "pad_w": pad_w}
    for name, values in (("kernel", kernel), ("stride", strides), ("dilation", dilations)):
        words[f"{name}_h"], words[f"{name}_w"] = (1, *values)[-2:]
    return words


def window_cost(words: dict[str, int], tap_ns: float) -> float:
    """Predicted nanoseconds of a window kernel."""
    pixels = words["batch"] * words["out_h"] * words["out_w"]
    taps = words["kernel_h"] * words["kernel_w"]
    return pixels * (taps * (_CALL_NS + words["c"] * tap_ns) + words["c"] * _RESULT_NS)


@lowers(MaxPool)
def lower_max_pool(lowering: Lowering, node: Node, op: MaxPool) -> None:
    """Vectors of channels for 8-bit tensors; other dtypes element by element."""
    geometry = window_words(
        lowering, node, layout=op.layout, kernel=op.kernel, strides=op.strides, pads=op.pads, dilations=op.dilations
    )
    items = geometry["batch"] * geometry["out_h"]
    if reads_rows(node, node.operands[0]):
        x, out = lowering.rows(node.operands[0]), lowering.result_rows(node.result)
    else:
        x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    words: dict[str, Operand] = {"x": x, "out": out, **geometry}
    if x.dtype in SIGN_FLIP:
        # Rows are reduced as a whole, then columns pixel by pixel.
        taps = geometry["kernel_h"] * geometry["w"] + geometry["kernel_w"] * geometry["out_w"]
        cost = items * (geometry["out_w"] * geometry["kernel_w"] * _CALL_NS + taps * geometry["c"] * _TAP_NS)
        lines = (shares_for(cost, items), geometry["w"] * geometry["c"])
        words |= {"line": lowering.build.tensor(f"{node.name}.line", DType.U8, lines), "flip": SIGN_FLIP[x.dtype]}
        words |= _pitches(geometry["c"], x, out)
        lowering.emit(node, "max_pool8", words, scratch=("line",), pitched=("x", "out"), cost=cost, items=items)
    elif x.dtype is DType.F32:
        lowering.emit(node, "float_max_pool", words, cost=window_cost(geometry, _TAP_NS), items=items)
    elif x.dtype in DTYPE_CODES:
        words |= {"dtype": DTYPE_CODES[x.dtype], "least": x.dtype.limits[0]}
        lowering.emit(node, "max_pool", words, cost=window_cost(geometry, _SLOW_TAP_NS), items=items)
    else:
        raise lowering.unsupported(node, f"its operand is {x.dtype}")


def _pitches(channels: int, x: Buffer, out: Buffer) -> dict[str, int]:
    """Elements from pixel to pixel; a tensor in NCHW is taken to have one channel."""
    return {f"{w}_pitch": b.pitch // b.dtype.itemsize or channels for w, b in (("x", x), ("out", out))}


@lowers(IntAveragePool)
def lower_average_pool(lowering: Lowering, node: Node, op: IntAveragePool) -> None:
    """Multipliers are looked up by the count of each position."""
    geometry = window_words(
        lowering, node, layout=op.layout, kernel=op.kernel, strides=op.strides, pads=op.pads, dilations=op.dilations
    )
    multipliers, shifts = (lowering.buffer(v) for v in node.operands[1:])
    if reads_rows(node, node.operands[0]):
        x, out = lowering.rows(node.operands[0]), lowering.result_rows(node.result)
    else:
        x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    cost, items = window_cost(geometry, 2 * _TAP_NS), geometry["batch"] * geometry["out_h"]
    words: dict[str, Operand] = {"x": x, "out": out, "multipliers": multipliers, "shifts": shifts, **geometry}
    words["sums"] = _sums(lowering, node, shares_for(cost, items))
    words |= counted_region(geometry, op.pads, include_pad=op.count_include_pad)
    words |= {"dtype_x": DTYPE_CODES[x.dtype], "dtype_out": DTYPE_CODES[out.dtype]}
    words |= {"zp_in": op.zp_in, "zp_out": op.zp_out, "lo": op.lo, "hi": op.hi} | _pitches(geometry["c"], x, out)
    lowering.emit(node, "int_average_pool", words, scratch=("sums",), pitched=("x", "out"), cost=cost, items=items)


def counted_region(geometry: dict[str, int], pads: tuple[int, ...], *, include_pad: bool) -> dict[str, int]:
    """The rows and columns that an average divides by: those of the input, or also of the explicit padding."""
    bottom, right = (0, *pads[len(pads) // 2 :])[-2:]
    if not include_pad:
        return {"count_top": 0, "count_bottom": geometry["h"], "count_left": 0, "count_right": geometry["w"]}
    return {
        "count_top": -geometry["pad_h"],
        "count_bottom": geometry["h"] + bottom,
        "count_left": -geometry["pad_w"],
        "count_right": geometry["w"] + right,
    }


@lowers(IntMean)
def lower_mean(lowering: Lowering, node: Node, op: IntMean) -> None:
    """A reduction of the middle axis of three, in blocks of the inner one."""
    x, (outer, length, inner) = middle_axis(lowering, node, op.axes)
    out = lowering.result(node.result)
    blocks = outer * -(-inner // kernels.BLOCK)
    cost = outer * length * inner * (2 * _TAP_NS if inner > 1 else _RESULT_NS) + outer * inner * _RESULT_NS
    words: dict[str, Operand] = {"x": x, "out": out, "outer": outer, "length": length, "inner": inner}
    words["sums"] = _sums(lowering, node, shares_for(cost, blocks))
    words |= {"dtype_x": DTYPE_CODES[x.dtype], "dtype_out": DTYPE_CODES[out.dtype], "zp_in": op.zp_in}
    words |= {"multiplier": op.multiplier, "shift": op.shift, "zp_out": op.zp_out, "lo": op.lo, "hi": op.hi}
    lowering.emit(node, "int_mean", words, scratch=("sums",), cost=cost, items=blocks)


def middle_axis(lowering: Lowering, node: Node, axes: tuple[int, ...]) -> tuple[Buffer, tuple[int, int, int]]:
    """The operand of a reduction as [outer, reduced, inner], transposed to that if the axes are no neighbours."""
    x = lowering.buffer(node.operands[0])
    chosen = {normalize_axis(axis, len(x.shape)) for axis in axes}
    long = [axis for axis, size in enumerate(x.shape) if size != 1]
    reduced = [position for position, axis in enumerate(long) if axis in chosen]
    sizes = [x.shape[axis] for axis in long]
    if not reduced:
        return x, (math.prod(sizes), 1, 1)
    first, end = reduced[0], reduced[-1] + 1
    if end - first == len(reduced):
        return x, split_at(sizes, first, end)
    order = [*(axis for axis in range(len(sizes)) if axis not in reduced), *reduced]
    steps, shape = contiguous_steps(sizes), [sizes[axis] for axis in order]
    moved = lowering.build.tensor(f"{node.name}.transposed", x.dtype, shape)
    gather_into(lowering, node, x, moved, merged_walk(shape, [steps[axis] for axis in order], contiguous_steps(shape)))
    return moved, split_at(shape, len(shape) - len(reduced), len(shape))


@lowers(IntSoftmax)
def lower_softmax(lowering: Lowering, node: Node, op: IntSoftmax) -> None:
    """Row by row, whatever the axis."""
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    axis = normalize_axis(op.axis, len(out.shape))
    outer, length, inner = split_at(out.shape, axis, axis + 1)
    if inner == 1 and length in _LONG_ROWS and _has_row_tables(node, op):
        _emit_table_softmax(lowering, node, op, outer, length)
        return
    words: dict[str, Operand] = {"x": x, "out": out, "outer": outer, "length": length, "inner": inner}
    words["exp_high"] = lowering.buffer(node.operands[1])
    words["exp_low"] = lowering.buffer(node.operands[2]) if len(node.operands) > 2 else 0
    words |= {"dtype_x": DTYPE_CODES[x.dtype], "dtype_out": DTYPE_CODES[out.dtype], "one": op.one, "hi": op.hi}
    cost = outer * length * inner * _EXPONENTIAL_NS
    lowering.emit(node, "int_softmax", words, cost=cost, items=outer * inner)


def _has_row_tables(node: Node, op: IntSoftmax) -> bool:
    """Whether results are bytes that count parts of at most 2^-8, and the exponentials descend."""
    x, table = node.operands[0].type.dtype, node.operands[1].data
    bytes_only = x in SIGN_FLIP and op.dtype in SIGN_FLIP
    return bytes_only and op.one in _ROW_TABLE_ONES and table is not None and bool((np.diff(table) <= 0).all())


def _emit_table_softmax(lowering: Lowering, node: Node, op: IntSoftmax, rows: int, length: int) -> None:
    """Rows of bytes, each with a table of its own."""
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    cost = rows * (_TABLE_NS + length * _LOOK_UP_NS)
    shares = shares_for(cost, rows)
    words: dict[str, Operand] = {"x": x, "exp_high": lowering.buffer(node.operands[1]), "out": out}
    words["tables"] = lowering.build.tensor(f"{node.name}.tables", DType.U8, (shares, softmax.ENTRIES))
    words |= {"rows": rows, "length": length, "flip": SIGN_FLIP[x.dtype], "hi": op.hi}
    words["one_bits"] = op.one.bit_length() - 1
    lowering.emit(node, "int_softmax8", words, scratch=("tables",), cost=cost, items=rows)


def _sums(lowering: Lowering, node: Node, shares: int) -> Operand:
    """Scratch for the sums of each share."""
    return lowering.build.tensor(f"{node.name}.sums", DType.S32, (shares, kernels.BLOCK))
