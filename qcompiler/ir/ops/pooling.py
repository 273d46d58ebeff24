"""Pooling and reduction on real numbers; max pooling commutes with quantization and is legal in every stage."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir.op import EVERY, Op, Operands, Quantization, Stage, register_op
from qcompiler.ir.ops.shapes import join_layout, reduce_shape, spatial_output, split_layout
from qcompiler.ir.types import TensorType


@register_op
@dataclass(frozen=True)
class MaxPool(Op):
    """Maximum over a sliding window; padding never wins. `layout` is "nchw", or "nhwc" in the integer stage."""

    name: ClassVar[str] = "max_pool"
    signature: ClassVar[str] = "x"
    stages: ClassVar[frozenset[Stage]] = EVERY
    quantization: ClassVar[Quantization] = Quantization.SELECTS

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False
    layout: str = "nchw"

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        batch, channels, spatial = split_layout(x.shape, self.layout)
        size = spatial_output(spatial, self.kernel, self.strides, self.dilations, self.pads, ceil_mode=self.ceil_mode)
        return (x.with_shape(join_layout(batch, channels, size, self.layout)),)


@register_op
@dataclass(frozen=True)
class AveragePool(Op):
    """Mean over a sliding window, NC(spatial).

    Each position divides by the number of input elements under its window, or with `count_include_pad` by that of
    input and explicit padding elements (the overhang of `ceil_mode` never counts), as ONNX `AveragePool`.
    """

    name: ClassVar[str] = "average_pool"
    signature: ClassVar[str] = "x"
    fixes_dtype: ClassVar[bool] = False

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    ceil_mode: bool = False
    count_include_pad: bool = False

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        batch, channels, spatial = split_layout(x.shape, "nchw")
        size = spatial_output(spatial, self.kernel, self.strides, self.dilations, self.pads, ceil_mode=self.ceil_mode)
        return (TensorType(x.dtype, (batch, channels, *size)),)


@register_op
@dataclass(frozen=True)
class ReduceMean(Op):
    """Mean over `axes` (non-negative). ONNX `GlobalAveragePool` is imported as this over the spatial axes."""

    name: ClassVar[str] = "reduce_mean"
    signature: ClassVar[str] = "x"
    fixes_dtype: ClassVar[bool] = False

    axes: tuple[int, ...]
    keepdims: bool = True

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        return (TensorType(x.dtype, reduce_shape(x.shape, self.axes, keepdims=self.keepdims)),)
