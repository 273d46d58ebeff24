"""Running an observed graph: the one place that decides which executor calibration uses."""

from collections.abc import Callable, Mapping

from qcompiler.errors import UnsupportedOpError
from qcompiler.ir import AnyArray, Graph, ops

Progress = Callable[[str, int, int], None]
"""Told (what, done, total) while something takes long."""


class ObservedGraph:
    """An observed graph made ready to run on batches.

    A copy of the graph gives the operands of the wanted `observe` nodes as outputs, so any executor of float graphs
    will do: the interpreter, or the reference where an op has no kernel.
    """

    def __init__(
        self, graph: Graph, keys: frozenset[str], threads: int | None = None, progress: Progress | None = None
    ) -> None:
        from qcompiler.runtime.session import Session

        self._names: dict[str, str] = {}
        self._graph = graph.clone()
        for node in self._graph.nodes():
            match node.op:
                case ops.Observe(key=key) if key in keys:
                    self._names[f"observed {key}"] = key
                    self._graph.add_output(node.operands[0], f"observed {key}")
        self._session: Session | None = Session(self._graph, threads=threads, progress=progress)

    def run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """The observed values on one batch, by the key of their `observe` node."""
        outputs = self._run(feeds)
        return {key: outputs[name] for name, key in self._names.items()}

    def _run(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        from qcompiler import reference

        if self._session is not None:
            try:
                return self._session.run(feeds)
            except UnsupportedOpError:
                self._session = None
        return reference.run(self._graph, feeds)
