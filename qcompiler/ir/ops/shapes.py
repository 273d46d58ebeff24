"""Shape arithmetic shared by the type rules of the ops."""

from collections.abc import Sequence

from qcompiler.errors import VerifyError
from qcompiler.ir.types import Dim, Shape, format_shape, multiply_dims

_LARGEST_PARAMETER = 2**31
"""Of a window: beyond it, products of a kernel size and a dilation could leave 64 bits."""


def broadcast_shapes(a: Shape, b: Shape) -> Shape:
    """NumPy broadcasting; a symbol goes with itself or with 1.

    Raises:
        VerifyError: the shapes do not go together.
    """
    rank = max(len(a), len(b))
    result: list[Dim] = []
    for x, y in zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True):
        if x != y and 1 not in (x, y):
            raise VerifyError(f"shapes {format_shape(a)} and {format_shape(b)} do not broadcast: {x} against {y}")
        result.append(y if x == 1 else x)
    return tuple(result)


def normalize_axis(axis: int, rank: int) -> int:
    """A non-negative axis.

    Raises:
        VerifyError: it lies outside the rank.
    """
    if not -rank <= axis < rank:
        raise VerifyError(f"axis {axis} lies outside rank {rank}")
    return axis % rank


def static_dim(dim: Dim, what: str) -> int:
    """The dimension as an int.

    Raises:
        VerifyError: it is symbolic.
    """
    if isinstance(dim, str):
        raise VerifyError(
            f"{what} is the symbolic dimension {dim}; it has to be a number: fix it with --dim {dim}=SIZE"
        )
    return dim


def window_output(
    size: int, kernel: int, stride: int, dilation: int, pad_begin: int, pad_end: int, *, ceil_mode: bool = False
) -> int:
    """Output positions of a sliding window along one axis (ONNX Conv and pooling).

    With `ceil_mode` a last window that would start in the end padding is dropped, as onnxruntime and PyTorch do.

    Raises:
        VerifyError: there is no position at all, or a parameter is out of range.
    """
    parameters = (kernel, stride, dilation, pad_begin, pad_end)
    if min(kernel, stride, dilation) < 1 or min(pad_begin, pad_end) < 0 or max(parameters) > _LARGEST_PARAMETER:
        raise VerifyError(
            f"kernel {kernel}, stride {stride}, dilation {dilation}, pads {pad_begin}, {pad_end} out of range"
        )
    extent = (kernel - 1) * dilation + 1
    room = size + pad_begin + pad_end - extent
    if room < 0:
        raise VerifyError(f"a window of {extent} does not fit into {size} elements padded by {pad_begin} and {pad_end}")
    count = room // stride + 1
    if ceil_mode and room % stride and count * stride < size + pad_begin:
        count += 1
    return count


def spatial_output(
    spatial: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    *,
    ceil_mode: bool = False,
) -> tuple[int, ...]:
    """Output sizes of a sliding window over all spatial axes; `pads` is begin of every axis, then end of every axis."""
    n = len(spatial)
    if not len(kernel) == len(strides) == len(dilations) == n or len(pads) != 2 * n:
        raise VerifyError(f"{n} spatial axes need {n} kernel sizes, strides and dilations and {2 * n} pads")
    return tuple(
        window_output(
            static_dim(spatial[i], f"spatial axis {i}"), kernel[i], strides[i], dilations[i], pads[i], pads[n + i],
            ceil_mode=ceil_mode,
        )
        for i in range(n)
    )  # fmt: skip


def transposed_output(
    spatial: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    output_padding: Sequence[int],
) -> tuple[int, ...]:
    """Output sizes of a transposed convolution; `pads` is begin of every spatial axis, then end of every spatial axis.

    Raises:
        VerifyError: nothing is left of an axis, or a parameter is out of range.
    """
    n = len(spatial)
    if not len(kernel) == len(strides) == len(dilations) == len(output_padding) == n or len(pads) != 2 * n:
        raise VerifyError(
            f"{n} spatial axes need {n} kernel sizes, strides, dilations and output paddings and {2 * n} pads"
        )
    positive, others = (*kernel, *strides, *dilations), (*pads, *output_padding)
    if min(positive) < 1 or min(others) < 0 or max(*positive, *others) > _LARGEST_PARAMETER:
        raise VerifyError(
            f"kernel {list(kernel)}, strides {list(strides)}, dilations {list(dilations)}, pads {list(pads)}, "
            f"output_padding {list(output_padding)} out of range"
        )
    sizes = []
    for i in range(n):
        size = static_dim(spatial[i], f"spatial axis {i}")
        reach = (size - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + output_padding[i]
        if size < 1 or reach <= pads[i] + pads[n + i]:
            raise VerifyError(f"pads {pads[i]} and {pads[n + i]} leave nothing of {reach} positions of axis {i}")
        sizes.append(reach - pads[i] - pads[n + i])
    return tuple(sizes)


def split_layout(shape: Shape, layout: str) -> tuple[Dim, Dim, tuple[Dim, ...]]:
    """(batch, channels, spatial) of an activation whose layout is "nchw" or "nhwc" (any spatial rank)."""
    if len(shape) < 2:
        raise VerifyError(
            f"an activation in layout {layout} has a batch and a channel axis, not shape {format_shape(shape)}"
        )
    if layout == "nchw":
        return shape[0], shape[1], shape[2:]
    if layout == "nhwc":
        return shape[0], shape[-1], shape[1:-1]
    raise VerifyError(f"layout {layout!r} is neither 'nchw' nor 'nhwc'")


def join_layout(batch: Dim, channels: Dim, spatial: Sequence[Dim], layout: str) -> Shape:
    """The inverse of `split_layout`."""
    return (batch, channels, *spatial) if layout == "nchw" else (batch, *spatial, channels)


def reduce_shape(shape: Shape, axes: Sequence[int], *, keepdims: bool) -> Shape:
    """Shape after a reduction over `axes`.

    Raises:
        VerifyError: an axis lies outside the rank or is given twice.
    """
    drop = {normalize_axis(axis, len(shape)) for axis in axes}
    if len(drop) < len(axes):
        raise VerifyError(f"axes {', '.join(map(str, axes))} name an axis twice")
    if keepdims:
        return tuple(1 if i in drop else d for i, d in enumerate(shape))
    return tuple(d for i, d in enumerate(shape) if i not in drop)


def same_size(a: Shape, b: Shape) -> bool:
    """Whether two shapes hold the same number of elements, symbols included."""
    return multiply_dims(a) == multiply_dims(b)
