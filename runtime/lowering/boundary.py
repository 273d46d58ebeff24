"""Lowering of the two ops at the borders of the integer program."""

import math

import numpy as np

from qcompiler.ir import Node
from qcompiler.ir.ops import IntDequantize, IntQuantize, Transpose
from qcompiler.ir.ops.shapes import normalize_axis
from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.quantize_block import BLOCK
from qcompiler.runtime.kernels.arithmetic import SIGN_FLIP
from qcompiler.runtime.kernels.boundary import INTERLEAVED_BYTES
from qcompiler.runtime.lowering.context import Lowering, lowers, shares_for
from qcompiler.runtime.lowering.geometry import split_at
from qcompiler.runtime.lowering.product_views import read_through
from qcompiler.runtime.program import Operand

_NS = 0.2  # an element


@lowers(IntQuantize)
def lower_quantize(lowering: Lowering, node: Node, op: IntQuantize) -> None:
    """One kernel for each width of the result, which may be transposed; signedness is in its limits."""
    lo, hi = op.dtype.limits
    count = math.prod(lowering.shape(node.result))
    kernel = "int_quantize16" if op.dtype is DType.S16 else "int_quantize8"
    if op.dtype not in (DType.U8, DType.S8, DType.S16):
        raise lowering.unsupported(node, f"it makes {op.dtype}")
    transposition = interleaving_of(lowering, node)
    if transposition is not None:
        batch, height, width, _planes = lowering.shape(transposition.result)
        items = height * width // BLOCK
        scratch_bytes = shares_for(_NS * count, items) * INTERLEAVED_BYTES
        words = _border_words(lowering, node, op, offset=0) | {
            "out": lowering.result(transposition.result),
            "scratch": lowering.build.tensor(f"{node.name}.scratch", DType.U8, (scratch_bytes,)),
            "batch": batch,
            "pixels": height * width,
            "lo": lo,
            "hi": hi,
        }
        kernel = "int_quantize_interleaved"
        lowering.emit(node, kernel, words, scratch=("scratch",), cost=_NS * count, items=items)
        return
    words = _border_words(lowering, node, op, offset=0) | _run_words(lowering, node, op) | {"lo": lo, "hi": hi}
    lowering.emit(node, kernel, words, cost=_NS * count, items=count // 64)


def interleaving_of(lowering: Lowering, quantize: Node) -> Node | None:
    """The transposition that an `int.quantize` does as well: of an RGB image from planes to pixels.

    It is all that uses the bytes. One that products read through is done by nobody, and one whose result was placed in
    another value by itself.
    """
    op = quantize.op
    if not isinstance(op, IntQuantize) or quantize.result.is_output or quantize.result.use_count != 1:
        return None
    user, result = quantize.result.users[0], quantize.result
    if not isinstance(user.op, Transpose) or user.op.perm != (0, 2, 3, 1) or read_through(user.result) is not None:
        return None
    if lowering.place_of(user.result) is not None:
        return None
    by_plane = op.axis is None or normalize_axis(op.axis, 4) == 1
    return user if result.type.shape[1] == 3 and by_plane and op.dtype.is_8_bit else None


@lowers(IntDequantize)
def lower_dequantize(lowering: Lowering, node: Node, op: IntDequantize) -> None:
    """One kernel for each width of the operand; s8 is read as u8."""
    dtype = node.operands[0].type.dtype
    if dtype not in (*SIGN_FLIP, DType.S16, DType.S32):
        raise lowering.unsupported(node, f"its operand is {dtype}")
    flip = SIGN_FLIP.get(dtype, 0)
    words = _border_words(lowering, node, op, offset=flip) | _run_words(lowering, node, op) | {"flip": flip}
    count = math.prod(lowering.shape(node.result))
    lowering.emit(node, f"int_dequantize{8 * dtype.itemsize}", words, cost=_NS * count, items=count // 64)


def _border_words(
    lowering: Lowering, node: Node, op: IntQuantize | IntDequantize, *, offset: int
) -> dict[str, Operand]:
    """The operand, scales, zero points (moved by `offset`) and how many there are of them."""
    zero_points = [z + offset for z in op.zero_point]
    return {
        "x": lowering.buffer(node.operands[0]),
        "scales": lowering.constant(node, "scales", lambda: np.array(op.scale, np.float32)),
        "zero_points": lowering.constant(node, "zero_points", lambda: np.array(zero_points, np.int32)),
        "channels": len(zero_points),
    }


def _run_words(lowering: Lowering, node: Node, op: IntQuantize | IntDequantize) -> dict[str, Operand]:
    """The result, of how many elements, and how many neighbours have the same scale."""
    shape = lowering.shape(node.result)
    inner = max(1, math.prod(shape))
    if op.axis is not None:
        axis = normalize_axis(op.axis, len(shape))
        *_, inner = split_at(shape, axis, axis + 1)
    return {"out": lowering.result(node.result), "count": math.prod(shape), "inner": inner}
