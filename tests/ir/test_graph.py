"""Editing graphs: def-use chains, names, order and outputs stay right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import VerifyError
from qcompiler.ir import DType, Graph, Stage, TensorType, graphs_equal, ops, parse_graph, print_graph, verify
from tests.ir.strategies import graphs


def diamond() -> Graph:
    """x -> a -> (b, c) -> d -> outputs y and z."""
    return parse_graph(
        "qir 1 graph g float { input %x: f32[2] %a = relu(%x) %b = exp(%a) %c = log(%a) %d = add(%b, %c) "
        "output y = %d output z = %d }"
    )


def body(graph: Graph) -> list[str]:
    return [line.strip() for line in print_graph(graph).splitlines()[2:-1]]


def test_uses_are_known_both_ways():
    graph = diamond()
    a = graph.value("a")
    assert [(node.name, index) for node, index in a.uses] == [("b", 0), ("c", 0)]
    assert (a.use_count, a.is_output, graph.value("d").is_output) == (2, False, True)


def test_replace_uses_moves_nodes_and_outputs():
    graph = diamond()
    graph.replace_uses(graph.value("d"), graph.value("b"))
    assert graph.outputs == (graph.value("b"), graph.value("b"))
    assert graph.output_names == ("y", "z")
    graph.erase_if_unused(graph.node("d"))
    assert [node.name for node in graph.nodes()] == ["a", "b"]
    verify(graph)


def test_replace_uses_can_leave_one_user_out():
    graph = diamond()
    negative = graph.add_node(ops.Neg(), [graph.value("a")], before=graph.node("b"))
    graph.replace_uses(graph.value("a"), negative.result, except_by=negative)
    assert [n.name for n in graph.nodes()] == ["a", "neg", "b", "c", "d"]
    assert graph.value("a").users == (negative,)
    verify(graph)


def test_replace_uses_of_a_value_used_twice_by_one_node():
    graph = parse_graph("qir 1 graph g float { input %x: f32[2] input %z: f32[2] %y = add(%x, %x) output y = %y }")
    graph.replace_uses(graph.value("x"), graph.value("z"))
    assert graph.value("z").uses == ((graph.node("y"), 0), (graph.node("y"), 1))
    verify(graph)


def test_replacing_a_value_by_itself_changes_nothing():
    graph = diamond()
    text = print_graph(graph)
    graph.replace_uses(graph.value("a"), graph.value("a"))
    assert print_graph(graph) == text
    verify(graph)


def test_a_used_node_cannot_be_erased():
    graph = diamond()
    with pytest.raises(VerifyError, match="cannot erase node 'a': its result %a is used by b"):
        graph.erase(graph.node("a"))
    with pytest.raises(VerifyError, match="its result %d is used by the graph's outputs"):
        graph.erase(graph.node("d"))


def test_a_node_is_erased_once():
    graph = diamond()
    node = graph.add_node(ops.Neg(), [graph.value("a")])
    graph.erase(node)
    assert node.erased
    with pytest.raises(VerifyError, match="node 'neg' is not in graph 'g'"):
        graph.erase(node)


def test_iteration_survives_erasing_any_node():
    graph = parse_graph(
        "qir 1 graph g float { input %x: f32[2] %a = relu(%x) %b = relu(%x) %c = relu(%x) %d = relu(%x) output y = %d }"
    )
    seen = []
    for node in graph.nodes():
        seen.append(node.name)
        if node.name == "a":
            for name in ("a", "b", "c"):
                graph.erase(graph.node(name))
    assert seen == ["a", "d"]
    verify(graph)


def test_iteration_visits_what_is_inserted_behind():
    graph = diamond()
    seen = []
    for node in graph.nodes():
        seen.append(node.name)
        if node.name == "a":
            graph.add_node(ops.Neg(), [node.result], name="new", before=graph.node("b"))
    assert seen == ["a", "new", "b", "c", "d"]
    assert [node.name for node in graph.nodes_reversed()] == ["d", "c", "b", "new", "a"]


def test_unused_nodes_and_constants_are_erased():
    graph = diamond()
    constant = graph.add_constant(np.ones(2, np.float32), "unused")
    last = graph.add_node(ops.Add(), [graph.value("a"), constant], name="dead")
    graph.add_node(ops.Neg(), [last.result], name="dead too")
    assert graph.erase_unused_nodes() == 2
    assert graph.erase_unused_constants() == 1
    assert graphs_equal(graph, diamond())


def test_names_are_made_unique():
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    nodes = [graph.add_node(ops.Relu(), [x], name="x") for _ in range(3)]
    assert len({node.name for node in nodes}) == 3
    assert len({"x", *(node.result.name for node in nodes)}) == 4
    verify(graph)
    with pytest.raises(VerifyError, match="two values named %x"):
        graph.add_input("x", TensorType(DType.F32, (2,)))


def test_rename_keeps_names_unique():
    graph = diamond()
    graph.rename(graph.value("b"), "a")
    assert graph.value("a_1") is graph.node("b").result
    verify(graph)


def test_inputs_are_removed_only_when_unused():
    graph = parse_graph("qir 1 graph g float { input %x: f32[2] input %z: f32[2] output y = %x }")
    graph.remove_input(graph.value("z"))
    assert graph.inputs == (graph.value("x"),)
    with pytest.raises(VerifyError, match="input %x is used and cannot be removed"):
        graph.remove_input(graph.value("x"))


def test_constants_are_shared_only_when_nobody_can_write_them():
    graph = Graph()
    array = np.ones(3, np.float32)
    constant = graph.add_constant(array)
    array[0] = 7
    assert constant.data is not None
    assert constant.data.tolist() == [1, 1, 1]
    assert graph.add_constant(constant.data, "same").data is constant.data


def test_the_only_result():
    graph = parse_graph("qir 1 graph g float { input %x: f32[4] %a, %b = split(%x) {axis=0, sizes=[1, 3]} @s }")
    with pytest.raises(VerifyError, match=r"node 's' \(split\) has 2 results, not one"):
        _ = graph.node("s").result


@settings(max_examples=60)
@given(graphs(), st.data())
def test_random_edits_keep_a_graph_valid(graph: Graph, data: st.DataObject):
    """Replacing values by others of their type that are defined before keeps every rule but the stage's."""
    if graph.stage is Stage.INTEGER:
        graph.allow_float = True
    order = {
        id(v): i
        for i, v in enumerate([*graph.inputs, *graph.constants(), *(r for n in graph.nodes() for r in n.results)])
    }
    for _ in range(data.draw(st.integers(0, 3))):
        pairs = [
            (old, new)
            for old in graph.values()
            for new in graph.values()
            if old.type == new.type and old.is_constant == new.is_constant and order[id(new)] < order[id(old)]
        ]
        if not pairs:
            break
        old, new = data.draw(st.sampled_from(pairs))
        if not old.is_constant:
            graph.replace_uses(old, new)
    graph.erase_unused_nodes()
    graph.erase_unused_constants()
    verify(graph)
    outputs = {id(value) for value in graph.outputs}
    assert all(any(r.is_used for r in node.results) for node in graph.nodes())
    assert all(value.is_output == (id(value) in outputs) for value in graph.values())
