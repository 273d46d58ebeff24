"""Integer forms of pooling and means; windows along one axis become windows of height 1."""

import numpy as np

from qcompiler.ir import Node, Value, ops
from qcompiler.numerics import quantize_mean_multipliers, quantize_multiplier
from qcompiler.passes.integer_lowering import Lowered, Lowering, Unlowerable, lowers, result_fields

_LARGEST_SUM = 2**31 - 1


@lowers(ops.MaxPool)
def lower_max_pool(node: Node, lowering: Lowering) -> Lowered:
    """The same op on integers: the largest integer is the largest number."""
    x, y = lowering.operand(node, 0), lowering.result(node)
    if not isinstance(node.op, ops.MaxPool) or (x.dtype, x.quant) != (y.dtype, y.quant):
        raise Unlowerable("operand and result differ in their quantization parameters")
    op = node.op
    if len(op.kernel) == 1:
        op = ops.MaxPool(
            (1, *op.kernel), (1, *op.strides), (0, op.pads[0], 0, op.pads[1]), (1, *op.dilations), op.ceil_mode
        )
    elif len(op.kernel) != 2:
        raise Unlowerable(f"{len(op.kernel)}-dimensional pooling has no integer form")
    return _windowed(node, lowering, op, [])


@lowers(ops.AveragePool)
def lower_average_pool(node: Node, lowering: Lowering) -> Lowered:
    """int.average_pool with a multiplier s_x/(s_y·n) for every count n."""
    x, y = lowering.operand(node, 0), lowering.result(node)
    match node.op:
        case ops.AveragePool(kernel=kernel, strides=strides, pads=pads, dilations=dilations):
            pass
        case _:
            raise Unlowerable("it is no average pool")
    if len(kernel) == 1:
        kernel, strides, dilations, pads = (1, *kernel), (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
    elif len(kernel) != 2:
        raise Unlowerable(f"{len(kernel)}-dimensional pooling has no integer form")
    window = kernel[0] * kernel[1]
    _check_sum(x.dtype.limits, window)
    multipliers = quantize_mean_multipliers(x.scale / y.scale, window)
    op = ops.IntAveragePool(
        kernel=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        ceil_mode=node.op.ceil_mode,
        count_include_pad=node.op.count_include_pad,
        zp_in=x.zero_point,
        **result_fields(y),
    )
    constants = [
        lowering.constant(node, np.array([m.M for m in multipliers], np.int32), "multiplier"),
        lowering.constant(node, np.array([m.shift for m in multipliers], np.int32), "shift"),
    ]
    return _windowed(node, lowering, op, constants)


@lowers(ops.ReduceMean)
def lower_reduce_mean(node: Node, lowering: Lowering) -> Lowered:
    """int.mean with the multiplier s_x/(s_y·n)."""
    x, y = lowering.operand(node, 0), lowering.result(node)
    match node.op:
        case ops.ReduceMean(axes=axes, keepdims=keepdims):
            pass
        case _:
            raise Unlowerable("it is no mean")
    count = 1
    for axis in axes:
        size = node.operands[0].type.shape[axis]
        if not isinstance(size, int):
            raise Unlowerable(f"its axis {axis} has the symbolic size {size}; fix it with --dim {size}=SIZE")
        count *= size
    _check_sum(x.dtype.limits, count)
    M, shift = quantize_multiplier(x.scale / (y.scale * count))
    op = ops.IntMean(axes=axes, keepdims=keepdims, zp_in=x.zero_point, multiplier=M, shift=shift, **result_fields(y))
    return op, [x.value]


def _check_sum(limits: tuple[int, int], count: int) -> None:
    if (limits[1] - limits[0]) * count > _LARGEST_SUM:
        raise Unlowerable(f"the sum of {count} elements would not fit 32 bits")


def _windowed(node: Node, lowering: Lowering, op: ops.MaxPool | ops.IntAveragePool, constants: list[Value]) -> Lowered:
    """A pooling op; a tensor with one spatial axis is given a second one around it."""
    x = lowering.operand(node, 0).value
    if x.type.rank == 4:
        return op, [x, *constants]
    batch, channels, length = x.type.shape
    x = lowering.emit(node, ops.Reshape((batch, channels, 1, length)), [x], "as_2d")
    return ops.Reshape(node.result.type.shape), [lowering.emit(node, op, [x, *constants], "pool")]
