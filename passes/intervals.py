"""Interval arithmetic on ops: from the ranges of operands to one that holds the result."""

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.errors import PluginError
from qcompiler.ir import AnyArray, Op, ops

Interval = tuple[float, float]

_SAMPLES = 1025
"""Points of an interval at which a unary function is evaluated: exact for monotone ones, close for the others."""


def result_interval(op: Op, operands: Sequence[Interval | None], arrays: Sequence[AnyArray | None]) -> Interval | None:
    """A range that holds the result of `op`, or None where it cannot be told.

    `arrays` has the elements of constant operands. Bounded functions need no operand's range.
    """
    bounded = op.result_range()
    if bounded is not None:
        return bounded
    if any(interval is None for interval in operands):
        return None
    known = [interval for interval in operands if interval is not None]
    found = _unclamped(op, known, arrays)
    clamp = getattr(op, "clamp", None)
    if found is None or clamp is None:
        return found
    return min(max(found[0], clamp[0]), clamp[1]), max(min(found[1], clamp[1]), clamp[0])


def _unclamped(op: Op, x: Sequence[Interval], arrays: Sequence[AnyArray | None]) -> Interval | None:
    match op:
        case ops.Conv() | ops.Gemm():
            bias = arrays[2] if len(arrays) > 2 else None
            return None if arrays[1] is None else _accumulate(x[0], arrays[1], bias)
        case ops.Add() | ops.Sub() | ops.Mul() | ops.Div():
            return _binary(op, x[0], x[1])
        case ops.Concat():
            return min(low for low, _ in x), max(high for _, high in x)
        case ops.AveragePool() | ops.ReduceMean():
            # Padding may be counted with value 0.
            return min(x[0][0], 0.0), max(x[0][1], 0.0)
        case ops.PRelu():
            slopes = (*x[1], 1.0)
            return _corners([a * s for a in x[0] for s in slopes if a < 0 or s == 1.0] + [0.0])
        case ops.Unary():
            return _unary(op, x[0])
        case _:
            return None


def _binary(op: Op, a: Interval, b: Interval) -> Interval | None:
    match op:
        case ops.Add():
            return a[0] + b[0], a[1] + b[1]
        case ops.Sub():
            return a[0] - b[1], a[1] - b[0]
        case ops.Mul():
            return _corners([p * q for p in a for q in b])
        case _:
            return None if b[0] <= 0 <= b[1] else _corners([p / q for p in a for q in b])


def _accumulate(x: Interval, weight: AnyArray, bias: AnyArray | None) -> Interval:
    """Σ x·w + b over every output channel; x widened to hold 0, which is what padding is."""
    low, high = min(x[0], 0.0), max(x[1], 0.0)
    rows = weight.astype(np.float64).reshape(weight.shape[0], -1)
    positive, negative = np.maximum(rows, 0).sum(axis=1), np.minimum(rows, 0).sum(axis=1)
    offset = 0.0 if bias is None else bias.astype(np.float64)
    least = positive * low + negative * high + offset
    most = positive * high + negative * low + offset
    return float(least.min()), float(most.max())


def _unary(op: ops.Unary, x: Interval) -> Interval | None:
    from qcompiler.runtime.reference.unary import real_function

    try:
        function = real_function(op)
    except PluginError:
        return None
    return _corners([function(point) for point in np.linspace(x[0], x[1], _SAMPLES)])


def _corners(values: Sequence[float]) -> Interval | None:
    return (min(values), max(values)) if all(map(math.isfinite, values)) else None
