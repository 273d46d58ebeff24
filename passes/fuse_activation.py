"""`fuse-activation`: relu and clip become the clamp of the op before them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Op, Stage, ops
from qcompiler.ir.rewrite import other_users, producer_of
from qcompiler.pass_manager import RewritePass, register_pass

Bounds = tuple[float, float]
_UNBOUNDED = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Activation:
    """`node` bounds the result of `producer`."""

    node: Node
    bounds: Bounds
    producer: Node


@register_pass
@dataclass(frozen=True)
class FuseActivation(RewritePass[Activation]):
    """Fuse relu and clip into the conv, conv_transpose, gemm, add, sub or mul before them, and into each other.

    Why: an integer kernel saturates its result anyway; with the clamp as its bounds the activation costs nothing, and
    the range is not spent on values that would be cut off.

    Algebra: clamp(clamp(x, l₁, h₁), l₂, h₂) = clamp(x, c(l₁), c(h₁)) with c(v) = clamp(v, l₂, h₂). A clip to at least
    the known range of its operand (sigmoid, softmax, ...) is dropped.

        c = conv(x, w, b); y = clip(c){low=0, high=6}          before
        y = conv(x, w, b){clamp=[0, 6]}                         after

    Known limits: not through reshapes and the like; sink those first.
    """

    name: ClassVar[str] = "fuse-activation"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> Activation | None:
        bounds = _bounds_of(node.op)
        producer = producer_of(node.operands[0]) if bounds is not None else None
        if bounds is None or producer is None:
            return None
        fusible = _has_clamp(producer.op) or _bounds_of(producer.op) is not None or _is_within(producer.op, bounds)
        return Activation(node, bounds, producer) if fusible else None

    def check(self, graph: Graph, match: Activation) -> str | None:
        del graph
        if _is_within(match.producer.op, match.bounds):
            return None
        users = other_users(match.producer.result, match.node)
        return None if users is None else f"its input '{match.producer.name}' is also used by {users}"

    def rewrite(self, graph: Graph, match: Activation) -> None:
        producer = match.producer
        if not _is_within(producer.op, match.bounds):
            producer.op = _bounded(producer.op, match.bounds)
        graph.replace_node(match.node, [producer.result])


def _bounds_of(op: Op) -> Bounds | None:
    match op:
        case ops.Relu():
            return 0.0, math.inf
        case ops.Clip(low=low, high=high):
            return low, high
        case _:
            return None


def _has_clamp(op: Op) -> bool:
    return isinstance(op, ops.Conv | ops.ConvTranspose | ops.Gemm | ops.Add | ops.Sub | ops.Mul)


def _is_within(op: Op, bounds: Bounds) -> bool:
    """Whether the results of `op` lie within the bounds anyway."""
    if bounds == _UNBOUNDED:
        return True
    known = op.result_range()
    if known is None:
        match op:
            case ops.Conv(clamp=tuple() as clamp) | ops.Gemm(clamp=tuple() as clamp):
                known = clamp
            case ops.ConvTranspose(clamp=tuple() as clamp):
                known = clamp
            case ops.Add(clamp=tuple() as clamp) | ops.Sub(clamp=tuple() as clamp) | ops.Mul(clamp=tuple() as clamp):
                known = clamp
            case _:
                known = _bounds_of(op)
    return known is not None and bounds[0] <= known[0] and known[1] <= bounds[1]


def _bounded(op: Op, bounds: Bounds) -> Op:
    match op:
        case ops.Conv(clamp=inner) | ops.ConvTranspose(clamp=inner) | ops.Gemm(clamp=inner):
            return dataclasses.replace(op, clamp=_compose(inner, bounds))
        case ops.Add(clamp=inner) | ops.Sub(clamp=inner) | ops.Mul(clamp=inner):
            return dataclasses.replace(op, clamp=_compose(inner, bounds))
        case _:
            low, high = _compose(_bounds_of(op), bounds)
            return ops.Relu() if (low, high) == (0.0, math.inf) else ops.Clip(low, high)


def _compose(inner: Bounds | None, outer: Bounds) -> Bounds:
    if inner is None:
        return outer
    low, high = (min(max(bound, outer[0]), outer[1]) for bound in inner)
    return low, high
