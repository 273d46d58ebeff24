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
    count: npt.NDArray[np.int64]


@dataclass(eq=False, slots=True)
class Statistics:
    """Counts and extremes of all float32 elements added so far.

    Attributes:
        count: finite elements that are in `bins`: all, or where samples are large an even choice of them.
        nans, infinities: elements that are not finite; they are in nothing else.
        minimum, maximum: of all finite elements; +inf and -inf while there are none. A negative zero counts as zero.
        bins: s64[65536], finite elements by the upper half of their bit pattern.
    """

    count: int = 0
    nans: int = 0
    infinities: int = 0
    minimum: float = np.inf
    maximum: float = -np.inf
    bins: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
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
        self.bins += np.bincount(chunk.view(np.uint32) >> np.uint32(16), minlength=BINS)

    def merge(self, other: "Statistics") -> None:
        """Count everything that `other` counted."""
        self._histogram = None
        self.count += other.count
        self.nans += other.nans
        self.infinities += other.infinities
        self.minimum = min(self.minimum, other.minimum)
        self.maximum = max(self.maximum, other.maximum)
        self.bins += other.bins

    @classmethod
    def of_counts(cls, bins: npt.NDArray[np.int64], minimum: float, maximum: float) -> "Statistics":
        """Of finite elements that were counted elsewhere, in the same bins s64[65536]; they are not copied."""
        return cls(int(bins.sum()), 0, 0, minimum, maximum, bins)

    def histogram(self) -> Histogram:
        """The non-empty bins by value; bin edges are those of the bit pattern, cut to [minimum, maximum].

        The extremes' bins have at least one element, even where none of them was counted.
        """
        if self._histogram is None:
            self._histogram = self._make_histogram()
        return self._histogram

    def _make_histogram(self) -> Histogram:
        bins = self.bins
        if self.count:
            extremes = np.array([self.minimum, self.maximum], np.float32).view(np.uint32) >> np.uint32(16)
            if not bins[extremes].all():
                bins = bins.copy()
                bins[extremes] = np.maximum(bins[extremes], 1)
        negative = bins[BINS // 2 : BINS // 2 + _NON_FINITE]
        positive = bins[:_NON_FINITE]
        below, above = np.flatnonzero(negative)[::-1], np.flatnonzero(positive)
        edges = _edges()
        return Histogram(
            np.clip(np.concatenate([-edges[below + 1], edges[above]]), self.minimum, self.maximum),
            np.clip(np.concatenate([-edges[below], edges[above + 1]]), self.minimum, self.maximum),
            np.concatenate([negative[below], positive[above]]),
        )

    def to_bytes(self) -> bytes:
        """All of it, little-endian, with only those bins that are not empty: equal bytes mean equal statistics."""
        counts = np.array([self.count, self.nans, self.infinities], "<i8").tobytes()
        extremes = np.array([self.minimum, self.maximum], "<f8").tobytes()
        used = np.flatnonzero(self.bins)
        return counts + extremes + used.astype("<i8").tobytes() + self.bins[used].astype("<i8").tobytes()

    def digest(self) -> str:
        """SHA-256 of `to_bytes`, for provenance."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Statistics) and self.to_bytes() == other.to_bytes()

    def __hash__(self) -> int:
        raise TypeError("statistics grow and cannot be hashed; use digest()")


@cache
def _edges() -> npt.NDArray[np.float64]:
    """The ends of the bins of positive numbers, in ascending order."""
    edges = (np.arange(_NON_FINITE + 1, dtype=np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    edges[-1] = np.finfo(np.float32).max
    edges.flags.writeable = False
    return edges
