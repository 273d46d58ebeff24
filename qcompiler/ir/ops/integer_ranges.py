"""Which numbers the ops of the integer stage may hold: zero points, clamps, multipliers, shifts.

A kernel relies on them without checking; `qcompiler.numerics` says what they mean.
"""

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Operands
from qcompiler.ir.types import AnyArray, DType, TensorType, format_shape

MIN_MULTIPLIER, END_MULTIPLIER = 2**30, 2**31
MIN_SHIFT, MAX_SHIFT = 2, 62
NARROW = (DType.U8, DType.S8)
ACTIVATIONS = (DType.U8, DType.S8, DType.S16)
ACCUMULATORS = (*ACTIVATIONS, DType.S32)
LARGEST_RESCALED = 2**31
"""The largest |acc| of a RESCALE: with |M| < 2^31 its product and the half that rounds it fit 64 bits."""
LARGEST_SUM = 2**31 - 1
"""The largest |sum| of a mean or pool, whose sums are kept in 32 bits."""
ONE_Q30 = 2**30


def check_dtype(operands: Operands, index: int, *allowed: DType) -> None:
    """Raise VerifyError unless operand `index`, if there, has one of the dtypes."""
    if len(operands) > index and operands[index].dtype not in allowed:
        raise VerifyError(f"operand {index} has dtype {operands[index].dtype}, expected {' or '.join(allowed)}")


def check_zero_point(operand: TensorType, zero_point: int) -> None:
    """Raise VerifyError unless the operand's dtype holds its zero point."""
    low, high = operand.dtype.limits
    if not low <= zero_point <= high:
        raise VerifyError(f"zero point {zero_point} lies outside [{low}, {high}] of {operand.dtype}")


def reach(operand: TensorType, zero_point: int) -> int:
    """The largest |x − zero_point| of an element of the operand's dtype."""
    low, high = operand.dtype.limits
    return max(high - zero_point, zero_point - low)


def check_rescaled(bound: int, what: str) -> None:
    """Raise VerifyError unless RESCALE takes what is at most `bound` in magnitude."""
    if bound > LARGEST_RESCALED:
        raise VerifyError(f"{what} can reach {bound}, and a rescale takes no more than 2^31: use a zero point nearer 0")


def check_sum(bound: int, count: int) -> None:
    """Raise VerifyError unless the sum of `count` differences of at most `bound` fits 32 bits."""
    if bound * count > LARGEST_SUM:
        raise VerifyError(f"the sum of {count} elements can reach {bound * count}, which does not fit 32 bits")


def check_result(dtype: DType, zero_point: int, lo: int, hi: int) -> None:
    """Raise VerifyError unless the result's dtype holds zero point and clamp, and the clamp is no empty range."""
    if dtype not in ACCUMULATORS:
        raise VerifyError(f"the result has dtype {dtype}, expected {' or '.join(ACCUMULATORS)}")
    low, high = dtype.limits
    if not low <= zero_point <= high:
        raise VerifyError(f"zero point {zero_point} of the result lies outside [{low}, {high}] of {dtype}")
    if not low <= lo <= hi <= high:
        raise VerifyError(f"clamp [{lo}, {hi}] is no range within [{low}, {high}] of {dtype}")


def check_multiplier(multiplier: int, shift: int) -> None:
    """Raise VerifyError unless M is 0 or ±M in [2^30, 2^31), and the shift in [2, 62]."""
    if multiplier and not MIN_MULTIPLIER <= abs(multiplier) < END_MULTIPLIER:
        raise VerifyError(f"multiplier {multiplier} is neither 0 nor ± a number in [2^30, 2^31)")
    if not MIN_SHIFT <= shift <= MAX_SHIFT:
        raise VerifyError(f"shift {shift} lies outside [{MIN_SHIFT}, {MAX_SHIFT}]")


def limits_of_sum(*dtypes: DType) -> tuple[int, int]:
    """(end of |multiplier|, most shift) of an addition of these operands.

    With 8 bits the rounded sum is at most 2 · 255 · (2^21 − 1) + 2^30 < 2^31; with more it has 64 bits.
    """
    return (2**21, 31) if all(dtype.is_8_bit for dtype in dtypes) else (END_MULTIPLIER, MAX_SHIFT)


def check_sum_multipliers(operands: Sequence[TensorType], multipliers: Sequence[int], shift: int) -> None:
    """Raise VerifyError unless the sum of the products keeps within `limits_of_sum`."""
    end, most = limits_of_sum(*(operand.dtype for operand in operands))
    for multiplier in multipliers:
        if not -end < multiplier < end:
            raise VerifyError(f"multiplier {multiplier} of a sum lies outside (-{end}, {end})")
    if not 1 <= shift <= most:
        raise VerifyError(f"shift {shift} of a sum lies outside [1, {most}]")


def check_multiplier_vectors(operands: Operands, index: int, length: int) -> None:
    """Raise VerifyError unless operands `index` and `index + 1` are constant multipliers and shifts, s32[length]."""
    multipliers, shifts = (check_constant_vector(operands, position, length) for position in (index, index + 1))
    if not length:
        return
    magnitudes = np.abs(multipliers.astype(np.int64))
    magnitudes = magnitudes[magnitudes != 0]
    for shift in (shifts.min(), shifts.max()):
        check_multiplier(int(magnitudes.min(initial=END_MULTIPLIER - 1)), int(shift))
        check_multiplier(int(magnitudes.max(initial=0)), int(shift))


def check_exponentials(operands: Operands, index: int) -> None:
    """Raise VerifyError unless operand `index` is a constant table of 256 exponentials in Q30, the first of 0."""
    table = check_constant_vector(operands, index, 256)
    if table[0] != ONE_Q30 or table.min() < 0 or table.max() > ONE_Q30:
        raise VerifyError(f"operand {index} is no table of exponentials: entries of [0, 2^30], the first one 2^30")


def check_constant_vector(operands: Operands, index: int, length: int) -> AnyArray:
    """The array of operand `index`; raises VerifyError unless it is a constant s32[length]."""
    check_vector(operands, index, length)
    array = operands.constant(index)
    if array is None:
        raise VerifyError(f"operand {index} has to be a constant")
    return array


def check_vector(operands: Operands, index: int, length: int) -> None:
    """Raise VerifyError unless operand `index` is s32[length]."""
    check_dtype(operands, index, DType.S32)
    if operands[index].shape != (length,):
        raise VerifyError(f"operand {index} has shape {format_shape(operands[index].shape)}, expected [{length}]")
