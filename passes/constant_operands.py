"""Giving a node another constant operand under the name of the old one."""

from qcompiler.ir import AnyArray, Graph, Node


def replace_constant(graph: Graph, node: Node, index: int, array: AnyArray) -> None:
    """Make a new constant operand `index` of `node`; it has the old one's name unless that is still used elsewhere."""
    old = node.operands[index]
    new = graph.add_constant(array, old.name)
    graph.set_operand(node, index, new)
    if not old.is_used:
        name = old.name
        graph.rename(old, f"{name}.replaced")
        graph.rename(new, name)
