"""Pooling and reduction."""

import numpy as np

from qcompiler.ir import DType
from qcompiler.ir.ops import AveragePool, MaxPool, ReduceMean
from qcompiler.ir.types import AnyArray
from qcompiler.runtime.reference.real import Real
from qcompiler.runtime.reference.registry import Domain, reference
from qcompiler.runtime.reference.windows import (
    from_channels_first,
    sliding_windows,
    to_channels_first,
    window_counts,
)


@reference(MaxPool, Domain.EITHER)
def max_pool(op: MaxPool, x: AnyArray) -> AnyArray:
    # Padding never wins: the smallest value of the dtype.
    lowest = -np.inf if np.issubdtype(x.dtype, np.floating) else DType.from_numpy(x.dtype).limits[0]
    windows = sliding_windows(
        to_channels_first(x, op.layout), op.kernel, op.strides, op.dilations, op.pads, lowest,
        ceil_mode=op.ceil_mode,
    )  # fmt: skip
    largest: AnyArray = windows.max(tuple(range(-len(op.kernel), 0)))
    return from_channels_first(largest, op.layout)


@reference(AveragePool)
def average_pool(op: AveragePool, x: Real) -> Real:
    windows = sliding_windows(x, op.kernel, op.strides, op.dilations, op.pads, 0.0, ceil_mode=op.ceil_mode)
    counts = window_counts(
        x.shape[2:], op.kernel, op.strides, op.dilations, op.pads,
        ceil_mode=op.ceil_mode, include_pad=op.count_include_pad,
    )  # fmt: skip
    total: Real = windows.sum(tuple(range(-len(op.kernel), 0)))
    # A window over nothing has mean zero.
    return total / np.maximum(counts, 1)


@reference(ReduceMean)
def reduce_mean(op: ReduceMean, x: Real) -> Real:
    mean: Real = x.mean(op.axes, keepdims=op.keepdims)
    return mean
