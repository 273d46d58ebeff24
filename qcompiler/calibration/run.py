"""Running an observed graph: the one place that decides which executor calibration uses."""

from collections.abc import Callable, Mapping, Sequence

from qcompiler.calibration.statistics import Statistics
from qcompiler.errors import UnsupportedOpError
from qcompiler.ir import AnyArray, Graph, Value, ops
from qcompiler.runtime.cores import thread_count
from qcompiler.runtime.sampled_elements import samples_in

Progress = Callable[[str, int, int], None]
"""Told (what, done, total) while something takes long."""


class ObservedGraph:
    """An observed graph made ready to run on batches, and what its wanted `observe` nodes have seen.

    The interpreter counts the elements as they are computed. Where an op has no kernel, the reference runs the graph,
    and values are counted one after the other.

    Args:
        graph: must not change afterwards.
        keys: of the wanted nodes.
        threads: for the interpreter; None: the usable physical cores.
        progress: told of kernels that have to be compiled.
    """

    def __init__(
        self, graph: Graph, keys: Sequence[str], threads: int | None = None, progress: Progress | None = None
    ) -> None:
        from qcompiler.calibration.counters import Counters
        from qcompiler.runtime.session import Session

        self._graph = graph
        self._observed: dict[Value, list[str]] = {}
        for node in graph.nodes():
            match node.op:
                case ops.Observe(key=key) if key in keys:
                    self._observed.setdefault(node.operands[0], []).append(key)
        self._counters: Counters | None = Counters(keys, thread_count(threads))
        self._session = Session(graph, threads=threads, progress=progress, counters=self._counters.by_key)
        self._statistics: dict[str, Statistics] = {}

    def add(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        """Count what one batch makes of the observed values; returns the graph's outputs by their public names."""
        if self._counters is not None:
            try:
                return self._session.run(feeds)
            except UnsupportedOpError:  # told before the first instruction runs
                self._statistics = {key: Statistics() for key in self._counters.by_key}
                self._counters = None
        return self._run_reference(feeds)

    def first_not_finite(self) -> str | None:
        """The first of the keys whose value has held a NaN or infinity."""
        if self._counters is not None:
            return self._counters.first_not_finite()
        return next((key for key, found in self._statistics.items() if found.nans or found.infinities), None)

    def statistics(self, key: str) -> Statistics:
        """What has been counted of a value, all of which must be finite."""
        return self._statistics[key] if self._counters is None else self._counters.statistics(key)

    def _run_reference(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        from qcompiler import reference

        def on_value(value: Value, array: AnyArray) -> None:
            for key in self._observed.get(value, ()):
                self._statistics[key].add(array, samples_in(value.type.shape, array.shape))

        return reference.run(self._graph, feeds, on_value=on_value)
