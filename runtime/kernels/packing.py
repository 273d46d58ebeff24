"""What the epilogue of the tiles reads: parameter words, and one record for each vector of channels."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qcompiler.errors import InternalError
from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.rescale import FIELDS, FORM_S16, FORM_S32, FORM_TABLE, FORM_U8, RESIDUAL_PARAMETERS

S8 = npt.NDArray[np.int8]
S32 = npt.NDArray[np.int32]
S64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

ALIGNMENT = 64


@dataclass(frozen=True)
class Residual:
    """What is added to the accumulators of 8-bit results: `(residual − zero_point) · factor[c]`.

    Attributes:
        factor: s32[cout], within 16 bits.
        dtype: u8 or s8.
    """

    factor: S32
    zero_point: int
    dtype: DType


@dataclass(frozen=True)
class Requantization:
    """From accumulators to results: `clamp(zp_out + RESCALE(acc, multiplier[c], shift[c]), lo, hi)` in `dtype`.

    Attributes:
        multiplier: s32[cout], 0 or ± a number in [2^30, 2^31).
        shift: s32[cout], in [2, 62].
        dtype: u8, s8 or s16; lo and hi are within its limits.
        residual: what is added to acc first, if the dtype has 8 bits.
        looked_up: the word "table" is the address of `saturated_table` of a table, whose entries are stored. The dtype
            has 8 bits, nothing is added, and no shift is above `MOST_SHIFT_LOOKED_UP`.
    """

    multiplier: S32
    shift: S32
    zp_out: int
    lo: int
    hi: int
    dtype: DType
    residual: Residual | None = None
    looked_up: bool = False


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Per-channel vectors in natural order and the words `rescale.PARAMETERS`.

    Attributes:
        fields: s32[7, cout]: `rescale.FIELDS` without `odd_multiplier`, in that order.
        parameters: values of the words.
        residual_parameters: values of the words `rescale.RESIDUAL_PARAMETERS`.
        itemsize: bytes of one result.
    """

    fields: S32
    parameters: Mapping[str, int]
    itemsize: int
    residual_parameters: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(RESIDUAL_PARAMETERS, 0))

    def records(self, channels: npt.NDArray[np.intp]) -> Bytes:
        """Records for vectors of channels; `channels`: intp[vectors, lanes], a lane's channel."""
        chosen = self.fields[:, channels].transpose(1, 0, 2)
        odd = np.zeros_like(chosen[:, 1])
        odd[:, 0::2] = chosen[:, 1, 1::2]
        order = [*FIELDS]
        order.remove("odd_multiplier")
        records = np.stack([odd if f == "odd_multiplier" else chosen[:, order.index(f)] for f in FIELDS], axis=1)
        return aligned(records)


def make_epilogue(bias: S64, requantization: Requantization | None) -> Epilogue:
    """The epilogue for a bias (reduced modulo 2^32) and a requantization; None stores accumulators as s32."""
    factor, residual_parameters = np.zeros(len(bias), np.int64), dict.fromkeys(RESIDUAL_PARAMETERS, 0)
    if requantization is not None and requantization.residual is not None:
        residual = requantization.residual
        factor = residual.factor.astype(np.int64)
        flip = 128 if residual.dtype is DType.S8 else 0
        bias = bias - (residual.zero_point + flip) * factor
        residual_parameters = {"adds_residual": 1, "residual_flip": _repeated(flip, 8)}
    wrapped: S32 = bias.astype(np.uint32).view(np.int32)
    if requantization is None:
        unscaled = np.zeros((len(FIELDS) - 1, len(wrapped)), np.int32)
        unscaled[0] = wrapped
        return Epilogue(unscaled, _parameters(0, 0, 0, 0, FORM_S32, large=False), 4)
    q = requantization
    multiplier, shift = q.multiplier.astype(np.int64), q.shift.astype(np.int64)
    # Zero at any shift rounds to zero. Below 13 every accumulator but zero leaves any range of 16 bits, as it does
    # at 13 with the least multiplier of the same sign.
    shift = np.where(multiplier == 0, 33, shift)
    multiplier = np.where(shift < 13, np.sign(multiplier) << 30, multiplier)
    shift = np.maximum(shift, 13)
    left_shift = np.maximum(33 - shift, 0)
    shift = np.maximum(shift, 33) - 32
    limit = (1 << (31 - left_shift)) - 1
    rows = wrapped, multiplier, 1 << (shift - 1), shift, limit, left_shift, factor & 0xFFFF
    fields: S32 = np.stack(rows).astype(np.int32)
    large = bool(left_shift.any())
    if q.dtype.is_8_bit:
        flip = 128 if q.dtype is DType.S8 else 0
        zp_out, lo, hi = q.zp_out + flip, q.lo + flip, q.hi + flip
        if shift.max(initial=0) <= MOST_SHIFT_LOOKED_UP - 32:  # round and add the zero point at once
            fields[FIELDS.index("half") - 1] += (zp_out << shift).astype(np.int32)
            zp_out = 0
        plain = (zp_out, lo, hi, flip) == (0, 0, 255, 0)
        bounds = _repeated(lo, 8), _repeated(hi, 8), _repeated(flip, 8)
        form = FORM_TABLE if q.looked_up else FORM_U8
        if q.looked_up and zp_out:
            raise InternalError("a table cannot follow shifts that leave no room for the zero point")
        parameters = _parameters(_repeated(zp_out, 16), *bounds, form, large=large, plain=plain)
        return Epilogue(fields, parameters, 1, residual_parameters)
    if q.dtype is DType.S16:
        return Epilogue(fields, _parameters(q.zp_out, q.lo, q.hi, 0, FORM_S16, large=large), 2)
    raise InternalError(f"no kernel requantizes to {q.dtype}")


MOST_SHIFT_LOOKED_UP = 52
"""The high half is below 2^30, so a zero point of 8 bits that is shifted by 32 less cannot make it overflow."""


def saturated_table(entries: npt.NDArray[np.generic], q: Requantization) -> Bytes:
    """The table for results that saturate to u8 only: bounds and sign of `q` are in the order of its entries.

    Args:
        entries: u8[256] or s8[256], for the results from the least to the largest of the dtype.
        q: what precedes the look-up.
    """
    flip = 128 if q.dtype is DType.S8 else 0
    return entries.view(np.uint8)[np.clip(np.arange(256), q.lo + flip, q.hi + flip)]


def _parameters(
    zp_out: int, lo: int, hi: int, flip: int, form: int, *, large: bool, plain: bool = False
) -> dict[str, int]:
    words = {"zp_out": zp_out, "lo": lo, "hi": hi, "flip": flip, "form": form}
    return {**words, "large": int(large), "plain": int(plain), "table": 0}


def _repeated(value: int, bits: int) -> int:
    """The s64 that consists of a value's lowest bits again and again: loading it needs no shuffle."""
    word = np.array([value & (1 << bits) - 1], f"u{bits // 8}").repeat(64 // bits)
    return int(word.view(np.int64)[0])


def aligned(array: npt.NDArray[np.generic]) -> Bytes:
    """A copy of the array's bytes that starts at a multiple of `ALIGNMENT`."""
    raw = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    result = raw[start : start + array.nbytes]
    result[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return result


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below `value`."""
    return -(-value // multiple) * multiple
