"""Which weights prove that no sum of two products of bytes leaves 16 bits, for dot products that add there.

For activations in [low, high], with low <= 0 <= high or not, the sum of a pair of neighbours is largest where positive
weights meet `high` and negative ones `low`:

    low · P − high · N  <=  w0·x0 + w1·x1  <=  high · P − low · N

where P is the sum of the pair's positive weights and N that of its negative ones without their sign.
Any such sum is reached by some activations, so the bound is exact, and a layer that misses it by one has an input that
would come out wrong.
"""

import numpy as np

from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.primitives import Primitive
from qcompiler.runtime.kernels.packing import S8

MOST = DType.S16.limits[1]
_AT_A_TIME = 1 << 15  # pairs: temporaries stay in the cache


def largest_pair_sum(groups: S8, low: int, high: int) -> int:
    """How far the sums of two neighbours go beyond 0, or beyond -1: at most 32767 if all of them fit s16.

    Args:
        groups: s8[..., even number], neighbours in the order in which they meet the activations.
        low: least activation, as the dot product reads it.
        high: largest activation.
    """
    first, second = groups.reshape(-1, 2).T
    largest = 0
    for start in range(0, len(first), _AT_A_TIME):
        a, b = (side[start : start + _AT_A_TIME].astype(np.int16) for side in (first, second))
        positive = np.maximum(a, 0) + np.maximum(b, 0)
        negative = positive - a - b
        if low:
            positive, negative = positive.astype(np.int32), negative.astype(np.int32)
            above, below = (high * positive - low * negative).max(), (high * negative - low * positive).max()
        else:  # the usual case, a third of the time
            above, below = high * int(positive.max()), high * int(negative.max())
        largest = max(largest, int(above), int(below) - 1)
    return largest


def pair_sum_for(p: Primitive, groups: S8, x_dtype: DType, x_range: tuple[int, int]) -> int:
    """The same for activations of a dtype within `x_range`: up to `MOST` the narrow primitive `p` is exact."""
    added = p.added_to(x_dtype)
    return largest_pair_sum(groups, x_range[0] + added, x_range[1] + added)
