"""The rewriting driver and the questions that matches ask."""

import pytest

from qcompiler.errors import InternalError
from qcompiler.ir import Graph, Node, ops, parse_graph, print_graph, verify
from qcompiler.ir.rewrite import (
    Refusal,
    apply_rewrite,
    other_users,
    producer_of,
    scalar_of,
    split_constant_operand,
)


class CancelNegation:
    """neg(neg(x)) -> x, unless somebody else uses the inner one."""

    def match(self, node: Node) -> tuple[Node, Node] | None:
        if not isinstance(node.op, ops.Neg):
            return None
        inner = producer_of(node.operands[0], ops.Neg)
        return None if inner is None else (inner, node)

    def check(self, graph: Graph, match: tuple[Node, Node]) -> str | None:
        del graph
        users = other_users(match[0].result, match[1])
        return None if users is None else f"its operand '{match[0].name}' is also used by {users}"

    def rewrite(self, graph: Graph, match: tuple[Node, Node]) -> None:
        inner, outer = match
        graph.replace_node(outer, [inner.operands[0]])
        graph.erase_if_unused(inner)


class Endless:
    """Replaces a node by its like for ever."""

    def match(self, node: Node) -> Node | None:
        return node

    def check(self, graph: Graph, match: Node) -> None:
        del graph, match

    def rewrite(self, graph: Graph, match: Node) -> None:
        copy = graph.add_node(match.op, match.operands, before=match)
        graph.replace_node(match, [copy.result])


def negations(count: int, extra: str = "") -> Graph:
    chain = " ".join(f"%n{i} = neg(%{'x' if i == 0 else f'n{i - 1}'})" for i in range(count))
    return parse_graph(f"qir 1 graph g float {{ input %x: f32[2] {chain} {extra} output y = %n{count - 1} }}")


@pytest.mark.parametrize(("count", "applied", "left"), [(1, 0, 1), (2, 1, 0), (7, 3, 1), (100, 50, 0)])
def test_chains_collapse(count: int, applied: int, left: int):
    graph = negations(count)
    refusals: list[Refusal] = []
    assert apply_rewrite(graph, CancelNegation(), refusals.append) == applied
    assert len(graph) == left
    assert not refusals
    verify(graph)


def test_a_refusal_names_the_node_and_the_reason_once():
    graph = negations(2, "%other = exp(%n0) output z = %n0")
    before = print_graph(graph)
    refusals: list[Refusal] = []
    assert apply_rewrite(graph, CancelNegation(), refusals.append) == 0
    assert print_graph(graph) == before
    assert refusals == [
        Refusal(graph.node("n1"), "its operand 'n0' is also used by 'other' and an output of the graph")
    ]


def test_refusals_of_earlier_sweeps_are_forgotten():
    graph = negations(4, "%other = exp(%n0) %last = exp(%other) output z = %last")
    refusals: list[Refusal] = []
    assert apply_rewrite(graph, CancelNegation(), refusals.append) == 1
    assert [refusal.node.name for refusal in refusals] == ["n3"]  # n1 was refused too, and then erased


def test_a_rule_that_repeats_its_own_work_is_stopped():
    with pytest.raises(InternalError, match="Endless still rewrites after 1000 sweeps over graph 'g'"):
        apply_rewrite(negations(2), Endless(), lambda _: None)


def test_questions():
    graph = parse_graph(
        "qir 1 graph g float { input %x: f32[2] const %c: f32[1,1] = [2.5] const %v: f32[2] = [1, 2] "
        "%a = mul(%c, %x) %b = add(%a, %x) %d = add(%c, %v) output y = %b }"
    )
    a, b, x, c = graph.node("a"), graph.node("b"), graph.value("x"), graph.value("c")
    assert split_constant_operand(a) == (x, c)
    assert split_constant_operand(b) is None
    assert split_constant_operand(graph.node("d")) is None
    assert (scalar_of(c), scalar_of(graph.value("v")), scalar_of(x)) == (2.5, None, None)
    assert producer_of(a.result) is a
    assert producer_of(a.result, ops.Mul, ops.Add) is a
    assert producer_of(a.result, ops.Add) is None
    assert producer_of(x) is None
