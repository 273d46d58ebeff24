"""Ops of the integer stage. Their meaning is exact integer arithmetic, defined in `qcompiler.numerics`.

Notation: RESCALE(a, M, s) = (a·M + 2^(s−1)) >> s with a 64-bit product (half up). Zero points, clamps and multipliers
are attributes or constant operands; no scale appears except in the two boundary ops. Results are clamped to [lo, hi]
before they are narrowed to `dtype`.
"""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import INTEGER_ONLY, Op, Operands, Quantization, Stage, register_op
from qcompiler.ir.ops.linear import check_bias
from qcompiler.ir.ops.movement import padded_type
from qcompiler.ir.ops.shapes import (
    broadcast_shapes,
    join_layout,
    normalize_axis,
    reduce_shape,
    spatial_output,
    split_layout,
    static_dim,
)
from qcompiler.ir.types import DType, TensorType, format_shape


@dataclass(frozen=True)
class IntegerOp(Op):
    """Base of the ops that only the integer stage has."""

    stages: ClassVar[frozenset[Stage]] = INTEGER_ONLY
    quantization: ClassVar[Quantization] = Quantization.NONE


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
        return (operands[0].with_dtype(self.dtype),)


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
        return (operands[0].with_dtype(DType.F32),)


@register_op
@dataclass(frozen=True)
class IntConv(IntegerOp):
    """2-d convolution: u8 or s8 by s8 to s32, then RESCALE per output channel.

    weight s8[cout, cin/group, kh, kw] in either layout; bias s32[cout] has ``−zp_in · sum(weight)`` folded in, modulo
    2^32. Borders are padded with `zp_in`, ``acc = bias + sum(x · weight)`` modulo 2^32.
    With multiplier and shift s32[cout] the result is ``clamp(zp_out + RESCALE(acc, M, s), lo, hi)`` in `dtype`;
    without them it is acc itself and `dtype` is s32.
    """

    name: ClassVar[str] = "int.conv"
    signature: ClassVar[str] = "x weight bias multiplier? shift?"
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

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        batch, channels, spatial = split_layout(operands[0].shape, self.layout)
        if operands[1].rank != 4 or len(spatial) != 2:
            raise VerifyError("an integer convolution is two-dimensional")
        cout, per_group, *kernel = (static_dim(d, "a weight axis") for d in operands[1].shape)
        if self.group < 1 or channels != per_group * self.group or cout % self.group:
            raise VerifyError(f"group={self.group} does not fit {channels} input and {cout} output channels")
        check_rescale_operands(operands, cout, self.dtype)
        size = spatial_output(spatial, kernel, self.strides, self.dilations, self.pads)
        return (TensorType(self.dtype, join_layout(batch, cout, size, self.layout)),)


@register_op
@dataclass(frozen=True)
class IntGemm(IntegerOp):
    """Fully connected: x[..., k], weight s8[m, k]; bias, multiplier, shift and result as in `int.conv`."""

    name: ClassVar[str] = "int.gemm"
    signature: ClassVar[str] = "x weight bias multiplier? shift?"
    zp_in: int
    dtype: DType = DType.S32
    zp_out: int = 0
    lo: int = 0
    hi: int = 0

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, weight = operands[0], operands[1]
        if weight.rank != 2 or x.shape[-1] != weight.shape[1]:
            raise VerifyError(f"input {format_shape(x.shape)} does not go with weight {format_shape(weight.shape)}")
        rows = static_dim(weight.shape[0], "a weight axis")
        check_rescale_operands(operands, rows, self.dtype)
        return (TensorType(self.dtype, (*x.shape[:-1], rows)),)


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
        return (TensorType(self.dtype, broadcast_shapes(operands[0].shape, operands[1].shape)),)


@register_op
@dataclass(frozen=True)
class IntMul(IntegerOp):
    """``clamp(zp_out + RESCALE((a−zp_a)·(b−zp_b), multiplier, shift), lo, hi)``; operands broadcast."""

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
        return (TensorType(self.dtype, broadcast_shapes(operands[0].shape, operands[1].shape)),)


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
        return (TensorType(self.dtype, broadcast_shapes(operands[0].shape, operands[1].shape)),)


@register_op
@dataclass(frozen=True)
class IntRescale(IntegerOp):
    """``clamp(zp_out + RESCALE(x − zp_in, multiplier, shift), lo, hi)``; any integer dtype in."""

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
        return (operands[0].with_dtype(self.dtype),)


@register_op
@dataclass(frozen=True)
class IntLut(IntegerOp):
    """Table look-up: ``table[x]`` for u8, ``table[x + 128]`` for s8; table u8, s8 or s16 [256]."""

    name: ClassVar[str] = "int.lut"
    signature: ClassVar[str] = "x table"

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x, table = operands[0], operands[1]
        if x.dtype not in (DType.U8, DType.S8) or table.shape != (256,):
            raise VerifyError(f"a table of {format_shape(table.shape)} cannot be indexed by {x.dtype}")
        return (x.with_dtype(table.dtype),)


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
        channels = x.shape[normalize_axis(self.axis, x.rank)]
        check_bias(operands, 1, channels)
        check_bias(operands, 2, channels)
        return (x.with_dtype(self.dtype),)


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
        check_bias(operands, 1, self.kernel[0] * self.kernel[1] + 1)
        check_bias(operands, 2, self.kernel[0] * self.kernel[1] + 1)
        size = spatial_output(
            spatial, self.kernel, self.strides, self.dilations, self.pads, ceil_mode=self.ceil_mode
        )
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
        if (x.dtype is DType.S16) != (len(operands) == 3):
            raise VerifyError("exp_low goes with 16-bit operands and only with them")
        return (x.with_dtype(self.dtype),)


@register_op
@dataclass(frozen=True)
class IntPad(IntegerOp):
    """Border of the integer `value`, the zero point of the quantized tensor; `pads` as in `pad`."""

    name: ClassVar[str] = "int.pad"
    signature: ClassVar[str] = "x"
    pads: tuple[int, ...]
    value: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (padded_type(operands[0], self.pads),)


def check_rescale_operands(operands: Operands, channels: int, dtype: DType) -> None:
    """Raise VerifyError unless bias, multiplier and shift are vectors of `channels` and go with the result dtype."""
    for index in range(2, len(operands)):
        check_bias(operands, index, channels)
    if len(operands) == 4:
        raise VerifyError("a multiplier needs a shift")
    if len(operands) < 3:
        raise VerifyError("the bias is missing")
    if (len(operands) == 3) != (dtype is DType.S32):
        raise VerifyError(f"result dtype {dtype}: s32 goes without multiplier and shift, any other with them")
