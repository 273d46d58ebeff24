"""Python's collector of cycles runs rarely while a model is compiled.

A compilation makes tens of thousands of objects that stay, graph nodes above all, and each run looks at many that were
there before, those of the imported packages included: 25 ms of the second that MobileNetV2 takes.
"""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS_BETWEEN_RUNS = 100_000
"""New objects until the collector runs; those in cycles take some MB."""


class _State:
    lock = threading.Lock()
    inside = 0
    before = (0, 0, 0)


@contextmanager
def rare_cycle_collection() -> Iterator[None]:
    """Raise the collector's first threshold; it is as before when no thread is inside any more."""
    with _State.lock:
        if _State.inside == 0:
            _State.before = gc.get_threshold()
            first, *others = _State.before
            gc.set_threshold(max(first, OBJECTS_BETWEEN_RUNS) if first else 0, *others)  # 0: it does not run at all
        _State.inside += 1
    try:
        yield
    finally:
        with _State.lock:
            _State.inside -= 1
            if _State.inside == 0:
                gc.set_threshold(*_State.before)
