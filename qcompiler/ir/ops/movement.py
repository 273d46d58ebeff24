"""Ops that only move data: legal in every stage, with any dtype."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import VerifyError
from qcompiler.ir.op import EVERY, REAL, Op, Operands, Quantization, Stage, register_op
from qcompiler.ir.ops.shapes import join_layout, normalize_axis, same_size, split_layout, static_dim
from qcompiler.ir.types import Dim, TensorType, format_shape, join_dim, split_dim


@dataclass(frozen=True)
class Movement(Op):
    """One operand whose elements come out elsewhere; parameters of quantization pass through."""

    signature: ClassVar[str] = "x"
    stages: ClassVar[frozenset[Stage]] = EVERY
    quantization: ClassVar[Quantization] = Quantization.PASSTHROUGH


@register_op
@dataclass(frozen=True)
class Reshape(Movement):
    """The same elements in row-major order under another shape; `shape` may hold symbols, never −1.

    ONNX Reshape, Flatten, Squeeze and Unsqueeze are all imported as this.
    """

    name: ClassVar[str] = "reshape"
    shape: tuple[int | str, ...]

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        if not same_size(x.shape, self.shape):
            raise VerifyError(f"{format_shape(x.shape)} cannot be reshaped to {format_shape(self.shape)}: sizes differ")
        return (TensorType(x.dtype, self.shape),)


@register_op
@dataclass(frozen=True)
class Transpose(Movement):
    """Axis i of the result is axis perm[i] of the operand."""

    name: ClassVar[str] = "transpose"
    perm: tuple[int, ...]

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        if sorted(self.perm) != list(range(x.rank)):
            raise VerifyError(f"perm {list(self.perm)} is no permutation of the axes of {format_shape(x.shape)}")
        return (TensorType(x.dtype, tuple(x.shape[i] for i in self.perm)),)


@register_op
@dataclass(frozen=True)
class Concat(Op):
    """The operands one after another along `axis` (non-negative)."""

    name: ClassVar[str] = "concat"
    signature: ClassVar[str] = "xs*"
    stages: ClassVar[frozenset[Stage]] = EVERY
    quantization: ClassVar[Quantization] = Quantization.UNIFIED
    axis: int

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        first = operands[0]
        axis = normalize_axis(self.axis, first.rank)
        for other in operands[1:]:
            if other.dtype != first.dtype:
                raise VerifyError(f"operands of dtype {first.dtype} and {other.dtype} cannot be concatenated")
            if other.rank != first.rank or any(
                a != b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=True)) if i != axis
            ):
                raise VerifyError(
                    f"{format_shape(first.shape)} and {format_shape(other.shape)} differ outside axis {axis}"
                )
        total = sum_dims([t.shape[axis] for t in operands])
        return (TensorType(first.dtype, (*first.shape[:axis], total, *first.shape[axis + 1 :])),)


@register_op
@dataclass(frozen=True)
class Split(Movement):
    """Consecutive pieces of the given sizes along `axis` (non-negative), one result each."""

    name: ClassVar[str] = "split"
    axis: int
    sizes: tuple[int, ...]

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        axis = normalize_axis(self.axis, x.rank)
        size = static_dim(x.shape[axis], "the axis to split")
        if sum(self.sizes) != size or any(s < 0 for s in self.sizes):
            raise VerifyError(
                f"sizes {list(self.sizes)} do not add up to {size}, axis {axis} of {format_shape(x.shape)}"
            )
        return tuple(TensorType(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in self.sizes)


@register_op
@dataclass(frozen=True)
class Slice(Movement):
    """Elements start, start+step, ... along each of `axes`, `counts` of them (steps may be negative, all in range)."""

    name: ClassVar[str] = "slice"
    axes: tuple[int, ...]
    starts: tuple[int, ...]
    counts: tuple[int, ...]
    steps: tuple[int, ...]

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        shape: list[Dim] = list(x.shape)
        if not len(self.axes) == len(self.starts) == len(self.counts) == len(self.steps):
            raise VerifyError(f"axes {list(self.axes)} need as many starts, counts and steps")
        if len({normalize_axis(axis, x.rank) for axis in self.axes}) != len(self.axes):
            raise VerifyError(f"axes {list(self.axes)} name one axis twice")
        for axis, start, count, step in zip(self.axes, self.starts, self.counts, self.steps, strict=True):
            size = static_dim(x.shape[normalize_axis(axis, x.rank)], "the axis to slice")
            last = start + (count - 1) * step
            if step == 0 or count < 0 or (count and not (0 <= start < size and 0 <= last < size)):
                raise VerifyError(
                    f"elements {start}..{last} (step {step}) lie outside axis {axis} of {format_shape(x.shape)}"
                )
            shape[axis] = count
        return (TensorType(x.dtype, tuple(shape)),)


@register_op
@dataclass(frozen=True)
class Pad(Movement):
    """Border of a constant real `value`; `pads` is begin of every axis, then end of every axis, none negative."""

    name: ClassVar[str] = "pad"
    stages: ClassVar[frozenset[Stage]] = REAL
    pads: tuple[int, ...]
    value: float = 0.0

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (padded_type(operands[0], self.pads),)


@register_op
@dataclass(frozen=True)
class DepthToSpace(Movement):
    """Blocks of channels to `blocks` of rows by columns of pixels, ONNX `DepthToSpace`; `mode` is "DCR" or "CRD".

    `layout` says where the channels are, before and after: "nchw", or "nhwc" in the integer stage.
    """

    name: ClassVar[str] = "depth_to_space"
    blocks: tuple[int, int]
    mode: str = "DCR"
    layout: str = "nchw"

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        x = operands[0]
        batch, channels, spatial = split_layout(x.shape, self.layout)
        c, (rows, columns) = static_dim(channels, "the channel axis"), self.blocks
        if len(spatial) != 2 or min(self.blocks) < 1 or c % (rows * columns):
            raise VerifyError(f"{c} channels of {format_shape(x.shape)} are no multiple of blocks of {rows}·{columns}")
        if self.mode not in ("DCR", "CRD"):
            raise VerifyError(f"mode {self.mode!r} is neither 'DCR' nor 'CRD'")
        size = [static_dim(d, "a spatial axis") * b for d, b in zip(spatial, self.blocks, strict=True)]
        return (TensorType(x.dtype, join_layout(batch, c // (rows * columns), size, self.layout)),)


@register_op
@dataclass(frozen=True)
class Identity(Movement):
    """The operand itself; removed by the first cleaning pass."""

    name: ClassVar[str] = "identity"

    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        return (operands[0],)


def padded_type(x: TensorType, pads: tuple[int, ...]) -> TensorType:
    """The type of `x` with a border."""
    if len(pads) != 2 * x.rank or any(p < 0 for p in pads):
        raise VerifyError(f"pads {list(pads)} do not give a begin and an end for each axis of {format_shape(x.shape)}")
    shape: list[Dim] = []
    for dim, begin, end in zip(x.shape, pads[: x.rank], pads[x.rank :], strict=True):
        shape.append(static_dim(dim, "a padded axis") + begin + end if begin or end else dim)
    return TensorType(x.dtype, tuple(shape))


def sum_dims(dims: list[Dim]) -> Dim:
    """Sum of dimensions that are all numbers or all multiples of one symbol."""
    coefficients, symbols = zip(*map(split_dim, dims), strict=True)
    if len(set(symbols)) != 1:
        raise VerifyError(f"the sum of {' + '.join(map(str, dims))} is not a dimension")
    return join_dim(sum(coefficients), symbols[0])
