"""The error bound that docs/numerics.md proves for the integer softmax."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler import numerics
from qcompiler.ir import DType
from qcompiler.ir.ops import IntSoftmax


def error_bound(dtype: DType, n: int, one: int) -> float:
    """ε · (1 + n) of the exponentials and half a step of the result."""
    epsilon = (3 * 2.0**-31 + 2.0**-62) if dtype is DType.S16 else 2.0**-31
    return epsilon * (1 + n) + 0.5 / one


@pytest.mark.parametrize(
    ("dtype", "result", "one", "hi"),
    [
        (DType.U8, DType.U8, 256, 255),
        (DType.S8, DType.U8, 256, 255),
        (DType.U8, DType.S16, 32768, 32767),
        (DType.S16, DType.S16, 32768, 32767),
    ],
)
@given(data=st.data(), scale=st.floats(1e-6, 1.0))
def test_softmax_stays_within_its_bound(
    dtype: DType, result: DType, one: int, hi: int, data: st.DataObject, scale: float
):
    xs = data.draw(st.lists(st.integers(*dtype.limits), min_size=1, max_size=40))
    op = IntSoftmax(-1, result, one, hi)
    got = numerics.softmax(op, xs, *numerics.softmax_tables(scale, dtype))
    exponentials = [math.exp(scale * (x - max(xs))) for x in xs]
    total = math.fsum(exponentials)
    bound = error_bound(dtype, len(xs), one) + 1e-15  # of this float64 oracle
    for q, e in zip(got, exponentials, strict=True):
        assert 0 <= q <= hi
        p = e / total
        assert abs(q / one - p) <= bound or (q == hi and p > hi / one)


def test_tables_are_q30_and_start_at_one():
    high, low = numerics.softmax_tables(0.01, DType.S16)
    assert low is not None
    assert high[0] == low[0] == 2**30
    assert high[1] == numerics.round_half_up(math.exp(-2.56) * 2**30)
    assert low[1] == numerics.round_half_up(math.exp(-0.01) * 2**30)
    assert numerics.softmax_tables(0.01, DType.U8) == (low, None)


def test_equal_logits_share_and_one_alone_saturates():
    tables = numerics.softmax_tables(0.1, DType.U8)
    op = IntSoftmax(-1, DType.U8, 256, 255)
    assert numerics.softmax(op, [9, 9, 9, 9], *tables) == [64] * 4
    assert numerics.softmax(op, [9], *tables) == [255]
