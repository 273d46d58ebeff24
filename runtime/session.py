"""Runs a graph of the float, observed or integer stage on compiled kernels, for inputs of any shape that fits it."""

from collections.abc import Callable, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

from qcompiler.ir import AnyArray, Graph
from qcompiler.ir.types import DType, bind_shape, split_dim
from qcompiler.runtime.cores import thread_count
from qcompiler.runtime.interpreter import Code, Plan, PlanCache, Shapes, compile_code
from qcompiler.runtime.planner import Placement, place
from qcompiler.runtime.prepared import ProgramStore
from qcompiler.runtime.program import Program
from qcompiler.runtime.reference import bind_feeds

if TYPE_CHECKING:
    from qcompiler.runtime.lowering import PackedModel

Progress = Callable[[str, int, int], None]
"""Told (what, done, total) while something takes long."""


class Session:
    """A graph, ready to run.

    Constants are packed once; the first call with new input shapes makes a plan for them, the first call with a new
    kernel compiles it. Safe to call from several threads at once.

    Attributes:
        graph: what is run. It must not be changed afterwards.
        threads: how many threads may take part in a call, the caller's included.

    Args:
        graph: a graph whose stage is float, observed or integer.
        counters: by the key of an `observe` node, what counts its operand's elements in every call: one counter of
            `qcompiler.runtime.kernels.observation` for each lane.
        threads: default: one for each physical core that the process may use.
        progress: told of each kernel that has to be compiled because no cache has it.
        keep: keep the first plan's program for the processes that run this graph after this one.

    Raises:
        UsageError: `threads` is not a positive integer.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        threads: int | None = None,
        progress: Progress | None = None,
        counters: Mapping[str, AnyArray] = MappingProxyType({}),
        keep: bool = False,
    ) -> None:
        self.graph = graph
        self.threads = thread_count(threads)
        self._counters = counters
        self._store = ProgramStore(graph) if keep else None
        self._on_kernel = None if progress is None else _KernelProgress(progress)
        self._plans = PlanCache(self._program, self.threads, progress=self._on_kernel)
        self._inputs = tuple(value.name for value in graph.inputs)
        self._outputs = graph.output_names
        self._checks_values = any(value.type.dtype is DType.S4 for value in graph.inputs)

    def run(self, feeds: Mapping[str, AnyArray], lane: int = 0) -> dict[str, AnyArray]:
        """The graph's outputs by their public names, for an array for each input.

        With counters, calls that overlap must have different lanes.

        Raises:
            RuntimeInputError: an input is missing, unknown, of the wrong dtype or shape, or two disagree on the size of
                a symbolic dimension.
            UnsupportedOpError: no kernel can run a node.
        """
        arrays = [feeds.get(name) for name in self._inputs]
        plan = None
        if len(feeds) == len(arrays) and not self._checks_values:  # else something is missing, unknown or to be checked
            plan = self._plans.known_for(arrays)
        if plan is None:
            plan = self.plan_for(bind_feeds(self.graph, feeds))
        results = plan.run([feeds[name] for name in self._inputs], lane)
        return dict(zip(self._outputs, results, strict=True))

    def prepare(self, feeds: Mapping[str, AnyArray]) -> None:
        """Make the plan that `run` takes for feeds of these shapes; raises as `run` does."""
        self.plan_for(bind_feeds(self.graph, feeds))

    def plan_for(self, symbols: Mapping[str, int]) -> Plan:
        """The plan for given sizes of the symbolic dimensions, its kernels compiled."""
        return self._plans.plan_for(tuple(bind_shape(value.type.shape, symbols) for value in self.graph.inputs))

    def plan_for_one_sample(self) -> Placement:
        """Where everything is in the arena when all symbolic dimensions are 1; compiles no kernel."""
        symbols = {s for value in self.graph.inputs for dim in value.type.shape if (s := split_dim(dim)[1])}
        from qcompiler.runtime.lowering import lower

        return place(lower(self._model, dict.fromkeys(symbols, 1)))

    @cached_property
    def _model(self) -> "PackedModel":
        from qcompiler.runtime.lowering import PackedModel

        return PackedModel(self.graph, self._counters)

    def _program(self, shapes: Shapes) -> Program | tuple[Program, Code]:
        symbols: dict[str, int] = {}
        for value, shape in zip(self.graph.inputs, shapes, strict=True):
            for dim, size in zip(value.type.shape, shape, strict=True):
                coefficient, symbol = split_dim(dim)
                if symbol is not None:
                    symbols[symbol] = size // coefficient
        store, self._store = self._store, None
        if store is not None and (kept := store.load(symbols)) is not None:
            return kept
        from qcompiler.runtime.lowering import lower

        program = lower(self._model, symbols)
        if store is None:
            return program
        code = compile_code(program, self._on_kernel)
        store.save(symbols, program)
        return program, code


class _KernelProgress:
    """What kernels report before each is compiled, as one line of progress: the number of the one at work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def __call__(self, name: str, done: int, total: int) -> None:  # noqa: ARG002  # the protocol's
        self._progress("preparing kernels (slow on the first run only)", done + 1, total)
