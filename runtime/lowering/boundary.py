"""Lowering of the two ops at the borders of the integer program."""

import math

import numpy as np

from qcompiler.ir import Node
from qcompiler.ir.ops import IntDequantize, IntQuantize
from qcompiler.ir.ops.shapes import normalize_axis
from qcompiler.ir.types import DType
from qcompiler.runtime.kernels import boundary  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.arithmetic import SIGN_FLIP
from qcompiler.runtime.lowering.context import Lowering, lowers
from qcompiler.runtime.lowering.geometry import split_at
from qcompiler.runtime.program import Operand

_NS = 0.2  # an element


@lowers(IntQuantize)
def lower_quantize(lowering: Lowering, node: Node, op: IntQuantize) -> None:
    """One kernel for each width of the result; signedness is in its limits."""
    words = _border_words(lowering, node, op, offset=0)
    lo, hi = op.dtype.limits
    count = math.prod(lowering.shape(node.result))
    kernel = "int_quantize16" if op.dtype is DType.S16 else "int_quantize8"
    if op.dtype not in (DType.U8, DType.S8, DType.S16):
        raise lowering.unsupported(node, f"it makes {op.dtype}")
    lowering.emit(node, kernel, words | {"lo": lo, "hi": hi}, cost=_NS * count, items=count // 64)


@lowers(IntDequantize)
def lower_dequantize(lowering: Lowering, node: Node, op: IntDequantize) -> None:
    """One kernel for each width of the operand; s8 is read as u8."""
    dtype = node.operands[0].type.dtype
    if dtype not in (*SIGN_FLIP, DType.S16, DType.S32):
        raise lowering.unsupported(node, f"its operand is {dtype}")
    flip = SIGN_FLIP.get(dtype, 0)
    words = _border_words(lowering, node, op, offset=flip) | {"flip": flip}
    count = math.prod(lowering.shape(node.result))
    lowering.emit(node, f"int_dequantize{8 * dtype.itemsize}", words, cost=_NS * count, items=count // 64)


def _border_words(
    lowering: Lowering, node: Node, op: IntQuantize | IntDequantize, *, offset: int
) -> dict[str, Operand]:
    """Operands, scales and zero points (moved by `offset`), and which element goes with which of them."""
    shape = lowering.shape(node.result)
    channels, inner = 1, max(1, math.prod(shape))
    if op.axis is not None:
        axis = normalize_axis(op.axis, len(shape))
        _, channels, inner = split_at(shape, axis, axis + 1)
    zero_points = [z + offset for z in op.zero_point]
    return {
        "x": lowering.buffer(node.operands[0]),
        "scales": lowering.constant(node, "scales", lambda: np.array(op.scale, np.float32)),
        "zero_points": lowering.constant(node, "zero_points", lambda: np.array(zero_points, np.int32)),
        "out": lowering.result(node.result),
        "count": math.prod(shape),
        "channels": channels,
        "inner": inner,
    }
