"""The networkx view, and DOT."""

import re

import networkx as nx
import numpy as np
import pytest

from qcompiler.ir import DType, Graph, TensorType, ops, parse_graph
from qcompiler.ir.dot import to_dot
from qcompiler.ir.view import Port, lies_between, post_dominators, regions, view


@pytest.fixture
def branches() -> Graph:
    """x -> a -> (b -> c, d) -> e -> y, and a dead end off a."""
    return parse_graph(
        "qir 1 graph g float { input %x: f32[2] const %k: f32[1] = [3] %a = relu(%x) %b = exp(%a) %c = mul(%b, %k) "
        "%d = log(%a) %e = add(%c, %d) %dead = neg(%a) output y = %e }"
    )


def test_the_view_has_a_vertex_for_each_node_and_port(branches: Graph):
    flow = view(branches)
    assert set(flow) == {*branches.nodes(), Port("input", "x"), Port("output", "y")}
    assert nx.is_directed_acyclic_graph(flow)
    assert flow.edges[branches.node("d"), branches.node("e"), 0] == {"value": "d", "index": 1}


def test_a_value_used_twice_makes_two_edges():
    graph = parse_graph("qir 1 graph g float { input %x: f32[2] %y = add(%x, %x) output y = %y output z = %y }")
    assert view(graph).number_of_edges(Port("input", "x"), graph.node("y")) == 2


def test_post_dominators(branches: Graph):
    node = branches.node
    assert post_dominators(branches) == {
        node("a"): node("e"),
        node("b"): node("c"),
        node("c"): node("e"),
        node("d"): node("e"),
        node("e"): Port("output", "y"),
    }
    assert post_dominators(Graph()) == {}


def test_nodes_without_a_common_way_out_have_no_post_dominator():
    graph = parse_graph("qir 1 graph g float { input %x: f32[2] %a = relu(%x) output y = %a output z = %a }")
    assert post_dominators(graph) == {}


def test_regions(branches: Graph):
    node = branches.node
    chosen = [node("e"), node("d"), node("b"), node("dead")]
    assert regions(branches, chosen) == [[node("b")], [node("d"), node("e")], [node("dead")]]


def test_lies_between(branches: Graph):
    node = branches.node
    assert lies_between(branches, node("b"), node("e")) == [node("b"), node("c"), node("e")]
    assert lies_between(branches, node("dead"), node("e")) == []


def test_dot_lists_nodes_edges_and_constants(branches: Graph):
    text = to_dot(branches)
    assert r'node2 [label="mul\nc\n%k: f32[1]"];' in text
    assert 'node1 -> node2 [label="f32[2]"];' in text
    assert 'input0 -> node0 [label="f32[2]"];' in text
    assert 'node4 -> output0 [label="f32[2]"];' in text
    assert text.count("->") == 8


def test_dot_escapes_names():
    graph = Graph('a "b"\\')
    x = graph.add_input('in"put\\n\n', TensorType(DType.F32, (1,)))
    graph.add_output(graph.add_node(ops.Add(), [x, graph.add_constant(np.ones(1, np.float32))], name='{n}"').result)
    text = to_dot(graph)
    assert text.startswith('digraph "a \\"b\\"\\\\" {\n')
    assert '[label="in\\"put\\\\n?", ' in text
    strings = re.findall(r'"(?:[^"\\]|\\.)*"', text)
    assert not re.search(r'["\n]', "".join(strings).replace('\\"', "").replace('"', ""))
