"""Running an observed graph: the one place that decides which executor calibration uses."""

from collections.abc import Mapping

from qcompiler.ir import AnyArray, Graph, ops


class ObservedGraph:
    """An observed graph made ready to run on batches.

    A copy of the graph gives the operands of the wanted `observe` nodes as outputs, so any executor of
    float graphs will do.
    """

    def __init__(self, graph: Graph, keys: frozenset[str], threads: int | None = None) -> None:
        self._threads = threads
        self._names: dict[str, str] = {}
        copy = graph.clone()
        for node in copy.nodes():
            match node.op:
                case ops.Observe(key=key) if key in keys:
                    self._names[f"observed {key}"] = key
                    copy.add_output(node.operands[0], f"observed {key}")
        self._graph = copy

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """The observed values on one batch, by the key of their `observe` node."""
        from qcompiler import reference

        outputs = reference.run(self._graph, dict(feeds))
        return {key: outputs[name] for name, key in self._names.items()}
