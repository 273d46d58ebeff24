"""Statistics are exact counts and a commutative monoid."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from qcompiler.calibration.statistics import Statistics
from qcompiler.runtime.sampled_elements import COUNTED, counted_elements

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
SAMPLES = arrays(np.float32, st.integers(0, 40), elements=FLOATS)


def collected(*parts: np.ndarray) -> Statistics:
    statistics = Statistics()
    for part in parts:
        statistics.add(part)
    return statistics


@settings(max_examples=60, deadline=None)
@given(values=SAMPLES, cuts=st.lists(st.integers(0, 40), max_size=4), data=st.data())
def test_any_split_order_and_sharding_gives_the_same_bytes(
    values: np.ndarray, cuts: list[int], data: st.DataObject
) -> None:
    whole = collected(values).to_bytes()
    parts = np.split(values, sorted(min(cut, values.size) for cut in cuts))
    shuffled = data.draw(st.permutations(parts))
    assert collected(*shuffled).to_bytes() == whole

    left, right = collected(*shuffled[::2]), collected(*shuffled[1::2])
    right.merge(left)
    assert right.to_bytes() == whole
    assert right.digest() == collected(values).digest()


@settings(max_examples=40, deadline=None)
@given(a=SAMPLES, b=SAMPLES, c=SAMPLES)
def test_merging_is_commutative_and_associative_and_empty_is_neutral(
    a: np.ndarray, b: np.ndarray, c: np.ndarray
) -> None:
    def merged(first: Statistics, second: Statistics) -> Statistics:
        result = collected()
        result.merge(first)
        result.merge(second)
        return result

    x, y, z = collected(a), collected(b), collected(c)
    assert merged(x, y) == merged(y, x)
    assert merged(merged(x, y), z) == merged(x, merged(y, z))
    assert merged(x, Statistics()) == x


@settings(max_examples=60, deadline=None)
@given(values=SAMPLES)
def test_histogram_bins_hold_exactly_their_elements(values: np.ndarray) -> None:
    statistics = collected(values)
    histogram = statistics.histogram()
    assert statistics.count == values.size == histogram.count.sum()
    wide = np.sort(values.astype(np.float64))
    start = 0
    for low, high, count in zip(histogram.low, histogram.high, histogram.count, strict=True):
        members = wide[start : start + count]
        assert (low <= members).all()
        assert (members <= high).all()
        start += count
    if values.size:
        assert statistics.minimum == wide[0] == histogram.low[0]
        assert statistics.maximum == wide[-1] == histogram.high[-1]


def test_bins_are_a_128th_of_their_magnitude_wide() -> None:
    values = np.array([3.0, -3.0, 5.0], np.float32)
    histogram = collected(values).histogram()
    middle = histogram.high[1] - histogram.low[1]
    assert middle == 2.0 / 128
    assert list(histogram.count) == [1, 1, 1]


def test_extremes_that_were_not_counted_are_in_the_histogram_once() -> None:
    values = np.ones(5 * COUNTED, np.float32)
    values[np.flatnonzero(~counted_elements(values.size))[:2]] = 7.0, -7.0
    statistics = Statistics()
    statistics.add(values, samples=1)
    histogram = statistics.histogram()
    assert (histogram.low[0], histogram.high[-1]) == (-7.0, 7.0)
    assert list(histogram.count) == [1, statistics.count, 1]


def test_nan_and_infinities_are_counted_apart() -> None:
    statistics = collected(np.array([1.0, np.nan, np.inf, -np.inf, 2.0], np.float32))
    assert (statistics.count, statistics.nans, statistics.infinities) == (2, 1, 2)
    assert (statistics.minimum, statistics.maximum) == (1.0, 2.0)


def test_negative_zero_counts_as_zero() -> None:
    assert collected(np.array([-0.0], np.float32)) == collected(np.array([0.0], np.float32))


def test_an_outlier_takes_one_bin() -> None:
    histogram = collected(np.append(np.linspace(1, 2, 1000, dtype=np.float32), np.float32(1e6))).histogram()
    assert histogram.count[-1] == 1
    assert histogram.low.size == 128 + 1 + 1  # [1, 2) in 128 bins, 2 itself, the outlier


def test_arrays_larger_than_a_chunk_are_counted_completely() -> None:
    values = np.arange(300_000, dtype=np.float32)
    assert collected(values) == collected(values[::-1].reshape(3, -1))
    assert collected(values).count == 300_000


def test_statistics_cannot_be_hashed() -> None:
    with pytest.raises(TypeError, match="use digest"):
        hash(Statistics())
