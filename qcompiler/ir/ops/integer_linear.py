"""The integer stage: convolution, fully connected layers and products of activations.

Notation as in `qcompiler.ir.ops.integer`.
"""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Operands, register_op
from qcompiler.ir.ops.integer import IntegerOp
from qcompiler.ir.ops.integer_ranges import (
    ACTIVATIONS,
    NARROW,
    check_constant_vector,
    check_dtype,
    check_multiplier,
    check_multiplier_vectors,
    check_result,
    check_vector,
    check_zero_point,
)
from qcompiler.ir.ops.linear import product_shape
from qcompiler.ir.ops.shapes import join_layout, spatial_output, split_layout, static_dim
from qcompiler.ir.types import DType, TensorType, format_shape

X, WEIGHT, BIAS, MULTIPLIER, SHIFT, RESIDUAL, FACTOR = range(7)
"""The operands of `int.conv` and `int.gemm`; see also `qcompiler.ir.integer_layer`."""


@register_op
@dataclass(frozen=True)
class IntConv(IntegerOp):
    """2-d convolution: u8 or s8 by s8 to s32, then RESCALE per output channel.

    weight s8[cout, cin/group, kh, kw] in either layout; bias s32[cout] has ``−zp_in · sum(weight)`` folded in, modulo
    2^32. Borders are padded with `zp_in`, ``acc = bias + sum(x · weight)`` modulo 2^32.
    With multiplier and shift s32[cout] the result is ``clamp(zp_out + RESCALE(acc, M, s), lo, hi)`` in `dtype`;
    without them it is acc itself and `dtype` is s32.
    A residual, u8 or s8 like the result and of its shape, comes with factor s32[cout] within 16 bits, and
    ``(residual − zp_residual) · factor`` is added to acc.
    """

    name: ClassVar[str] = "int.conv"
    signature: ClassVar[str] = "x weight bias multiplier? shift? residual? factor?"
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int
    zp_in: int
    dtype: DType = DType.S32
    zp_out: int = 0
    lo: int = 0
    hi: int = 0
    layout: str = "nchw"
    zp_residual: int = 0

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels, spatial = split_layout(operands[X].shape, self.layout)
        if operands[WEIGHT].rank != 4 or len(spatial) != 2:
            raise VerifyError("an integer convolution is two-dimensional")
        cout, per_group, *kernel = (static_dim(d, "a weight axis") for d in operands[WEIGHT].shape)
        if self.group < 1 or channels != per_group * self.group or cout % self.group:
            raise VerifyError(f"group={self.group} does not fit {channels} input and {cout} output channels")
        check_accumulation(operands, cout, self.zp_in, self.dtype)
        if self.dtype is not DType.S32:
            check_result(self.dtype, self.zp_out, self.lo, self.hi)
        size = spatial_output(spatial, kernel, self.strides, self.dilations, self.pads)
        result = TensorType(self.dtype, join_layout(batch, cout, size, self.layout))
        check_residual(operands, result, cout, self.zp_residual)
        return (result,)


@register_op
@dataclass(frozen=True)
class IntGemm(IntegerOp):
    """Fully connected: x[..., k], weight s8[m, k]; bias, multiplier, shift, residual and result as in `int.conv`."""

    name: ClassVar[str] = "int.gemm"
    signature: ClassVar[str] = "x weight bias multiplier? shift? residual? factor?"
    zp_in: int
    dtype: DType = DType.S32
    zp_out: int = 0
    lo: int = 0
    hi: int = 0
    zp_residual: int = 0

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, weight = operands[X], operands[WEIGHT]
        if x.rank < 1 or weight.rank != 2 or x.shape[-1] != weight.shape[1]:
            raise VerifyError(f"input {format_shape(x.shape)} does not go with weight {format_shape(weight.shape)}")
        rows = static_dim(weight.shape[0], "a weight axis")
        check_accumulation(operands, rows, self.zp_in, self.dtype)
        if self.dtype is not DType.S32:
            check_result(self.dtype, self.zp_out, self.lo, self.hi)
        result = TensorType(self.dtype, (*x.shape[:-1], rows))
        check_residual(operands, result, rows, self.zp_residual)
        return (result,)


@register_op
@dataclass(frozen=True)
class IntMatMul(IntegerOp):
    """Product of two activations a[..., m, k] and b[..., k, n] of 8 bits, whose batch axes broadcast.

    ``acc = sum_k (a − zp_a) · (b − zp_b)`` modulo 2^32, result ``clamp(zp_out + RESCALE(acc, multiplier, shift), lo,
    hi)``. k is a number and not 0: the proof of the accumulators depends on it.
    """

    name: ClassVar[str] = "int.matmul"
    signature: ClassVar[str] = "a b"
    dtype: DType
    zp_a: int
    zp_b: int
    multiplier: int
    shift: int
    zp_out: int
    lo: int
    hi: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        for index, zero_point in enumerate((self.zp_a, self.zp_b)):
            check_dtype(operands, index, *NARROW)
            check_zero_point(operands[index], zero_point)
        if self.dtype not in ACTIVATIONS:
            raise VerifyError(f"the result has dtype {self.dtype}, expected {' or '.join(ACTIVATIONS)}")
        check_result(self.dtype, self.zp_out, self.lo, self.hi)
        check_multiplier(self.multiplier, self.shift)
        shape = product_shape(operands[0], operands[1])
        if static_dim(operands[0].shape[-1], "the axis that is summed") == 0:
            raise VerifyError("there are no products to sum")
        return (TensorType(self.dtype, shape),)


def check_accumulation(operands: Operands, channels: int, zp_in: int, dtype: DType) -> None:
    """Raise VerifyError unless operands and result dtype are those of a multiply-accumulate of 8-bit integers."""
    check_dtype(operands, X, *NARROW)
    check_dtype(operands, WEIGHT, DType.S8)
    check_zero_point(operands[X], zp_in)
    check_vector(operands, BIAS, channels)
    weight = operands[WEIGHT].shape
    if weight[0] and 0 in weight:
        raise VerifyError(f"weight {format_shape(weight)} has no products to sum")
    if len(operands) == SHIFT:
        raise VerifyError("a multiplier needs a shift")
    if (len(operands) == MULTIPLIER) != (dtype is DType.S32):
        raise VerifyError(f"result dtype {dtype}: s32 goes without multiplier and shift, any other with them")
    if len(operands) > MULTIPLIER:
        check_multiplier_vectors(operands, MULTIPLIER, channels)


def check_residual(operands: Operands, result: TensorType, channels: int, zero_point: int) -> None:
    """Raise VerifyError unless residual and factor, if there, are a residual of the result and its factors."""
    if len(operands) <= RESIDUAL:
        if zero_point:
            raise VerifyError(f"zp_residual={zero_point} is the zero point of a residual that is not there")
        return
    if len(operands) == FACTOR:
        raise VerifyError("a residual needs a factor for each channel")
    residual = operands[RESIDUAL]
    check_dtype(operands, RESIDUAL, *NARROW)
    check_zero_point(residual, zero_point)
    if result.dtype not in NARROW or residual.shape != result.shape:
        found, wanted = (f"{each.dtype}{format_shape(each.shape)}" for each in (residual, result))
        raise VerifyError(f"residual {found} does not go with result {wanted}: both have 8 bits and one shape")
    low, high = DType.S16.limits
    if ((factor := check_constant_vector(operands, FACTOR, channels)) < low).any() or (factor > high).any():
        raise VerifyError(f"a factor of the residual lies outside [{low}, {high}]")
