"""Work on many items by a few threads, the results in the order of the items."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 2
"""Items for each lane that are read before the first of them is done: one to work on, one that waits."""


def in_order(
    work: Callable[[Item, int], Result], items: Iterable[Item], lanes: int
) -> Generator[tuple[Item, Result], None, None]:
    """Each item with ``work(item, lane)``, in order; calls that overlap have different lanes, all below `lanes`.

    The calling thread reads the items, a few ahead of the results. What reading or working raises comes where it is in
    the order, after the results of the items before. When the iterator is closed or has raised, no work is begun any
    more, and what has been begun is waited for.
    """
    if lanes == 1:
        for item in items:
            yield item, work(item, 0)
        return
    free = deque(range(lanes))  # its operations are atomic

    def on_a_lane(item: Item) -> Result:
        lane = free.pop()
        try:
            return work(item, lane)
        finally:
            free.append(lane)

    pool = ThreadPoolExecutor(lanes, "qcompiler-lane")
    try:
        source, ended = iter(items), False
        pending: deque[tuple[Item, Future[Result]]] = deque()
        failure: Exception | None = None
        while True:
            while not ended and len(pending) < _AHEAD * lanes:
                try:
                    item = next(source)
                except StopIteration:
                    ended = True
                except Exception as error:  # noqa: BLE001  # whatever it is, it is raised below
                    ended, failure = True, error
                else:
                    pending.append((item, pool.submit(on_a_lane, item)))
            if not pending:
                break
            item, future = pending.popleft()
            yield item, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
    if failure is not None:
        raise failure


def peeked(items: Iterable[Item], most: int) -> tuple[list[Item], Iterator[Item]]:
    """The first items, at most so many, and all of them; what reading raises comes in its place among the latter."""
    source = iter(items)
    first: list[Item] = []
    failure: Exception | None = None
    try:
        first.extend(islice(source, most))
    except Exception as error:  # noqa: BLE001  # as above
        failure = error

    def whole() -> Iterator[Item]:
        yield from first
        if failure is not None:
            raise failure
        yield from source

    return first, whole()
