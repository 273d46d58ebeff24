"""Lowering of ops that move data: views where the bytes stay in order, else copies."""

import math
import sys
from collections.abc import Sequence

import numpy as np

from qcompiler.ir import Graph, Node, Value
from qcompiler.ir.ops import (
    Concat,
    DepthToSpace,
    Identity,
    IntPad,
    Observe,
    Pad,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from qcompiler.runtime.kernels import movement as kernels
from qcompiler.runtime.lowering.context import Lowering, lowers
from qcompiler.runtime.lowering.geometry import Walk, contiguous_steps, merged_walk, split_at
from qcompiler.runtime.lowering.integer_linear import lower_with_blocks
from qcompiler.runtime.lowering.pixel_blocks import transposition_of
from qcompiler.runtime.lowering.product_views import read_through, written_through
from qcompiler.runtime.program import Buffer, Operand

_GOOD_ROW_BYTES = 16
_COPY_NS, _GATHER_NS, _ROW_NS = 0.05, 0.7, 4.0  # a byte in a row, an element out of order, a row


@lowers(Reshape)
@lowers(Identity)
def lower_alias(lowering: Lowering, node: Node, op: Reshape | Identity) -> None:  # noqa: ARG001
    """The same bytes under the result's shape."""
    value, result = node.operands[0], node.result
    lowering.alias(result, lowering.build.view(lowering.buffer(value), result.name, lowering.shape(result)))


@lowers(Transpose)
def lower_transpose(lowering: Lowering, node: Node, op: Transpose) -> None:
    """A walk of the operand with its axes permuted, unless products of activations read or write through it."""
    if read_through(node.result) is not None or written_through(node.operands[0]) is node:
        return
    blocks = node.operands[0].producer
    if blocks is not None and transposition_of(blocks) is node and isinstance(blocks.op, DepthToSpace):
        source, axes = blocks.operands[0], _block_axes(lowering, blocks, blocks.op)
    else:
        source, shape = node.operands[0], lowering.shape(node.operands[0])
        axes = [[axis] for axis in zip(shape, contiguous_steps(shape), strict=True)]
    _walk_axes(lowering, node, source, [part for axis in op.perm for part in axes[axis]])


@lowers(DepthToSpace)
def lower_depth_to_space(lowering: Lowering, node: Node, op: DepthToSpace) -> None:
    """A transposition of [n, h, w, c·y·x] or [n, c·y·x, h, w] with its channel axis taken apart.

    One with the transposition after it is a single walk; the layer before it may do without any.
    """
    if transposition_of(node) is None and not lower_with_blocks(lowering, node):
        axes = _block_axes(lowering, node, op)
        _walk_axes(lowering, node, node.operands[0], [part for axis in axes for part in axis])


def _block_axes(lowering: Lowering, node: Node, op: DepthToSpace) -> list[list[tuple[int, int]]]:
    """For each axis of the result its parts, from the outside: (size, step in the source)."""
    shape, (y, x) = lowering.shape(node.operands[0]), op.blocks
    channels_first = op.layout == "nchw"
    n, h, w, depth = (shape[i] for i in ((0, 2, 3, 1) if channels_first else (0, 1, 2, 3)))
    c = depth // (y * x)
    # Axes of the source by role; DCR has the block's rows and columns before the channel, CRD after it.
    parts = {"y": y, "x": x, "c": c} if op.mode == "DCR" else {"c": c, "y": y, "x": x}
    order = ["n", *parts, "h", "w"] if channels_first else ["n", "h", "w", *parts]
    extent = {"n": n, "h": h, "w": w, **parts}
    steps = dict(zip(order, contiguous_steps([extent[axis] for axis in order]), strict=True))
    target = ("n", "c", "hy", "wx") if channels_first else ("n", "hy", "wx", "c")
    return [[(extent[part], steps[part]) for part in axis] for axis in target]


def _walk_axes(lowering: Lowering, node: Node, source: Value, parts: list[tuple[int, int]]) -> None:
    """Let the node's result walk `source` along axes of (size, step), from the outside."""
    _gather(lowering, node, node.result, [size for size, _ in parts], [step for _, step in parts], source=source)


@lowers(Slice)
def lower_slice(lowering: Lowering, node: Node, op: Slice) -> None:
    """A walk of the operand with its steps multiplied, from the first element on."""
    steps = list(contiguous_steps(lowering.shape(node.operands[0])))
    offset = 0
    for axis, start, step in zip(op.axes, op.starts, op.steps, strict=True):
        offset += start * steps[axis]
        steps[axis] *= step
    _gather(lowering, node, node.result, lowering.shape(node.result), steps, offset=offset)


@lowers(Split)
def lower_split(lowering: Lowering, node: Node, op: Split) -> None:
    """One walk of the operand for each piece."""
    steps = contiguous_steps(lowering.shape(node.operands[0]))
    start = 0
    for value, size in zip(node.results, op.sizes, strict=True):
        _gather(lowering, node, value, lowering.shape(value), steps, offset=start * steps[op.axis])
        start += size


@lowers(Concat)
def lower_concat(lowering: Lowering, node: Node, op: Concat) -> None:
    """Nothing to do where all operands were written in place, see `place_concats`; else rows are put together."""
    if lowering.placed_in(node.operands[0]) is node.result:
        lowering.result(node.result)
        return
    itemsize = node.result.type.dtype.itemsize
    pieces = [lowering.buffer(v) for v in node.operands]
    while len(pieces) > kernels.CONCAT_OPERANDS:
        head = pieces[: kernels.CONCAT_OPERANDS]
        shape = list(head[0].shape)
        shape[op.axis] = sum(piece.shape[op.axis] for piece in head)
        joined = lowering.build.tensor(f"{node.name}.part", node.result.type.dtype, shape)
        _join(lowering, node, op.axis, head, joined, itemsize)
        pieces = [joined, *pieces[kernels.CONCAT_OPERANDS :]]
    _join(lowering, node, op.axis, pieces, lowering.result(node.result), itemsize)


def place_concats(lowering: Lowering, graph: Graph) -> None:
    """Have the operands of a concat written straight into its result where they are contiguous parts of it."""
    for node in graph.nodes():
        if not isinstance(node.op, Concat):
            continue
        operands, axis = node.operands, node.op.axis
        fits = math.prod(lowering.shape(node.result)[:axis]) == 1 and len(set(operands)) == len(operands)
        if not (fits and all(_is_computed(lowering, v) for v in operands)):
            continue
        offset = 0
        for value in operands:
            lowering.place(value, node.result, offset)
            offset += math.prod(lowering.shape(value)) * value.type.dtype.itemsize


def _is_computed(lowering: Lowering, value: Value) -> bool:
    """Whether an instruction will write the value into a buffer that can be chosen freely."""
    producer = value.producer
    if producer is None or lowering.placed_in(value) is not None or lowering.model.graph.is_output(value):
        return False
    return not isinstance(producer.op, Reshape | Identity | Observe)


@lowers(IntPad)
def lower_int_pad(lowering: Lowering, node: Node, op: IntPad) -> None:
    """A border of an integer."""
    _pad(lowering, node, op.pads, op.value)


@lowers(Pad)
def lower_pad(lowering: Lowering, node: Node, op: Pad) -> None:
    """A border of a real number, as its bits: the kernel knows elements by their size only."""
    element = np.array(op.value).astype(node.result.type.dtype.numpy)
    _pad(lowering, node, op.pads, int.from_bytes(element.tobytes(), sys.byteorder, signed=True))


def _gather(
    lowering: Lowering,
    node: Node,
    result: Value,
    sizes: Sequence[int],
    steps: Sequence[int],
    *,
    offset: int = 0,
    source: Value | None = None,
) -> None:
    """Let `result`, of the given sizes, walk `source`, or the node's operand, in the given steps from `offset`."""
    buffer = lowering.buffer(source or node.operands[0])
    walk = merged_walk(sizes, steps, contiguous_steps(sizes))
    count = math.prod(sizes)
    in_order = offset == 0 and walk.steps[0] == walk.steps[1] and count == math.prod(buffer.shape)
    if in_order and lowering.placed_in(result) is None:
        lowering.alias(result, lowering.build.view(buffer, result.name, lowering.shape(result)))
        return
    gather_into(lowering, node, buffer, lowering.result(result), walk, offset=offset)


def gather_into(lowering: Lowering, node: Node, source: Buffer, out: Buffer, walk: Walk, *, offset: int = 0) -> None:
    """Move the walk's elements of `source` (its first row, from `offset` on) to `out` (its second row)."""
    itemsize, count = source.dtype.itemsize, math.prod(walk.sizes)
    if offset == 0 and _is_transposition(walk.sizes, walk.steps[0]):
        _transpose(lowering, node, source, out, walk.sizes)
        return
    walk = _with_good_inner_axis(walk, itemsize).inner(kernels.OUTER_AXES + 1, f"node '{node.name}' ({node.op.name})")
    rows = math.prod(walk.sizes[1:])
    words: dict[str, Operand] = {"source": source, "target": out, "itemsize": itemsize, "offset": offset}
    words |= {"rows": rows, "inner": walk.sizes[0]}
    words |= {f"d{i}": size for i, size in enumerate(walk.sizes[1:], 1)}
    words |= {f"{name}{i}": step for name, row in zip("st", walk.steps, strict=True) for i, step in enumerate(row)}
    in_order = walk.steps[0][0] == walk.steps[1][0] == 1
    cost = rows * _ROW_NS + count * (_COPY_NS * itemsize if in_order else _GATHER_NS)
    lowering.emit(node, "copy", words, writes=("target",), cost=cost, items=rows)


def _with_good_inner_axis(walk: Walk, itemsize: int) -> Walk:
    """The walk of a copy with its longest axis inside, unless rows of bytes in order are long enough as they are.

    Of equally long ones the innermost: its elements are the closest.
    """
    last = len(walk.sizes) - 1
    if walk.steps[0][last] == walk.steps[1][last] == 1 and walk.sizes[last] * itemsize >= _GOOD_ROW_BYTES:
        return walk
    longest = max(range(last + 1), key=lambda axis: (walk.sizes[axis], axis))
    order = [*(axis for axis in range(last + 1) if axis != longest), longest]
    steps = tuple(tuple(row[axis] for axis in order) for row in walk.steps)
    return Walk(tuple(walk.sizes[axis] for axis in order), steps)


def _is_transposition(sizes: tuple[int, ...], steps: tuple[int, ...]) -> bool:
    """Whether the walk exchanges the last two of at most three axes."""
    *batch, columns, rows = (1, 1, *sizes)[-3:] if len(sizes) >= 2 else (0, 0, 0)
    matrix = (*((rows * columns,) if len(sizes) == 3 else ()), 1, columns)
    return len(sizes) in (2, 3) and steps == matrix and bool(batch)


def _transpose(lowering: Lowering, node: Node, source: Buffer, out: Buffer, sizes: tuple[int, ...]) -> None:
    batch, columns, rows = (1, *sizes)[-3:]
    count = math.prod(sizes)
    if rows == 3 and source.dtype.itemsize == 1:
        words: dict[str, Operand] = {"source": source, "target": out, "batch": batch, "pixels": columns}
        lowering.emit(node, "interleave3", words, writes=("target",), cost=0.05 * count, items=max(1, columns // 64))
        return
    words = {"source": source, "target": out, "itemsize": source.dtype.itemsize}
    words |= {"batch": batch, "rows": rows, "columns": columns}
    lowering.emit(
        node, "transpose", words, writes=("target",), cost=_GATHER_NS * count, items=batch * max(1, columns // 16)
    )


def _join(lowering: Lowering, node: Node, axis: int, pieces: Sequence[Buffer], out: Buffer, itemsize: int) -> None:
    rows, size, inner = split_at(out.shape, axis, axis + 1)
    words: dict[str, Operand] = {"target": out, "rows": rows, "row_bytes": size * inner * itemsize}
    words["operands"] = len(pieces)
    for i in range(kernels.CONCAT_OPERANDS):
        present = i < len(pieces)
        words[f"x{i}"] = pieces[i] if present else 0
        words[f"bytes{i}"] = pieces[i].shape[axis] * inner * itemsize if present else 0
    cost = rows * (len(pieces) * _ROW_NS + size * inner * itemsize * _COPY_NS)
    lowering.emit(node, "concat", words, writes=("target",), cost=cost, items=rows)


def _pad(lowering: Lowering, node: Node, pads: tuple[int, ...], value: int) -> None:
    source, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    begins, ends = pads[: len(out.shape)], pads[len(out.shape) :]
    axes: list[tuple[int, int, int]] = []  # size of the source, begin, size of the target; from the outside
    for size, begin, end in zip(source.shape, begins, ends, strict=True):
        if axes and not begin and not end:
            axes[-1] = (axes[-1][0] * size, axes[-1][1] * size, axes[-1][2] * size)
        else:
            axes.append((size, begin, size + begin + end))
    if len(axes) > kernels.PAD_OUTER_AXES + 1:
        raise lowering.unsupported(node, f"it pads {len(axes)} axes, the kernel has {kernels.PAD_OUTER_AXES + 1}")
    (inner_in, begin0, inner_out), *outer = [*reversed(axes), *[(1, 0, 1)] * (kernels.PAD_OUTER_AXES + 1 - len(axes))]
    rows = math.prod(out_size for _, _, out_size in outer)
    itemsize = out.dtype.itemsize
    words: dict[str, Operand] = {"source": source, "target": out, "itemsize": itemsize, "value": value}
    words |= {"rows": rows, "inner_in": inner_in, "inner_out": inner_out, "begin0": begin0}
    for i, (size, begin, out_size) in enumerate(outer, 1):
        words |= {f"out{i}": out_size, f"in{i}": size, f"begin{i}": begin}
    cost = rows * (2 * _ROW_NS + inner_out * itemsize * _COPY_NS)
    lowering.emit(node, "pad", words, writes=("target",), cost=cost, items=rows)
