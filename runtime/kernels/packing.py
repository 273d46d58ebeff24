"""What the epilogue of the tiles reads: parameter words, and one record for each vector of channels."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from qcompiler.errors import InternalError
from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.rescale import FIELDS, FORM_S16, FORM_S32, FORM_SUM, FORM_U8, SUM_PARAMETERS

S8 = npt.NDArray[np.int8]
S32 = npt.NDArray[np.int32]
S64 = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]

ALIGNMENT = 64


@dataclass(frozen=True)
class ResidualSum:
    """An `int.add` of results, which saturate to s16, and an 8-bit residual, as kernels add them.

    Attributes:
        multiplier: of the results, |multiplier| < 2^15.
        multiplier_residual: 2^8 times a number of 15 bits.
        zp_residual: the residual's zero point.
        residual_dtype: u8 or s8.
    """

    multiplier: int
    multiplier_residual: int
    shift: int
    zp_residual: int
    residual_dtype: DType

    def parameters(self, zp_out: int) -> dict[str, int]:
        """The words `rescale.SUM_PARAMETERS`, for the zero point of what is stored as u8."""
        flip = 128 if self.residual_dtype is DType.U8 else 0
        offset = (self.zp_residual - flip) * self.multiplier_residual
        addend = (1 << (self.shift - 1)) + (zp_out << self.shift) - offset
        factors = (self.multiplier & 0xFFFF) | (self.multiplier_residual >> 8 & 0xFFFF) << 16
        return {
            "sum_multipliers": _repeated(factors, 32),
            "sum_addend": _repeated(addend, 32),
            "sum_shift": _repeated(self.shift, 32),
            "sum_flip": _repeated(flip, 8),
        }


@dataclass(frozen=True)
class Requantization:
    """From accumulators to results: `clamp(zp_out + RESCALE(acc, multiplier[c], shift[c]), lo, hi)` in `dtype`.

    With a residual the results saturate to s16, and zp_out, lo, hi and dtype are those of the sum.

    Attributes:
        multiplier: s32[cout], 0 or ± a number in [2^30, 2^31).
        shift: s32[cout], in [2, 62].
        dtype: u8, s8 or s16; lo and hi are within its limits.
        residual: what is added, if the dtype has 8 bits.
    """

    multiplier: S32
    shift: S32
    zp_out: int
    lo: int
    hi: int
    dtype: DType
    residual: ResidualSum | None = None


@dataclass(frozen=True, eq=False)
class Epilogue:
    """Per-channel vectors in natural order and the words `rescale.PARAMETERS`.

    Attributes:
        fields: s32[6, cout]: `rescale.FIELDS` without `odd_multiplier`, in that order.
        parameters: values of the words.
        sum_parameters: values of the words `rescale.SUM_PARAMETERS`.
        itemsize: bytes of one result.
    """

    fields: S32
    parameters: Mapping[str, int]
    itemsize: int
    sum_parameters: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(SUM_PARAMETERS, 0))

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
    fields: S32 = np.stack([wrapped, multiplier, 1 << (shift - 1), shift, limit, left_shift]).astype(np.int32)
    large = bool(left_shift.any())
    if q.dtype in (DType.U8, DType.S8):
        flip = 128 if q.dtype is DType.S8 else 0
        zp_out, lo, hi = q.zp_out + flip, q.lo + flip, q.hi + flip
        if q.residual is not None:
            bounds = _repeated(lo, 8), _repeated(hi, 8), _repeated(flip, 8)
            return Epilogue(fields, _parameters(0, *bounds, FORM_SUM, large=large), 1, q.residual.parameters(zp_out))
        if shift.max(initial=0) <= _MOST_SHIFT_WITH_ZP:  # round and add the zero point at once
            fields[FIELDS.index("half") - 1] += (zp_out << shift).astype(np.int32)
            zp_out = 0
        plain = (zp_out, lo, hi, flip) == (0, 0, 255, 0)
        bounds = _repeated(lo, 8), _repeated(hi, 8), _repeated(flip, 8)
        return Epilogue(fields, _parameters(_repeated(zp_out, 16), *bounds, FORM_U8, large=large, plain=plain), 1)
    if q.dtype is DType.S16:
        return Epilogue(fields, _parameters(q.zp_out, q.lo, q.hi, 0, FORM_S16, large=large), 2)
    raise InternalError(f"no kernel requantizes to {q.dtype}")


_MOST_SHIFT_WITH_ZP = 20
"""The high half is below 2^30, so a zero point of 8 bits that is shifted by this much cannot make it overflow."""


def _parameters(
    zp_out: int, lo: int, hi: int, flip: int, form: int, *, large: bool, plain: bool = False
) -> dict[str, int]:
    words = {"zp_out": zp_out, "lo": lo, "hi": hi, "flip": flip, "form": form}
    return {**words, "large": int(large), "plain": int(plain)}


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
