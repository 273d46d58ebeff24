"""Element by element functions on real numbers: binary with broadcasting, and unary."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Op, Operands, Quantization, register_op
from qcompiler.ir.ops.linear import Clamp, check_clamp
from qcompiler.ir.ops.shapes import broadcast_shapes, normalize_axis
from qcompiler.ir.types import TensorType, format_shape

INFINITY = float("inf")


@dataclass(frozen=True)
class Binary(Op):
    """Two operands with NumPy broadcasting."""

    signature: ClassVar[str] = "a b"
    fixes_dtype: ClassVar[bool] = False

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (TensorType(operands[0].dtype, broadcast_shapes(operands[0].shape, operands[1].shape)),)


@dataclass(frozen=True)
class ClampedBinary(Binary):
    """A binary op with a fused activation ``min(max(y, lo), hi)``, lo and hi possibly infinite."""

    clamp: Clamp = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        check_clamp(self.clamp)
        return super().infer(operands)


@register_op
@dataclass(frozen=True)
class Add(ClampedBinary):
    """a + b, then `clamp`."""

    name: ClassVar[str] = "add"


@register_op
@dataclass(frozen=True)
class Sub(ClampedBinary):
    """a − b, then `clamp`."""

    name: ClassVar[str] = "sub"


@register_op
@dataclass(frozen=True)
class Mul(ClampedBinary):
    """a · b, then `clamp`."""

    name: ClassVar[str] = "mul"


@register_op
@dataclass(frozen=True)
class Div(Binary):
    """a / b."""

    name: ClassVar[str] = "div"


@register_op
@dataclass(frozen=True)
class PRelu(Op):
    """x where x >= 0, else slope · x; slope broadcasts to x."""

    name: ClassVar[str] = "prelu"
    signature: ClassVar[str] = "x slope"
    fixes_dtype: ClassVar[bool] = False

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, slope = operands[0], operands[1]
        if broadcast_shapes(x.shape, slope.shape) != x.shape:
            raise VerifyError(f"slope {format_shape(slope.shape)} does not broadcast to {format_shape(x.shape)}")
        return (x.with_quant(None),)


@dataclass(frozen=True)
class Unary(Op):
    """One operand; each element of the result depends on the same element only."""

    signature: ClassVar[str] = "x"
    elementwise_unary: ClassVar[bool] = True
    fixes_dtype: ClassVar[bool] = False

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (operands[0].with_quant(None),)


@register_op
@dataclass(frozen=True)
class Relu(Unary):
    """max(x, 0)."""

    name: ClassVar[str] = "relu"


@register_op
@dataclass(frozen=True)
class LeakyRelu(Unary):
    """x where x >= 0, else alpha · x."""

    name: ClassVar[str] = "leaky_relu"
    alpha: float = 0.01


@register_op
@dataclass(frozen=True)
class Clip(Unary):
    """min(max(x, low), high); the bounds may be infinite."""

    name: ClassVar[str] = "clip"
    low: float = -INFINITY
    high: float = INFINITY


@register_op
@dataclass(frozen=True)
class Sigmoid(Unary):
    """1 / (1 + exp(−x))."""

    name: ClassVar[str] = "sigmoid"
    quantization: ClassVar[Quantization] = Quantization.FIXED_RANGE

    def result_range(self) -> tuple[float, float]:
        return 0.0, 1.0


@register_op
@dataclass(frozen=True)
class HardSigmoid(Unary):
    """min(max(alpha · x + beta, 0), 1)."""

    name: ClassVar[str] = "hard_sigmoid"
    quantization: ClassVar[Quantization] = Quantization.FIXED_RANGE
    alpha: float = 0.2
    beta: float = 0.5

    def result_range(self) -> tuple[float, float]:
        return 0.0, 1.0


@register_op
@dataclass(frozen=True)
class HardSwish(Unary):
    """x · min(max(x/6 + 1/2, 0), 1)."""

    name: ClassVar[str] = "hard_swish"


@register_op
@dataclass(frozen=True)
class Silu(Unary):
    """x · sigmoid(x)."""

    name: ClassVar[str] = "silu"


@register_op
@dataclass(frozen=True)
class Tanh(Unary):
    """Hyperbolic tangent."""

    name: ClassVar[str] = "tanh"
    quantization: ClassVar[Quantization] = Quantization.FIXED_RANGE

    def result_range(self) -> tuple[float, float]:
        return -1.0, 1.0


@register_op
@dataclass(frozen=True)
class Erf(Unary):
    """Gauss error function."""

    name: ClassVar[str] = "erf"
    quantization: ClassVar[Quantization] = Quantization.FIXED_RANGE

    def result_range(self) -> tuple[float, float]:
        return -1.0, 1.0


@register_op
@dataclass(frozen=True)
class Exp(Unary):
    """e to the power of x."""

    name: ClassVar[str] = "exp"


@register_op
@dataclass(frozen=True)
class Log(Unary):
    """Natural logarithm."""

    name: ClassVar[str] = "log"


@register_op
@dataclass(frozen=True)
class Sqrt(Unary):
    """Square root."""

    name: ClassVar[str] = "sqrt"


@register_op
@dataclass(frozen=True)
class Abs(Unary):
    """Absolute value."""

    name: ClassVar[str] = "abs"


@register_op
@dataclass(frozen=True)
class Neg(Unary):
    """−x."""

    name: ClassVar[str] = "neg"


@register_op
@dataclass(frozen=True)
class Reciprocal(Unary):
    """1 / x."""

    name: ClassVar[str] = "reciprocal"


@register_op
@dataclass(frozen=True)
class Power(Unary):
    """x to a constant power."""

    name: ClassVar[str] = "power"
    exponent: float


@register_op
@dataclass(frozen=True)
class Softmax(Op):
    """exp(x) / sum of exp(x) along `axis`."""

    name: ClassVar[str] = "softmax"
    signature: ClassVar[str] = "x"
    quantization: ClassVar[Quantization] = Quantization.FIXED_RANGE
    fixes_dtype: ClassVar[bool] = False
    axis: int = -1

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        normalize_axis(self.axis, operands[0].rank)
        return (operands[0].with_quant(None),)

    def result_range(self) -> tuple[float, float]:
        return 0.0, 1.0


@register_op
@dataclass(frozen=True)
class BatchNormalization(Op):
    """scale · (x − mean) / sqrt(variance + epsilon) + bias along axis 1, at inference."""

    name: ClassVar[str] = "batch_normalization"
    signature: ClassVar[str] = "x scale bias mean variance"
    epsilon: float = 1e-5

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        if x.rank < 2:
            raise VerifyError(f"input {format_shape(x.shape)} has no channel axis")
        for parameter in operands[1:]:
            if parameter.shape != (x.shape[1],):
                raise VerifyError(f"a parameter has shape {format_shape(parameter.shape)}, expected [{x.shape[1]}]")
        return (x.with_quant(None),)
