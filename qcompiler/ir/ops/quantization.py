"""Ops of the observed and quantized stages, where values still mean real numbers."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Op, Operands, Quantization, Stage, register_op
from qcompiler.ir.types import DType, TensorType

INFINITY = float("inf")


@register_op
@dataclass(frozen=True)
class Observe(Op):
    """The operand itself; the interpreter adds its elements to the statistics named `key` on the way.

    `low` and `high` are the range of the real value once calibration or range propagation has found it.
    """

    name: ClassVar[str] = "observe"
    signature: ClassVar[str] = "x"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.OBSERVED})
    quantization: ClassVar[Quantization] = Quantization.NONE
    key: str
    low: float | None = None
    high: float | None = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        if (self.low is None) != (self.high is None):
            raise VerifyError(f"a range has two ends, not low={self.low} and high={self.high}")
        if self.low is not None and self.high is not None and not -INFINITY < self.low <= self.high < INFINITY:
            raise VerifyError(f"[{self.low}, {self.high}] is no finite range")
        return (operands[0],)


@register_op
@dataclass(frozen=True)
class Quantize(Op):
    """Float to integer, by the quantization parameters of the result type, as ONNX `QuantizeLinear`.

    ``q = clamp(round_half_even(x / scale) + zero_point)`` in float32.
    """

    name: ClassVar[str] = "quantize"
    signature: ClassVar[str] = "x"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED})
    quantization: ClassVar[Quantization] = Quantization.NONE
    fixes_dtype: ClassVar[bool] = False

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (operands[0],)


@register_op
@dataclass(frozen=True)
class Dequantize(Op):
    """Integer to float32, by the quantization parameters of the operand type: ``(q − zero_point) · scale``."""

    name: ClassVar[str] = "dequantize"
    signature: ClassVar[str] = "x"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED})
    quantization: ClassVar[Quantization] = Quantization.NONE

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        if operands[0].quant is None:
            raise VerifyError("the operand has no quantization parameters")
        return (operands[0].with_dtype(DType.F32),)


@register_op
@dataclass(frozen=True)
class Requantize(Op):
    """From the quantization parameters of the operand type to those of the result type; the real value stays."""

    name: ClassVar[str] = "requantize"
    signature: ClassVar[str] = "x"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED})
    quantization: ClassVar[Quantization] = Quantization.NONE
    fixes_dtype: ClassVar[bool] = False

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (operands[0],)
