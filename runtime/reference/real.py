"""Between stored arrays and the real numbers that they mean."""

from typing import Any

import numpy as np
import numpy.typing as npt

from qcompiler.errors import InternalError
from qcompiler.ir import DType, QuantParams, TensorType
from qcompiler.ir.types import AnyArray

Real = npt.NDArray[np.float64]


def along_axis(values: npt.ArrayLike, axis: int | None, rank: int, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A vector of parameters (its only entry if `axis` is None), shaped to broadcast over arrays of `rank`."""
    vector = np.asarray(values, dtype)
    if axis is None:
        return vector.reshape(())
    return vector.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def to_real(value_type: TensorType, array: AnyArray) -> Real:
    """The real numbers that a stored array means, in float64.

    Raises:
        InternalError: integers without quantization parameters mean none.
    """
    quant = value_type.quant
    if quant is None:
        if not value_type.dtype.is_float:
            raise InternalError(f"a value of dtype {value_type.dtype} without quantization parameters is not real")
        return array.astype(np.float64)
    scale = along_axis(quant.scale, quant.axis, array.ndim, np.float64)
    zero_point = along_axis(quant.zero_point, quant.axis, array.ndim, np.int64)
    difference: Real = (array.astype(np.int64) - zero_point).astype(np.float64)
    real: Real = difference * scale
    return real


def from_real(value_type: TensorType, real: Real) -> AnyArray:
    """Real numbers as a type stores them: rounded once to a float dtype, or quantized half up."""
    if value_type.quant is not None:
        return quantize_real(real, value_type.dtype, value_type.quant)
    return real.astype(value_type.dtype.numpy)


def quantize_real(real: Real, dtype: DType, quant: QuantParams) -> AnyArray:
    """`qcompiler.numerics.quantize_real` of each element, within the limits of `dtype`."""
    lo, hi = dtype.limits
    scale = along_axis(quant.scale, quant.axis, real.ndim, np.float64)
    zero_point = along_axis(quant.zero_point, quant.axis, real.ndim, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        quotient = real / scale
        q: Real = np.floor(quotient)
        q += quotient - q >= 0.5
    q += zero_point
    if (unknown := np.isnan(q)).any():
        q = np.where(unknown, zero_point, q)
    # s64 limits are no float64; every other dtype's are.
    return np.clip(q, float(lo), float(hi)).astype(dtype.numpy)
