"""Whether a graph has changed since a moment, told by the identity of what it is made of."""

from operator import is_

from qcompiler.ir.graph import Graph


class Snapshot:
    """All of a graph at one moment: its values and nodes, their names, types, arrays, ops, operands, uses, in order.

    Ops, types, names and arrays of constants cannot be changed, only replaced by others; an array that has been made
    writeable counts as changed.
    """

    def __init__(self, graph: Graph) -> None:
        self._objects, self._counts = _parts(graph)

    def holds_for(self, graph: Graph) -> bool:
        """Whether nothing has been changed; what was replaced by something equal counts as changed."""
        objects, counts = _parts(graph)
        return counts == self._counts and len(objects) == len(self._objects) and all(map(is_, objects, self._objects))


def _parts(graph: Graph) -> tuple[list[object], list[int]]:
    """What is compared by identity, and numbers: of nodes, inputs and uses, and 1 for each array that is writeable."""
    objects: list[object] = [graph.name, graph.stage, graph.allow_float, *graph.output_names, *graph.outputs]
    counts = [len(graph), len(graph.inputs)]
    for node in graph.nodes():
        objects += (node, node.name, node.op, node.operands, node.results)
    for value in (*graph.inputs, *graph.values()):
        objects += (value, value.name, value.type, value.data, value.producer)
        counts += (value.use_count, value.data is not None and value.data.flags.writeable)
    return objects, counts
