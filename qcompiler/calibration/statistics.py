"""What calibration remembers of a value: exact, of fixed size, mergeable.

`Statistics` is a commutative monoid: the empty one is neutral, merging is associative and commutative, and
adding samples in any split or order gives the same bytes. Everything in it is an integer count or an
extreme, never a sum of floats. The histogram's bins are the upper 16 bits of the float32 pattern (sign,
exponent, 7 mantissa bits), so bins need no range known beforehand, their relative width is 2^-7 everywhere,
and an outlier of 1e6 takes one bin.
"""

import hashlib
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from qcompiler.ir import AnyArray
from qcompiler.runtime.sampled_elements import counted_elements

Counts = npt.NDArray[np.int64]

BINS = 1 << 16
_NON_FINITE = 0x7F80  # bins of a sign from here on hold infinities and NaN
_CHUNK = 1 << 17  # elements whose temporaries stay in the second-level cache


@dataclass(frozen=True, slots=True)
class Histogram:
    """The bins that are not empty, in ascending order of value.

    Attributes:
        low: f64[n], smallest value of each bin, not below the smallest value seen.
        high: f64[n], largest value of each bin, not above the largest value seen.
        count: s64[n], elements in each bin.
    """

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    count: Counts


@dataclass(eq=False, slots=True)
class Statistics:
    """Counts and extremes of all float32 elements added so far.

    Attributes:
        count: finite elements that are in the bins: all, or where samples are large an even choice of them.
        nans, infinities: elements that are not finite; they are in nothing else.
        minimum, maximum: of all finite elements; +inf and -inf while there are none. A negative zero counts as zero.
        numbers: s64[n], ascending: the upper halves of finite elements' bit patterns, a bin each.
        counts: s64[n], elements in each of these bins, at least one.
    """

    count: int = 0
    nans: int = 0
    infinities: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    numbers: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    counts: Counts = field(default_factory=lambda: np.zeros(0, np.int64))
    _histogram: Histogram | None = field(default=None, init=False, repr=False)

    def add(self, values: AnyArray, samples: int | None = None) -> None:
        """Count a float32 array of any shape.

        With `samples`, which lie one after the other, those elements that `qcompiler.runtime.sampled_elements` chooses
        of each; else all.
        """
        self._histogram = None
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        if samples and flat.size:
            counted = np.tile(counted_elements(flat.size // samples), samples)
        else:
            counted = np.ones(flat.size, bool)
        for start in range(0, flat.size, _CHUNK):
            self._add_chunk(flat[start : start + _CHUNK], counted[start : start + _CHUNK])

    def _add_chunk(self, chunk: npt.NDArray[np.float32], counted: npt.NDArray[np.bool_]) -> None:
        finite = np.isfinite(chunk)
        if not finite.all():
            nans = int(np.isnan(chunk).sum())
            self.nans += nans
            self.infinities += chunk.size - int(finite.sum()) - nans
            chunk, counted = chunk[finite], counted[finite]
            if not chunk.size:
                return
        chunk = chunk + np.float32(0)  # −0 becomes +0
        self.minimum = min(self.minimum, float(chunk.min()))
        self.maximum = max(self.maximum, float(chunk.max()))
        chunk = chunk[counted]
        self.count += chunk.size
        bins = np.bincount(chunk.view(np.uint32) >> np.uint32(16))
        numbers = np.flatnonzero(bins)
        self.numbers, self.counts = _sum(self.numbers, self.counts, numbers, bins[numbers])

    def merge(self, other: "Statistics") -> None:
        """Count everything that `other` counted."""
        self._histogram = None
        self.count += other.count
        self.nans += other.nans
        self.infinities += other.infinities
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.numbers, self.counts = _sum(self.numbers, self.counts, other.numbers, other.counts)

    @classmethod
    def of_counts(cls, numbers: Counts, counts: Counts, minimum: float, maximum: float) -> "Statistics":
        """Of finite elements that were counted elsewhere, in the same bins; the arrays are not copied."""
        return cls(int(counts.sum()), 0, 0, minimum, maximum, numbers, counts)

    def histogram(self) -> Histogram:
        """The non-empty bins by value; bin edges are those of the bit pattern, cut to [minimum, maximum].

        The extremes' bins have at least one element, even where none of them was counted.
        """
        if self._histogram is None:
            self._histogram = self._make_histogram()
        return self._histogram

    def _make_histogram(self) -> Histogram:
        numbers, counts = self.numbers, self.counts
        if self.count:
            extremes = np.array([self.minimum, self.maximum], np.float32).view(np.uint32) >> np.uint32(16)
            missing = [int(extreme) for extreme in extremes if not (numbers == extreme).any()]
            if missing:
                numbers, counts = _sum(numbers, counts, np.array(missing), np.ones(len(missing), np.int64))
        positive = int(np.searchsorted(numbers, BINS // 2))
        above, below = numbers[:positive], numbers[positive:][::-1] - BINS // 2
        edges = _edges()
        return Histogram(
            np.clip(np.concatenate([-edges[below + 1], edges[above]]), self.minimum, self.maximum),
            np.clip(np.concatenate([-edges[below], edges[above + 1]]), self.minimum, self.maximum),
            np.concatenate([counts[positive:][::-1], counts[:positive]]),
        )

    def to_bytes(self) -> bytes:
        """All of it, little-endian: equal bytes mean equal statistics."""
        counts = np.array([self.count, self.nans, self.infinities], "<i8").tobytes()
        extremes = np.array([self.minimum, self.maximum], "<f8").tobytes()
        return counts + extremes + self.numbers.astype("<i8").tobytes() + self.counts.astype("<i8").tobytes()

    def digest(self) -> str:
        """SHA-256 of `to_bytes`, for provenance."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statistics) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        raise TypeError("statistics grow and cannot be hashed; use digest()")


def _sum(numbers: Counts, counts: Counts, more_numbers: Counts, more_counts: Counts) -> tuple[Counts, Counts]:
    """The bins of both, and how many elements are in each."""
    together, place = np.unique(np.concatenate([numbers, more_numbers]), return_inverse=True)
    total = np.zeros(len(together), np.int64)
    np.add.at(total, place, np.concatenate([counts, more_counts]))
    return together, total


@cache
def _edges() -> npt.NDArray[np.float64]:
    """The ends of the bins of positive numbers, in ascending order."""
    edges = (np.arange(_NON_FINITE + 1, dtype=np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    edges[-1] = np.finfo(np.float32).max
    edges.flags.writeable = False
    return edges
