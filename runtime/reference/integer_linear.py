"""Integer convolution, fully connected layers and products of activations."""

import math
from collections.abc import Callable

import numpy as np

from qcompiler.ir import DType
from qcompiler.ir.ops import IntConv, IntGemm, IntMatMul
from qcompiler.ir.types import AnyArray
from qcompiler.runtime.reference.fixed_point import Int64, requantize, widen, wrap_s32
from qcompiler.runtime.reference.linear import Numbers, convolve, multiply_matrices, multiply_rows
from qcompiler.runtime.reference.registry import Domain, reference
from qcompiler.runtime.reference.windows import from_channels_first, to_channels_first


@reference(IntConv, Domain.STORED)
def int_conv(
    op: IntConv,
    x: AnyArray,
    weight: AnyArray,
    bias: AnyArray,
    multiplier: AnyArray | None = None,
    shift: AnyArray | None = None,
    residual: AnyArray | None = None,
    factor: AnyArray | None = None,
) -> AnyArray:
    def convolution(x: Numbers, weight: Numbers) -> Numbers:
        return convolve(x, weight, op.strides, op.dilations, op.pads, op.group, op.zp_in)

    total = exact_sums(convolution, to_channels_first(x, op.layout), weight, math.prod(weight.shape[1:]))
    acc = np.moveaxis(total, 1, -1) + widen(bias)
    if residual is not None and factor is not None:
        acc = acc + _scaled(op, np.moveaxis(to_channels_first(residual, op.layout), 1, -1), factor)
    y = np.moveaxis(_finish(op, acc, multiplier, shift), -1, 1)
    return from_channels_first(np.ascontiguousarray(y), op.layout)


@reference(IntGemm, Domain.STORED)
def int_gemm(
    op: IntGemm,
    x: AnyArray,
    weight: AnyArray,
    bias: AnyArray,
    multiplier: AnyArray | None = None,
    shift: AnyArray | None = None,
    residual: AnyArray | None = None,
    factor: AnyArray | None = None,
) -> AnyArray:
    acc = exact_sums(multiply_rows, x, weight, weight.shape[1]) + widen(bias)
    if residual is not None and factor is not None:
        acc = acc + _scaled(op, residual, factor)
    return _finish(op, acc, multiplier, shift)


@reference(IntMatMul, Domain.STORED)
def int_matmul(op: IntMatMul, a: AnyArray, b: AnyArray) -> AnyArray:
    # Differences of bytes and zero points are integers of 9 bits: float64 holds the sums of 2^37 of their products.
    acc = widen(multiply_matrices((widen(a) - op.zp_a).astype(float), (widen(b) - op.zp_b).astype(float)))
    return requantize(wrap_s32(acc), op.multiplier, op.shift, op.zp_out, op.lo, op.hi, op.dtype)


def exact_sums(multiply: Callable[[Numbers, Numbers], Numbers], x: AnyArray, weight: AnyArray, terms: int) -> Int64:
    """Sums of `terms` products, exact in any order of summation.

    In float64, so that BLAS does it, if ``terms · max|x| · max|w|`` by the dtypes' limits is at most 2^53: up to
    there it holds every integer. Else in s64, which may wrap modulo 2^64 and is then still exact modulo 2^32.
    """
    bound = terms * math.prod(max(map(abs, DType.from_numpy(a.dtype).limits)) for a in (x, weight))
    if bound <= 2**53:
        return widen(multiply(x.astype(np.float64), weight.astype(np.float64)))
    return multiply(widen(x), widen(weight))


def _scaled(op: IntConv | IntGemm, residual: AnyArray, factor: AnyArray) -> Int64:
    """What a residual adds to the accumulators; channels last."""
    return (widen(residual) - op.zp_residual) * widen(factor)


def _finish(op: IntConv | IntGemm, total: Int64, multiplier: AnyArray | None, shift: AnyArray | None) -> AnyArray:
    """Wrap-around, and RESCALE where there is one; channels last."""
    acc = wrap_s32(total)
    if multiplier is None or shift is None:
        return acc.astype(np.int32)
    return requantize(acc, widen(multiplier), widen(shift), op.zp_out, op.lo, op.hi, op.dtype)
