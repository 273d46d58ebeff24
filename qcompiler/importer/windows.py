"""The attributes that convolution and pooling share: kernel, strides, dilations and the ways to say padding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
    window, auto = _read_attributes(node, len(spatial), kernel)
    if auto not in _SAME:
        return window
    totals = []
    for size, k, stride, dilation in zip(spatial, kernel, window.strides, window.dilations, strict=True):
        positions = -(-_static_size(size, f"auto_pad={auto}") // stride)
        totals.append(max(0, (positions - 1) * stride + (k - 1) * dilation + 1 - int(size)))
    return replace(window, pads=_distributed(totals, begin_is_smaller=auto == "SAME_UPPER"))


def read_transposed_window(
    node: NodeReader, spatial: Sequence[Dim], kernel: tuple[int, ...]
) -> tuple[Window, tuple[int, ...]]:
    """The window of a transposed convolution, whose pads cut positions off, and its output_padding.

    An `output_shape` decides the pads, else ``SAME`` means size · stride positions, or all there are if they are fewer.
    What is to be cut off is split evenly, with an odd position at the end (UPPER) or at the beginning (all others).

    Raises:
        ModelError: an attribute has the wrong length or a value out of range.
        Unsupported: there are more than two spatial axes.
    """
    rank = len(spatial)
    window, auto = _read_attributes(node, rank, kernel)
    padding = node.attr_ints("output_padding") or (0,) * rank
    wanted = node.attr_ints("output_shape") or None
    _check_lengths(node, rank, output_padding=(padding, rank, 0), output_shape=(wanted or (1,) * rank, rank, 1))
    if wanted is None and auto not in _SAME:
        return window, padding
    what, totals = f"auto_pad={auto}" if wanted is None else "output_shape", []
    for i, (size, stride) in enumerate(zip(spatial, window.strides, strict=True)):
        count = _static_size(size, what)
        every = (count - 1) * stride + (kernel[i] - 1) * window.dilations[i] + 1 + padding[i]
        if wanted is not None and wanted[i] > every:
            raise ModelError(f"{node.label}: output_shape={list(wanted)}; axis {i} has {every} positions at most")
        totals.append(max(0, every - (count * stride if wanted is None else wanted[i])))
    return replace(window, pads=_distributed(totals, begin_is_smaller=auto == "SAME_UPPER")), padding


_SAME = ("SAME_UPPER", "SAME_LOWER")


def _read_attributes(node: NodeReader, rank: int, kernel: tuple[int, ...]) -> tuple[Window, str]:
    """The window as it is written, without pads if there are none or auto_pad decides them; and auto_pad."""
    check_spatial_axes(rank)
    strides = node.attr_ints("strides") or (1,) * rank
    dilations = node.attr_ints("dilations") or (1,) * rank
    auto = node.attr_string("auto_pad", "NOTSET") or "NOTSET"
    pads = node.attr_ints("pads") or (0,) * (2 * rank)
    _check_lengths(
        node,
        rank,
        kernel_shape=(kernel, rank, 1),
        strides=(strides, rank, 1),
        dilations=(dilations, rank, 1),
        pads=(pads, 2 * rank, 0),
    )
    if auto not in ("NOTSET", "VALID", *_SAME):
        raise ModelError(f"{node.label}: auto_pad={auto!r} is none of NOTSET, SAME_UPPER, SAME_LOWER, VALID")
    return Window(kernel, strides, dilations, pads if auto == "NOTSET" else (0,) * (2 * rank)), auto


def _check_lengths(node: NodeReader, rank: int, **attributes: tuple[tuple[int, ...], int, int]) -> None:
    """Raise ModelError unless each attribute, (values, length, least value), has its length and range."""
    for name, (values, length, low) in attributes.items():
        if len(values) != length or min(values) < low:
            raise ModelError(
                f"{node.label}: {name}={list(values)}; {rank} spatial axes need {length} values of at least {low}"
            )


def _static_size(size: Dim, what: str) -> int:
    if isinstance(size, str):
        raise Unsupported(f"{what} with the symbolic size {size}; fix it with --dim {size}=SIZE")
    return size


def _distributed(totals: Sequence[int], *, begin_is_smaller: bool) -> tuple[int, ...]:
    """Pads, begin of every axis and end of every axis, of these sums."""
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (*small, *large) if begin_is_smaller else (*large, *small)


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
