"""Running an observed graph on the interpreter that runs everything else."""

from collections.abc import Mapping

from qcompiler.ir import AnyArray, Graph, ops


class ObservedGraph:
    """An observed graph made ready to run on batches.

    A copy of the graph gives the operands of the wanted `observe` nodes as outputs. No value depends on the batch or on
    `threads`, which is the number of threads that may take part in a call (None: the usable physical cores).
    """

    def __init__(self, graph: Graph, keys: frozenset[str], threads: int | None = None) -> None:
        from qcompiler.runtime.session import Session

        self._names: dict[str, str] = {}
        copy = graph.clone()
        for node in copy.nodes():
            match node.op:
                case ops.Observe(key=key) if key in keys:
                    self._names[f"observed {key}"] = key
                    copy.add_output(node.operands[0], f"observed {key}")
        self._session = Session(copy, threads=threads)

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """The observed values on one batch, by the key of their `observe` node."""
        outputs = self._session.run(feeds)
        return {key: outputs[name] for name, key in self._names.items()}
