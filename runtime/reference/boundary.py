"""Between float32 and integers, operation by operation as ONNX defines them."""

from collections.abc import Sequence

import numpy as np

from qcompiler.errors import InternalError
from qcompiler.ir import DType, QuantParams
from qcompiler.ir.ops import Dequantize, IntDequantize, IntQuantize, Quantize
from qcompiler.ir.types import AnyArray
from qcompiler.runtime.reference.real import along_axis
from qcompiler.runtime.reference.registry import Domain, Types, reference


@reference(IntQuantize, Domain.STORED)
def int_quantize(op: IntQuantize, x: AnyArray) -> AnyArray:
    return quantize(x, op.dtype, op.scale, op.zero_point, op.axis)


@reference(IntDequantize, Domain.STORED)
def int_dequantize(op: IntDequantize, x: AnyArray) -> AnyArray:
    return dequantize(x, op.scale, op.zero_point, op.axis)


@reference(Quantize, Domain.STORED, typed=True)
def real_quantize(_op: Quantize, types: Types, x: AnyArray) -> AnyArray:
    quant = _parameters(types.results[0].quant, "result")
    return quantize(x, types.results[0].dtype, quant.scale, quant.zero_point, quant.axis)


@reference(Dequantize, Domain.STORED, typed=True)
def real_dequantize(_op: Dequantize, types: Types, x: AnyArray) -> AnyArray:
    quant = _parameters(types.operands[0].quant, "operand")
    return dequantize(x, quant.scale, quant.zero_point, quant.axis)


def quantize(
    x: AnyArray, dtype: DType, scale: Sequence[float], zero_point: Sequence[int], axis: int | None
) -> AnyArray:
    """`qcompiler.numerics.quantize` of each element of a float32 array."""
    lo, hi = dtype.limits
    rounded = np.rint(x.astype(np.float32) / along_axis(scale, axis, x.ndim, np.float32))
    q = rounded.astype(np.float64) + along_axis(zero_point, axis, x.ndim, np.float64)
    return np.where(np.isnan(q), lo, np.clip(q, lo, hi)).astype(dtype.numpy)


def dequantize(x: AnyArray, scale: Sequence[float], zero_point: Sequence[int], axis: int | None) -> AnyArray:
    """`qcompiler.numerics.dequantize` of each element: float32."""
    difference = x.astype(np.int64) - along_axis(zero_point, axis, x.ndim, np.int64)
    result: AnyArray = difference.astype(np.float32) * along_axis(scale, axis, x.ndim, np.float32)
    return result


def _parameters(quant: QuantParams | None, which: str) -> QuantParams:
    if quant is None:
        raise InternalError(f"the {which} has no quantization parameters")
    return quant
