"""Integer forms of elementwise arithmetic: addition, product, quotient, PRelu, unary functions as tables."""

import numpy as np

from qcompiler.errors import PluginError
from qcompiler.ir import DType, Node, ops
from qcompiler.numerics import (
    build_table,
    quantize_add_multipliers,
    quantize_div_multiplier,
    quantize_multiplier,
    softmax_tables,
)
from qcompiler.passes.integer_lowering import Lowered, Lowering, Unlowerable, lowers, result_fields
from qcompiler.passes.lower_residual import lower_residual_sum


@lowers(ops.Add, ops.Sub)
def lower_sum(node: Node, lowering: Lowering) -> Lowered:
    """One rounding: ``((a−z_a)·s_a/s_y ± (b−z_b)·s_b/s_y)`` with both factors over one power of two.

    Where a layer makes one of them, and nothing else uses it, the layer does the addition.
    """
    residual_sum = lower_residual_sum(node, lowering)
    if residual_sum is not None:
        return residual_sum
    a, b, y = lowering.operand(node, 0), lowering.operand(node, 1), lowering.result(node)
    sign = -1 if isinstance(node.op, ops.Sub) else 1
    real_a, real_b = a.scale / y.scale, sign * b.scale / y.scale
    multiplier_a, multiplier_b, shift = quantize_add_multipliers(real_a, real_b, a.dtype, b.dtype)
    op = ops.IntAdd(
        zp_a=a.zero_point,
        zp_b=b.zero_point,
        multiplier_a=multiplier_a,
        multiplier_b=multiplier_b,
        shift=shift,
        **result_fields(y, getattr(node.op, "clamp", None)),
    )
    return op, [a.value, b.value]


@lowers(ops.Mul)
def lower_product(node: Node, lowering: Lowering) -> Lowered:
    """``(a−z_a)·(b−z_b)`` times s_a·s_b/s_y."""
    a, b, y = lowering.operand(node, 0), lowering.operand(node, 1), lowering.result(node)
    M, shift = quantize_multiplier(a.scale * b.scale / y.scale)
    op = ops.IntMul(
        zp_a=a.zero_point,
        zp_b=b.zero_point,
        multiplier=M,
        shift=shift,
        **result_fields(y, getattr(node.op, "clamp", None)),
    )
    return op, [a.value, b.value]


@lowers(ops.Div)
def lower_quotient(node: Node, lowering: Lowering) -> Lowered:
    """``(a−z_a)/(b−z_b)`` times s_a/(s_b·s_y), rounded once."""
    a, b, y = lowering.operand(node, 0), lowering.operand(node, 1), lowering.result(node)
    M, shift = quantize_div_multiplier(a.scale / b.scale / y.scale, a.dtype, b.dtype)
    op = ops.IntDiv(zp_a=a.zero_point, zp_b=b.zero_point, multiplier=M, shift=shift, **result_fields(y))
    return op, [a.value, b.value]


@lowers(ops.Requantize)
def lower_requantize(node: Node, lowering: Lowering) -> Lowered:
    """One RESCALE by s_x/s_y."""
    return _rescale(node, lowering, 1.0, None)


@lowers(ops.Unary)
def lower_unary(node: Node, lowering: Lowering) -> Lowered:
    """A table of 256 entries for 8-bit operands; a RESCALE for what 16-bit operands can have without one."""
    from qcompiler.runtime.reference.unary import real_function

    x, y = lowering.operand(node, 0), lowering.result(node)
    if not x.is_8_bit:
        match node.op:
            case ops.Relu():
                return _rescale(node, lowering, 1.0, (0.0, float("inf")))
            case ops.Clip(low=low, high=high):
                return _rescale(node, lowering, 1.0, (low, high))
            case ops.Neg():
                return _rescale(node, lowering, -1.0, None)
            case _:
                raise Unlowerable(f"{node.op.name} of a {x.dtype} operand would need a table of 65536 entries")
    if y.dtype not in (DType.U8, DType.S8, DType.S16):
        raise Unlowerable(f"a table of {y.dtype} is not supported")
    try:
        function = real_function(node.op)
    except PluginError as error:
        raise Unlowerable(str(error)) from error
    table = build_table(function, (x.dtype, x.scale, x.zero_point), (y.dtype, y.scale, y.zero_point))
    constant = lowering.constant(node, np.array(table, y.dtype.numpy), "table")
    return ops.IntLut(), [x.value, constant]


@lowers(ops.PRelu)
def lower_prelu(node: Node, lowering: Lowering) -> Lowered:
    """A RESCALE by s_x/s_y, and below zero by slope·s_x/s_y of the channel."""
    x, slope, y = lowering.operand(node, 0), lowering.operand(node, 1), lowering.result(node)
    if slope.data is None:
        raise Unlowerable("its slope is not a constant")
    rank = node.operands[0].type.rank
    shape = (1,) * (rank - slope.data.ndim) + slope.data.shape
    axes = [axis for axis, size in enumerate(shape) if size != 1] or [min(1, rank - 1)]
    channels = node.operands[0].type.shape[axes[0]]
    if len(axes) > 1 or not isinstance(channels, int):
        raise Unlowerable(f"its slope of shape {list(shape)} differs along more than one axis of known size")
    slopes = np.broadcast_to(slope.data.reshape(-1).astype(np.float64) * slope.scale, (channels,))
    ratio = x.scale / y.scale
    negative = [quantize_multiplier(ratio * s) for s in slopes.tolist()]
    positive = quantize_multiplier(ratio)
    op = ops.IntPRelu(
        axis=axes[0],
        zp_in=x.zero_point,
        positive_multiplier=positive.M,
        positive_shift=positive.shift,
        **result_fields(y),
    )
    multipliers = lowering.constant(node, np.array([m.M for m in negative], np.int32), "multiplier")
    shifts = lowering.constant(node, np.array([m.shift for m in negative], np.int32), "shift")
    return op, [x.value, multipliers, shifts]


@lowers(ops.Softmax)
def lower_softmax(node: Node, lowering: Lowering) -> Lowered:
    """Tables of exp(−s_x·d); the result counts in parts of 1/s_y, which is a power of two."""
    x, y = lowering.operand(node, 0), lowering.result(node)
    if x.dtype not in (DType.U8, DType.S8, DType.S16):
        raise Unlowerable(f"the exponential of {x.dtype} has no table")
    one = round(1 / y.scale)
    if y.zero_point != 0 or one * y.scale != 1.0:
        raise Unlowerable(f"a result with scale {y.scale} and zero point {y.zero_point} does not count parts of one")
    high, low = softmax_tables(x.scale, x.dtype)
    tables = [lowering.constant(node, np.array(high, np.int32), "exp_high")]
    if low is not None:
        tables.append(lowering.constant(node, np.array(low, np.int32), "exp_low"))
    axis = node.op.axis % node.operands[0].type.rank if isinstance(node.op, ops.Softmax) else -1
    op = ops.IntSoftmax(axis=axis, dtype=y.dtype, one=one, hi=y.dtype.limits[1])
    return op, [x.value, *tables]


def _rescale(node: Node, lowering: Lowering, factor: float, clamp: tuple[float, float] | None) -> Lowered:
    x, y = lowering.operand(node, 0), lowering.result(node)
    M, shift = quantize_multiplier(factor * x.scale / y.scale)
    op = ops.IntRescale(zp_in=x.zero_point, multiplier=M, shift=shift, **result_fields(y, clamp))
    return op, [x.value]
