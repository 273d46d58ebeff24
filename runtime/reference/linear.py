"""Convolution and products of real numbers, and the engine that the integer ones share."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompiler.ir.ops import Conv, ConvTranspose, Gemm, MatMul
from qcompiler.ir.ops.linear import Clamp
from qcompiler.ir.ops.shapes import transposed_output
from qcompiler.runtime.reference.real import Real
from qcompiler.runtime.reference.registry import reference
from qcompiler.runtime.reference.windows import sliding_windows

Numbers = npt.NDArray[Any]
"""float64 for real numbers and small integers, s64 for others."""

COLUMN_BYTES = 32 << 20
"""Most bytes of gathered windows at a time."""


def clamped(y: Real, clamp: Clamp) -> Real:
    """``min(max(y, lo), hi)``, or y itself without a clamp."""
    return y if clamp is None else np.clip(y, *clamp)


def convolve(
    x: Numbers,
    weight: Numbers,
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    group: int,
    fill: float,
) -> Numbers:
    """``sum(window · weight)`` for x[n, c, spatial...] and weight[cout, c/group, kernel...] of one dtype.

    Each sample, and each block of rows of the first spatial axis, is gathered and multiplied by itself, so
    the order of summation depends on the shape of one sample only.
    """
    cout, per_group, *kernel = weight.shape
    windows = sliding_windows(x, kernel, strides, dilations, pads, fill)
    rank, inner = len(kernel), per_group * math.prod(kernel)
    rows, columns = windows.shape[2], math.prod(windows.shape[3 : 2 + rank])
    matrix = weight.reshape(group, cout // group, inner)
    result = np.empty((x.shape[0], cout, *windows.shape[2 : 2 + rank]), x.dtype)
    block = max(1, COLUMN_BYTES // max(1, group * inner * columns * x.itemsize))
    # [c, out..., kernel...] -> [c, kernel..., out...]
    order = (0, *range(1 + rank, 1 + 2 * rank), *range(1, 1 + rank))
    for sample in range(x.shape[0]):
        for first in range(0, rows, block):
            gathered = windows[sample, :, first : first + block].transpose(order)
            product = matrix @ gathered.reshape(group, inner, -1)
            result[sample, :, first : first + block] = product.reshape(cout, -1, *result.shape[3:])
    return result


def multiply_rows(x: Numbers, weight: Numbers) -> Numbers:
    """``sum_k x[..., k] · weight[m, k]``, both of one dtype, each index of the first axis by itself."""
    if x.ndim == 1:
        return weight @ x
    result = np.empty((*x.shape[:-1], weight.shape[0]), x.dtype)
    for i in range(x.shape[0]):
        result[i] = x[i] @ weight.T
    return result


@reference(Conv)
def conv(op: Conv, x: Real, weight: Real, bias: Real | None = None) -> Real:
    y = convolve(x, weight, op.strides, op.dilations, op.pads, op.group, 0.0)
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * (x.ndim - 2))
    return clamped(y, op.clamp)


@reference(ConvTranspose)
def conv_transpose(op: ConvTranspose, x: Real, weight: Real, bias: Real | None = None) -> Real:
    """Each tap adds its products with the whole input to every stride-th position of the result."""
    cin, per_group, *kernel = weight.shape
    rank, group = len(kernel), op.group
    size = transposed_output(x.shape[2:], kernel, op.strides, op.dilations, op.pads, op.output_padding)
    # All positions, before `pads` cuts some off; a last stride of them that stays zero keeps the slices whole.
    every = [op.pads[i] + size[i] + op.pads[rank + i] + op.strides[i] for i in range(rank)]
    result = np.zeros((x.shape[0], group, per_group, *every), x.dtype)
    filters = weight.reshape(group, cin // group, per_group, *kernel)
    for sample, image in enumerate(x.reshape(x.shape[0], group, cin // group, -1)):
        for tap in np.ndindex(*kernel):
            products = filters[:, :, :, *tap].swapaxes(1, 2) @ image
            places = tuple(
                slice(k * d, k * d + s * n, s)
                for k, d, s, n in zip(tap, op.dilations, op.strides, x.shape[2:], strict=True)
            )
            result[sample][:, :, *places] += products.reshape(group, per_group, *x.shape[2:])
    kept = tuple(slice(p, p + n) for p, n in zip(op.pads[:rank], size, strict=True))
    y = result.reshape(x.shape[0], group * per_group, *every)[:, :, *kept]
    if bias is not None:
        y = y + bias.reshape(-1, *[1] * rank)
    return clamped(y, op.clamp)


@reference(Gemm)
def gemm(op: Gemm, x: Real, weight: Real, bias: Real | None = None) -> Real:
    y = multiply_rows(x, weight)
    return clamped(y if bias is None else y + bias, op.clamp)


@reference(MatMul)
def matmul(op: MatMul, a: Real, b: Real) -> Real:
    return op.alpha * multiply_matrices(a, b)


def multiply_matrices(a: Real, b: Real) -> Real:
    """``sum_k a[..., m, k] · b[..., k, n]`` with broadcast batch axes, each pair of matrices by itself."""
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, (*batch, *a.shape[-2:])), np.broadcast_to(b, (*batch, *b.shape[-2:]))
    result = np.empty((*batch, a.shape[-2], b.shape[-1]))
    for index in np.ndindex(*batch):
        result[index] = a[index] @ b[index]
    return result
