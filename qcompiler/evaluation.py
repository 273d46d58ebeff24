"""Running the float model and its compiled form side by side on data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.calibration.data import CalibrationSource
from qcompiler.calibration.outputs import FloatOutputs
from qcompiler.errors import CalibrationDataError
from qcompiler.ir import AnyArray, Graph
from qcompiler.metrics import Classification, SignalToNoise

if TYPE_CHECKING:
    from qcompiler.runtime.session import Session

_BATCH, _SMALLEST_BATCH = 8, 4
_ROUNDING = 1e-8  # noise to signal, -80 dB: float32 passes that only reorder sums are far below


@dataclass
class Evaluation:
    """What the comparison found.

    Attributes:
        samples: how many were run.
        sqnr: by output name.
        classification: if there is one output of class scores [samples, classes].
    """

    samples: int = 0
    sqnr: dict[str, SignalToNoise] = field(default_factory=dict)
    classification: Classification | None = None


def evaluate(
    float_graph: Graph,
    measured: "Session",
    data: CalibrationSource,
    *,
    threads: int | None = None,
    limit: int | None = None,
    known: FloatOutputs | None = None,
    reference: "Session | None" = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Evaluation:
    """Compare the outputs of a graph and of a compiled session on (at most `limit`) samples of `data`.

    The float outputs that are `known`, of the float passes' graph on the same data, are not computed again, unless
    those of the first sample are not those of `float_graph`: then a pass has changed what the model computes.

    `reference` is a session of `float_graph`, if there is one already.

    Integer outputs (`--io integer`) are compared by their real values.

    Raises:
        CalibrationDataError: the data does not fit the model.
    """
    from qcompiler.runtime.session import Session

    reference = reference or Session(float_graph, threads=threads, progress=progress)
    result = Evaluation(sqnr={name: SignalToNoise() for name in float_graph.output_names})
    scores = _class_scores(float_graph)
    total = len(data) if limit is None else min(limit, len(data))
    if scores is not None:
        result.classification = Classification()
    for batch in data.batches(_batch_size(total)):
        count = min(batch.size, total - result.samples)
        if count <= 0:
            break
        rows = {name: len(array) // batch.size for name, array in batch.feeds.items()}  # a fixed batch is one sample
        feeds = {name: array[: count * rows[name]] for name, array in batch.feeds.items()}
        if known is not None and result.samples == 0 and not _agree(reference, known, feeds, rows):
            known = None
        exact = (known and known.take(result.samples, count)) or reference.run(feeds)
        got = measured.run(feeds)
        for name, noise in result.sqnr.items():
            noise.add(exact[name], got[name])
        if result.classification is not None and scores is not None:
            got_scores = _rows(got[scores])
            labels = None if batch.labels is None else batch.labels[: len(got_scores)]
            _check_labels(data.origin, labels, scores, got_scores.shape[1])
            result.classification.add(_rows(exact[scores]), got_scores, labels)
        result.samples += count
        if progress is not None:
            progress("comparing with the float model", result.samples, total)
    return result


def _batch_size(total: int) -> int:
    """Samples at a time; if possible so that the last batch is no smaller: another size takes another plan."""
    return max((size for size in range(_SMALLEST_BATCH, _BATCH + 1) if total % size == 0), default=_BATCH)


def _agree(reference: "Session", known: FloatOutputs, feeds: dict[str, AnyArray], rows: dict[str, int]) -> bool:
    """Whether the known outputs of the first sample are those of the model, but for rounding."""
    outputs = known.take(0, 1)
    if outputs is None:
        return False
    for name, exact in reference.run({name: array[: rows[name]] for name, array in feeds.items()}).items():
        noise = SignalToNoise()
        noise.add(exact, outputs[name])
        if noise.signal == 0 or not noise.noise <= noise.signal * _ROUNDING:  # nothing to compare, or NaN
            return False
    return True


def _check_labels(origin: str, labels: AnyArray | None, output: str, classes: int) -> None:
    if labels is not None and not 0 <= labels.min() <= labels.max() < classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise CalibrationDataError(
            f"{origin}: 'labels' holds {wrong}, output {output!r} has the classes 0 to {classes - 1}"
        )


def _class_scores(graph: Graph) -> str | None:
    """The name of the output that holds class scores: the only output, [samples, classes >= 2]."""
    if len(graph.outputs) != 1:
        return None
    shape = graph.outputs[0].type.shape
    wide = len(shape) >= 2 and isinstance(shape[1], int) and shape[1] >= 2
    return graph.output_names[0] if wide and all(d == 1 for d in shape[2:]) else None


def _rows(scores: AnyArray) -> AnyArray:
    return np.reshape(scores, (scores.shape[0], -1))
