"""The integer stage: arithmetic between activations; notation as in `qcompiler.ir.ops.integer`."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Operands, register_op
from qcompiler.ir.ops.integer import IntegerOp
from qcompiler.ir.ops.integer_ranges import (
    ACTIVATIONS,
    END_MULTIPLIER,
    MIN_SHIFT,
    check_dtype,
    check_multiplier,
    check_multiplier_vectors,
    check_rescaled,
    check_result,
    check_sum_multipliers,
    check_zero_point,
    reach,
)
from qcompiler.ir.ops.shapes import broadcast_shapes, normalize_axis, static_dim
from qcompiler.ir.types import DType, TensorType

MAX_SHIFT_OF_DIVISION = {1: 53, 2: 45}
"""``2 · (b − zp_b) · 2^shift`` fits 64 bits up to here, by the bytes of an element of b."""


@register_op
@dataclass(frozen=True)
class IntAdd(IntegerOp):
    """``clamp(zp_out + (((a−zp_a)·multiplier_a + (b−zp_b)·multiplier_b + 2^(shift−1)) >> shift), lo, hi)``.

    One rounding for the whole sum; a difference has a negative multiplier_b. With 8-bit operands |multiplier| < 2^21,
    so the sum fits 32 bits; with 16-bit operands it is a 64-bit sum. Operands broadcast.
    """

    name: ClassVar[str] = "int.add"
    signature: ClassVar[str] = "a b"
    dtype: DType
    zp_a: int
    zp_b: int
    multiplier_a: int
    multiplier_b: int
    shift: int
    zp_out: int
    lo: int
    hi: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        result = _result_of_two(self, operands)
        check_sum_multipliers(operands, (self.multiplier_a, self.multiplier_b), self.shift)
        return (result,)


@register_op
@dataclass(frozen=True)
class IntMul(IntegerOp):
    """``clamp(zp_out + RESCALE((a−zp_a)·(b−zp_b), multiplier, shift), lo, hi)``; operands broadcast.

    The product of the differences is at most 2^31 in magnitude: two 16-bit operands have zero points near 0.
    """

    name: ClassVar[str] = "int.mul"
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
        result = _result_of_two(self, operands)
        check_multiplier(self.multiplier, self.shift)
        check_rescaled(reach(operands[0], self.zp_a) * reach(operands[1], self.zp_b), "the product of the differences")
        return (result,)


@register_op
@dataclass(frozen=True)
class IntDiv(IntegerOp):
    """Quotient of two activations, rounded half up once; operands broadcast.

    With n = (a−zp_a)·multiplier and d = (b−zp_b)·2^shift: ``clamp(zp_out + floor((2n + d) / (2d)), lo, hi)`` for
    d > 0 (for d < 0 both change sign); for d = 0 the result is hi, lo or zp_out after the sign of n.
    """

    name: ClassVar[str] = "int.div"
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
        result = _result_of_two(self, operands)
        most = MAX_SHIFT_OF_DIVISION[operands[1].dtype.itemsize]
        if not (0 <= self.multiplier < END_MULTIPLIER and MIN_SHIFT <= self.shift <= most):
            raise VerifyError(f"multiplier {self.multiplier} or shift {self.shift} of a division is out of range")
        return (result,)


def _result_of_two(op: IntAdd | IntMul | IntDiv, operands: Operands) -> TensorType:
    """The type of the result; raises VerifyError for what none of these ops takes."""
    for index, zero_point in enumerate((op.zp_a, op.zp_b)):
        check_dtype(operands, index, *ACTIVATIONS)
        check_zero_point(operands[index], zero_point)
    check_result(op.dtype, op.zp_out, op.lo, op.hi)
    return TensorType(op.dtype, broadcast_shapes(operands[0].shape, operands[1].shape))


@register_op
@dataclass(frozen=True)
class IntPRelu(IntegerOp):
    """``clamp(zp_out + RESCALE(x − zp_in, M, s), lo, hi)``: M, s attributes for x >= zp_in, else per channel.

    multiplier (signed) and shift are s32[channels] along `axis`.
    """

    name: ClassVar[str] = "int.prelu"
    signature: ClassVar[str] = "x multiplier shift"
    dtype: DType
    axis: int
    zp_in: int
    positive_multiplier: int
    positive_shift: int
    zp_out: int
    lo: int
    hi: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        channels = static_dim(x.shape[normalize_axis(self.axis, x.rank)], "the channel axis")
        check_dtype(operands, 0, *ACTIVATIONS)
        check_zero_point(operands[0], self.zp_in)
        check_result(self.dtype, self.zp_out, self.lo, self.hi)
        check_multiplier(self.positive_multiplier, self.positive_shift)
        check_multiplier_vectors(operands, 1, channels)
        return (x.with_dtype(self.dtype),)
