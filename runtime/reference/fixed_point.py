"""`qcompiler.numerics` on NumPy arrays: signed 64-bit integers throughout, narrowed at the very end."""

import numpy as np
import numpy.typing as npt

from qcompiler.ir import DType
from qcompiler.ir.types import AnyArray

Int64 = npt.NDArray[np.int64]
Factor = Int64 | int


def widen(x: AnyArray) -> Int64:
    """The elements as s64."""
    return x.astype(np.int64)


def wrap_s32(x: Int64) -> Int64:
    """Each element modulo 2^32, as s32."""
    return x.astype(np.int32).astype(np.int64)


def shift_half_up(x: Int64, shift: Factor) -> Int64:
    """``x / 2^shift``, half up."""
    half = np.left_shift(1, np.asarray(shift, np.int64) - 1)
    return (x + half) >> shift


def divide_half_up(numerator: Int64, denominator: Int64) -> Int64:
    """``numerator / denominator``, half up; positive denominators."""
    return (2 * numerator + denominator) // (2 * denominator)


def narrow(x: Int64, lo: int, hi: int, dtype: DType) -> AnyArray:
    """Clamp, then convert to `dtype`."""
    return np.clip(x, lo, hi).astype(dtype.numpy)


def requantize(acc: Int64, multiplier: Factor, shift: Factor, zp_out: int, lo: int, hi: int, dtype: DType) -> AnyArray:
    """``clamp(zp_out + RESCALE(acc, multiplier, shift), lo, hi)``; multiplier and shift broadcast to acc."""
    return narrow(zp_out + shift_half_up(acc * multiplier, shift), lo, hi, dtype)
