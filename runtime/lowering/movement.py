"""Lowering of ops that move data: views where the bytes stay in order, else copies."""

import math
import sys
from collections.abc import Sequence

import numpy as np

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import (
    DepthToSpace,
    Identity,
    IntPad,
    Pad,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from qcompiler.runtime.kernels import movement as kernels
from qcompiler.runtime.lowering.boundary import interleaving_of
from qcompiler.runtime.lowering.context import Lowering, lowers
from qcompiler.runtime.lowering.copies import COPY_NS, GATHER_NS, ROW_NS, copy_call, steps_of
from qcompiler.runtime.lowering.geometry import Walk, contiguous_steps, merged_walk
from qcompiler.runtime.lowering.integer_linear import lower_with_blocks
from qcompiler.runtime.lowering.pixel_blocks import transposition_of
from qcompiler.runtime.lowering.product_views import read_through, written_through
from qcompiler.runtime.lowering.rows import reads_rows
from qcompiler.runtime.program import Buffer, Operand


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
    producer = node.operands[0].producer
    if producer is not None and interleaving_of(lowering, producer) is node:
        return
    if producer is not None and transposition_of(producer) is node and isinstance(producer.op, DepthToSpace):
        source, axes = producer.operands[0], _block_axes(lowering, producer, producer.op)
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
    """Let the node's result walk `source` along axes of (size, step in a contiguous tensor), from the outside."""
    sizes, steps = [size for size, _ in parts], [step for _, step in parts]
    _gather(lowering, node, node.result, lowering.buffer(source), sizes, steps)


@lowers(Slice)
def lower_slice(lowering: Lowering, node: Node, op: Slice) -> None:
    """A view where rows stay in order, else a walk of the operand with its steps multiplied."""
    source = lowering.rows(node.operands[0])
    steps = list(steps_of(source, source.shape))
    offset = 0
    for axis, start, step in zip(op.axes, op.starts, op.steps, strict=True):
        offset += start * steps[axis]
        steps[axis] *= step
    _cut(lowering, node, node.result, steps, offset)


@lowers(Split)
def lower_split(lowering: Lowering, node: Node, op: Split) -> None:
    """Each piece as for a Slice."""
    source = lowering.rows(node.operands[0])
    steps = steps_of(source, source.shape)
    start = 0
    for value, size in zip(node.results, op.sizes, strict=True):
        _cut(lowering, node, value, steps, start * steps[op.axis])
        start += size


def _cut(lowering: Lowering, node: Node, result: Value, steps: Sequence[int], offset: int) -> None:
    """Let `result` be a view of its part of the node's operand where those who read it can, else a copy."""
    source, shape = lowering.rows(node.operands[0]), lowering.shape(result)
    if lowering.place_of(result) is None and not result.is_output and math.prod(shape) > 0:
        whole = steps_of(source, source.shape)
        walk = merged_walk(shape, steps, contiguous_steps(shape))
        if walk.steps[0] == walk.steps[1] and not source.pitch:
            at = offset * source.dtype.itemsize
            lowering.alias(result, lowering.build.view(source, result.name, shape, offset=at))
            return
        by_rows = shape[:-1] == source.shape[:-1] and tuple(steps) == whole and shape[-1] > 1
        if by_rows and all(reads_rows(user, result) for user in result.users):
            at = offset * source.dtype.itemsize
            lowering.alias(result, lowering.build.slice(source, result.name, shape, offset=at))
            return
    _gather(lowering, node, result, source, shape, steps, offset=offset)


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
    source: Buffer,
    sizes: Sequence[int],
    steps: Sequence[int],
    *,
    offset: int = 0,
) -> None:
    """Let `result`, of the given sizes, walk `source` in the given steps from `offset`."""
    if lowering.place_of(result) is None:
        walk = merged_walk(sizes, steps, contiguous_steps(sizes))
        in_order = offset == 0 and walk.steps[0] == walk.steps[1] and math.prod(sizes) == math.prod(source.shape)
        if in_order and not source.pitch:
            lowering.alias(result, lowering.build.view(source, result.name, lowering.shape(result)))
            return
    out = lowering.result_rows(result)
    gather_into(lowering, node, source, out, merged_walk(sizes, steps, steps_of(out, sizes)), offset=offset)


def gather_into(lowering: Lowering, node: Node, source: Buffer, out: Buffer, walk: Walk, *, offset: int = 0) -> None:
    """Move the walk's elements of `source` (its first row, from `offset` on) to `out` (its second row)."""
    if offset == 0 and not out.pitch and _is_transposition(walk.sizes, walk.steps[0]):
        _transpose(lowering, node, source, out, walk.sizes)
        return
    copy = copy_call(source, out, walk, f"node '{node.name}' ({node.op.name})", offset=offset)
    pitched = ("source", "target")
    lowering.emit(node, "copy", copy.words, writes=("target",), pitched=pitched, cost=copy.cost, items=copy.rows)


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
        node, "transpose", words, writes=("target",), cost=GATHER_NS * count, items=batch * max(1, columns // 16)
    )


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
    cost = rows * (2 * ROW_NS + inner_out * itemsize * COPY_NS)
    lowering.emit(node, "pad", words, writes=("target",), cost=cost, items=rows)
