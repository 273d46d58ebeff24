"""`fuse-residual-add`: round the sum of a residual block once instead of twice."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import DType, Graph, Node, Stage, TensorType, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of
from qcompiler.numerics import choose_params
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True)
class _Match:
    layer: Node
    add: Node


@register_pass
@dataclass(frozen=True)
class FuseResidualAdd(RewritePass[_Match]):
    """Keep 16 bits of a convolution whose result only goes into an addition.

        y = conv(x): u8{s_y, z_y};     z = add(y, skip): u8          before
        y = conv(x): s16{s_y / 128};   z = add(y, skip): u8          after

    Why: the addition rounds to 8 bits anyway, so rounding its operand to 8 bits first only adds noise, and residual
    networks add it in every block. With 16 bits the rounding of y is 1/128 of a step or less: the sum is rounded once,
    as if the addition were done on the accumulator. docs/accuracy.md has the figures.

    One operand keeps 8 bits, also where both are convolutions: the other one then adds it to its accumulators, see
    `qcompiler.passes.lower_residual`.

    Known limits: does not fire where y has other users, which want 8 bits, or where the skip path is a constant.
    """

    name: ClassVar[str] = "fuse-residual-add"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED})

    def match(self, node: Node) -> _Match | None:
        if not isinstance(node.op, ops.Add | ops.Sub) or node.result.type.quant is None:
            return None
        if any(operand.is_constant or not operand.type.dtype.is_8_bit for operand in node.operands):
            return None
        producers = (producer_of(operand, ops.Conv, ops.Gemm) for operand in node.operands)
        layers = [layer for layer in producers if layer is not None]
        # The skip path often starts at a layer too, one with other users.
        unshared = (layer for layer in layers if other_users(layer.result, node) is None)
        chosen = next(unshared, layers[0] if layers else None)
        return None if chosen is None else _Match(chosen, node)

    def check(self, graph: Graph, match: _Match) -> str | None:
        del graph
        users = other_users(match.layer.result, match.add)
        return None if users is None else f"its input '{match.layer.name}' is also used by {users}"

    def rewrite(self, graph: Graph, match: _Match) -> None:
        del graph
        value = match.layer.result
        value.type = TensorType(DType.S16, value.type.shape, choose_params(*_real_range(value), DType.S16))


def _real_range(value: Value) -> tuple[float, float]:
    """What the value's 8-bit parameters can express."""
    quant = value.type.quant
    if quant is None:
        return 0.0, 0.0
    low, high = value.type.dtype.limits
    return quant.scale[0] * (low - quant.zero_point[0]), quant.scale[0] * (high - quant.zero_point[0])
