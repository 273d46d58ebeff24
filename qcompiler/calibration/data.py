"""Samples for calibration and validation: checked, and split into batches of any size.

Along the first axis of every array lie the samples. Where the model fixes its first dimension, one sample
is as many rows as that dimension says, and batches hold one sample.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from qcompiler.calibration.readers import LABELS, LONE, DataSource, Piece, open_reader
from qcompiler.errors import CalibrationDataError
from qcompiler.ir import AnyArray, Graph, QuantParams, TensorType
from qcompiler.ir.types import format_shape, split_dim


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive samples.

    Attributes:
        feeds: an array for every model input.
        labels: of these samples, one integer a row, if the data has labels.
        first: index of the first sample in the whole data.
        size: how many there are.
    """

    feeds: dict[str, AnyArray]
    labels: AnyArray | None
    first: int
    size: int


@dataclass(frozen=True, slots=True)
class _Checked:
    """A piece that fits the model."""

    origin: str
    feeds: dict[str, AnyArray]
    labels: AnyArray | None
    samples: int


class CalibrationSource:
    """The samples of DATA for the inputs of a model; can be read any number of times.

    Attributes:
        origin: the path or function as given, or "memory".
        is_batched: whether the model takes several samples at once.

    Args:
        data: in any of the forms that `open_reader` takes.
        inputs: name and type of each.
        quantization: what the elements of integer inputs stand for, for the messages.

    Raises:
        CalibrationDataError: here for data that is not there, while reading for data that does not fit; the message
            names file, array and sample.
    """

    def __init__(
        self,
        data: DataSource,
        inputs: Mapping[str, TensorType],
        quantization: Mapping[str, QuantParams] = MappingProxyType({}),
    ) -> None:
        self.origin = os.fspath(data) if isinstance(data, str | os.PathLike) else "memory"
        self._read = open_reader(data)
        self._inputs = dict(inputs)
        self._quantization = quantization
        self._rows = {name: _rows_per_sample(name, t) for name, t in self._inputs.items()}
        self.is_batched = all(isinstance(t.shape[0], str) for t in self._inputs.values())
        self._samples: int | None = None

    def __len__(self) -> int:
        """Number of samples; reads all of the data unless that has been done before."""
        if self._samples is None:
            self._samples = sum(self._check(piece).samples for piece in self._read())
        return self._samples

    def batches(self, size: int) -> Iterator[Batch]:
        """All samples in order, `size` at a time; fewer in the last batch, one where the model fixes it."""
        size = size if self.is_batched else 1
        held: list[_Checked] = []
        first = seen = 0
        labelled: bool | None = None
        for piece in map(self._check, self._read()):
            if labelled is not None and labelled != (piece.labels is not None):
                raise CalibrationDataError(f"{piece.origin}: some of the data has {LABELS!r} and some has not")
            labelled = piece.labels is not None
            if held and not _same_rows(held[0], piece):
                yield _join(held, first)
                first, held = seen, []
            start = 0
            while start < piece.samples:
                stop = min(piece.samples, start + size - (seen - first))
                held.append(self._part(piece, start, stop))
                seen += stop - start
                start = stop
                if seen - first == size:
                    yield _join(held, first)
                    first, held = seen, []
        if held:
            yield _join(held, first)
        if not seen:
            raise CalibrationDataError(f"{self.origin}: the data holds no samples")
        self._samples = seen

    def _check(self, piece: Piece) -> _Checked:
        """Names, shapes and dtypes of one piece."""
        arrays = {name: array for name, array in piece.arrays.items() if name != LABELS}
        if len(self._inputs) == 1 and len(arrays) == 1 and (LONE in arrays or not set(arrays) & set(self._inputs)):
            (only,) = self._inputs
            arrays = {only: next(iter(arrays.values()))}
        missing = [name for name in self._inputs if name not in arrays]
        if missing:
            there = ", ".join(repr(n) for n in piece.arrays if n != LONE) or "one without a name"
            raise CalibrationDataError(
                f"{piece.origin}: no array named {', '.join(map(repr, missing))}; the model's inputs are "
                f"{', '.join(map(repr, self._inputs))}, the data's arrays {there}"
            )
        counts = {name: self._count(piece.origin, name, arrays[name]) for name in self._inputs}
        if len(set(counts.values())) > 1:
            raise CalibrationDataError(
                f"{piece.origin}: the arrays hold different numbers of samples: "
                + ", ".join(f"{name!r} {count}" for name, count in counts.items())
            )
        samples = next(iter(counts.values()))
        if samples == 0:
            raise CalibrationDataError(f"{piece.origin}: array {next(iter(counts))!r} is empty")
        feeds = {name: arrays[name] for name in self._inputs}
        return _Checked(piece.origin, feeds, self._check_labels(piece, feeds), samples)

    def _count(self, origin: str, name: str, array: AnyArray) -> int:
        """Samples in the array of one input."""
        expected = self._inputs[name]
        shape = format_shape(("samples", *expected.shape[1:]))
        if array.dtype != expected.dtype.numpy:
            raise CalibrationDataError(
                f"{origin}: array {name!r} has dtype {array.dtype}, the model takes {expected.dtype.numpy}; "
                + self._conversion(name, array.dtype)
            )
        if array.ndim != expected.rank or any(
            isinstance(dim, int) and dim != size for dim, size in zip(expected.shape[1:], array.shape[1:], strict=True)
        ):
            lone = array.ndim == expected.rank - 1
            hint = "; a single sample gets its first axis by array[None]" if lone else ""
            raise CalibrationDataError(
                f"{origin}: array {name!r} has shape {format_shape(array.shape)}, expected {shape}{hint}"
            )
        rows = self._rows[name]
        if array.shape[0] % rows:
            raise CalibrationDataError(
                f"{origin}: array {name!r} has {array.shape[0]} rows, no multiple of the {rows} that the model takes"
            )
        return int(array.shape[0]) // rows

    def _conversion(self, name: str, given: np.dtype[Any]) -> str:
        """How an array of dtype `given` becomes one of the input's."""
        dtype, quant = self._inputs[name].dtype, self._quantization.get(name)
        if given.kind != "f" or quant is None or not quant.is_per_tensor:
            return f"prepare the samples as for the model itself and convert with .astype(numpy.{dtype.numpy})"
        low, high = dtype.limits
        return (
            "it was compiled with --io integer: quantize the samples as "
            f"numpy.clip(numpy.rint(x / numpy.float32({quant.scale[0]!r})) + {quant.zero_point[0]}, {low}, {high})"
            f".astype(numpy.{dtype.numpy})"
        )

    def _check_labels(self, piece: Piece, feeds: dict[str, AnyArray]) -> AnyArray | None:
        labels = piece.arrays.get(LABELS)
        if labels is None or LABELS in self._inputs:
            return None
        rows = next(iter(feeds.values())).shape[0]
        if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
            raise CalibrationDataError(
                f"{piece.origin}: {LABELS!r} is {labels.dtype}{format_shape(labels.shape)}, expected one integer "
                f"for each of the {rows} samples"
            )
        return labels

    def _part(self, piece: _Checked, start: int, stop: int) -> _Checked:
        """Samples start..stop of a piece, without NaN or Inf."""
        feeds: dict[str, AnyArray] = {}
        for name, array in piece.feeds.items():
            rows = self._rows[name]
            part = feeds[name] = array[start * rows : stop * rows]
            if np.issubdtype(part.dtype, np.floating) and not np.isfinite(part).all():
                bad = ~np.isfinite(part.reshape(part.shape[0], -1)).all(axis=1)
                sample = start + int(np.flatnonzero(bad)[0]) // rows
                raise CalibrationDataError(f"{piece.origin}: sample {sample} of array {name!r} holds NaN or Inf")
        rows = next(iter(self._rows.values()))
        labels = None if piece.labels is None else piece.labels[start * rows : stop * rows]
        return _Checked(piece.origin, feeds, labels, stop - start)


def open_source(
    data: DataSource, graph: Graph, quantization: Mapping[str, QuantParams] = MappingProxyType({})
) -> CalibrationSource:
    """The samples of `data` for the inputs of `graph`; `quantization` of those that are integers, for messages.

    Raises:
        CalibrationDataError: as `CalibrationSource`.
    """
    return CalibrationSource(data, {value.name: value.type for value in graph.inputs}, quantization)


def _rows_per_sample(name: str, value_type: TensorType) -> int:
    """Rows of the input's array that make one sample.

    Raises:
        CalibrationDataError: the input is a scalar or empty.
    """
    rows = split_dim(value_type.shape[0])[0] if value_type.rank else 0
    if rows == 0:
        raise CalibrationDataError(
            f"input {name!r} of shape {format_shape(value_type.shape)} has no axis along which samples could lie"
        )
    return rows


def _same_rows(a: _Checked, b: _Checked) -> bool:
    """Whether the pieces agree on all axes but the first, so that their samples can be one batch."""
    return all(a.feeds[name].shape[1:] == array.shape[1:] for name, array in b.feeds.items())


def _join(parts: list[_Checked], first: int) -> Batch:
    if len(parts) == 1:  # of the caller's arrays nothing is copied
        (part,) = parts
        return Batch({n: np.ascontiguousarray(x) for n, x in part.feeds.items()}, part.labels, first, part.samples)
    feeds = {name: np.concatenate([p.feeds[name] for p in parts]) for name in parts[0].feeds}
    labels = [p.labels for p in parts if p.labels is not None]
    return Batch(feeds, np.concatenate(labels) if labels else None, first, sum(p.samples for p in parts))
