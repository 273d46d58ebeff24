"""Integer forms of data movement and of the boundary."""

from qcompiler.ir import Node, ops
from qcompiler.numerics import quantize_real
from qcompiler.passes.integer_lowering import Lowered, Lowering, Unlowerable, lowers


@lowers(ops.Movement, ops.Concat)
def lower_movement(node: Node, lowering: Lowering) -> Lowered:
    """The same op on integers."""
    values = [lowering.operand(node, index) for index in range(len(node.operands))]
    values += [lowering.result(node, index) for index in range(len(node.results))]
    if len({(v.dtype, v.quant) for v in values}) != 1:
        raise Unlowerable("operands and results differ in their quantization parameters")
    return node.op, node.operands


@lowers(ops.Pad)
def lower_pad(node: Node, lowering: Lowering) -> Lowered:
    """A border of the integer that means the real padding value."""
    x = lowering.operand(node, 0)
    match node.op:
        case ops.Pad(pads=pads, value=real):
            value = quantize_real(real, x.scale, x.zero_point, *x.dtype.limits)
            return ops.IntPad(pads=pads, value=value), [x.value]
        case _:
            raise Unlowerable("it is no padding")


@lowers(ops.Quantize)
def lower_quantize(node: Node, lowering: Lowering) -> Lowered:
    """The boundary to integers: from here on no scale exists."""
    y = lowering.result(node)
    return ops.IntQuantize(y.dtype, y.quant.scale, y.quant.zero_point, y.quant.axis), node.operands


@lowers(ops.Dequantize)
def lower_dequantize(node: Node, lowering: Lowering) -> Lowered:
    """The boundary to float."""
    x = lowering.operand(node, 0)
    return ops.IntDequantize(x.quant.scale, x.quant.zero_point, x.quant.axis), [x.value]
