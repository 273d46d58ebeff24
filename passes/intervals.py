"""Interval arithmetic on ops: from the ranges of operands to one that holds the result."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.errors import PluginError
from qcompiler.ir import AnyArray, Op, ops
from qcompiler.passes.row_blocks import row_blocks

Interval = tuple[float, float]

_INFINITELY_FAR = 1e6
_SAMPLES = 1025
"""Points of an interval at which a unary function is evaluated: exact for monotone ones, close for the others."""


def result_interval(op: Op, operands: Sequence[Interval | None], arrays: Sequence[AnyArray | None]) -> Interval | None:
    """A range that holds the result of `op`, or None where it cannot be told.

    `arrays` has the elements of constant operands. Bounded functions need no operand's range, but a unary one gives
    less than its bounds where its operand is short: tanh of [−0.1, 0.1] deserves all the steps that there are.
    """
    bounded = op.result_range()
    if bounded is not None and not (isinstance(op, ops.Unary) and operands[0] is not None):
        return bounded
    if any(interval is None for interval in operands):
        return None
    known = [interval for interval in operands if interval is not None]
    found = _unclamped(op, known, arrays)
    clamp = getattr(op, "clamp", None)
    if found is None or clamp is None:
        return found
    return min(max(found[0], clamp[0]), clamp[1]), max(min(found[1], clamp[1]), clamp[0])


def useful_interval(op: Op, operand: Interval, result: Interval) -> Interval:
    """The part of the operand's range that a unary op tells apart when its result has 8 bits over `result`.

    Left and right of it the function is within a quarter of a step of its limit at infinity, so the operand may
    saturate there. A cut of less than a twentieth is left undone: it gains nothing.
    """
    function = _real_function(op)
    if function is None:
        return operand
    points = np.linspace(operand[0], operand[1], _SAMPLES)
    values = np.array([function(point) for point in points.tolist()])
    tolerance = (result[1] - result[0]) / 255 / 4
    with np.errstate(invalid="ignore"):  # a function without a limit is not flat
        flat_left = np.abs(values - function(-_INFINITELY_FAR)) <= tolerance
        flat_right = np.abs(values - function(_INFINITELY_FAR)) <= tolerance
    first = max(int(np.logical_and.accumulate(flat_left).sum()) - 1, 0)
    last = min(_SAMPLES - int(np.logical_and.accumulate(flat_right[::-1]).sum()), _SAMPLES - 1)
    if not 0 < last - first < _SAMPLES * 19 // 20:
        return operand
    return useful_interval(op, (float(points[first]), float(points[last])), result)  # on a finer grid


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
    rows = weight.reshape(len(weight), -1)
    positive, negative = np.zeros(len(rows)), np.zeros(len(rows))
    for part in row_blocks(rows):
        wide = rows[part].astype(np.float64)
        np.maximum(wide, 0).sum(axis=1, out=positive[part])
        np.minimum(wide, 0).sum(axis=1, out=negative[part])
    offset = 0.0 if bias is None else bias.astype(np.float64)
    least = positive * low + negative * high + offset
    most = positive * high + negative * low + offset
    return float(least.min()), float(most.max())


def _unary(op: ops.Unary, x: Interval) -> Interval | None:
    function = _real_function(op)
    return None if function is None else _corners([function(point) for point in np.linspace(x[0], x[1], _SAMPLES)])


def _real_function(op: Op) -> Callable[[float], float] | None:
    from qcompiler.runtime.reference.unary import real_function

    try:
        return real_function(op)
    except PluginError:
        return None


def _corners(values: Sequence[float]) -> Interval | None:
    return (min(values), max(values)) if all(map(math.isfinite, values)) else None
