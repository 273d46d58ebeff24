"""A compilation leaves Python's collector of cycles as it was."""

import gc

import pytest

from qcompiler.cycle_collection import OBJECTS_BETWEEN_RUNS, rare_cycle_collection


@pytest.fixture(autouse=True)
def kept_threshold():
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.parametrize(
    ("before", "inside"), [(500, OBJECTS_BETWEEN_RUNS), (OBJECTS_BETWEEN_RUNS + 1, OBJECTS_BETWEEN_RUNS + 1), (0, 0)]
)
def test_the_threshold_is_raised_and_put_back(before: int, inside: int) -> None:
    gc.set_threshold(before, 7, 9)
    first, second = rare_cycle_collection(), rare_cycle_collection()  # two that overlap, as those of two threads may
    with first:
        second.__enter__()
        assert gc.get_threshold() == (inside, 7, 9)
    assert gc.get_threshold() == (inside, 7, 9)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (before, 7, 9)


def test_the_threshold_is_put_back_after_an_error() -> None:
    before = gc.get_threshold()
    with pytest.raises(KeyboardInterrupt), rare_cycle_collection():
        raise KeyboardInterrupt
    assert gc.get_threshold() == before
