"""`recognize-activations`: hard-swish, hard-sigmoid and SiLU that exporters have taken apart."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Op, Stage, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of, scalar_of, split_constant_operand
from qcompiler.pass_manager import RewritePass, register_pass

_TOLERANCE = 1e-4  # exporters write 1/6 with four digits or more


@dataclass(frozen=True, slots=True)
class Factors:
    """The result of `node` is ``factor · the product of terms``; `inner` are the nodes of the product below `node`."""

    node: Node
    factor: float
    terms: tuple[Value, ...]
    inner: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Gate:
    """``clip(x + offset, 0, height)`` ending at `node`; a hard_sigmoid has ``height = 1 / alpha``; or a sigmoid."""

    node: Node
    x: Value
    offset: float = 0.0
    height: float = 1.0


@dataclass(frozen=True, slots=True)
class Spelling:
    """A decomposed activation of `x` that ends at `node`, and the op that says the same."""

    node: Node
    x: Value
    op: Op | None
    inner: tuple[Node, ...]
    reason: str = ""


@register_pass
@dataclass(frozen=True)
class RecognizeActivations(RewritePass[Spelling]):
    """Replace the usual decompositions of hard-swish, hard-sigmoid and SiLU by the op itself.

    Why: a function of one activation is one 256-entry table; taken apart it is four ops with a rounding each.

    Algebra: clip(x + b, 0, h) · s = hard_sigmoid(s · x + s · b) if h · s = 1; x · clip(x + 3, 0, 6) / 6 =
    hard_swish(x), 1/6 anywhere in the product; x · hard_sigmoid(x/6 + 1/2) = hard_swish(x); x · sigmoid(x) = silu(x).

        a = add(x, 3); c = clip(a){low=0, high=6}; m = mul(x, c); y = div(m, 6)          before
        y = hard_swish(x)                                                                after

    Known limits: constants are compared to 4 digits; GELU is no op of its own. Run it before `fuse-activation`; a clip
    already fused into the addition is seen, though.
    """

    name: ClassVar[str] = "recognize-activations"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> Spelling | None:
        spellings = [spelling for product in _products(node) if (spelling := _spelling(product)) is not None]
        return next((s for s in spellings if s.op is not None), spellings[0] if spellings else None)

    def check(self, graph: Graph, match: Spelling) -> str | None:
        del graph
        if match.op is None:
            return match.reason
        if match.node.result.type != match.x.type:
            return f"a constant in it also broadcasts {match.x!r}"
        within = {*match.inner, match.node}
        for node in match.inner:
            outside = next((user for user in node.result.users if user not in within), None)
            if outside is not None or node.result.is_output:
                return f"its part '{node.name}' is also used by {other_users(node.result, match.node)}"
        return None

    def rewrite(self, graph: Graph, match: Spelling) -> None:
        if match.op is not None:
            match.node.op = match.op
            graph.set_operands(match.node, [match.x])
            for part in match.inner:
                graph.erase_if_unused(part)


def _products(node: Node) -> Iterator[Factors]:
    """The ways to read `node` as a product of at most two activations and constant factors."""
    scaled = _scaled(node)
    if scaled is not None:
        value, factor = scaled
        yield Factors(node, factor, (value,), ())
        below = value.producer
        if below is not None and below.op == ops.Mul() and _scaled(below) is None:
            yield Factors(node, factor, below.operands, (below,))
    elif node.op == ops.Mul():
        a, b = node.operands
        yield Factors(node, 1.0, (a, b), ())
        for value, other in ((a, b), (b, a)):
            below = value.producer
            scaled = _scaled(below) if below is not None else None
            if below is not None and scaled is not None:
                yield Factors(node, scaled[1], (scaled[0], other), (below,))


def _spelling(product: Factors) -> Spelling | None:
    match [(value, _gate(value)) for value in product.terms]:
        case [(_, Gate() as gate)] if not isinstance(gate.node.op, ops.Sigmoid | ops.HardSigmoid):
            return _hard_sigmoid(product, gate)
        case [(x, _), (_, Gate() as gate)] if gate.x is x:
            return _swish(product, gate)
        case [(_, Gate() as gate), (x, _)] if gate.x is x:
            return _swish(product, gate)
        case _:
            return None


def _scaled(node: Node) -> tuple[Value, float] | None:
    """(activation, factor) of a product or quotient with one constant number."""
    pair = split_constant_operand(node)
    number = scalar_of(pair[1]) if pair is not None else None
    if pair is None or number is None:
        return None
    if node.op == ops.Mul():
        return pair[0], number
    return (pair[0], 1 / number) if node.op == ops.Div() and pair[0] is node.operands[0] and number else None


def _gate(value: Value) -> Gate | None:
    node = value.producer
    if node is None:
        return None
    match node.op:
        case ops.Sigmoid():
            return Gate(node, node.operands[0])
        case ops.HardSigmoid(alpha=alpha, beta=beta) if alpha > 0:
            return Gate(node, node.operands[0], beta / alpha, 1 / alpha)
        case ops.Clip(low=0.0, high=high):
            return _shifted(node, node.operands[0].producer, high)
        case ops.Add(clamp=(0.0, high)):
            return _shifted(node, node, high)
        case _:
            return None


def _shifted(node: Node, addition: Node | None, height: float) -> Gate | None:
    pair = split_constant_operand(addition) if addition is not None and isinstance(addition.op, ops.Add) else None
    offset = scalar_of(pair[1]) if pair is not None else None
    return Gate(node, pair[0], offset, height) if pair is not None and offset is not None else None


def _parts(product: Factors, gate: Gate) -> tuple[Node, ...]:
    """Every node of the pattern but the last."""
    addition = producer_of(gate.node.operands[0], ops.Add) if isinstance(gate.node.op, ops.Clip) else None
    return (*product.inner, gate.node, *([addition] if addition is not None else []))


def _hard_sigmoid(product: Factors, gate: Gate) -> Spelling:
    if not _close(gate.height * product.factor, 1):
        reason = f"{gate.height:g} · {product.factor:g} is not 1, as for hard-sigmoid"
        return Spelling(product.node, gate.x, None, (), reason)
    op = ops.HardSigmoid(product.factor, gate.offset * product.factor)
    return Spelling(product.node, gate.x, op, _parts(product, gate))


def _swish(product: Factors, gate: Gate) -> Spelling:
    op: Op | None
    match gate.node.op:
        case ops.Sigmoid():
            op = ops.Silu() if _close(product.factor, 1) else None
        case ops.HardSigmoid():
            op = ops.HardSwish() if _is_hard_swish(gate) and _close(product.factor, 1) else None
        case _:
            op = ops.HardSwish() if _is_hard_swish(gate) and _close(product.factor, 1 / 6) else None
    reason = f"{product.factor:g} · x · '{gate.node.name}' is neither x · clip(x + 3, 0, 6) / 6 nor x · sigmoid(x)"
    return Spelling(product.node, gate.x, op, _parts(product, gate), reason)


def _is_hard_swish(gate: Gate) -> bool:
    return _close(gate.offset, 3) and _close(gate.height, 6)


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_TOLERANCE)
