"""Slice and Split in all their ONNX forms."""

from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.errors import ModelError
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.ir import Dim, Shape
from qcompiler.ir.types import split_dim

_FAR = 2**31 - 1
"""From here on an `end` means the end of any axis; exporters write INT32_MAX or INT64_MAX."""


@dataclass(frozen=True, slots=True)
class Subscript:
    """Elements start, start + step, ..., `count` of them, along `axis`."""

    axis: int
    start: int
    count: int
    step: int


def read_slice(node: NodeReader, shape: Shape) -> list[Subscript]:
    """What Slice takes of each axis, without axes that it takes whole.

    Raises:
        ModelError: operands of different lengths, a step of 0, an axis out of range.
    """
    starts, ends, axes, steps = _slice_operands(node, len(shape))
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ModelError(
            f"{node.label}: {len(starts)} starts, {len(ends)} ends, {len(axes)} axes, {len(steps)} steps do not match"
        )
    parts = []
    for start, end, given, step in zip(starts, ends, axes, steps, strict=True):
        axis = node.axis(given, len(shape))
        part = _subscript(node, shape[axis], axis, (start, end, step))
        if part is not None:
            parts.append(part)
    return parts


def split_sizes(node: NodeReader, size: Dim) -> tuple[int, ...]:
    """Sizes of the pieces of Split: given, or equal with a smaller last one.

    Raises:
        ModelError: the sizes do not fit the number of outputs or the axis.
    """
    if isinstance(size, str):
        raise Unsupported(f"the axis to split has the symbolic size {size}; fix it with --dim {size}=SIZE")
    given = node.int_list(1) if node.version >= 13 and node.has(1) else node.attr_ints("split")
    count = node.attr_int("num_outputs", len(node.outputs))
    if given is None:
        piece = -(-size // count)
        given = tuple(max(0, min(piece, size - i * piece)) for i in range(count))
    if len(given) != len(node.outputs) or sum(given) != size or min(given) < 0:
        raise ModelError(f"{node.label}: pieces {list(given)} for {len(node.outputs)} outputs of an axis of {size}")
    return given


def _slice_operands(node: NodeReader, rank: int) -> tuple[Sequence[Dim], Sequence[Dim], Sequence[int], Sequence[int]]:
    if node.version < 10:
        starts, ends = node.attr_ints("starts") or (), node.attr_ints("ends") or ()
        return starts, ends, node.attr_ints("axes") or range(len(starts)), (1,) * len(starts)
    first, last = node.dims(1), node.dims(2)
    axes = node.int_list(3) if node.has(3) else range(min(rank, len(first)))
    return first, last, axes, node.int_list(4) if node.has(4) else (1,) * len(first)


def _subscript(node: NodeReader, size: Dim, axis: int, bounds: tuple[Dim, Dim, int]) -> Subscript | None:
    start, end, step = bounds
    if step == 0:
        raise ModelError(f"{node.label}: the step along axis {axis} is 0")
    if step == 1 and start == 0 and (end == size or (isinstance(end, int) and end >= _FAR)):
        return None
    if isinstance(size, str) or isinstance(start, str) or isinstance(end, str):
        symbol = next(s for dim in (size, start, end) if (s := split_dim(dim)[1]) is not None)
        raise Unsupported(
            f"it takes [{start}:{end}:{step}] of axis {axis} of size {size}; fix the symbolic dimension with "
            f"--dim {symbol}=SIZE"
        )
    picked = range(size)[_python_bound(start, size) : _python_bound(end, size) : step]
    if len(picked) == size and step == 1:
        return None
    return Subscript(axis, picked.start if picked else 0, len(picked), step)


def _python_bound(bound: int, size: int) -> int:
    """The same bound within the reach of the axis: INT64_MIN and INT64_MAX are common."""
    return max(-size - 1, min(bound, size))
