"""Ops that move data: reshapes, transposes, slices, pads, concatenation."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from qcompiler.errors import ModelError
from qcompiler.importer.known import Known
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.importer.registry import Imported, importer
from qcompiler.importer.subscripts import Subscript, read_slice, split_sizes
from qcompiler.importer.targets import flattened, reshape_target, squeezed, unsqueezed
from qcompiler.ir import Value, ops
from qcompiler.ir.types import multiply_dims

_FLOAT_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@importer("Identity")
def import_identity(node: NodeReader) -> Imported:
    return node.operand(0)


@importer("Dropout")
def import_dropout(node: NodeReader) -> Imported:
    """At inference the operand itself."""
    if node.has(2) and node.array(2).any():
        raise Unsupported("training_mode is true; export the model in evaluation mode")
    return node.operand(0)


@importer("Cast")
def import_cast(node: NodeReader) -> Imported:
    """Run-time tensors are float32 whatever float type the model computes in."""
    if node.attr_int("to", 0) not in _FLOAT_TYPES:
        raise Unsupported("casts of run-time tensors to integers")
    return node.operand(0)


@importer("Reshape")
def import_reshape(node: NodeReader) -> Value:
    x = node.value(0)
    shape = reshape_target(node, x.type.shape, node.dims(1))
    return node.emit(ops.Reshape(shape), x)


@importer("Flatten")
def import_flatten(node: NodeReader) -> Value:
    x = node.value(0)
    return node.emit(ops.Reshape(flattened(node, x.type.shape)), x)


@importer("Squeeze")
def import_squeeze(node: NodeReader) -> Value:
    x = node.value(0)
    return node.emit(ops.Reshape(squeezed(node, x.type.shape)), x)


@importer("Unsqueeze")
def import_unsqueeze(node: NodeReader) -> Value:
    x = node.value(0)
    return node.emit(ops.Reshape(unsqueezed(node, x.type.shape)), x)


@importer("Expand")
def import_expand(node: NodeReader) -> Imported:
    """Only where the shape stays, as exporters emit it for safety."""
    x, target = node.value(0), node.dims(1)
    aligned = (1,) * (x.type.rank - len(target)) + target
    if len(aligned) != x.type.rank or any(t not in (1, d) for t, d in zip(aligned, x.type.shape, strict=True)):
        raise Unsupported(f"it repeats elements of {list(x.type.shape)} to fill {list(target)}")
    return x


@importer("Transpose")
def import_transpose(node: NodeReader) -> Value:
    x = node.value(0)
    perm = node.attr_ints("perm") or tuple(reversed(range(x.type.rank)))
    return node.emit(ops.Transpose(perm), x)


@importer("Concat")
def import_concat(node: NodeReader) -> Value:
    parts = node.values()
    axis = node.axis(node.attr_int("axis", 1), parts[0].type.rank)
    return node.emit(ops.Concat(axis), *parts)


@importer("Split")
def import_split(node: NodeReader) -> tuple[Value, ...]:
    x = node.value(0)
    axis = node.axis(node.attr_int("axis", 0), x.type.rank)
    return node.emit_all(ops.Split(axis, split_sizes(node, x.type.shape[axis])), (x,))


@importer("Slice")
def import_slice(node: NodeReader) -> Value:
    return _emit_slice(node, node.value(0), read_slice(node, node.value(0).type.shape))


@importer("Gather")
def import_gather(node: NodeReader) -> Value:
    """With constant indices that step evenly: a slice, without the axis if the index is a scalar."""
    x, indices = node.value(0), node.array(1)
    axis = node.axis(node.attr_int("axis", 0), x.type.rank)
    size = x.type.shape[axis]
    if isinstance(size, str) or indices.ndim > 1 or not indices.size:
        raise Unsupported(f"indices of shape {list(indices.shape)} along axis {axis} of {list(x.type.shape)}")
    places = [int(i) for i in indices.reshape(-1)]
    if not all(-size <= i < size for i in places):
        raise ModelError(f"{node.label}: indices {places} lie outside axis {axis} of {list(x.type.shape)}")
    places = [i % size for i in places]
    step = places[1] - places[0] if len(places) > 1 else 1
    if step == 0 or any(b - a != step for a, b in itertools.pairwise(places)):
        raise Unsupported(f"indices {places} that do not step evenly")
    picked = _emit_slice(node, x, [Subscript(axis, places[0], len(places), step)])
    if indices.ndim:
        return picked
    shape = picked.type.shape
    return node.emit(ops.Reshape(shape[:axis] + shape[axis + 1 :]), picked)


@importer("Pad")
def import_pad(node: NodeReader) -> Value:
    """Negative pads crop first."""
    x = node.value(0)
    mode = node.attr_string("mode", "constant")
    if mode != "constant":
        raise Unsupported(f"mode={mode!r}; only 'constant' is supported")
    if node.version < 11:
        given, number = node.attr_ints("pads") or (), node.attr_float("value", 0.0)
        axes: Sequence[int] = range(x.type.rank)
    else:
        given, number = node.int_list(1), node.scalar(2) if node.has(2) else 0.0
        axes = node.int_list(3) if node.has(3) else range(x.type.rank)
    if len(given) != 2 * len(axes):
        raise ModelError(f"{node.label}: {len(given)} pads for {len(axes)} axes; a begin and an end each are needed")
    rank = x.type.rank
    pads = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        pads[node.axis(axis, rank)] = given[i]
        pads[rank + node.axis(axis, rank)] = given[len(axes) + i]
    x = _crop(node, x, pads)
    if not math.isfinite(number):
        raise Unsupported(f"it pads with {number}")
    return node.emit(ops.Pad(tuple(max(p, 0) for p in pads), number), x)


@importer("DepthToSpace")
def import_depth_to_space(node: NodeReader) -> Value:
    size = node.attr_int("blocksize", 0)
    return node.emit(ops.DepthToSpace((size, size), node.attr_string("mode", "DCR")), node.value(0))


@importer("Shape")
def import_shape(node: NodeReader) -> Known:
    """The shape of a run-time tensor, symbols included; from operator set 15 on possibly a part of it."""
    shape = node.value(0).type.shape
    first = node.attr_int("start", 0)
    last = node.attr_int("end", len(shape)) if node.has_attribute("end") else len(shape)
    return node.known_result(np.array(shape, dtype=object)[first:last])


@importer("Size")
def import_size(node: NodeReader) -> Known:
    """The number of elements of a run-time tensor."""
    return node.known_result(np.array(multiply_dims(node.value(0).type.shape), dtype=object))


def _emit_slice(node: NodeReader, x: Value, parts: Sequence[Subscript]) -> Value:
    if not parts:
        return x
    axes, starts, counts, steps = zip(*((p.axis, p.start, p.count, p.step) for p in parts), strict=True)
    return node.emit(ops.Slice(axes, starts, counts, steps), x)


def _crop(node: NodeReader, x: Value, pads: Sequence[int]) -> Value:
    parts = []
    for axis, (begin, end) in enumerate(zip(pads[: x.type.rank], pads[x.type.rank :], strict=True)):
        if begin >= 0 and end >= 0:
            continue
        size = x.type.shape[axis]
        if isinstance(size, str):
            raise Unsupported(f"it crops the symbolic axis {axis} of {list(x.type.shape)}")
        parts.append(Subscript(axis, max(-begin, 0), size - max(-begin, 0) - max(-end, 0), 1))
    return _emit_slice(node, x, parts)
