"""Each method finds the range that it promises."""

import numpy as np
import pytest

from qcompiler.calibration.methods import (
    _sample,
    _squared_errors,
    calibration_method,
    choose_range,
    method_names,
)
from qcompiler.calibration.statistics import Statistics
from qcompiler.errors import PluginError, UsageError


def of(values: np.ndarray) -> Statistics:
    statistics = Statistics()
    statistics.add(values.astype(np.float32))
    return statistics


def quantization_error(values: np.ndarray, low: float, high: float) -> float:
    """Mean squared error of 8 bits over [low, high], the slow way."""
    scale = (high - low) / 255
    zero_point = round(-low / scale)
    q = np.clip(np.rint(values / scale) + zero_point, 0, 255)
    return float(np.mean((values - (q - zero_point) * scale) ** 2))


NORMAL = np.random.default_rng(5).normal(0.0, 1.0, 50_000)
HEAVY = np.random.default_rng(6).standard_t(3.0, 50_000)


def one_by_one(values: Statistics) -> tuple[float, float]:
    """`mse` by a plain loop over all candidates, in the order in which the first of equal ones wins."""
    points, weights = _sample(values.histogram())

    def error(low: float, high: float) -> float:
        scale = (high - low) / 255
        zero_point = np.rint(-low / scale)
        levels = np.clip(np.rint(points / scale) + zero_point, 0, 255) - zero_point
        difference = points - levels * scale
        return float(np.sum(weights * difference * difference))

    full = min(values.minimum, 0.0), max(values.maximum, 0.0)
    best, least = full, error(*full)
    for end in (1, 0, 1, 0):
        start = best
        for step in range(1, 64):
            moved = full[end] * step / 64
            candidate = (start[0], moved) if end else (moved, start[1])
            if candidate[0] < candidate[1] and (found := error(*candidate)) < least:
                best, least = candidate, found
    return best


def test_there_are_four_methods() -> None:
    assert method_names() == ["entropy", "minmax", "mse", "percentile"]


def test_minmax_is_exact() -> None:
    values = NORMAL.astype(np.float32)
    assert choose_range(of(values), "minmax") == (float(values.min()), float(values.max()))


@pytest.mark.parametrize(
    "values",
    [NORMAL, HEAVY, np.abs(HEAVY), -np.abs(HEAVY), np.clip(3 * NORMAL, 0, 6), HEAVY * 1e-5, NORMAL + 2],
    ids=["normal", "heavy", "positive", "negative", "clipped", "small", "shifted"],
)
def test_mse_is_the_search_over_all_candidates(values: np.ndarray) -> None:
    statistics = of(values)
    assert choose_range(statistics, "mse") == one_by_one(statistics)


@pytest.mark.parametrize("method", method_names())
def test_every_range_holds_zero(method: str) -> None:
    low, high = choose_range(of(np.abs(NORMAL) + 3.0), method)
    assert low == 0.0
    assert high > 3.0
    low, high = choose_range(of(-np.abs(NORMAL) - 3.0), method)
    assert low < -3.0
    assert high == 0.0


@pytest.mark.parametrize("method", method_names())
def test_no_elements_and_only_zeros_give_the_empty_range(method: str) -> None:
    assert choose_range(Statistics(), method) == (0.0, 0.0)
    assert choose_range(of(np.zeros(7)), method) == (0.0, 0.0)


@pytest.mark.parametrize("method", method_names())
def test_a_single_value_is_kept(method: str) -> None:
    low, high = choose_range(of(np.full(7, 2.5)), method)
    assert low == 0.0
    assert 2.5 <= high <= 2.5 * (1 + 2**-7)


@pytest.mark.parametrize("method", ["percentile", "mse", "entropy"])
def test_one_outlier_of_a_million_does_not_stretch_the_range(method: str) -> None:
    values = np.append(NORMAL, 1e6)
    low, high = choose_range(of(values), method)
    if method == "percentile":
        assert -6.0 < low < -2.0 < 2.0 < high < 6.0
    else:  # both search on a grid of 1/64 of the range
        assert high <= 1e6


def test_percentile_leaves_out_that_share_at_each_end() -> None:
    values = NORMAL.astype(np.float32)
    low, high = choose_range(of(values), "percentile")
    outside = values.size // 10_000
    ordered = np.sort(values)
    assert ordered[outside] * (1 + 2**-7) <= low <= ordered[outside]
    assert ordered[-1 - outside] <= high <= ordered[-1 - outside] * (1 + 2**-7)


def test_mse_beats_minmax_on_heavy_tails_and_finds_nearly_the_best_cut() -> None:
    low, high = choose_range(of(HEAVY), "mse")
    found = quantization_error(HEAVY, low, high)
    assert found < 0.95 * quantization_error(HEAVY, HEAVY.min(), HEAVY.max())
    candidates = [quantization_error(HEAVY, low, high * f) for f in np.linspace(0.5, 1.5, 41)]
    candidates += [quantization_error(HEAVY, low * f, high) for f in np.linspace(0.5, 1.5, 41)]
    assert found <= 1.05 * min(candidates)


def test_mse_keeps_a_uniform_distribution_whole() -> None:
    low, high = choose_range(of(np.linspace(-1, 1, 10_001)), "mse")
    assert (low, high) == (-1.0, 1.0)


@pytest.mark.parametrize("ranges", [1, 7, 63])
def test_errors_of_many_ranges_are_those_of_each(ranges: int) -> None:
    random = np.random.default_rng(ranges)
    points, weights = random.normal(size=501) * 3, random.integers(1, 1000, 501).astype(np.float64)
    low, high = -random.uniform(0, 5, ranges), random.uniform(0.1, 5, ranges)
    low[0] = 0.0
    found = _squared_errors(points, weights, low, high)
    for r in range(ranges):
        scale = (high[r] - low[r]) / 255
        zero_point = np.rint(-low[r] / scale)
        quantized = (np.clip(np.rint(points / scale) + zero_point, 0, 255) - zero_point) * scale
        assert found[r] == pytest.approx(np.sum(weights * (points - quantized) ** 2), rel=1e-12)


def test_entropy_cuts_a_thin_tail() -> None:
    values = np.concatenate([NORMAL, np.full(3, 12.0)])
    low, high = choose_range(of(values), "entropy")
    assert 2.0 < high < 12.0
    assert low < -2.0


@pytest.mark.parametrize("method", method_names())
def test_methods_depend_on_the_statistics_alone(method: str) -> None:
    forward, backward = of(HEAVY), of(HEAVY[::-1])
    assert choose_range(forward, method) == choose_range(backward, method)


def test_unknown_and_duplicate_names_are_refused() -> None:
    with pytest.raises(UsageError, match="no calibration method 'best'; there are entropy, minmax, mse, percentile"):
        choose_range(of(NORMAL), "best")
    with pytest.raises(PluginError, match="'mse' is taken by mse"):
        calibration_method("mse")(lambda _: (0.0, 0.0))
