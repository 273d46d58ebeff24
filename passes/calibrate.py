"""`calibrate`: run the observed graph over samples and fill the observers' ranges in."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.calibration.data import Batch
from qcompiler.calibration.lanes import in_order, peeked
from qcompiler.calibration.methods import check_method, choose_range
from qcompiler.calibration.run import ObservedGraph
from qcompiler.calibration.synthetic import SAMPLES, synthetic_feeds
from qcompiler.errors import CalibrationDataError
from qcompiler.ir import Graph, Node, Quantization, Stage, ops
from qcompiler.ir.types import bind_shape, split_dim
from qcompiler.pass_manager import Pass, PassContext, register_pass
from qcompiler.passes.precision import wide_values
from qcompiler.runtime.cores import thread_count
from qcompiler.runtime.reference import bind_feeds

_BATCH_BYTES = 8 << 20  # so that a value is counted while it is in the cache, and few samples make no long batches
_MOST_SAMPLES = 32
_MOST_BYTES = 1 << 30  # of the observed values of all batches that are run at a time
_OUTLIER_RATIO = 50.0


@register_pass
@dataclass(frozen=True)
class Calibrate(Pass):
    """Collect statistics of every observed value and choose its range.

        observe(x){key="x"}                          before
        observe(x){key="x", low=-1.5, high=2.25}     after

    Why: a scale needs a range, and the range of most values depends on the data. The statistics are exact and
    independent of batches and order (`qcompiler.calibration.statistics`); `method`, or else the
    compilation's, chooses the range from them. Values with 16 bits always keep their extremes: they have
    bits enough. Ranges that are there already, and those of functions bounded by nature, are left alone.

    Without data the graph runs on 16 made-up samples, with a warning; results that were batch-normalized have the
    ranges that `record-batch-norm` noted instead.

    Known limits: a NaN or Inf anywhere is an error, even where the model's output would not depend on it.
    """

    name: ClassVar[str] = "calibrate"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.OBSERVED})
    method: str = ""

    def run(self, graph: Graph, context: PassContext) -> bool:
        method = self.method or context.calibration_method
        check_method(method)  # before the data is read, which can take long
        observers = {key: node for node in graph.nodes() if (key := _open_key(node)) is not None}
        if not observers:
            return False
        if context.calibration is None:
            context.warn(_NO_DATA)
        observed = _collect(graph, observers, context)
        wide = wide_values(graph)
        methods = {key: "minmax" if node.result in wide else method for key, node in observers.items()}
        facts = _facts(observed, methods, context)
        for (key, node), found in zip(observers.items(), facts, strict=True):
            low, high = found.chosen
            if context.calibration is None:
                low, high = _from_batch_norm(node, context) or (low, high)
            node.op = ops.Observe(key, low, high)
            self._report(node, found, context)
        context.calibration_digest = _digest(dict(zip(observers, facts, strict=True)))
        return True

    def _report(self, node: Node, found: "_Facts", context: PassContext) -> None:
        """Say what is odd about a value."""
        if found.minimum == found.maximum:
            context.remark(self, node, f"it is {found.minimum:g} everywhere on the calibration data")
            return
        extremes = max(-found.minimum, found.maximum)
        if extremes > _OUTLIER_RATIO * found.usual:
            usual = found.usual
            context.warn(
                f"%{node.operands[0].name} reaches {extremes:.4g}, but 99.98 % of its elements lie within "
                f"±{usual:.4g}: check the calibration data for outliers, or use --calibration-method percentile"
            )


_NO_DATA = (
    "no calibration data: ranges come from batch normalization statistics, bounded functions and 16 made-up standard "
    "normal samples, which can cost most of the accuracy where real inputs look different; give 100 to 1000 typical "
    "inputs with --calibrate DATA"
)


def _open_key(node: Node) -> str | None:
    """The key of an observer whose range has to come from data."""
    match node.op:
        case ops.Observe(key=key, low=None):
            producer = node.operands[0].producer
            bounded = producer is not None and producer.op.quantization is Quantization.FIXED_RANGE
            return None if bounded else key
        case _:
            return None


def _from_batch_norm(node: Node, context: PassContext) -> tuple[float, float] | None:
    """The range that batch normalization tells of an observed value, within its producer's clamp."""
    producer = node.operands[0].producer
    known = None if producer is None else context.batch_norm_ranges.get(producer.name)
    if producer is None or known is None or not isinstance(producer.op, ops.Conv | ops.Gemm):
        return None
    low, high = producer.op.clamp or (float("-inf"), float("inf"))
    return min(max(known[0], low), 0.0), max(min(known[1], high), 0.0)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is wanted of a value's statistics: its range, its extremes and its largest usual magnitude, a digest."""

    chosen: tuple[float, float]
    minimum: float
    maximum: float
    usual: float
    digest: str


def _facts(observed: ObservedGraph, methods: dict[str, str], context: PassContext) -> list[_Facts]:
    """Of all keys in order. NumPy computes without the interpreter lock, so threads help."""

    def facts(key: str) -> _Facts:
        found = observed.statistics(key)
        usual = max(map(abs, choose_range(found, "percentile")))
        chosen = choose_range(found, methods[key])
        return _Facts(chosen, found.minimum, found.maximum, usual, found.digest())

    with ThreadPoolExecutor(thread_count(context.threads)) as pool:
        return list(pool.map(facts, methods))


def _collect(graph: Graph, observers: dict[str, Node], context: PassContext) -> ObservedGraph:
    """The graph with all samples counted.

    A batch for each thread takes less time than all threads on each batch in turn: they need not wait for each other
    after each instruction.
    """
    total = 0
    if context.progress is not None:  # counting reads the data once more
        total = SAMPLES if context.calibration is None else len(context.calibration)
    threads = thread_count(context.threads)
    first, batches = peeked(_batches(graph, _batch_size(observers), context), 1)
    nbytes = max(1, _observed_bytes(observers, bind_feeds(graph, first[0].feeds))) if first else 1
    first, batches = peeked(batches, max(1, min(threads, _MOST_BYTES // nbytes)))
    lanes = max(1, len(first))
    observed = ObservedGraph(graph, list(observers), threads // lanes, context.progress, lanes)
    if first:
        observed.prepare(first[0].feeds)
    odd = False
    with closing(in_order(lambda batch, lane: observed.add(batch.feeds, lane), batches, lanes)) as added:
        for batch, outputs in added:
            if observed.first_not_finite() is not None:  # in this batch, or in one that was begun after it
                odd = True
                _check_finite(graph, observers, batch, context)
            if context.float_outputs is not None:
                context.float_outputs.add(batch, outputs)
            if context.progress is not None:
                context.progress("calibrating", batch.first + batch.size, total)
    if odd:
        raise CalibrationDataError("the calibration data makes NaN or Inf in the float model")
    return observed


def _batches(graph: Graph, size: int, context: PassContext) -> Iterator[Batch]:
    if context.calibration is None:
        for sample in range(SAMPLES):
            yield Batch(synthetic_feeds(graph, sample), None, sample, 1)
        return
    yield from context.calibration.batches(size)


def _batch_size(observers: dict[str, Node]) -> int:
    """Samples at a time, so that all observed values together stay below a fixed size if dimensions are 1."""
    shapes = (node.result.type.shape for node in observers.values())
    symbols = {symbol: 1 for shape in shapes for dim in shape if (symbol := split_dim(dim)[1]) is not None}
    return max(1, min(_MOST_SAMPLES, _BATCH_BYTES // max(1, _observed_bytes(observers, symbols))))


def _observed_bytes(observers: dict[str, Node], symbols: Mapping[str, int]) -> int:
    """Of all observed values; more than an arena takes, which holds only some of them at a time."""
    return sum(4 * math.prod(bind_shape(node.result.type.shape, symbols)) for node in observers.values())


def _check_finite(graph: Graph, observers: dict[str, Node], batch: Batch, context: PassContext) -> None:
    """Raise the error that names the first sample of the batch, and the first value in it, with a NaN or Inf."""
    observed = ObservedGraph(graph, list(observers), context.threads)
    for sample in range(batch.size):
        rows = {name: array.shape[0] // batch.size for name, array in batch.feeds.items()}
        observed.add({n: a[sample * rows[n] : (sample + 1) * rows[n]] for n, a in batch.feeds.items()})
        if (key := observed.first_not_finite()) is not None:
            value = observers[key].operands[0]
            where = f"computed by node '{value.producer.name}'" if value.producer else "an input"
            raise CalibrationDataError(
                f"sample {batch.first + sample} of the calibration data makes NaN or Inf in %{value.name} "
                f"({where}): the float model itself overflows there; remove or repair that sample"
            )


def _digest(facts: dict[str, _Facts]) -> str:
    """SHA-256 of all statistics, for the provenance of the compiled model."""
    digest = hashlib.sha256()
    for key, found in facts.items():
        digest.update(f"{key}\0{found.digest}\n".encode())
    return digest.hexdigest()
