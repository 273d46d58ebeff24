"""`fold-product-scale`: a number that a product of two activations, or one of its operands, is multiplied by."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Quantization, Stage, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of, scalar_of, split_constant_operand
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True, slots=True)
class ScaledProduct:
    """`node` multiplies `x` by `factor`, in front of `product` or behind it.

    Attributes:
        between: users of the values between the two, each of which has to be the only one.
    """

    node: Node
    x: Value
    factor: float
    product: Node
    op: ops.MatMul
    between: tuple[tuple[Value, Node], ...]


@register_pass
@dataclass(frozen=True)
class FoldProductScale(RewritePass[ScaledProduct]):
    """Fold the product with a number into the `alpha` of a matmul.

    Why: attention divides its scores, or its queries and keys, by a root of their width. In integers that is an
    operator and a rounding of its own; as part of a product's multiplier it costs nothing.

    Algebra: (a · b) · c = (a · c) · b = a · (b · c), and c commutes with data movement.

        p = matmul(q, k); y = mul(p, 0.125)          before
        y = matmul(q, k){alpha=0.125}                after

    Known limits: what lies between is data movement with one result and no other users.
    """

    name: ClassVar[str] = "fold-product-scale"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> ScaledProduct | None:
        pair = split_constant_operand(node) if isinstance(node.op, ops.Mul) else None
        factor = None if pair is None else scalar_of(pair[1])
        if pair is None or factor is None or not math.isfinite(factor):
            return None
        return _behind(node, pair[0], factor) or _in_front(node, pair[0], factor)

    def check(self, graph: Graph, match: ScaledProduct) -> str | None:
        del graph
        if getattr(match.node.op, "clamp", None) is not None:
            return "it has a clamp"
        if not math.isfinite(match.op.alpha * match.factor):
            return f"with the alpha {match.op.alpha} of '{match.product.name}' its factor is not finite"
        if match.node.result.type.shape != match.x.type.shape:
            return f"it also broadcasts {match.x!r}"
        for value, user in match.between:
            if (users := other_users(value, user)) is not None:
                return f"%{value.name} is also used by {users}"
        return None

    def rewrite(self, graph: Graph, match: ScaledProduct) -> None:
        match.product.op = dataclasses.replace(match.op, alpha=match.op.alpha * match.factor)
        graph.replace_node(match.node, [match.x])


def _behind(node: Node, x: Value, factor: float) -> ScaledProduct | None:
    """The product that computes what `node` scales."""
    value, user, between = x, node, []
    while (above := producer_of(value)) is not None:
        between.append((value, user))
        if isinstance(above.op, ops.MatMul):
            return ScaledProduct(node, x, factor, above, above.op, tuple(between))
        if not _moves(above):
            return None
        value, user = above.operands[0], above
    return None


def _in_front(node: Node, x: Value, factor: float) -> ScaledProduct | None:
    """The product that uses what `node` scales."""
    value, between = node.result, []
    while value.users:
        below = value.users[0]
        between.append((value, below))
        if isinstance(below.op, ops.MatMul):
            squared = below.operands[0] is below.operands[1]
            return ScaledProduct(node, x, factor * factor if squared else factor, below, below.op, tuple(between))
        if not _moves(below):
            return None
        value = below.results[0]
    return None


def _moves(node: Node) -> bool:
    return (
        node.op.quantization is Quantization.PASSTHROUGH and not isinstance(node.op, ops.Pad) and len(node.results) == 1
    )
