"""Scales, zero points, tables, borders and the overflow proof."""

import itertools
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler import numerics
from qcompiler.errors import UsageError
from qcompiler.ir import DType, QuantParams

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)
RANGES = st.tuples(FINITE, FINITE).map(sorted)


@given(RANGES)
def test_u8_parameters_hold_zero_exactly_and_cover_the_range(limits: list[float]):
    low, high = limits
    quant = numerics.choose_params(low, high, DType.U8)
    (scale,), (zero_point,) = quant.scale, quant.zero_point
    assert 0 <= zero_point <= 255
    assert scale == numerics.round_to_f32(scale) >= numerics.SMALLEST_SCALE
    assert numerics.quantize_real(0.0, scale, zero_point, 0, 255) == zero_point
    for end in (low, high):
        q = numerics.quantize_real(end, scale, zero_point, 0, 255)
        assert abs(scale * (q - zero_point) - end) <= 1.001 * scale


@pytest.mark.parametrize(("dtype", "largest"), [(DType.S4, 7), (DType.S8, 127), (DType.S16, 32767)])
@given(limits=RANGES)
def test_signed_parameters_are_symmetric(dtype: DType, largest: int, limits: list[float]):
    low, high = limits
    quant = numerics.choose_params(low, high, dtype)
    (scale,), (zero_point,) = quant.scale, quant.zero_point
    assert zero_point == 0
    for end in (low, high):
        q = numerics.quantize_real(end, scale, 0, *dtype.limits)
        assert -largest <= q <= largest
        assert abs(scale * q - end) <= 0.501 * scale
        assert q == -numerics.quantize_real(-end, scale, 0, *dtype.limits) or abs(end / scale) % 1 == 0.5


@pytest.mark.parametrize("dtype", [DType.U8, DType.S8, DType.S16])
@pytest.mark.parametrize("limits", [(0.0, 0.0), (-0.0, 0.0), (-1e-44, 1e-42)])
def test_a_zero_range_has_scale_one(dtype: DType, limits: tuple[float, float]):
    assert numerics.is_zero_range(*limits)
    assert numerics.choose_params(*limits, dtype) == QuantParams.per_tensor(1.0, 0)


def test_a_range_beside_zero_is_widened_to_it():
    assert numerics.choose_params(2.0, 5.1, DType.U8) == numerics.choose_params(0.0, 5.1, DType.U8)
    assert numerics.choose_params(-5.1, -2.0, DType.U8).zero_point == (255,)


@pytest.mark.parametrize("limits", [(1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)])
def test_no_parameters_for_what_is_no_range(limits: tuple[float, float]):
    with pytest.raises(UsageError, match="not a finite range"):
        numerics.choose_params(*limits, DType.U8)


@given(st.floats(width=64))
def test_round_to_f32_is_numpys(value: float):
    with np.errstate(over="ignore"):
        expected = np.float32(value)
    assert struct.pack("<f", numerics.round_to_f32(value)) == expected.tobytes() or math.isnan(value)


@given(st.floats(width=32), st.floats(2.0**-126, 2.0**127, width=32), st.sampled_from([0, 7, 255]))
def test_quantize_is_a_float32_quotient_rounded_to_even(x: float, scale: float, zero_point: int):
    with np.errstate(over="ignore"):
        quotient = float(np.float32(x) / np.float32(scale))
    if math.isnan(quotient):
        expected = 0
    elif math.isinf(quotient):
        expected = 255 if quotient > 0 else 0
    else:
        low = math.floor(quotient)
        rest = Fraction(quotient) - low
        up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 1)
        expected = min(max(low + up + zero_point, 0), 255)
    assert numerics.quantize(x, scale, zero_point, DType.U8) == expected


@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-126, 1.0, width=32))
def test_dequantize_rounds_twice_in_float32(q: int, scale: float):
    expected = np.float32(q) * np.float32(scale)
    assert numerics.dequantize(q, scale, 0) == expected


@pytest.mark.parametrize("dtype", [DType.U8, DType.S8])
def test_a_table_holds_the_function_of_every_element(dtype: DType):
    table = numerics.build_table(math.tanh, (dtype, 0.05, 3), (DType.S8, 1 / 127, 0))
    lo, hi = dtype.limits
    for q in range(lo, hi + 1):
        exact = math.tanh(0.05 * (q - 3)) * 127
        assert abs(numerics.look_up(q, table, dtype) - exact) <= 0.5 + 1e-9


def test_a_table_saturates_and_takes_nan_for_zero():
    def awkward(x: float) -> float:
        return {0.0: math.nan, 1.0: math.inf, 2.0: -math.inf, 3.0: 1e30}.get(x, 0.5)

    table = numerics.build_table(awkward, (DType.U8, 1.0, 0), (DType.U8, 1.0, 10), lo=5, hi=200)
    assert table[:5] == [10, 200, 5, 200, 11]


@given(
    dtype=st.sampled_from([DType.U8, DType.S8]),
    zp_in=st.integers(0, 127),
    weights=st.lists(st.integers(-127, 127), min_size=1, max_size=3),
    bias=st.integers(-(10**6), 10**6),
)
def test_the_accumulator_bound_holds_for_the_worst_inputs(dtype: DType, zp_in: int, weights: list[int], bias: int):
    bound = numerics.accumulator_bound(dtype, zp_in, weights, bias)
    folded = numerics.fold_bias(bias, zp_in, weights)
    for xs in itertools.product(dtype.limits, repeat=len(weights)):
        acc = numerics.accumulate(xs, weights, folded)
        assert acc == sum((x - zp_in) * w for x, w in zip(xs, weights, strict=True)) + bias
        assert abs(acc) <= bound


def test_the_accumulator_bound_is_reached_by_weights_of_one_sign():
    weights, bias = [3, 5], 11
    folded = numerics.fold_bias(bias, 0, weights)
    assert numerics.accumulate([255, 255], weights, folded) == numerics.accumulator_bound(DType.U8, 0, weights, bias)


@pytest.mark.parametrize(
    ("bound", "bits"), [(0, 31), (1, 30), (2**30 - 1, 1), (2**30, 0), (2**31 - 1, 0), (2**31, -1), (2**33, -3)]
)
def test_headroom_bits(bound: int, bits: int):
    assert numerics.headroom_bits(bound) == bits
    assert (bits >= 0) == (bound <= numerics.S32_MAX)


def test_a_folded_bias_may_wrap_and_the_sum_is_exact_again():
    weights = [-128] * 80000
    folded = numerics.fold_bias(0, 255, weights)
    assert folded != 255 * 128 * 80000
    assert numerics.accumulate([255] * 80000, weights, folded) == 0


@given(
    size=st.integers(1, 6),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    pads=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    include_pad=st.booleans(),
)
def test_window_counts_by_marking_every_element(
    size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], *, include_pad: bool
):
    begin, end = pads
    marks = [include_pad] * begin + [True] * size + [include_pad] * end + [False] * 100
    for position in range(size):
        taps = range(position * stride, position * stride + kernel * dilation, dilation)
        expected = sum(marks[tap] for tap in taps)
        count = numerics.window_count(position, size, kernel, stride, dilation, begin, end, include_pad=include_pad)
        assert count == expected
