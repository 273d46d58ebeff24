"""Results come in order, whoever is done first; lanes are never shared; errors come where they belong."""

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from qcompiler.calibration.lanes import in_order, peeked


class EndedError(Exception):
    """Of the data."""


def numbers(count: int, *, fails: bool = False) -> Iterator[int]:
    yield from range(count)
    if fails:
        raise EndedError


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 5, 40])
def test_results_are_in_the_order_of_the_items(lanes: int, count: int) -> None:
    assert list(in_order(lambda item, _: item**2, numbers(count), lanes)) == [(i, i**2) for i in range(count)]


def test_work_on_several_lanes_overlaps_and_shares_none() -> None:
    together = threading.Barrier(3, timeout=20)

    def work(_: int, lane: int) -> int:
        together.wait()  # passes only if three calls are there at a time
        return lane

    lanes = [lane for _, lane in in_order(work, numbers(12), 3)]
    assert set(lanes) == {0, 1, 2}


def test_overlapping_calls_have_different_lanes() -> None:
    taken: set[int] = set()
    lock = threading.Lock()

    def work(item: int, lane: int) -> None:
        with lock:
            assert lane not in taken
            taken.add(lane)
        threading.Event().wait(0.001 * (item % 3))
        with lock:
            taken.remove(lane)

    assert len(list(in_order(work, numbers(60), 3))) == 60


@pytest.mark.parametrize("lanes", [1, 3])
def test_a_reading_error_comes_after_the_items_before(lanes: int) -> None:
    seen: list[int] = []
    with pytest.raises(EndedError):
        seen.extend(item for item, _ in in_order(lambda item, _: item, numbers(5, fails=True), lanes))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lanes", [1, 3])
def test_an_error_in_the_work_comes_in_its_place(lanes: int) -> None:
    def work(item: int, _: int) -> int:
        return 60 // (5 - item)

    seen: list[int] = []
    with pytest.raises(ZeroDivisionError):
        seen.extend(item for item, _ in in_order(work, numbers(20), lanes))
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("lanes", [1, 2])
def test_nothing_is_begun_once_it_is_closed(lanes: int) -> None:
    begun: list[int] = []
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            read.append(item)
            yield item

    with closing(in_order(lambda item, _: begun.append(item), items(), lanes)) as results:
        next(results)
    count = len(begun)
    assert len(read) <= 2 * lanes
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("qcompiler-lane")]
    assert len(begun) == count


def test_peeking_leaves_all_items() -> None:
    first, items = peeked(numbers(5), 2)
    assert first == [0, 1]
    assert list(items) == [0, 1, 2, 3, 4]
    first, items = peeked(numbers(3), 8)
    assert first == [0, 1, 2]
    assert list(items) == [0, 1, 2]


def test_peeking_raises_an_error_in_its_place() -> None:
    first, items = peeked(numbers(2, fails=True), 8)
    assert first == [0, 1]
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(EndedError):
        next(items)
