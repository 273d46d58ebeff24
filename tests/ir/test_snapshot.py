"""A snapshot holds as long as nothing is changed, and no longer."""

from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.ir import Graph, Stage, ops, parse_graph
from qcompiler.ir.snapshot import Snapshot

NETWORK = """qir 1
graph test float {
  input %x: f32[N,3]
  const %w: f32[2,3] = [1, -2, 0.5, 0.25, 1, -1]
  %y = gemm(%x, %w) @fc
  %r = relu(%y) @first
  %s = relu(%r) @second
  output s = %s
}
"""


def first(graph: Graph) -> None:
    graph.replace_node(graph.node("second"), [graph.value("r")])


def same_op_again(graph: Graph) -> None:
    node = graph.node("second")
    twin = graph.add_node(ops.Relu(), node.operands, name="third")
    graph.replace_node(node, twin.results)


def make_writeable(graph: Graph) -> None:
    data = graph.value("w").data
    assert data is not None
    data.setflags(write=True)


CHANGES: dict[str, Callable[[Graph], object]] = {
    "name": lambda graph: setattr(graph, "name", "other"),
    "stage": lambda graph: setattr(graph, "stage", Stage.OBSERVED),
    "allow_float": lambda graph: setattr(graph, "allow_float", True),
    "op": lambda graph: setattr(graph.node("first"), "op", ops.Sigmoid()),
    "type": lambda graph: setattr(graph.value("r"), "type", graph.value("r").type.with_shape((1, 2))),
    "data": lambda graph: setattr(graph.value("w"), "data", np.zeros((2, 3), np.float32)),
    "writeable data": make_writeable,
    "operand": lambda graph: graph.set_operand(graph.node("second"), 0, graph.value("y")),
    "rename": lambda graph: graph.rename(graph.value("y"), "z"),
    "output": lambda graph: graph.set_output(0, graph.value("r")),
    "another output": lambda graph: graph.add_output(graph.value("r")),
    "another input": lambda graph: graph.add_input("more", graph.value("x").type),
    "another constant": lambda graph: graph.add_constant(np.zeros(3, np.float32)),
    "erased node": first,
    "equal node": same_op_again,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_any_change_is_noticed(change: Callable[[Graph], object]) -> None:
    graph = parse_graph(NETWORK)
    snapshot = Snapshot(graph)
    change(graph)
    assert not snapshot.holds_for(graph)


def test_it_holds_while_nothing_is_changed() -> None:
    graph = parse_graph(NETWORK)
    snapshot = Snapshot(graph)
    graph.replace_uses(graph.value("y"), graph.value("y"))
    assert graph.erase_unused_nodes() == 0
    assert snapshot.holds_for(graph)
    assert not snapshot.holds_for(graph.clone())
