"""Ops that move data: the same on real numbers and on integers."""

import numpy as np

from qcompiler.ir.ops import (
    Concat,
    DepthToSpace,
    Identity,
    IntPad,
    Observe,
    Pad,
    Requantize,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from qcompiler.ir.types import AnyArray
from qcompiler.runtime.reference.real import Real
from qcompiler.runtime.reference.registry import Domain, Types, reference
from qcompiler.runtime.reference.windows import from_channels_first, to_channels_first


@reference(Identity, Domain.EITHER)
def identity(_op: Identity, x: AnyArray) -> AnyArray:
    return x


@reference(Observe, Domain.EITHER)
def observe(_op: Observe, x: AnyArray) -> AnyArray:
    return x


@reference(Requantize)
def requantize(_op: Requantize, x: Real) -> Real:
    return x


@reference(Reshape, Domain.EITHER, typed=True)
def reshape(_op: Reshape, types: Types, x: AnyArray) -> AnyArray:
    # The type of the result has the sizes of the op's symbols.
    return x.reshape([int(d) for d in types.results[0].shape])


@reference(Transpose, Domain.EITHER)
def transpose(op: Transpose, x: AnyArray) -> AnyArray:
    return np.ascontiguousarray(x.transpose(op.perm))


@reference(Concat, Domain.EITHER)
def concat(op: Concat, *xs: AnyArray) -> AnyArray:
    return np.concatenate(xs, op.axis)


@reference(Split, Domain.EITHER)
def split(op: Split, x: AnyArray) -> tuple[AnyArray, ...]:
    return tuple(np.split(x, np.cumsum(op.sizes)[:-1], op.axis))


@reference(Slice, Domain.EITHER)
def slice_(op: Slice, x: AnyArray) -> AnyArray:
    for axis, start, count, step in zip(op.axes, op.starts, op.counts, op.steps, strict=True):
        x = x.take(start + step * np.arange(count), axis)
    return x


@reference(Pad)
def pad(op: Pad, x: Real) -> Real:
    return np.pad(x, _borders(op.pads), constant_values=op.value)


@reference(IntPad, Domain.STORED)
def int_pad(op: IntPad, x: AnyArray) -> AnyArray:
    return np.pad(x, _borders(op.pads), constant_values=op.value)


@reference(DepthToSpace, Domain.EITHER)
def depth_to_space(op: DepthToSpace, x: AnyArray) -> AnyArray:
    x = to_channels_first(x, op.layout)
    (n, depth, h, w), (rows, columns) = x.shape, op.blocks
    c = depth // (rows * columns)
    if op.mode == "DCR":
        y = x.reshape(n, rows, columns, c, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c, rows, columns, h, w).transpose(0, 1, 4, 2, 5, 3)
    return from_channels_first(y.reshape(n, c, h * rows, w * columns), op.layout)


def _borders(pads: tuple[int, ...]) -> list[tuple[int, int]]:
    """Begin and end of each axis, from the IR's order: all begins, then all ends."""
    rank = len(pads) // 2
    return list(zip(pads[:rank], pads[rank:], strict=True))
