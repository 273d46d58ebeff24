"""Rounding and multipliers against exact fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler import numerics
from qcompiler.errors import MultiplierRangeError
from qcompiler.ir.types import DType
from qcompiler.numerics import FLUSH, S32_MAX, S32_MIN, Multiplier

HALF = Fraction(1, 2)
S32 = st.one_of(st.sampled_from([S32_MIN, S32_MIN + 1, -1, 0, 1, S32_MAX]), st.integers(S32_MIN, S32_MAX))
REPRESENTABLE = st.floats(2.0**-32, 2.0**29 - 1, allow_subnormal=False)


def floor(value: Fraction) -> int:
    return value.numerator // value.denominator


@given(st.floats(-1e15, 1e15) | st.integers(-1000, 1000).map(lambda n: n + 0.5))
def test_round_half_up_is_the_floor_of_the_exact_sum(value: float):
    assert numerics.round_half_up(value) == floor(Fraction(value) + HALF)


def test_round_half_up_of_the_largest_float_below_one_half():
    below = math.nextafter(0.5, 0)
    assert numerics.round_half_up(below) == 0
    assert math.floor(below + 0.5) == 1


@given(st.integers(), st.integers(min_value=1))
def test_divide_half_up_is_the_floor_of_the_exact_sum(numerator: int, denominator: int):
    assert numerics.divide_half_up(numerator, denominator) == floor(Fraction(numerator, denominator) + HALF)


@given(st.integers())
def test_wrap_s32_is_congruent_and_in_range(value: int):
    wrapped = numerics.wrap_s32(value)
    assert S32_MIN <= wrapped <= S32_MAX
    assert (wrapped - value) % 2**32 == 0


@given(S32, REPRESENTABLE, st.booleans())
def test_rescale_is_the_product_rounded_half_up_and_fits_64_bits(acc: int, real: float, negative: bool):
    M, shift = numerics.quantize_multiplier(-real if negative else real)
    assert numerics.rescale(acc, M, shift) == floor(Fraction(acc * M, 2**shift) + HALF)
    assert -(2**63) <= acc * M + 2 ** (shift - 1) < 2**63


@given(REPRESENTABLE)
def test_a_multiplier_is_normal_and_nearest(real: float):
    M, shift = numerics.quantize_multiplier(real)
    assert 2**30 <= M < 2**31
    assert 2 <= shift <= 62
    assert abs(Fraction(M, 2**shift) - Fraction(real)) <= Fraction(real) / 2**31
    assert numerics.quantize_multiplier(-real) == (-M, shift)


@pytest.mark.parametrize(
    ("real", "expected"),
    [
        (1.0, Multiplier(2**30, 30)),
        (0.5, Multiplier(2**30, 31)),
        (1 - 2.0**-40, Multiplier(2**30, 30)),  # 2^31 · 2^−31, renormalised
        (2.0**-32, Multiplier(2**30, 62)),
        (math.nextafter(2.0**-32, 1), Multiplier(2**30, 62)),
        (math.nextafter(2.0**-32, 0), Multiplier(2**30, 62)),  # rounds up into the range
        (2.0**-32 * (1 - 2.0**-31), FLUSH),
        (2.0**-33, FLUSH),
        (0.0, FLUSH),
        (-0.0, FLUSH),
        (-(2.0**-40), FLUSH),
        (5e-324, FLUSH),
        (2.0**28, Multiplier(2**30, 2)),
    ],
)
def test_multipliers_at_the_ends_of_the_range(real: float, expected: Multiplier):
    assert numerics.quantize_multiplier(real) == expected


@given(S32, st.floats(0, 2.0**-33))
def test_what_is_flushed_would_round_to_zero(acc: int, real: float):
    assert numerics.quantize_multiplier(real) == FLUSH
    assert numerics.rescale(acc, *FLUSH) == 0
    assert floor(acc * Fraction(real) + HALF) == 0


@pytest.mark.parametrize("real", [2.0**29, -(2.0**29), math.nextafter(2.0**29, 0), math.inf, math.nan])
def test_a_multiplier_out_of_range_is_refused(real: float):
    with pytest.raises(MultiplierRangeError, match=r"not (finite|below 2\^29)"):
        numerics.quantize_multiplier(real)


@given(st.floats(-1e4, 1e4, allow_subnormal=False), st.floats(-1e4, 1e4, allow_subnormal=False))
def test_add_multipliers_fit_32_bits_and_are_the_largest_possible(a: float, b: float):
    ma, mb, shift = numerics.quantize_add_multipliers(a, b)
    assert 1 <= shift <= 31
    assert 255 * (abs(ma) + abs(mb)) + 2 ** (shift - 1) <= S32_MAX
    for M, real in ((ma, a), (mb, b)):
        assert abs(M - Fraction(real) * 2**shift) <= HALF
        assert abs(M) < 2**21
    doubled = max(abs(Fraction(a)), abs(Fraction(b))) * 2 ** (shift + 1)
    assert shift == 31 or a == b == 0 or floor(doubled + HALF) >= 2**21


@given(
    st.floats(-1e4, 1e4, allow_subnormal=False),
    st.floats(-1e4, 1e4, allow_subnormal=False),
    st.sampled_from([(DType.S16, DType.S16), (DType.S16, DType.U8), (DType.S8, DType.S16)]),
)
def test_add_multipliers_of_16_bits_fit_64_bits(a: float, b: float, dtypes: tuple[DType, DType]):
    ma, mb, shift = numerics.quantize_add_multipliers(a, b, *dtypes)
    assert shift == 62 or a == b == 0 or max(abs(ma), abs(mb)) >= 2**30
    assert max(abs(ma), abs(mb)) < 2**31
    assert 65535 * (abs(ma) + abs(mb)) + 2 ** (shift - 1) < 2**63
    for M, real in ((ma, a), (mb, b)):
        assert abs(M - Fraction(real) * 2**shift) <= HALF


def test_add_multipliers_are_renormalised():
    assert numerics.quantize_add_multipliers(1 - 2.0**-40, -0.5) == (2**20, -(2**19), 20)


@pytest.mark.parametrize(("a", "b"), [(2.0**21, 1.0), (1.0, -(2.0**21)), (math.nan, 1.0), (1.0, math.inf)])
def test_add_multipliers_out_of_range_are_refused(a: float, b: float):
    with pytest.raises(MultiplierRangeError, match="of a sum"):
        numerics.quantize_add_multipliers(a, b)


@given(st.floats(0, 2.0**28), st.sampled_from([DType.U8, DType.S8, DType.S16]))
def test_a_division_never_leaves_64_bits(real: float, dtype: DType):
    M, shift = numerics.quantize_div_multiplier(real, dtype, dtype)
    largest = dtype.limits[1] - dtype.limits[0]
    assert 2 * largest * M + (largest << shift) < 2**63
    assert 2 * (largest << shift) < 2**63
    assert abs(M - Fraction(real) * 2**shift) <= HALF or M >= 2**30


def test_mean_multipliers_by_count():
    multipliers = numerics.quantize_mean_multipliers(0.75, 9)
    assert multipliers[0] == FLUSH
    assert multipliers[1:] == [numerics.quantize_multiplier(0.75 / n) for n in range(1, 10)]


@given(st.floats(-40000, 40000))
def test_residual_factors_have_8_to_15_bits(real: float):
    factor = numerics.quantize_residual_factor(real)
    if factor is None:
        assert abs(real) < 128 or abs(real) > 32766
    else:
        assert 128 <= abs(factor) <= 32767
        assert abs(factor - Fraction(real)) <= HALF


@pytest.mark.parametrize("real", [math.inf, -math.inf, math.nan])
def test_no_residual_factor_is_made_of_what_is_not_finite(real: float):
    assert numerics.quantize_residual_factor(real) is None
