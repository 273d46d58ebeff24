"""The arithmetic of the integer stage, defined once, in Python integers.

Everything else (reference executor, kernels, passes) is tested against this file with ``==``;
docs/numerics.md explains it. Functions about single elements are definitions, written to be read; functions
about multipliers, scales and tables run at compile time. An accumulator is a signed 32-bit integer, a product
with a multiplier a signed 64-bit one.

One rounding rule, half up: the nearest integer, ties towards +infinity. Only `quantize` and `dequantize`, the
borders to float32, follow ONNX and round ties to even.
"""

import math
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

from qcompiler.errors import MultiplierRangeError, UsageError
from qcompiler.ir.ops import IntAdd, IntAveragePool, IntDiv, IntMatMul, IntMean, IntMul, IntPRelu, IntSoftmax
from qcompiler.ir.ops.integer_arithmetic import MAX_SHIFT_OF_DIVISION
from qcompiler.ir.ops.integer_ranges import limits_of_sum
from qcompiler.ir.types import DType, QuantParams

S32_MIN, S32_MAX = -(2**31), 2**31 - 1
MIN_SHIFT, MAX_SHIFT = 2, 62
SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32: a smaller scale could not divide at the border."""

LEAST_RESIDUAL_FACTOR = 2**7


class Multiplier(NamedTuple):
    """A real factor ``M · 2^−shift``: |M| lies in [2^30, 2^31), or M is 0 and every product becomes zero."""

    M: int
    shift: int


FLUSH = Multiplier(0, 33)
"""The factor zero. Any shift would do; 33 lies where every form of a requantize kernel works."""


# ---- rounding ----------------------------------------------------------------------------------------------


def clamp(value: int, lo: int, hi: int) -> int:
    """The member of [lo, hi] nearest to `value`."""
    return min(max(value, lo), hi)


def round_half_up(value: float) -> int:
    """The nearest integer, ties towards +infinity; ``floor(x + 0.5)`` would make 0.49999999999999994 one."""
    below = math.floor(value)
    return below + (value - below >= 0.5)


def divide_half_up(numerator: int, denominator: int) -> int:
    """The integer nearest to the quotient, ties towards +infinity.

    The denominator is positive.
    """
    return (2 * numerator + denominator) // (2 * denominator)


def wrap_s32(value: int) -> int:
    """The signed 32-bit integer equal to `value` modulo 2^32."""
    return (value + 2**31) % 2**32 - 2**31


def round_to_f32(value: float) -> float:
    """The float32 nearest to a float64, ties to even, overflow to infinity.

    The float32 quotient or product of two float32 is this of their float64 quotient or product: 53 bits are
    more than 2 · 24 + 2, so that rounding twice changes nothing (Figueroa, "When is double rounding
    innocuous?", 1995).
    """
    try:
        (rounded,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        return math.copysign(math.inf, value)
    return float(rounded)


# ---- multipliers -------------------------------------------------------------------------------------------


def quantize_multiplier(real: float) -> Multiplier:
    """The multiplier nearest to `real`, which may be negative: relative error at most 2^−31.

    |real| below 2^−32 (a shift above 62) gives `FLUSH`: no 32-bit accumulator times that reaches one half.

    Raises:
        MultiplierRangeError: |real| ≥ 2^29 (a shift below 2), or not finite.
    """
    if not math.isfinite(real):
        raise MultiplierRangeError(f"the multiplier {real} is not finite")
    if real < 0:
        M, shift = quantize_multiplier(-real)
        return Multiplier(-M, shift) if M else FLUSH
    if real == 0:
        return FLUSH
    fraction, exponent = math.frexp(real)
    M, shift = round_half_up(fraction * 2**31), 31 - exponent
    if M == 2**31:
        M, shift = 2**30, shift - 1
    if shift > MAX_SHIFT:
        return FLUSH
    if shift < MIN_SHIFT:
        raise MultiplierRangeError(f"the multiplier {real} is not below 2^29: the scales do not fit together")
    return Multiplier(M, shift)


def quantize_add_multipliers(
    real_a: float, real_b: float, dtype_a: DType = DType.U8, dtype_b: DType = DType.U8
) -> tuple[int, int, int]:
    """(multiplier_a, multiplier_b, shift) of an addition: two factors over one power of two, the largest.

    With operands of 8 bits the sum fits 32 bits, else 64: see `limits_of_sum`.

    Raises:
        MultiplierRangeError: a factor needs a shift below 1, or is not finite.
    """
    limit, most = limits_of_sum(dtype_a, dtype_b)
    largest = max(abs(real_a), abs(real_b))
    if not math.isfinite(real_a) or not math.isfinite(real_b):
        raise MultiplierRangeError(f"the multipliers {real_a} and {real_b} of a sum are not both finite")
    shift = min(most, limit.bit_length() - 1 - math.frexp(largest)[1])
    if round_half_up(math.ldexp(largest, shift)) >= limit:
        shift -= 1
    if shift < 1:
        raise MultiplierRangeError(f"the multipliers {real_a} and {real_b} of a sum are too large")
    return _signed_fixed_point(real_a, shift), _signed_fixed_point(real_b, shift), shift


def quantize_residual_factor(real: float) -> int | None:
    """The integer nearest to `real`, by which a residual is multiplied before it is added to an accumulator.

    None unless it has 8 to 15 bits: a smaller one would be off by more than 1/256, a larger one does not fit s16.
    """
    factor = _signed_fixed_point(real, 0) if math.isfinite(real) else 0
    return factor if LEAST_RESIDUAL_FACTOR <= abs(factor) < 2**15 else None


def quantize_div_multiplier(real: float, dtype_a: DType = DType.U8, dtype_b: DType = DType.U8) -> Multiplier:
    """The multiplier of a division; its shift is limited so that ``2 · (b − zp_b) · 2^shift`` fits 64 bits.

    The limit is 53 for 8-bit operands and 45 where one has 16 bits; a smaller factor keeps fewer bits.

    Raises:
        MultiplierRangeError: as `quantize_multiplier`.
    """
    most = MAX_SHIFT_OF_DIVISION[min(2, max(dtype_a.itemsize, dtype_b.itemsize))]  # wider ones the verifier refuses
    M, shift = quantize_multiplier(real)
    return Multiplier(M, shift) if M and shift <= most else Multiplier(_signed_fixed_point(real, most), most)


def quantize_mean_multipliers(real: float, largest_count: int) -> list[Multiplier]:
    """Multipliers of ``real / n`` for n = 0 ... `largest_count`; nothing (n = 0) has mean zero."""
    return [FLUSH, *(quantize_multiplier(real / n) for n in range(1, largest_count + 1))]


def _signed_fixed_point(real: float, shift: int) -> int:
    magnitude = round_half_up(math.ldexp(abs(real), shift))
    return -magnitude if real < 0 else magnitude


# ---- requantization and elementwise ops --------------------------------------------------------------------


def rescale(acc: int, M: int, shift: int) -> int:
    """TOSA's RESCALE, single rounding: ``acc · M / 2^shift``, half up; acc fits 32 bits, the product 64."""
    return (acc * M + (1 << (shift - 1))) >> shift


def requantize(acc: int, M: int, shift: int, zp_out: int, lo: int, hi: int) -> int:
    """From an accumulator to a result. The clamp comes before any narrowing to 32 bits."""
    return clamp(zp_out + rescale(acc, M, shift), lo, hi)


def add(op: IntAdd, a: int, b: int) -> int:
    """One rounding for the whole sum; a difference has a negative `multiplier_b`."""
    total = (a - op.zp_a) * op.multiplier_a + (b - op.zp_b) * op.multiplier_b
    return clamp(op.zp_out + ((total + (1 << (op.shift - 1))) >> op.shift), op.lo, op.hi)


def mul(op: IntMul, a: int, b: int) -> int:
    """The product of the differences fits 32 bits."""
    product = (a - op.zp_a) * (b - op.zp_b)
    return requantize(product, op.multiplier, op.shift, op.zp_out, op.lo, op.hi)


def div(op: IntDiv, a: int, b: int) -> int:
    """A quotient rounded once; n/0 is the end of the range on its side, 0/0 the zero point."""
    n, d = (a - op.zp_a) * op.multiplier, (b - op.zp_b) << op.shift
    if d == 0:
        return clamp(op.zp_out, op.lo, op.hi) if n == 0 else op.hi if n > 0 else op.lo
    quotient = divide_half_up(n, d) if d > 0 else divide_half_up(-n, -d)
    return clamp(op.zp_out + quotient, op.lo, op.hi)


def prelu(op: IntPRelu, x: int, multiplier: int, shift: int) -> int:
    """`multiplier` (signed) and `shift` are those of the element's channel, for x below the zero point."""
    if x >= op.zp_in:
        multiplier, shift = op.positive_multiplier, op.positive_shift
    return requantize(x - op.zp_in, multiplier, shift, op.zp_out, op.lo, op.hi)


def look_up(x: int, table: Sequence[int], dtype: DType) -> int:
    """The entry of a table of 256 for an element of `dtype` (u8, s8); the first is the smallest element's."""
    return table[x - dtype.limits[0]]


# ---- multiply-accumulate -----------------------------------------------------------------------------------


def fold_bias(bias: int, zp_in: int, weights: Sequence[int]) -> int:
    """The bias with the input's zero point in it, modulo 2^32: Σ (x − zp)·w + b = Σ x·w + (b − zp·Σw)."""
    return wrap_s32(bias - zp_in * sum(weights))


def accumulate(xs: Sequence[int], weights: Sequence[int], folded_bias: int) -> int:
    """One output of a convolution or gemm before its RESCALE, modulo 2^32; padding elements are `zp_in`."""
    return wrap_s32(folded_bias + sum(x * w for x, w in zip(xs, weights, strict=True)))


def matmul(op: IntMatMul, row: Sequence[int], column: Sequence[int]) -> int:
    """One element of a product of two activations: a row of a by a column of b; the sum is modulo 2^32."""
    acc = wrap_s32(sum((a - op.zp_a) * (b - op.zp_b) for a, b in zip(row, column, strict=True)))
    return requantize(acc, op.multiplier, op.shift, op.zp_out, op.lo, op.hi)


def accumulator_bound(dtype: DType, zp_in: int, weights: Sequence[int], bias: int) -> int:
    """The largest |accumulator| that any input of `dtype` can make: ``max|x − zp| · Σ|w| + |bias|``.

    `bias` is the one before folding. The bound is on the final sum: partial sums may wrap, which is exact
    modulo 2^32.
    """
    low, high = dtype.limits
    return max(high - zp_in, zp_in - low) * sum(map(abs, weights)) + abs(bias)


def headroom_bits(bound: int) -> int:
    """How often the bound can be doubled without leaving 32 bits; negative if it does not fit: not proven."""
    return 31 - bound.bit_length()


# ---- reductions --------------------------------------------------------------------------------------------


def mean(op: IntMean | IntAveragePool, xs: Sequence[int], M: int, shift: int) -> int:
    """The mean of elements; their count is in the multiplier, the sum of the differences fits 32 bits.

    Padding elements of an average pool are not among `xs`: their difference is zero.
    """
    return requantize(sum(x - op.zp_in for x in xs), M, shift, op.zp_out, op.lo, op.hi)


def window_count(
    position: int,
    size: int,
    kernel: int,
    stride: int,
    dilation: int,
    pad_begin: int,
    pad_end: int,
    *,
    include_pad: bool,
) -> int:
    """Elements of one axis that a pooling window counts at an output position; the axes' counts multiply.

    Without `include_pad` input elements, else also explicit padding, never the overhang of ceil_mode.
    """
    first, last = (-pad_begin, size + pad_end) if include_pad else (0, size)
    taps = (position * stride - pad_begin + k * dilation for k in range(kernel))
    return sum(first <= tap < last for tap in taps)


def softmax_tables(scale: float, dtype: DType) -> tuple[list[int], list[int] | None]:
    """(exp_high, exp_low) of exp(−scale · d) in Q30, d = max − x; exp_low for s16 only.

    8 bits: exp_high[d]. 16 bits: exp(−scale · d) = exp_high[d >> 8] · exp_low[d & 255].
    """
    step = 256 if dtype is DType.S16 else 1
    exp_high = [round_half_up(math.exp(-scale * step * d) * 2**30) for d in range(256)]
    if dtype is not DType.S16:
        return exp_high, None
    return exp_high, [round_half_up(math.exp(-scale * d) * 2**30) for d in range(256)]


def softmax(op: IntSoftmax, xs: Sequence[int], exp_high: Sequence[int], exp_low: Sequence[int] | None) -> list[int]:
    """Softmax of one row; `op.one` stands for 1.0 in the result. docs/numerics.md proves its error bound."""
    largest = max(xs)
    if exp_low is None:
        exponentials = [exp_high[largest - x] for x in xs]
    else:
        exponentials = [(exp_high[(largest - x) >> 8] * exp_low[(largest - x) & 255] + 2**29) >> 30 for x in xs]
    total = sum(exponentials)
    return [clamp(divide_half_up(e * op.one, total), 0, op.hi) for e in exponentials]


# ---- the borders to float32 --------------------------------------------------------------------------------


def quantize(x: float, scale: float, zero_point: int, dtype: DType) -> int:
    """ONNX `QuantizeLinear` of a float32: float32 quotient, ties to even, saturation.

    NaN gives the smallest value, as onnxruntime does on x86.
    """
    lo, hi = dtype.limits
    quotient = round_to_f32(x / round_to_f32(scale))
    if math.isnan(quotient):
        return lo
    if math.isinf(quotient):
        return hi if quotient > 0 else lo
    return clamp(round(quotient) + zero_point, lo, hi)


def dequantize(q: int, scale: float, zero_point: int) -> float:
    """ONNX `DequantizeLinear`: the exact difference, rounded to float32, times the scale in float32."""
    return round_to_f32(round_to_f32(float(q - zero_point)) * round_to_f32(scale))


# ---- parameters, constants and tables, at compile time -----------------------------------------------------


def quantize_real(value: float, scale: float, zero_point: int, lo: int, hi: int) -> int:
    """A real number to an integer in [lo, hi], half up in float64: constants, tables, the quantized stage.

    Infinities saturate; NaN (the logarithm of a negative number) becomes real zero.
    """
    quotient = value / scale
    if math.isnan(quotient):
        return clamp(zero_point, lo, hi)
    if math.isinf(quotient):
        return hi if quotient > 0 else lo
    return clamp(round_half_up(quotient) + zero_point, lo, hi)


def build_table(
    function: Callable[[float], float],
    source: tuple[DType, float, int],
    target: tuple[DType, float, int],
    *,
    lo: int | None = None,
    hi: int | None = None,
) -> list[int]:
    """The 256 entries of a unary function between two quantized tensors, each (dtype, scale, zero_point).

    Entry i belongs to the i-th smallest element of the source. [lo, hi] defaults to the target's limits.
    """
    (dtype, scale, zero_point), (result, result_scale, result_zero_point) = source, target
    low, high = dtype.limits
    smallest, largest = result.limits
    return [
        quantize_real(
            function(scale * (q - zero_point)),
            result_scale,
            result_zero_point,
            smallest if lo is None else lo,
            largest if hi is None else hi,
        )
        for q in range(low, high + 1)
    ]


def quantize_bias(bias: float, scale: float) -> int:
    """A bias at the scale of its accumulator, half up, not clamped: see `accumulator_bound`."""
    return round_half_up(bias / scale)


def is_zero_range(low: float, high: float) -> bool:
    """Whether a range holds nothing but zero (to float32's accuracy): its tensor is a constant."""
    return max(abs(low), abs(high)) / 255 < SMALLEST_SCALE


def choose_params(low: float, high: float, dtype: DType) -> QuantParams:
    """Scale and zero point for real values in [low, high], per tensor.

    u8 is asymmetric over the range widened to hold zero, so that zero (padding, Relu) is exact. Signed dtypes
    are symmetric about zero, [−127, 127] for s8. The scale is a float32, so that both borders and every
    multiplier use the same number. A range of zero alone gets scale 1 (see `is_zero_range`).

    Raises:
        UsageError: the range is empty or not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise UsageError(f"[{low}, {high}] is not a finite range")
    if is_zero_range(low, high):
        return QuantParams.per_tensor(1.0)
    if dtype is not DType.U8:
        return QuantParams.per_tensor(choose_symmetric_scale(max(abs(low), abs(high)), dtype))
    low, high = min(low, 0.0), max(high, 0.0)
    # Dividing first keeps a range of almost all of float32 finite.
    scale = max(round_to_f32(high / 255 - low / 255), SMALLEST_SCALE)
    return QuantParams.per_tensor(scale, clamp(round_half_up(-low / scale), 0, 255))


def choose_symmetric_scale(largest: float, dtype: DType) -> float:
    """The scale, a float32, that maps ±`largest` to ±127 for s8, to ± the largest element of `dtype`; 1 for zero."""
    if is_zero_range(-largest, largest):
        return 1.0
    return max(round_to_f32(largest / dtype.limits[1]), SMALLEST_SCALE)
