"""`compile`: from an ONNX model to a `CompiledModel`, the one path that the command line and Python share."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcompiler.artifact import encode, pack_graph
from qcompiler.calibration.data import open_source
from qcompiler.calibration.outputs import FloatOutputs
from qcompiler.cycle_collection import rare_cycle_collection
from qcompiler.errors import UsageError
from qcompiler.evaluation import evaluate
from qcompiler.importer import import_model
from qcompiler.integer_proofs import prove
from qcompiler.ir import AnyArray, Graph, Stage, ops
from qcompiler.model import CompiledModel
from qcompiler.pass_manager import (
    PassContext,
    PassManager,
    PipelineCallback,
    check_stages,
    format_pipeline,
    parse_pipeline,
)
from qcompiler.passes.expose_integer_io import ExposeIntegerIo
from qcompiler.pipeline import pipeline_for, with_reduced_range
from qcompiler.runtime.cores import thread_count
from qcompiler.runtime.kernels.workers import kept_workers
from qcompiler.summary import evaluation_facts, pass_facts, structure_facts
from qcompiler.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto  # noqa: TID251  # for the annotation of the public function only

    from qcompiler.runtime.session import Session

DataSource = str | os.PathLike[str] | AnyArray | Iterable[Mapping[str, AnyArray]]

_CALIBRATION_SAMPLES_EVALUATED = 64
"""Without validation data the comparison runs on this many calibration samples: enough for SQNR, quick on any model."""


@dataclass(frozen=True)
class Hooks:
    """What a caller wants to see of a compilation while it runs.

    Attributes:
        progress: called with (what, done, total) by anything that takes over a second, maybe from another thread.
        between_passes: called by the pass manager with (previous pass, graph, next pass).
    """

    progress: Callable[[str, int, int], None] | None = None
    between_passes: Sequence[PipelineCallback] = ()


@rare_cycle_collection()
@kept_workers()
def compile(  # noqa: PLR0913  # the options of the command line, all but three with a default
    model: "str | os.PathLike[str] | bytes | ModelProto",
    *,
    target: str = "int8",
    opt_level: int = 2,
    calibration: DataSource | None = None,
    calibration_method: str = "mse",
    validation: DataSource | None = None,
    passes: str | None = None,
    allow_float: bool = False,
    reduce_range: bool = False,
    io: str = "float",
    dims: Mapping[str, int] | None = None,
    threads: int | None = None,
    reproducer_dir: str | os.PathLike[str] | None = None,
    hooks: Hooks | None = None,
) -> CompiledModel:
    """Compile an ONNX model to an integer program.

    Args:
        model: path, serialized bytes or a loaded `onnx.ModelProto`.
        target: ``int8``.
        opt_level: 0 to 3, as ``-O0`` to ``-O3``.
        calibration: float32 samples: a path (``.npz``, ``.npy``, a directory, ``file.py:function``), an iterable of
            dicts by input name, or an array for a single-input model; first axis = samples. None: ranges from
            BatchNormalization statistics, analytic bounds and a synthetic batch, with a warning.
        calibration_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        validation: data in the same forms to compare the two models on, with optional `labels`; default: the
            calibration data.
        passes: a pipeline such as ``"fold-constants,quantize"`` in place of that of `opt_level`.
        allow_float: keep operators without an integer form in float instead of refusing them.
        reduce_range: up to one bit less for weights, which CPUs with AVX2 or AVX-512 alone multiply faster.
        io: ``float``, or ``integer`` to expose the quantized tensors as inputs and outputs.
        dims: sizes for symbolic dimensions, by name; the others stay dynamic.
        threads: for calibration and evaluation; None: the usable physical cores.
        reproducer_dir: where a failing pass leaves its reproducer; None: the current directory.
        hooks: progress and callbacks.

    Raises:
        ModelError: the model cannot be read or is malformed; `UnsupportedOpError` lists what has no form here.
        CalibrationDataError: data that does not fit the model.
        UsageError: an unknown target, level, method, pass or option, or passes that do not lead to an integer graph.
        PassError: a pass failed; the message names the reproducer.
    """
    started = time.perf_counter()
    hooks = hooks or Hooks()
    if io not in ("float", "integer"):
        raise UsageError(f"io={io!r} is neither 'float' nor 'integer'")
    pipeline = parse_pipeline(passes) if passes is not None else pipeline_for(target, opt_level)
    if reduce_range:
        pipeline = with_reduced_range(pipeline)
    if (end := check_stages(pipeline, Stage.FLOAT)) is not Stage.INTEGER:
        raise UsageError(
            f"the passes end in the {end} stage, and only an integer graph is a compiled model; "
            "--print-pipeline shows a complete pipeline, tools/viz.py --stage the graph in between"
        )
    thread_count(threads)
    graph = import_model(model, dims=dims)
    float_graph = graph.clone()
    source = open_source(calibration, graph) if calibration is not None else None
    checked = open_source(validation, graph) if validation is not None else source

    from qcompiler.runtime.session import Session

    reference = Session(float_graph, threads=threads, progress=hooks.progress)
    with _background_thread() as background:
        hashed = background.submit(model_facts, model)
        known = None
        if checked is not None and checked is source:
            known = FloatOutputs(
                graph, _CALIBRATION_SAMPLES_EVALUATED, lambda feeds: background.submit(reference.prepare, feeds)
            )
        context = PassContext(
            calibration=source,
            calibration_method=calibration_method,
            allow_float=allow_float,
            threads=threads,
            progress=hooks.progress,
            float_outputs=known,
        )
        manager = PassManager(pipeline, callbacks=hooks.between_passes, reproducer_dir=reproducer_dir)
        results = manager.run(graph, context)

        session = Session(graph, threads=threads, progress=hooks.progress)
        interface = interface_facts(graph)
        exposed = graph
        if io == "integer":
            exposed = graph.clone()
            ExposeIntegerIo().run(exposed, context)
        packing = background.submit(pack_graph, exposed)
        evaluation = None
        if checked is not None:
            evaluation = evaluate(
                float_graph,
                session,
                checked,
                threads=threads,
                limit=None if validation is not None else _CALIBRATION_SAMPLES_EVALUATED,
                known=known,
                reference=reference,
                progress=hooks.progress,
            )
        if io == "integer":
            graph, session = exposed, Session(exposed, threads=threads)
        (model_bytes, model_sha256), packed = hashed.result(), packing.result()

    summary: dict[str, Any] = {
        "model": graph.name,
        "target": target,
        "opt_level": opt_level,
        **structure_facts(graph, prove(graph)),
        "model_bytes": model_bytes,
        "artifact_bytes": None,
        **memory_facts(session),
        **evaluation_facts(
            evaluation,
            "none" if checked is None else "validation" if validation is not None else "calibration",
        ),
        "calibration": {
            "method": calibration_method,
            "data": "synthetic" if source is None else source.origin,
            "samples": 0 if source is None else len(source),
        },
        "interface": interface,
        "io": io,
        "passes": pass_facts(results),
        "seconds": None,
        "warnings": list(context.warnings),
    }
    provenance = {
        "model_sha256": model_sha256,
        "pipeline": format_pipeline(pipeline),
        "calibration_sha256": context.calibration_digest,
        "versions": {"qcompiler": __version__} | {name: version(name) for name in ("onnx", "numpy")},
    }
    artifact = encode(graph, summary, provenance, packed=packed)
    summary["artifact_bytes"] = len(artifact)
    summary["seconds"] = round(time.perf_counter() - started, 3)
    return CompiledModel(graph, summary, provenance, tuple(context.remarks), artifact)


@contextmanager
def _background_thread() -> Iterator[ThreadPoolExecutor]:
    """For what needs the interpreter lock little, or while others do so; what has not begun at the end is dropped."""
    background = ThreadPoolExecutor(1, "qcompiler-background")
    try:
        yield background
    finally:
        background.shutdown(wait=False, cancel_futures=True)


def interface_facts(graph: Graph) -> dict[str, dict[str, Any]]:
    """Scale and zero point (and axis) of each quantized graph input and output, by public name."""
    facts: dict[str, dict[str, Any]] = {}
    for value in graph.inputs:
        for user in value.users:
            if isinstance(user.op, ops.IntQuantize):
                facts[value.name] = _quantization(user.op)
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        if value.producer is not None and isinstance(value.producer.op, ops.IntDequantize):
            facts[name] = _quantization(value.producer.op)
    return facts


def _quantization(op: ops.IntQuantize | ops.IntDequantize) -> dict[str, Any]:
    return {"scale": list(op.scale), "zero_point": list(op.zero_point), "axis": op.axis}


def memory_facts(session: "Session") -> dict[str, Any]:
    """Arena of one sample as planned, and the least that liveness allows."""
    plan = session.plan_for_one_sample()
    return {"arena_bytes": plan.peak_bytes, "arena_lower_bound_bytes": plan.lower_bound_bytes}


def model_facts(model: "str | os.PathLike[str] | bytes | ModelProto") -> tuple[int, str]:
    """Size and SHA-256 of the model's own bytes (external data not counted)."""
    if isinstance(model, (str, os.PathLike)):
        with Path(model).open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            return stream.tell(), digest
    if isinstance(model, bytes | bytearray | memoryview):
        data = bytes(model)
    else:
        data = model.SerializeToString(deterministic=True)
    return len(data), hashlib.sha256(data).hexdigest()
