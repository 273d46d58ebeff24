"""The float model's outputs, kept from the calibration run for the comparison with the integer model."""

from collections.abc import Callable, Mapping

import numpy as np

from qcompiler.calibration.data import Batch
from qcompiler.ir import AnyArray, Graph
from qcompiler.ir.types import split_dim

_MOST_BYTES = 256 << 20


class FloatOutputs:
    """Outputs by sample, as many as fit in 256 MB.

    Args:
        graph: the model; nothing is kept where an output has no axis of samples.
        limit: most samples that are wanted.
        on_first: called with the inputs of the first sample when its outputs have been kept, while the calibration run
            goes on.
    """

    def __init__(
        self, graph: Graph, limit: int, on_first: Callable[[Mapping[str, AnyArray]], object] | None = None
    ) -> None:
        batched = all(isinstance(v.type.shape[0], str) for v in graph.inputs if v.type.rank)
        by_sample = all(v.type.rank and split_dim(v.type.shape[0])[1] is not None for v in graph.outputs)
        self._limit = limit if by_sample or not batched else 0
        self._samples: list[dict[str, AnyArray]] = []
        self._bytes = 0
        self._on_first = on_first

    def add(self, batch: Batch, outputs: Mapping[str, AnyArray]) -> None:
        """Keep the outputs of a batch, the one after the last; none after one that did not fit."""
        if batch.first != len(self._samples) or batch.first >= self._limit:
            return
        self._bytes += sum(array.nbytes for array in outputs.values())
        if self._bytes > _MOST_BYTES:
            return
        if batch.first == 0 and self._on_first is not None:
            self._on_first({name: array[: len(array) // batch.size] for name, array in batch.feeds.items()})
        if batch.size == 1:
            self._samples.append(dict(outputs))
            return
        rows = {name: array.shape[0] // batch.size for name, array in outputs.items()}
        self._samples += [
            {name: array[i * rows[name] : (i + 1) * rows[name]] for name, array in outputs.items()}
            for i in range(batch.size)
        ]

    def take(self, first: int, count: int) -> dict[str, AnyArray] | None:
        """The outputs of `count` samples from `first` on as of one batch; None unless all of them were kept."""
        kept = self._samples[first : first + count]
        if len(kept) < count:
            return None
        if count == 1:
            return kept[0]
        return {name: np.concatenate([sample[name] for sample in kept]) for name in kept[0]}
