"""Everything that must agree about one model: onnxruntime, float and integer graphs, their text, kernels, artifact."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from qcompiler import reference
from qcompiler.artifact import decode, encode
from qcompiler.calibration.data import open_source
from qcompiler.importer import import_model
from qcompiler.integer_proofs import prove
from qcompiler.ir import Graph, Stage, first_difference, parse_graph, print_graph, verify
from qcompiler.pass_manager import Pass, PassContext, PassManager
from qcompiler.pipeline import pipeline_for
from qcompiler.runtime.session import Session
from tests.end_to_end.random_models import RandomModel

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]


class DisagreementError(AssertionError):
    """Two forms of one model differ where they must not; the message says which and by how much."""


@dataclass
class Compilation:
    """One model taken through one pipeline, every pass watched.

    Attributes:
        graph: the integer graph.
        exact: the float graph's outputs on the samples that were watched.
        decibels: SQNR against `exact`, of the worst output, after each pass from quantizing on.
    """

    graph: Graph
    exact: Outputs
    decibels: list[tuple[str, float]] = field(default_factory=list)


def float_forms_agree(model: RandomModel) -> Graph:
    """Import; hold the reference to onnxruntime and the float kernels to the reference. Returns the float graph."""
    graph = import_model(model.proto)
    verify(graph)
    feeds = model.feeds(2, 1)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.proto.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    oracle = dict(zip(names, session.run(names, feeds), strict=True))
    mine = reference.run(graph, feeds)
    if list(mine) != names:
        raise DisagreementError(f"outputs {list(mine)}, onnxruntime has {names}")
    _close(oracle, mine, 2e-4, "reference", "onnxruntime")
    _close(mine, Session(graph, threads=2).run(feeds), 2e-4, "float kernels", "reference")
    return graph


def compile_watched(model: RandomModel, float_graph: Graph, level: int, folder: Path) -> Compilation:
    """Run a pipeline; after each pass compare text form and results as the stage promises.

    `folder` is for the reproducer, should a pass fail.
    """
    feeds = model.feeds(8, 0)
    result = Compilation(float_graph.clone(), reference.run(float_graph, feeds))
    integer: Outputs | None = None

    def watch(previous: Pass | None, graph: Graph, _: Pass | None) -> None:
        nonlocal integer
        name = "import" if previous is None else previous.name
        _round_trip(graph, name)
        got = reference.run(graph, feeds)
        if graph.stage in (Stage.FLOAT, Stage.OBSERVED):
            _close(result.exact, got, 2e-4, f"-O{level} after {name}", "the float graph")
            return
        result.decibels.append((name, min(decibels(result.exact[n], got[n]) for n in got)))
        if graph.stage is Stage.INTEGER:
            if integer is not None:
                _equal(integer, got, f"-O{level} after {name}", "before")
            integer = got

    context = PassContext(calibration=open_source(model.calibration(), float_graph))
    manager = PassManager(pipeline_for("int8", level), callbacks=[watch], check_claims=True, reproducer_dir=folder)
    manager.run(result.graph, context)
    if result.graph.stage is not Stage.INTEGER or result.graph.allow_float:
        raise DisagreementError(f"-O{level} ends in the {result.graph.stage} stage")
    if negative := [p for p in prove(result.graph) if p.headroom_bits < 0]:
        raise DisagreementError(f"-O{level}: accumulators {negative} may overflow")
    return result


def kernels_equal_the_reference(
    model: RandomModel, graph: Graph, *, threads: Sequence[int] = (1, 2, 3), batches: Sequence[int] = (1, 2, 7)
) -> None:
    """The artifact and back gives the same bytes; kernels in every configuration give the reference's bits."""
    data = encode(graph, {}, {})
    loaded, _, _ = decode(data, "memory")
    if encode(loaded, {}, {}) != data:
        raise DisagreementError("an artifact that is loaded and saved again has other bytes")
    if difference := first_difference(graph, loaded):
        raise DisagreementError(f"the loaded graph differs: {difference}")
    sessions = {count: Session(graph, threads=count) for count in threads} | {0: Session(loaded, threads=1)}
    for batch in batches if model.is_dynamic else (1,):
        feeds = model.feeds(batch, 3 + batch)
        expected = reference.run(graph, feeds)
        for count, session in sessions.items():
            _equal(expected, session.run(feeds), f"{count} threads, batch {batch}", "the reference")
    _odd_inputs(model, graph, sessions[1])


def _odd_inputs(model: RandomModel, graph: Graph, session: Session) -> None:
    """Far outside of the calibrated range, and what no range holds."""
    feeds = model.feeds(2, 4)
    generator = np.random.default_rng(model.seed)
    for array in feeds.values():
        np.multiply(array, 100, out=array)
        array[generator.random(array.shape) < 0.1] = np.nan
        array[generator.random(array.shape) < 0.1] = np.inf
        array[generator.random(array.shape) < 0.1] = -np.inf
    _equal(reference.run(graph, feeds), session.run(feeds), "odd inputs", "the reference")


def decibels(exact: Array, got: Array) -> float:
    """Signal over noise, 200 where there is no noise; a signal of nothing but rounding errors counts as zero."""
    wide = exact.astype(np.float64)
    noise, signal = np.sum((wide - got) ** 2), np.sum(wide**2)
    if noise <= 1e-12 * wide.size or noise <= 1e-20 * signal:
        return 200.0
    return float(10 * np.log10(max(signal, 1e-30) / noise))


def _round_trip(graph: Graph, name: str) -> None:
    text = print_graph(graph)
    constants = {v.digest: v.data for v in graph.constants() if v.data is not None}
    again = parse_graph(text, constants)
    verify(again)
    if difference := first_difference(graph, again):
        raise DisagreementError(f"after {name} the text reads back as another graph: {difference}")
    if print_graph(again) != text:
        raise DisagreementError(f"after {name} the graph that was read prints otherwise")


def _close(expected: Outputs, got: Outputs, tolerance: float, what: str, than: str) -> None:
    for name, array in expected.items():
        if array.shape != got[name].shape:
            raise DisagreementError(f"{what}: output {name!r} has shape {got[name].shape}, {than} gives {array.shape}")
        scale = max(1e-3, float(np.max(np.abs(array), initial=0)))
        error = float(np.max(np.abs(array - got[name]), initial=0))
        if not error <= tolerance * scale:
            raise DisagreementError(
                f"{what}: output {name!r} differs from {than} by {error:.3g} at a scale of {scale:.3g}"
            )


def _equal(expected: Outputs, got: Outputs, what: str, than: str) -> None:
    for name, array in expected.items():
        if array.dtype != got[name].dtype or array.shape != got[name].shape:
            raise DisagreementError(
                f"{what}: output {name!r} is {got[name].dtype}{got[name].shape}, not {array.dtype}{array.shape}"
            )
        if not np.array_equal(array, got[name], equal_nan=array.dtype.kind == "f"):
            wrong = int(np.sum(array != got[name]))
            raise DisagreementError(f"{what}: output {name!r} differs from {than} in {wrong} of {array.size} elements")
