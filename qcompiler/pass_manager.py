"""The manager that runs a pipeline of passes, and all that one needs to write and run passes.

Printing, timing, dumping and bisecting hang off one kind of callback, called between passes with (previous pass, graph,
next pass). The graph is verified after each pass that has touched it, and each pass's promise about the stage is held
to its result. A pass that fails leaves a reproducer behind (`qcompiler.reproducer`).
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from qcompiler.errors import (
    AccumulatorOverflowError,
    CalibrationDataError,
    ModelError,
    PassError,
    QCompilerError,
    UsageError,
    VerifyError,
)
from qcompiler.ir import Graph, Stage, print_graph, verify
from qcompiler.ir.snapshot import Snapshot
from qcompiler.pass_record import (
    Pass,
    PassContext,
    Remark,
    RewritePass,
    load_passes,
    pass_class,
    pass_classes,
    register_pass,
)
from qcompiler.pass_specs import describe_options, format_pass, format_pipeline, parse_pipeline

__all__ = [
    "Pass",
    "PassContext",
    "PassManager",
    "PassResult",
    "PipelineCallback",
    "Remark",
    "RewritePass",
    "describe_options",
    "format_pass",
    "format_pipeline",
    "load_passes",
    "parse_pipeline",
    "pass_class",
    "pass_classes",
    "register_pass",
]

PipelineCallback = Callable[[Pass | None, Graph, Pass | None], None]
"""Called before the first pass, between passes and after the last with (previous pass, graph, next pass)."""

_USER_FAULTS = (AccumulatorOverflowError, CalibrationDataError, ModelError, UsageError)
"""What a pass may raise about the user's model, data or options; anything else is the pass's own fault."""


@dataclass(frozen=True, slots=True)
class PassResult:
    """One pass that has run: its name, the wall-clock seconds that it took, and whether it changed the graph."""

    name: str
    seconds: float
    changed: bool


class PassManager:
    """Runs passes one after another on a graph.

    Args:
        pipeline: the passes, in order.
        callbacks: called between passes, in order, after the graph has been verified.
        check_claims: compare the graph's text before and after each pass with what the pass says about it (for tests).
        reproducer_dir: where a failing pass leaves its reproducer; None: the current directory, or a temporary one if
            that cannot be written.
    """

    def __init__(
        self,
        pipeline: Sequence[Pass],
        *,
        callbacks: Sequence[PipelineCallback] = (),
        check_claims: bool = False,
        reproducer_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        self._pipeline = tuple(pipeline)
        self._callbacks = tuple(callbacks)
        self._check_claims = check_claims
        self._reproducer_dir = None if reproducer_dir is None else Path(reproducer_dir)

    def run(self, graph: Graph, context: PassContext | None = None) -> list[PassResult]:
        """Run all passes on `graph`, in place.

        Raises:
            UsageError: the pipeline's stages do not go together with the graph's or each other.
            VerifyError: the graph is invalid to begin with.
            PassError: a pass failed, left an invalid graph or broke a promise; the message says how to see it again.
            QCompilerError: what a pass has to say about the user's model or data.
        """
        context = context or PassContext()
        check_stages(self._pipeline, graph.stage)
        verify(graph)
        self._call_back(None, graph, self._pipeline[0] if self._pipeline else None)
        results = []
        last = _Verified(graph)
        for step, following in zip_longest(self._pipeline, self._pipeline[1:]):
            if not last.snapshot.holds_for(graph):  # most passes find nothing to change
                last = _Verified(graph)
            results.append(self._run_pass(step, graph, last, context))
            self._call_back(step, graph, following)
        return results

    def _call_back(self, previous: Pass | None, graph: Graph, following: Pass | None) -> None:
        for callback in self._callbacks:
            callback(previous, graph, following)

    def _run_pass(self, step: Pass, graph: Graph, last: "_Verified", context: PassContext) -> PassResult:
        before = last.copy
        started = time.perf_counter()
        try:
            changed = step.run(graph, context)
            seconds = time.perf_counter() - started
            if not last.snapshot.holds_for(graph):
                verify(graph)
        except _USER_FAULTS:
            raise
        except VerifyError as error:
            raise self._failure(step, before, context, f"gave an invalid graph: {error}", error) from error
        except Exception as error:
            detail = str(error) if isinstance(error, QCompilerError) else f"{type(error).__name__}: {error}"
            raise self._failure(step, before, context, f"failed: {detail}", error) from error
        expected = step.result_stage or before.stage
        broken = None
        if graph.stage is not expected:
            broken = f"left the graph in the {graph.stage} stage instead of {expected}"
        elif not isinstance(changed, bool):
            broken = f"returned {changed!r} instead of whether it changed the graph"
        elif self._check_claims and changed != (print_graph(before) != print_graph(graph)):
            broken = "said that it changed the graph, and did not" if changed else "changed the graph and denied it"
        if broken is not None:
            raise self._failure(step, before, context, broken, None)
        return PassResult(step.name, seconds, changed)

    def _failure(
        self, step: Pass, before: Graph, context: PassContext, what: str, error: Exception | None
    ) -> PassError:
        from qcompiler.reproducer import write_reproducer

        reproducer = write_reproducer(self._reproducer_dir, before, step, context, error)
        message = f"pass {format_pass(step)} {what}"
        if reproducer is None:
            return PassError(f"{message}\nNo reproducer could be written; give a directory with --reproducer-dir.")
        again = f"see it again with: python -m qcompiler.reproducer {reproducer}"
        return PassError(
            f"{message}\nThe graph before the pass is in {reproducer}; {again}", reproducer=str(reproducer)
        )


class _Verified:
    """A copy of a graph that keeps all rules, for reproducers, and whether the graph is still that."""

    def __init__(self, graph: Graph) -> None:
        self.copy = graph.clone()
        self.snapshot = Snapshot(graph)


def check_stages(pipeline: Sequence[Pass], stage: Stage) -> Stage:
    """The stage in which the pipeline ends when it starts in `stage`.

    Raises:
        UsageError: a pass cannot run in the stage that the passes before it leave.
    """
    for position, step in enumerate(pipeline, 1):
        if stage not in step.stages:
            legal = " or ".join(sorted(step.stages))
            raise UsageError(
                f"pass {position} of the pipeline, {step.name}, runs in the {legal} stage, but the graph is then "
                f"in the {stage} stage; --print-pipeline shows a complete order"
            )
        stage = step.result_stage or stage
    return stage
