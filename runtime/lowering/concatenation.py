"""Lowering of Concat: its operands are written straight into slices of its result where their kernels can."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.ir import Graph, Node, Value
from qcompiler.ir.ops import Concat, Identity, Observe, Reshape, Split
from qcompiler.runtime.kernels import movement as kernels
from qcompiler.runtime.lowering.context import Lowering, Place, lowers
from qcompiler.runtime.lowering.copies import COPY_NS, ROW_NS
from qcompiler.runtime.lowering.geometry import split_at
from qcompiler.runtime.lowering.rows import reads_rows, writes_rows
from qcompiler.runtime.program import Buffer, Operand


@dataclass(frozen=True)
class _Piece:
    """A part of a concatenation: an operand, or the source of a Split all of whose pieces follow each other.

    Attributes:
        start: of its part of the axis.
    """

    value: Value
    start: int


def place_concats(lowering: Lowering, graph: Graph) -> None:
    """Have the operands of each concatenation written straight into its result where that is possible.

    The last concatenation comes first: one whose operands are neighbours in the result of a later one is a view of it,
    as in a DenseNet, and one that is an operand of a later one is written there with all that it consists of.
    """
    for node in graph.nodes_reversed():
        if not isinstance(node.op, Concat) or math.prod(lowering.shape(node.result)) == 0:
            continue
        known = _place_as_part(lowering, node)
        if known is not None and lowering.place_of(node.result) is None and not node.result.is_output:
            lowering.place(node.result, known)
            continue
        pieces = _pieces(lowering, node, node.op)
        values = [piece.value for piece in pieces]
        for piece in pieces:
            place = _place_of(lowering, node, node.op, piece)
            if place is not None and values.count(piece.value) == 1:
                lowering.place(piece.value, place)


@lowers(Concat)
def lower_concat(lowering: Lowering, node: Node, op: Concat) -> None:
    """Nothing to do for operands that were written in place, see `place_concats`; others are copied."""
    out, place = lowering.result_rows(node.result), lowering.place_of(node.result)
    if place is not None and place == _place_as_part(lowering, node):
        return
    pieces = _pieces(lowering, node, op)
    left = [piece for piece in pieces if not _is_in_place(lowering, node, piece)]
    pitched = out.pitch or any(lowering.rows(value).pitch for value in node.operands)
    in_parts = _is_along_rows(lowering, node) or _is_contiguous(lowering, node)
    if len(left) == len(pieces) and not (pitched and in_parts):
        _join_all(lowering, node, op.axis, [lowering.buffer(value) for value in node.operands], out)
        return
    for piece in left:
        shape = lowering.shape(piece.value)
        inner = math.prod(shape[op.axis + 1 :]) * out.dtype.itemsize
        part = lowering.build.slice(out, f"{node.name}.part", shape, offset=piece.start * inner)
        lowering.copy_rows(node.name, lowering.rows(piece.value), part)


def _is_in_place(lowering: Lowering, node: Node, piece: _Piece) -> bool:
    place = lowering.place_of(piece.value)
    return place is not None and place.whole is node.result


def _pieces(lowering: Lowering, node: Node, op: Concat) -> list[_Piece]:
    pieces: list[_Piece] = []
    start, operands = 0, list(node.operands)
    while operands:
        split = operands[0].producer
        value, count = operands[0], 1
        if split is not None and isinstance(split.op, Split) and split.op.axis == op.axis:
            results = list(split.results)
            if operands[: len(results)] == results:
                value, count = split.operands[0], len(results)
        pieces.append(_Piece(value, start))
        start += sum(lowering.shape(operand)[op.axis] for operand in operands[:count])
        del operands[:count]
    return pieces


def _place_as_part(lowering: Lowering, node: Node) -> Place | None:
    """Where the node's result is, if all its operands are placed next to each other in the result of another node."""
    first = lowering.place_of(node.operands[0])
    if first is None or first.whole is node.result or (first.by_rows and not _is_along_rows(lowering, node)):
        return None
    at = first.offset
    for operand in node.operands:
        if lowering.place_of(operand) != Place(first.whole, at, by_rows=first.by_rows):
            return None
        shape = lowering.shape(operand)
        at += (shape[-1] if first.by_rows else math.prod(shape)) * operand.type.dtype.itemsize
    return first if first.by_rows or _is_contiguous(lowering, node) else None


def _is_along_rows(lowering: Lowering, node: Node) -> bool:
    return isinstance(node.op, Concat) and node.op.axis == len(lowering.shape(node.result)) - 1


def _is_contiguous(lowering: Lowering, node: Node) -> bool:
    """Whether each operand is one contiguous part of the result."""
    return isinstance(node.op, Concat) and math.prod(lowering.shape(node.result)[: node.op.axis]) == 1


def _place_of(lowering: Lowering, node: Node, op: Concat, piece: _Piece) -> Place | None:
    """Where in the node's result a piece can be written by the kernel that computes it."""
    value, producer = piece.value, piece.value.producer
    if producer is None or lowering.place_of(value) is not None or lowering.model.graph.is_output(value):
        return None
    if isinstance(producer.op, Reshape | Identity | Observe):
        return None
    shape = lowering.shape(value)
    offset = piece.start * math.prod(shape[op.axis + 1 :]) * value.type.dtype.itemsize
    whole = lowering.place_of(node.result)
    if _is_contiguous(lowering, node):
        return Place(node.result, offset, by_rows=False) if whole is None or not whole.by_rows else None
    if not _is_along_rows(lowering, node) or shape[-1] < 2 or not writes_rows(producer):
        return None
    if isinstance(producer.op, Concat) and not _is_along_rows(lowering, producer):
        return None
    readable = all(user is node or reads_rows(user, value) for user in value.users)
    return Place(node.result, offset, by_rows=True) if readable else None


def _join_all(lowering: Lowering, node: Node, axis: int, pieces: Sequence[Buffer], out: Buffer) -> None:
    """Put rows together, as many operands at a time as the kernel takes."""
    pieces = list(pieces)
    while len(pieces) > kernels.CONCAT_OPERANDS:
        head = pieces[: kernels.CONCAT_OPERANDS]
        shape = list(head[0].shape)
        shape[axis] = sum(piece.shape[axis] for piece in head)
        joined = lowering.build.tensor(f"{node.name}.part", node.result.type.dtype, shape)
        _join(lowering, node, axis, head, joined)
        pieces = [joined, *pieces[kernels.CONCAT_OPERANDS :]]
    _join(lowering, node, axis, pieces, out)


def _join(lowering: Lowering, node: Node, axis: int, pieces: Sequence[Buffer], out: Buffer) -> None:
    rows, size, inner = split_at(out.shape, axis, axis + 1)
    itemsize = out.dtype.itemsize
    words: dict[str, Operand] = {"target": out, "rows": rows, "row_bytes": size * inner * itemsize}
    words["operands"] = len(pieces)
    for i in range(kernels.CONCAT_OPERANDS):
        present = i < len(pieces)
        words[f"x{i}"] = pieces[i] if present else 0
        words[f"bytes{i}"] = pieces[i].shape[axis] * inner * itemsize if present else 0
    cost = rows * (len(pieces) * ROW_NS + size * inner * itemsize * COPY_NS)
    lowering.emit(node, "concat", words, writes=("target",), cost=cost, items=rows)
