"""From statistics to a range: minmax, percentile, entropy and mse.

Every method is a deterministic function of `Statistics`, so all of them can be had from one reading of the
data. A method returns (low, high) with low <= 0 <= high, because a quantized tensor must hold 0 exactly.
"""

import ctypes
from collections.abc import Callable
from functools import cache

import numpy as np
import numpy.typing as npt

from qcompiler.calibration.statistics import Histogram, Statistics
from qcompiler.errors import PluginError, UsageError
from qcompiler.suggestions import did_you_mean

Range = tuple[float, float]
Method = Callable[[Statistics], Range]
Floats = npt.NDArray[np.float64]

LEVELS = 256
"""Quantization levels that entropy and mse optimise for."""
PERCENTILE = 99.99
_ENTROPY_BINS = 8192
_SHRINK_STEPS = 64

_METHODS: dict[str, Method] = {}


def calibration_method(name: str) -> Callable[[Method], Method]:
    """Function decorator: make a method available as `--calibration-method NAME`.

    Raises:
        PluginError: the name is taken.
    """

    def register(method: Method) -> Method:
        if name in _METHODS:
            raise PluginError(f"calibration method {name!r} is taken by {_METHODS[name].__qualname__}")
        _METHODS[name] = method
        return method

    return register


def method_names() -> list[str]:
    """All registered methods by name."""
    return sorted(_METHODS)


def check_method(name: str) -> None:
    """Raise UsageError unless there is a method of that name."""
    if name not in _METHODS:
        hint = did_you_mean(name, _METHODS)
        raise UsageError(f"there is no calibration method {name!r}; there are {', '.join(method_names())}{hint}")


def choose_range(statistics: Statistics, method: str) -> Range:
    """The range that `method` chooses; (0, 0) where there are no finite elements or all are 0.

    Raises:
        UsageError: there is no such method.
    """
    check_method(method)
    if statistics.count == 0:
        return 0.0, 0.0
    low, high = _METHODS[method](statistics)
    return min(low, 0.0), max(high, 0.0)


@calibration_method("minmax")
def minmax(statistics: Statistics) -> Range:
    """The extremes: nothing saturates."""
    return statistics.minimum, statistics.maximum


@calibration_method("percentile")
def percentile(statistics: Statistics, percent: float = PERCENTILE) -> Range:
    """All but the outermost 0.01 % of the elements at each end.

    The cut lies at the outer edge of the bin that holds the element of that rank, so at most 2^-7 of its
    magnitude further out.
    """
    histogram = statistics.histogram()
    upto = np.cumsum(histogram.count)
    total = int(upto[-1])
    outside = int(total * (100.0 - percent) / 100.0)
    first = int(np.searchsorted(upto, outside, side="right"))
    last = int(np.searchsorted(upto, total - outside, side="left"))
    return float(histogram.low[first]), float(histogram.high[last])


@calibration_method("mse")
def mse(statistics: Statistics) -> Range:
    """The range with the least mean squared error of 8-bit quantization, saturation included.

    Both ends are shrunk in turn over 64 steps of 1/64 each.
    """
    points, weights = _sample(statistics.histogram())
    return _shrink(
        min(statistics.minimum, 0.0),
        max(statistics.maximum, 0.0),
        lambda low, high: _squared_errors(points, weights, low, high),
    )


def _squared_errors(points: Floats, weights: Floats, low: Floats, high: Floats) -> Floats:
    """f64[ranges]: sum of squared errors of the weighted points for each range, none of which is empty."""
    scales = (high - low) / (LEVELS - 1)
    arrays = [points, weights, scales, np.rint(-low / scales), np.empty_like(scales)]
    words = np.array([*(array.ctypes.data for array in arrays), len(points), len(scales)], np.int64)
    _errors_kernel()(words.ctypes.data, 0, 1)
    return arrays[-1]


@cache
def _errors_kernel() -> Callable[[int, int, int], None]:
    """The compiled `range_errors`; a call of it releases the interpreter lock."""
    from qcompiler.runtime.kernels import range_errors  # noqa: F401  # registers the kernel
    from qcompiler.runtime.kernels.registry import kernel_named

    kind = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
    return kind(kernel_named("range_errors").address)


def _sample(histogram: Histogram) -> tuple[Floats, Floats]:
    """(values, weights): four points spread over each bin that is wide beside a quantization step, one for others.

    Values below 2^-16 of the largest are left out: whatever the range, their error is of no account.
    """
    largest = max(abs(float(histogram.low[0])), abs(float(histogram.high[-1])))
    seen = np.maximum(np.abs(histogram.low), np.abs(histogram.high)) > largest / 2**16
    low, width, count = histogram.low[seen], (histogram.high - histogram.low)[seen], histogram.count[seen] / 1.0
    wide = width > largest / (4 * LEVELS)
    spread = (low[wide, None] + width[wide, None] * np.array([0.125, 0.375, 0.625, 0.875])).reshape(-1)
    points = np.concatenate([low[~wide] + width[~wide] / 2, spread])
    return points, np.concatenate([count[~wide], np.repeat(count[wide] / 4, 4)])


@calibration_method("entropy")
def entropy(statistics: Statistics) -> Range:
    """The range whose 8-bit quantization loses the least information (Kullback-Leibler divergence).

    After S. Migacz, "8-bit Inference with TensorRT", GTC 2017, for both ends in turn. Elements that are
    exactly 0 are left out: quantization keeps them.
    """
    low, high = min(statistics.minimum, 0.0), max(statistics.maximum, 0.0)
    if low == high:
        return low, high
    density = _uniform_bins(statistics, low, high)
    width = (high - low) / _ENTROPY_BINS

    def divergence(new_low: float, new_high: float) -> float:
        first = round((new_low - low) / width)
        last = _ENTROPY_BINS - round((high - new_high) / width)
        if last - first < LEVELS:
            return np.inf
        return _divergence(density, first, last)

    return _shrink(low, high, lambda lows, highs: np.array([*map(divergence, lows.tolist(), highs.tolist())]))


def _shrink(low: float, high: float, costs: Callable[[Floats, Floats], Floats]) -> Range:
    """Move each end towards 0, twice in turn, to the cheapest of 64 evenly spaced candidates, the first of equal ones.

    Args:
        low: the end to move up, at most 0.
        high: the end to move down, at least 0.
        costs: of ranges given by their ends, f64[ranges] each.
    """
    if low == high:
        return low, high
    full, best = [low, high], [low, high]
    least = float(costs(np.array([low]), np.array([high]))[0])
    steps = np.arange(1, _SHRINK_STEPS)
    tried: list[float | None] = [None, None]  # where the other end was when an end was moved last
    for end in (1, 0, 1, 0):
        other = best[1 - end]
        if full[end] == 0.0 or tried[end] == other:
            continue
        tried[end] = other
        ends = [np.full(steps.size, other), full[end] * steps / _SHRINK_STEPS]
        found = costs(*(ends if end else ends[::-1]))
        first = int(np.argmin(found))
        if found[first] < least:
            best[end], least = float(ends[1][first]), float(found[first])
    return best[0], best[1]


def _uniform_bins(statistics: Statistics, low: float, high: float) -> Floats:
    """f64[8192]: elements other than 0 in equal bins over [low, high]; a bit pattern's bin is spread evenly."""
    histogram = statistics.histogram()
    edges = np.linspace(low, high, _ENTROPY_BINS + 1)
    below = _cumulative(histogram, edges)
    return np.maximum(np.diff(below), 0.0)


def _cumulative(histogram: Histogram, edges: Floats) -> Floats:
    """How many elements other than 0 lie below each edge."""
    nonzero = (histogram.low > 0) | (histogram.high < 0)
    low, high, count = histogram.low[nonzero], histogram.high[nonzero], histogram.count[nonzero]
    if not count.size:
        return np.zeros_like(edges)
    upto = np.concatenate([[0.0], np.cumsum(count.astype(np.float64))])
    index = np.clip(np.searchsorted(low, edges, side="right") - 1, 0, count.size - 1)
    width = np.maximum(high - low, 2.0**-149)  # no two float32 numbers are closer
    inside = np.clip((edges - low[index]) / width[index], 0.0, 1.0)
    return upto[index] + inside * count[index]


def _divergence(density: Floats, first: int, last: int) -> float:
    """KL(P || Q): P has the outliers moved to its ends, Q is what 256 levels over [first, last) keep."""
    kept = density[first:last]
    p = kept.copy()
    p[0] += density[:first].sum()
    p[-1] += density[last:].sum()
    starts = np.unique(np.arange(LEVELS) * kept.size // LEVELS)
    occupied = kept > 0
    mass = np.add.reduceat(kept, starts)
    cells = np.add.reduceat(occupied.astype(np.float64), starts)
    sizes = np.diff(np.append(starts, kept.size))
    q = np.where(occupied, np.repeat(mass / np.maximum(cells, 1.0), sizes), 0.0)
    total_p, total_q = p.sum(), q.sum()
    if total_p == 0 or total_q == 0:
        return np.inf
    # Where Q is empty and P is not (a cut-off tail in an empty end bin), a tiny mass stands for "very unlikely".
    support = p > 0
    ratio = (p[support] / total_p) / np.maximum(q[support] / total_q, 1e-12)
    return float(np.sum(p[support] / total_p * np.log(ratio)))
