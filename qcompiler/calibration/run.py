"""Running an observed graph: the one place that decides which executor calibration uses."""

import threading
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
        threads: for the interpreter, in each lane; None: the usable physical cores.
        progress: told of kernels that have to be compiled.
        lanes: how many batches may be added at the same time.
    """

    def __init__(
        self,
        graph: Graph,
        keys: Sequence[str],
        threads: int | None = None,
        progress: Progress | None = None,
        lanes: int = 1,
    ) -> None:
        from qcompiler.calibration.counters import Counters
        from qcompiler.runtime.session import Session

        self._graph = graph
        self._observed: dict[Value, list[str]] = {}
        for node in graph.nodes():
            match node.op:
                case ops.Observe(key=key) if key in keys:
                    self._observed.setdefault(node.operands[0], []).append(key)
        self._keys = tuple(keys)
        self._counters = Counters(keys, thread_count(threads), lanes)
        self._session = Session(graph, threads=threads, progress=progress, counters=self._counters.by_key)
        self._by_reference = False
        self._statistics: dict[str, Statistics] = {}  # of the batches that the reference ran, under the lock
        self._lock = threading.Lock()

    def prepare(self, feeds: Mapping[str, AnyArray]) -> None:
        """Do what is done once for all batches of that size, which the first of them does otherwise."""
        try:
            self._session.prepare(feeds)
        except UnsupportedOpError:
            self._by_reference = True

    def add(self, feeds: Mapping[str, AnyArray], lane: int = 0) -> dict[str, AnyArray]:
        """Count what one batch makes of the observed values; returns the graph's outputs by their public names.

        Calls that overlap must have different lanes.
        """
        if not self._by_reference:
            try:
                return self._session.run(feeds, lane)
            except UnsupportedOpError:  # told before the first instruction runs
                self._by_reference = True
        return self._run_reference(feeds)

    def first_not_finite(self) -> str | None:
        """The first of the keys whose value has held a NaN or infinity."""
        with self._lock:
            found = {key for key, seen in self._statistics.items() if seen.nans or seen.infinities}
        found.update(self._counters.not_finite())
        return next((key for key in self._keys if key in found), None)

    def statistics(self, key: str) -> Statistics:
        """What has been counted of a value, all of which must be finite."""
        counted = self._counters.statistics(key)
        with self._lock:
            if key in self._statistics:
                counted.merge(self._statistics[key])
        return counted

    def _run_reference(self, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
        from qcompiler import reference

        def on_value(value: Value, array: AnyArray) -> None:
            for key in self._observed.get(value, ()):
                with self._lock:
                    found = self._statistics.setdefault(key, Statistics())
                    found.add(array, samples_in(value.type.shape, array.shape))

        return reference.run(self._graph, feeds, on_value=on_value)
