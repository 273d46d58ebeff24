"""What the observing kernel counts is what NumPy counts, bit for bit, however the elements are divided."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from qcompiler.calibration.counters import Counters
from qcompiler.calibration.statistics import Statistics
from qcompiler.ir import DType, Graph, Stage, TensorType, ops
from qcompiler.runtime.kernels.observation import BINS_AT, CHUNK
from qcompiler.runtime.kernels.registry import kernel_named
from qcompiler.runtime.sampled_elements import COUNTED, GROUP, counted_elements
from qcompiler.runtime.session import Session

TINY, LARGEST = 1e-45, float(np.finfo(np.float32).max)
ELEMENTS = st.floats(width=32, allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, TINY, -TINY, LARGEST, -LARGEST, 6.0]
)


def observed(sample: tuple[int, ...] = ()) -> Graph:
    graph = Graph("observed", Stage.OBSERVED)
    x = graph.add_input("x", TensorType(DType.F32, ("N", *sample)))
    graph.add_output(graph.add_node(ops.Observe("x"), [x]).result, "y")
    return graph


def counted(*batches: np.ndarray, threads: int = 1, graph: Graph | None = None) -> Counters:
    counters = Counters(["x"], threads)
    session = Session(graph or observed(), threads=threads, counters=counters.by_key)
    for batch in batches:
        session.run({"x": batch})
    return counters


def by_numpy(*batches: np.ndarray) -> Statistics:
    statistics = Statistics()
    for batch in batches:
        statistics.add(batch)
    return statistics


@settings(max_examples=60, deadline=None)
@given(values=arrays(np.float32, st.integers(1, 70), elements=ELEMENTS), cut=st.integers(1, 70))
def test_counts_are_those_of_numpy(values: np.ndarray, cut: int) -> None:
    counters = counted(*(part for part in np.split(values, [cut]) if part.size))
    assert counters.not_finite() == []
    assert counters.statistics("x") == by_numpy(values)


@pytest.mark.parametrize("size", [CHUNK - 1, CHUNK, CHUNK + 1, 5 * CHUNK + 3])
@pytest.mark.parametrize("shares", [1, 2, 3, 7])
def test_shares_count_everything_once(size: int, shares: int) -> None:
    values = np.random.default_rng(size).normal(size=size).astype(np.float32)
    values[values < 0] = 0
    counters = Counters(["x"], shares)
    scratch = np.zeros(2 * CHUNK * shares, np.uint8)
    addresses = [array.ctypes.data for array in (values, counters.by_key["x"], scratch)]
    words = np.array([*addresses, 1, size, 1], np.int64)
    run = kernel_named("observe").compiled_for("any").ctypes
    for share in range(shares):
        run(words.ctypes.data, share, shares)
    assert counters.statistics("x") == by_numpy(values)
    assert not counters.by_key["x"][..., 3:BINS_AT].any()


@pytest.mark.parametrize("shape", [(COUNTED,), (2, 9, COUNTED // 9 + 1), (3, 5, 7 * COUNTED // 3 + 5)])
@pytest.mark.parametrize("threads", [1, 3])
def test_of_large_samples_an_even_choice_is_counted(shape: tuple[int, ...], threads: int) -> None:
    values = np.random.default_rng(5).normal(size=(4, *shape)).astype(np.float32)
    values[1] = np.abs(values[1]) * (values[1] > 0.5)
    values[2] *= -0.0
    values[3, ..., -1] = 9.0
    graph = observed(shape)
    expected = Statistics()
    expected.add(values, samples=4)
    assert counted(values, graph=graph, threads=threads).statistics("x") == expected
    one_by_one = counted(*values[::-1, np.newaxis], graph=graph, threads=threads)
    assert one_by_one.statistics("x") == expected
    assert expected.maximum == 9.0
    assert expected.minimum == values.min()
    chosen = counted_elements(values[0].size)
    assert expected.count == 4 * chosen.sum()
    assert min(values[0].size, COUNTED) / 2 <= chosen.sum() <= COUNTED + GROUP


def test_all_of_a_value_is_counted_where_its_samples_cannot_be_told_apart() -> None:
    values = np.random.default_rng(6).normal(size=(COUNTED, 3)).astype(np.float32)
    graph = Graph("observed", Stage.OBSERVED)
    x = graph.add_input("x", TensorType(DType.F32, ("L", "N")))
    graph.add_output(graph.add_node(ops.Observe("x"), [x]).result, "y")
    assert counted(values, graph=graph).statistics("x") == by_numpy(values)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found_where_it_is_not_counted(odd: float) -> None:
    size = 5 * COUNTED
    values = np.ones((1, size), np.float32)
    values[0, np.flatnonzero(~counted_elements(size))[7]] = odd
    assert counted(values, graph=observed((size,))).not_finite() == ["x"]


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_the_statistics(threads: int) -> None:
    values = np.random.default_rng(4).normal(size=200_000).astype(np.float32)
    assert counted(values, values[:5], threads=threads).statistics("x") == by_numpy(values, values[:5])


@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_lanes_count_apart_and_make_one_statistic(lanes: int) -> None:
    parts = np.split(np.random.default_rng(8).normal(size=90_000).astype(np.float32), [1, 50_000, 70_000, 70_003])
    counters = Counters(["x"], 2, lanes)
    session = Session(observed(), threads=2, counters=counters.by_key)
    for index, part in enumerate(parts):
        session.run({"x": part}, index % lanes)
    assert counters.by_key["x"].shape[0] == lanes
    by_lane = counters.by_key["x"][:, :, BINS_AT:].sum(axis=(1, 2))
    assert by_lane.tolist() == [sum(map(len, parts[lane::lanes])) for lane in range(lanes)]
    assert counters.statistics("x") == by_numpy(*parts)


@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_found(odd: float) -> None:
    values = np.array([1, LARGEST, -LARGEST, 0, 2], np.float32)
    assert counted(values).not_finite() == []
    values[3] = odd
    assert counted(values).not_finite() == ["x"]


def test_nothing_counted_is_the_empty_statistics() -> None:
    assert Counters(["x"], 2).statistics("x") == Statistics()
