"""Which additions run in the epilogue of the layer that makes one of their operands.

The layer's 16-bit result then never reaches memory. What the two ops mean stays: the epilogue saturates to s16 as the
layer does, and rounds once as the addition does, in the 32 bits that suffice for its multipliers.
"""

from dataclasses import replace

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import IntAdd, IntConv, IntGemm
from qcompiler.ir.ops.shapes import static_dim
from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.primitives import primitive_named
from qcompiler.runtime.kernels.packing import Requantization, ResidualSum

_BYTES = (DType.U8, DType.S8)


def is_depthwise(layer: Node) -> bool:
    """Whether the depthwise kernel computes a convolution: it has one filter for each channel."""
    op, weight = layer.op, layer.operands[1].type.shape
    return isinstance(op, IntConv) and op.group == weight[0] and weight[1] == 1 and op.group > 1


def layer_of(add: Node, isa: str) -> Node | None:
    """The layer whose kernel does the addition `add` as well, on the primitive `isa`."""
    layers = (operand.producer for operand in add.operands)
    return next((layer for layer in layers if layer is not None and addition_of(layer, isa) is add), None)


def addition_of(layer: Node, isa: str) -> Node | None:
    """The addition that the kernel of `layer` does as well, on the primitive `isa`."""
    op = layer.op
    if not isinstance(op, IntConv | IntGemm) or is_depthwise(layer):
        return None
    result = layer.result
    if result.use_count != 1 or result.is_output or (op.dtype, op.zp_out, (op.lo, op.hi)) != _WHOLE_S16:
        return None
    add = result.users[0]
    channels = static_dim(layer.operands[1].type.shape[0], "a weight axis") // getattr(op, "group", 1)
    if not isinstance(add.op, IntAdd) or channels < primitive_named(isa).lanes:  # else a tile would be too wide
        return None
    residual = residual_of(layer, add)
    same_shape = residual.type.shape == result.type.shape
    fits = same_shape and residual.type.dtype in _BYTES and add.op.dtype in _BYTES and _suits_epilogue(layer, add)
    return add if fits else None


_WHOLE_S16 = (DType.S16, 0, DType.S16.limits)


def residual_of(layer: Node, add: Node) -> Value:
    """The operand of `add` that `layer` does not make."""
    a, b = add.operands
    return b if a is layer.result else a


def with_addition(rescaling: Requantization, layer: Node, add: Node) -> Requantization:
    """A layer's requantization and then the addition."""
    op = add.op
    if not isinstance(op, IntAdd):
        raise TypeError(f"'{add.name}' is no addition")
    return replace(rescaling, zp_out=op.zp_out, lo=op.lo, hi=op.hi, dtype=op.dtype, residual=_sum_of(layer, add, op))


def _sum_of(layer: Node, add: Node, op: IntAdd) -> ResidualSum:
    terms = [(op.zp_a, op.multiplier_a), (op.zp_b, op.multiplier_b)]
    residual = residual_of(layer, add)
    if add.operands[1] is residual:
        terms.reverse()
    (zp_residual, multiplier_residual), (_, multiplier) = terms
    return ResidualSum(multiplier, multiplier_residual, op.shift, zp_residual, residual.type.dtype)


def _suits_epilogue(layer: Node, add: Node) -> bool:
    """Whether the factors have 16 bits and the sum, rounding and zero point included, has 32."""
    op = add.op
    if not isinstance(op, IntAdd):
        return False
    terms = _sum_of(layer, add, op)
    zp_layer = op.zp_a if add.operands[0] is layer.result else op.zp_b
    narrow, wide = abs(terms.multiplier_residual), abs(terms.multiplier)
    total = 255 * narrow + 2**15 * wide + (1 << op.shift >> 1) + (255 << op.shift)
    return zp_layer == 0 and narrow % 256 == 0 and narrow < 2**23 and wide < 2**15 and total < 2**31
