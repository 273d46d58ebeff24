"""The integer stage: pooling, mean and softmax; notation as in `qcompiler.ir.ops.integer`."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Operands, register_op
from qcompiler.ir.ops.integer import IntegerOp
from qcompiler.ir.ops.integer_ranges import (
    ACTIVATIONS,
    ONE_Q30,
    check_dtype,
    check_exponentials,
    check_multiplier,
    check_multiplier_vectors,
    check_result,
    check_sum,
    check_zero_point,
    reach,
)
from qcompiler.ir.ops.shapes import join_layout, normalize_axis, reduce_shape, spatial_output, split_layout, static_dim
from qcompiler.ir.types import DType, TensorType


@register_op
@dataclass(frozen=True)
class IntAveragePool(IntegerOp):
    """``clamp(zp_out + RESCALE(sum(x − zp_in), M[n], s[n]), lo, hi)``, n = the count that this position divides by.

    multiplier and shift are s32[kh·kw + 1], indexed by n; the count follows `average_pool`.
    """

    name: ClassVar[str] = "int.average_pool"
    signature: ClassVar[str] = "x multiplier shift"
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool
    count_include_pad: bool
    dtype: DType
    zp_in: int
    zp_out: int
    lo: int
    hi: int
    layout: str = "nchw"

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels, spatial = split_layout(operands[0].shape, self.layout)
        if len(spatial) != 2:
            raise VerifyError("integer pooling is two-dimensional")
        size = spatial_output(spatial, self.kernel, self.strides, self.dilations, self.pads, ceil_mode=self.ceil_mode)
        check_dtype(operands, 0, *ACTIVATIONS)
        check_zero_point(operands[0], self.zp_in)
        check_result(self.dtype, self.zp_out, self.lo, self.hi)
        window = self.kernel[0] * self.kernel[1]
        check_sum(reach(operands[0], self.zp_in), window)
        check_multiplier_vectors(operands, 1, window + 1)
        return (TensorType(self.dtype, join_layout(batch, channels, size, self.layout)),)


@register_op
@dataclass(frozen=True)
class IntMean(IntegerOp):
    """``clamp(zp_out + RESCALE(sum(x − zp_in over axes), multiplier, shift), lo, hi)``; the sum fits s32."""

    name: ClassVar[str] = "int.mean"
    signature: ClassVar[str] = "x"
    axes: tuple[int, ...]
    keepdims: bool
    dtype: DType
    zp_in: int
    multiplier: int
    shift: int
    zp_out: int
    lo: int
    hi: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        check_dtype(operands, 0, *ACTIVATIONS)
        check_zero_point(operands[0], self.zp_in)
        check_result(self.dtype, self.zp_out, self.lo, self.hi)
        check_multiplier(self.multiplier, self.shift)
        x = operands[0]
        reduced = {normalize_axis(axis, x.rank) for axis in self.axes}
        check_sum(reach(x, self.zp_in), math.prod(static_dim(x.shape[axis], "an axis of a mean") for axis in reduced))
        return (TensorType(self.dtype, reduce_shape(operands[0].shape, self.axes, keepdims=self.keepdims)),)


@register_op
@dataclass(frozen=True)
class IntSoftmax(IntegerOp):
    """Softmax along `axis` from tables of the exponential, no float anywhere.

    With d = max − x: e = exp_high[d] for 8-bit x; e = (exp_high[d >> 8] · exp_low[d & 255] + 2^29) >> 30 for s16, both
    s32[256] in Q30. Result ``clamp(floor((2·e·one + sum) / (2·sum)), 0, hi)`` where `one` stands for 1.0 (256 for u8:
    scale 1/256; 32768 for s16) and sum is the 64-bit sum of e along the axis.
    """

    name: ClassVar[str] = "int.softmax"
    signature: ClassVar[str] = "x exp_high exp_low?"
    axis: int
    dtype: DType
    one: int
    hi: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        normalize_axis(self.axis, x.rank)
        check_dtype(operands, 0, *ACTIVATIONS)
        if (x.dtype is DType.S16) != (len(operands) == 3):
            raise VerifyError("exp_low goes with 16-bit operands and only with them")
        for index in range(1, len(operands)):
            check_exponentials(operands, index)
        check_result(self.dtype, 0, 0, self.hi)
        if not 1 <= self.one <= ONE_Q30:
            raise VerifyError(f"one={self.one} cannot stand for 1.0")
        return (x.with_dtype(self.dtype),)
