"""Which elements of an observed value are counted in its histogram: all, or an even choice of a large value's.

The choice depends on nothing but the number of elements of one sample, so it is the same for any batch, order or
number of threads. Extremes, NaN and infinities are looked for in all elements.

A sample's elements, in memory order, are groups of `GROUP`, one cache line. Of each `step` groups in a row one is
counted, and which one it is changes, lest it be the same columns of each image row.
"""

import numpy as np

from qcompiler.ir.types import AnyArray, Shape, split_dim

GROUP = 16
COUNTED = 1 << 14
"""Samples of up to this many elements are counted completely, of larger ones at least half as many."""
PHASE_FACTOR, PHASE_BITS = 40503, 16  # the golden ratio's fraction: multiples of it, modulo 1, are spread evenly


def counting_step(size: int) -> int:
    """Of how many groups one is counted, for `size` elements a sample."""
    return max(1, -(-size // COUNTED))


def counted_elements(size: int) -> AnyArray:
    """bool[size]: the elements of one sample that are counted."""
    step = counting_step(size)
    blocks = np.arange(-(-size // (GROUP * step)), dtype=np.int64)
    chosen = blocks * step + ((blocks * PHASE_FACTOR % (1 << PHASE_BITS) * step) >> PHASE_BITS)
    groups = np.zeros(len(blocks) * step, bool)
    groups[chosen] = True
    return np.repeat(groups, GROUP)[:size]


def samples_in(value_shape: Shape, shape: tuple[int, ...]) -> int | None:
    """How many samples an array of `shape` holds, if they lie one after the other; None where that cannot be told."""
    symbols = [split_dim(dim) for dim in value_shape]
    if any(symbol is not None for _, symbol in symbols[1:]):
        return None
    if not symbols or symbols[0][1] is None:
        return 1
    return shape[0] // symbols[0][0]
