"""Processes that parametrized tests wait for: the next one is at work while a test looks at its own."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import pytest

Done = subprocess.CompletedProcess[str]


@contextmanager
def started_ahead(request: pytest.FixtureRequest, start: Callable[[str], Done]) -> Iterator[Callable[[str], Done]]:
    """A function that gives what `start` does for the id of a test's parameters, for a fixture of their module.

    All selected tests that use the fixture have a process each, two at a time; but not where workers share the tests.
    """
    shared = "PYTEST_XDIST_WORKER" in os.environ
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and not _is_skipped(item)]
    ids = [] if shared else [item.callspec.id for item in items if request.fixturename in item.fixturenames]
    with ThreadPoolExecutor(max_workers=2) as pool:
        futures: dict[str, Future[Done]] = {key: pool.submit(start, key) for key in ids}
        try:
            yield lambda key: futures[key].result() if key in futures else start(key)
        finally:
            pool.shutdown(cancel_futures=True)


def _is_skipped(item: pytest.Function) -> bool:
    return item.get_closest_marker("skip") is not None or any(mark.args[0] for mark in item.iter_markers("skipif"))
