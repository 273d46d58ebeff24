"""Sliding windows over the spatial axes, as convolution and pooling see them."""

from collections.abc import Sequence

import numpy as np

from qcompiler import numerics
from qcompiler.ir.ops.shapes import spatial_output
from qcompiler.ir.types import AnyArray


def sliding_windows(
    x: AnyArray,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    fill: float,
    *,
    ceil_mode: bool = False,
) -> AnyArray:
    """A view ``[n, c, out..., kernel...]`` of ``x[n, c, spatial...]`` padded with `fill`."""
    rank = len(kernel)
    spatial = x.shape[2:]
    size = spatial_output(spatial, kernel, strides, dilations, pads, ceil_mode=ceil_mode)
    extent = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    # Up to the end of the last window, which ceil_mode lets hang over the padding.
    ends = [max(0, (size[i] - 1) * strides[i] + extent[i] - spatial[i] - pads[i]) for i in range(rank)]
    border = [(0, 0), (0, 0), *zip(pads[:rank], ends, strict=True)]
    padded = np.pad(x, border, constant_values=fill) if any(map(any, border)) else x
    view = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=tuple(range(2, 2 + rank)))
    steps = [slice(0, (o - 1) * s + 1, s) for o, s in zip(size, strides, strict=True)]
    taps = [slice(None, None, d) for d in dilations]
    return view[(slice(None), slice(None), *steps, *taps)]


def window_counts(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int],
    *,
    ceil_mode: bool,
    include_pad: bool,
) -> AnyArray:
    """How many elements an average pool divides by at each output position: s64[out...]."""
    rank = len(kernel)
    size = spatial_output(spatial, kernel, strides, dilations, pads, ceil_mode=ceil_mode)
    counts = np.ones((), np.int64)
    for i in range(rank):
        axis = [
            numerics.window_count(
                position, spatial[i], kernel[i], strides[i], dilations[i], pads[i], pads[rank + i],
                include_pad=include_pad,
            )
            for position in range(size[i])
        ]  # fmt: skip
        counts = np.multiply.outer(counts, np.array(axis, np.int64))
    return counts


def to_channels_first(x: AnyArray, layout: str) -> AnyArray:
    """The same activation in layout "nchw"."""
    return np.moveaxis(x, -1, 1) if layout == "nhwc" else x


def from_channels_first(x: AnyArray, layout: str) -> AnyArray:
    """The inverse of `to_channels_first`."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "nhwc" else x
