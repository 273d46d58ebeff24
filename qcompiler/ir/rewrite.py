"""Rewriting: the driver that applies a rewrite wherever it fits, and the questions that most matches ask.

A rewrite has three parts. `match` looks at one node and finds the pattern that ends there; `check` says why
a matched pattern must not be rewritten, or nothing; `rewrite` edits the graph and cannot fail. The driver
sweeps over the nodes in execution order until a sweep changes nothing, and reports the refusals of that
last sweep. A sweep also visits the nodes inserted behind the one being rewritten, so chains collapse in
one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from qcompiler.errors import InternalError
from qcompiler.ir.graph import Graph, Node, Value
from qcompiler.ir.op import Op

_MAX_SWEEPS = 1000
_Match = TypeVar("_Match")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a pattern that ends at `node` stays as it is: "its input conv2 is also used by add7"."""

    node: Node
    reason: str


class Rewrite(Protocol, Generic[_Match]):
    """A rewrite of one pattern; `_Match` holds what `match` found."""

    def match(self, node: Node) -> _Match | None:
        """The pattern that ends at `node`, or None if there is none."""

    def check(self, graph: Graph, match: _Match) -> str | None:
        """Why the pattern must stay as it is, in words that name the hindrance, or None."""

    def rewrite(self, graph: Graph, match: _Match) -> None:
        """Replace the pattern; afterwards it must not match again."""


def apply_rewrite(graph: Graph, rule: Rewrite[_Match], on_refusal: Callable[[Refusal], None]) -> int:
    """Apply `rule` until it fits nowhere; returns how often it did.

    Raises:
        InternalError: the rule undoes or repeats its own work.
    """
    total = 0
    for _ in range(_MAX_SWEEPS):
        applied = 0
        refusals: list[Refusal] = []
        for node in graph.nodes():
            match = rule.match(node)
            if match is None:
                continue
            reason = rule.check(graph, match)
            if reason is None:
                rule.rewrite(graph, match)
                applied += 1
            else:
                refusals.append(Refusal(node, reason))
        total += applied
        if not applied:
            for refusal in refusals:
                on_refusal(refusal)
            return total
    raise InternalError(f"{type(rule).__name__} still rewrites after {_MAX_SWEEPS} sweeps over graph '{graph.name}'")


def producer_of(value: Value, *classes: type[Op]) -> Node | None:
    """The node whose result `value` is, if its op is of one of `classes` (or of any, if none is given)."""
    node = value.producer
    return node if node is not None and (not classes or isinstance(node.op, classes)) else None


def other_users(value: Value, user: Node) -> str | None:
    """Who uses `value` besides `user`, in words for a refusal, or None."""
    names = [f"'{node.name}'" for node in value.users if node is not user]
    if value.is_output:
        names.append("an output of the graph")
    return " and ".join(names) or None


def scalar_of(value: Value) -> float | None:
    """The element of a constant with one element, of any rank."""
    return float(value.data.item()) if value.data is not None and value.data.size == 1 else None


def split_constant_operand(node: Node) -> tuple[Value, Value] | None:
    """(activation, constant) of a binary node that has one of each, in either order."""
    if len(node.operands) != 2:
        return None
    a, b = node.operands
    if a.is_constant == b.is_constant:
        return None
    return (b, a) if a.is_constant else (a, b)
