"""The attributes that convolution and pooling share: kernel, strides, dilations and the ways to say padding."""

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.errors import ModelError
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.ir import Dim


@dataclass(frozen=True, slots=True)
class Window:
    """A sliding window; `pads` is begin of every spatial axis, then end of every spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]


def read_window(node: NodeReader, spatial: Sequence[Dim], kernel: tuple[int, ...]) -> Window:
    """Read strides, dilations, pads and auto_pad.

    ``SAME`` means ceil(size / stride) positions, the padding split evenly, with an odd element at the end (UPPER) or
    at the beginning (LOWER).

    Raises:
        ModelError: an attribute has the wrong length or a value out of range.
        Unsupported: there are more than two spatial axes.
    """
    rank = len(spatial)
    check_spatial_axes(rank)
    strides = node.attr_ints("strides") or (1,) * rank
    dilations = node.attr_ints("dilations") or (1,) * rank
    auto = node.attr_string("auto_pad", "NOTSET")
    pads = node.attr_ints("pads") or (0,) * (2 * rank)
    for name, values, length in (
        ("kernel_shape", kernel, rank), ("strides", strides, rank), ("dilations", dilations, rank),
        ("pads", pads, 2 * rank),
    ):  # fmt: skip
        low = 0 if name == "pads" else 1
        if len(values) != length or min(values) < low:
            raise ModelError(
                f"{node.label}: {name}={list(values)}; {rank} spatial axes need {length} values of at least {low}"
            )
    if auto in ("NOTSET", ""):
        return Window(kernel, strides, dilations, pads)
    if auto == "VALID":
        return Window(kernel, strides, dilations, (0,) * (2 * rank))
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        raise ModelError(f"{node.label}: auto_pad={auto!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    begin, end = [], []
    for size, k, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        if isinstance(size, str):
            raise Unsupported(f"auto_pad={auto} with the symbolic size {size}; fix it with --dim {size}=SIZE")
        positions = -(-size // stride)
        total = max(0, (positions - 1) * stride + (k - 1) * dilation + 1 - size)
        small, large = total // 2, total - total // 2
        begin.append(small if auto == "SAME_UPPER" else large)
        end.append(large if auto == "SAME_UPPER" else small)
    return Window(kernel, strides, dilations, (*begin, *end))


def check_spatial_axes(count: int) -> None:
    """Raise Unsupported unless windows slide along one or two axes: no kernel runs others, not in float either."""
    if not 1 <= count <= 2:
        raise Unsupported(f"{count} spatial axes; windows slide along 1 or 2")


def empty_window(size: int, windows: int, kernel: int, stride: int, dilation: int, pad_begin: int) -> int | None:
    """A window position along an axis that has no tap in the input, None if every one has.

    A window that begins in the input has a tap there: only those that begin before it matter, and the last one.
    """
    begin_before = min(windows, -(-pad_begin // stride))
    positions: list[int] = [*range(begin_before), windows - 1]
    for position in positions:
        start = position * stride - pad_begin
        tap = max(0, -(start // dilation))  # the first in or behind the input
        if tap >= kernel or start + tap * dilation >= size:
            return position
    return None
