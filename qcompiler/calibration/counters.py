"""What the `observe` kernels of one observed graph count, and the statistics made of it."""

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from qcompiler.calibration.statistics import BINS, Statistics
from qcompiler.ir import AnyArray
from qcompiler.runtime.kernels.observation import BINS_AT, ROW

_MOST_ROWS = 16
_INFINITY_KEY = 0x7F800000


class Counters:
    """Counters for each observed value, in one s64[keys, lanes, rows, ROW]; pages that no element falls in stay unused.

    Attributes:
        by_key: s64[lanes, rows, ROW], what is counted of each value.

    Args:
        keys: of the `observe` nodes.
        threads: how many may count at a time in one lane.
        lanes: how many calls may count at a time.
    """

    def __init__(self, keys: Sequence[str], threads: int, lanes: int = 1) -> None:
        shape = len(keys), lanes, min(threads, _MOST_ROWS), ROW
        memory = mmap.mmap(-1, max(1, 8 * math.prod(shape)))
        if hasattr(mmap, "MADV_NOHUGEPAGE"):  # a huge page would be zeroed for a few counts
            with suppress(OSError):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
        self._all = np.frombuffer(memory, np.int64, math.prod(shape)).reshape(shape)
        self.by_key: dict[str, AnyArray] = dict(zip(keys, self._all, strict=True))

    def not_finite(self) -> list[str]:
        """The keys for which a NaN or infinity has been counted."""
        # The key of -inf is the complement of that of +inf, so one bound does for both words.
        beyond = self._all[..., :2].max(axis=(1, 2, 3), initial=0) >= (1 << 31) + _INFINITY_KEY
        return [key for key, found in zip(self.by_key, beyond, strict=True) if found]

    def statistics(self, key: str) -> Statistics:
        """Of all elements counted so far for a key; all of them must be finite."""
        return _statistics(self.by_key[key].reshape(-1, ROW))


def _statistics(counter: AnyArray) -> Statistics:
    highest, lowest = counter[:, 0].max(), counter[:, 1].max()
    if highest == 0:
        return Statistics()
    minimum, maximum = _number(int((1 << 31) - 1 - lowest)), _number(int(highest - (1 << 31)))
    # The ranges of bins that are in use: zeros, then for each sign from the least magnitude to the largest. Most pages
    # of the others do not exist.
    least = int((1 << 32) - counter[:, 2].max()) >> 16 if counter[:, 2].any() else 0
    last_of_sign: dict[int, int] = {}
    for extreme in (minimum, maximum):
        last = int(np.float32(extreme).view(np.uint32)) >> 16
        sign = last & BINS // 2
        last_of_sign[sign] = max(last, last_of_sign.get(sign, last))
    spans = [(0, min(1, least)), *((sign + least, last + 1) for sign, last in sorted(last_of_sign.items()))]
    numbers, counts = [], []
    for first, end in spans:
        found = counter[:, BINS_AT + first : BINS_AT + end].sum(axis=0)
        used = np.flatnonzero(found)
        numbers.append(first + used)
        counts.append(found[used])
    return Statistics.of_counts(np.concatenate(numbers), np.concatenate(counts), minimum, maximum)


def _number(key: int) -> float:
    """The float32 number of a key."""
    bits = key if key >= 0 else key ^ 0x7FFFFFFF
    return float(np.int32(bits).view(np.float32)) + 0.0  # a negative zero counts as zero
