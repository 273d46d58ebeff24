"""The integer stage: boundary ops, and those on one operand that any network may need.

The ops of the integer stage mean exact integer arithmetic, defined in `qcompiler.numerics`. Notation:
RESCALE(a, M, s) = (a·M + 2^(s−1)) >> s with a 64-bit product (half up). Zero points, clamps and multipliers
are attributes or constant operands; no scale appears except in the two boundary ops. Results are clamped to
[lo, hi] before they are narrowed to `dtype`.
"""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import INTEGER_ONLY, Op, Operands, Quantization, Stage, register_op
from qcompiler.ir.ops.integer_ranges import (
    ACCUMULATORS,
    ACTIVATIONS,
    check_dtype,
    check_multiplier,
    check_rescaled,
    check_result,
    check_zero_point,
    reach,
)
from qcompiler.ir.ops.movement import padded_type
from qcompiler.ir.types import DType, QuantParams, TensorType, format_shape

_LARGEST_F32 = (2 - 2**-23) * 2.0**127
_ROUNDS_TO_ZERO = 2.0**-150  # half of the smallest float32


@dataclass(frozen=True)
class IntegerOp(Op):
    """Base of the ops that only the integer stage has."""

    stages: ClassVar[frozenset[Stage]] = INTEGER_ONLY
    quantization: ClassVar[Quantization] = Quantization.NONE


def border_params(scale: tuple[float, ...], zero_point: tuple[int, ...], axis: int | None) -> QuantParams:
    """The parameters of a border op.

    Raises:
        VerifyError: they do not go together, or a scale is beyond float32.
    """
    if scale and max(scale) > _LARGEST_F32:
        raise VerifyError(f"the scale {max(scale)} is beyond float32, in which the border computes")
    return QuantParams(scale, zero_point, axis)


@register_op
@dataclass(frozen=True)
class IntQuantize(IntegerOp):
    """Boundary: float32 to integer, ``clamp(round_half_even(x / scale) + zero_point)``, ONNX `QuantizeLinear`.

    Division and rounding are in float32; `scale` and `zero_point` hold one entry, or one per index of `axis`.
    """

    name: ClassVar[str] = "int.quantize"
    signature: ClassVar[str] = "x"
    dtype: DType
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        check_dtype(operands, 0, DType.F32)
        if self.dtype not in ACTIVATIONS:
            raise VerifyError(f"the result has dtype {self.dtype}, expected {' or '.join(ACTIVATIONS)}")
        quant = border_params(self.scale, self.zero_point, self.axis)
        if min(quant.scale) <= _ROUNDS_TO_ZERO:
            raise VerifyError(f"the scale {min(quant.scale)} is 0 in float32, which nothing can be divided by")
        return (operands[0].with_dtype(self.dtype, quant).with_quant(None),)


@register_op
@dataclass(frozen=True)
class IntDequantize(IntegerOp):
    """Boundary: integer to float32, ``float32(q − zero_point) · scale``, ONNX `DequantizeLinear`.

    The subtraction is exact, then one rounding to float32, then one float32 product.
    """

    name: ClassVar[str] = "int.dequantize"
    signature: ClassVar[str] = "x"
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        check_dtype(operands, 0, *ACCUMULATORS)
        quant = border_params(self.scale, self.zero_point, self.axis)
        return (operands[0].with_quant(quant).with_dtype(DType.F32),)


@register_op
@dataclass(frozen=True)
class IntRescale(IntegerOp):
    """``clamp(zp_out + RESCALE(x − zp_in, multiplier, shift), lo, hi)``; |x − zp_in| ≤ 2^31, so zp_in = 0 for s32."""

    name: ClassVar[str] = "int.rescale"
    signature: ClassVar[str] = "x"
    dtype: DType
    zp_in: int
    multiplier: int
    shift: int
    zp_out: int
    lo: int
    hi: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        check_dtype(operands, 0, *ACCUMULATORS)
        check_zero_point(operands[0], self.zp_in)
        check_rescaled(reach(operands[0], self.zp_in), "the difference")
        check_result(self.dtype, self.zp_out, self.lo, self.hi)
        check_multiplier(self.multiplier, self.shift)
        return (operands[0].with_dtype(self.dtype),)


@register_op
@dataclass(frozen=True)
class IntLut(IntegerOp):
    """Table look-up: ``table[x]`` for u8, ``table[x + 128]`` for s8; table u8, s8 or s16 [256]."""

    name: ClassVar[str] = "int.lut"
    signature: ClassVar[str] = "x table"

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, table = operands[0], operands[1]
        if not x.dtype.is_8_bit or table.shape != (256,):
            raise VerifyError(f"a table of {format_shape(table.shape)} cannot be indexed by {x.dtype}")
        check_dtype(operands, 1, *ACTIVATIONS)
        return (x.with_dtype(table.dtype),)


@register_op
@dataclass(frozen=True)
class IntPad(IntegerOp):
    """Border of the integer `value`, the zero point of the quantized tensor; `pads` as in `pad`."""

    name: ClassVar[str] = "int.pad"
    signature: ClassVar[str] = "x"
    pads: tuple[int, ...]
    value: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        check_zero_point(operands[0], self.value)
        return (padded_type(operands[0], self.pads),)
