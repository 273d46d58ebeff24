"""Convolution and fully connected layers on real numbers."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import Op, Operands, Quantization, register_op
from qcompiler.ir.ops.shapes import broadcast_shapes, spatial_output, static_dim, transposed_output
from qcompiler.ir.types import Dim, TensorType, format_shape

Clamp = tuple[float, float] | None


@register_op
@dataclass(frozen=True)
class Conv(Op):
    """N-d convolution, NC(spatial) activations, weight [cout, cin/group, kernel...], ONNX `Conv`.

    `pads` is begin of every spatial axis, then end of every spatial axis. `clamp` is a fused activation
    ``min(max(y, lo), hi)``, lo and hi possibly infinite.
    """

    name: ClassVar[str] = "conv"
    signature: ClassVar[str] = "x weight bias?"
    quantization: ClassVar[Quantization] = Quantization.ACCUMULATES
    fixes_dtype: ClassVar[bool] = False

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int = 1
    clamp: Clamp = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, weight = operands[0], operands[1]
        if x.rank < 3 or weight.rank != x.rank:
            raise VerifyError(f"input {format_shape(x.shape)} and weight {format_shape(weight.shape)} differ in rank")
        cin = static_dim(x.shape[1], "the channel axis")
        cout, per_group, *kernel = (static_dim(d, "a weight axis") for d in weight.shape)
        if self.group < 1 or cin != per_group * self.group:
            raise VerifyError(
                f"group={self.group} with {per_group} weight channels each needs {per_group * self.group} input "
                f"channels, the input has {cin}"
            )
        if cout % self.group:
            raise VerifyError(f"group={self.group} does not divide {cout} output channels")
        check_bias(operands, 2, cout)
        check_clamp(self.clamp)
        spatial = spatial_output(x.shape[2:], kernel, self.strides, self.dilations, self.pads)
        return (TensorType(x.dtype, (x.shape[0], cout, *spatial)),)


@register_op
@dataclass(frozen=True)
class ConvTranspose(Op):
    """Transposed convolution, NC(spatial) activations, weight [cin, cout/group, kernel...], ONNX `ConvTranspose`.

    Along each axis ``y[o] = bias + sum of x[i] · weight[k] over all i, k with i·stride + k·dilation = o + pad_begin``,
    and `output_padding` more positions at the end than the last of these sums has. `pads` is begin of every spatial
    axis, then end of every spatial axis; they cut positions off. `clamp` is a fused activation as in `conv`.
    """

    name: ClassVar[str] = "conv_transpose"
    signature: ClassVar[str] = "x weight bias?"
    fixes_dtype: ClassVar[bool] = False

    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    output_padding: tuple[int, ...]
    group: int = 1
    clamp: Clamp = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, weight = operands[0], operands[1]
        if x.rank < 3 or weight.rank != x.rank:
            raise VerifyError(f"input {format_shape(x.shape)} and weight {format_shape(weight.shape)} differ in rank")
        channels = static_dim(x.shape[1], "the channel axis")
        cin, per_group, *kernel = (static_dim(d, "a weight axis") for d in weight.shape)
        if cin != channels:
            raise VerifyError(f"{channels} input channels do not go with weights for {cin}")
        if self.group < 1 or cin % self.group:
            raise VerifyError(f"group={self.group} does not divide {cin} input channels")
        check_bias(operands, 2, per_group * self.group)
        check_clamp(self.clamp)
        spatial = transposed_output(x.shape[2:], kernel, self.strides, self.dilations, self.pads, self.output_padding)
        return (TensorType(x.dtype, (x.shape[0], per_group * self.group, *spatial)),)


@register_op
@dataclass(frozen=True)
class Gemm(Op):
    """Fully connected: ``y[..., m] = sum_k x[..., k] · weight[m, k] + bias[m]``, weight [out, in], then `clamp`."""

    name: ClassVar[str] = "gemm"
    signature: ClassVar[str] = "x weight bias?"
    quantization: ClassVar[Quantization] = Quantization.ACCUMULATES
    fixes_dtype: ClassVar[bool] = False

    clamp: Clamp = None

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, weight = operands[0], operands[1]
        if x.rank < 1 or weight.rank != 2 or x.shape[-1] != weight.shape[1]:
            raise VerifyError(
                f"input {format_shape(x.shape)} does not go with weight [out,in] {format_shape(weight.shape)}"
            )
        check_bias(operands, 2, weight.shape[0])
        check_clamp(self.clamp)
        return (TensorType(x.dtype, (*x.shape[:-1], weight.shape[0])),)


@register_op
@dataclass(frozen=True)
class MatMul(Op):
    """``alpha · a · b`` of the last two axes, the others broadcast (ONNX `MatMul`); constant matrices become `gemm`."""

    name: ClassVar[str] = "matmul"
    signature: ClassVar[str] = "a b"
    fixes_dtype: ClassVar[bool] = False

    alpha: float = 1.0

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        if not math.isfinite(self.alpha):
            raise VerifyError(f"alpha={self.alpha} is no finite number")
        return (TensorType(operands[0].dtype, product_shape(operands[0], operands[1])),)


def product_shape(a: TensorType, b: TensorType) -> tuple[Dim, ...]:
    """The shape of a[..., m, k] times b[..., k, n]; raises VerifyError unless they multiply and their batches agree."""
    if a.rank < 2 or b.rank < 2 or a.shape[-1] != b.shape[-2]:
        raise VerifyError(f"shapes {format_shape(a.shape)} and {format_shape(b.shape)} do not multiply")
    batch = broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return (*batch, a.shape[-2], b.shape[-1])


def check_clamp(clamp: Clamp) -> None:
    """Raise VerifyError if a fused clamp is no range."""
    if clamp is not None and not clamp[0] <= clamp[1]:
        raise VerifyError(f"clamp [{clamp[0]}, {clamp[1]}] is no range")


def check_bias(operands: Operands, index: int, channels: Dim) -> None:
    """Raise VerifyError unless the operand `index`, if there, is a vector of `channels`."""
    if len(operands) > index and operands[index].shape != (channels,):
        raise VerifyError(f"operand {index} has shape {format_shape(operands[index].shape)}, expected [{channels}]")
