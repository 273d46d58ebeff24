"""`sink-transposes`: transposes move towards the outputs until they meet their inverse, or an op that minds."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Graph, Node, Op, Stage, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of
from qcompiler.pass_manager import RewritePass, register_pass

_POINTWISE = (ops.Unary, ops.Binary, ops.PRelu, ops.IntRescale, ops.IntLut, ops.IntAdd, ops.IntMul, ops.IntDiv)
_ALONG_AXES = (
    ops.Slice,
    ops.Split,
    ops.Concat,
    ops.Pad,
    ops.IntPad,
    ops.Softmax,
    ops.IntSoftmax,
    ops.ReduceMean,
    ops.IntMean,
    ops.IntPRelu,
)

Perm = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transposed:
    """`node` has at least one operand transposed by `perm`."""

    node: Node
    perm: Perm


@register_pass
@dataclass(frozen=True)
class SinkTransposes(RewritePass[Transposed]):
    """Move transposes behind the ops that they commute with, and cancel or merge those that meet.

    Why: a transpose is a pass over memory, and it stands between ops that could be fused. Graphs from channels-last
    frameworks have a pair around many an op; behind it the pair cancels.

    Algebra: with T the transpose and f element by element, f(T(a), T(b)) = T(f(a, b)); a constant operand c becomes
    T⁻¹(c); an op along axis i of T(x) works along axis perm[i] of x; T_q(T_p(x)) = T_r(x) with r[i] = p[q[i]].

        t = transpose(x){perm=[0, 2, 3, 1]}; r = relu(t); y = transpose(r){perm=[0, 3, 1, 2]}     before
        y = relu(x)                                                                               after

    Legal for floats and integers, since data only moves: an integer graph keeps its bits.

    Known limits: a transpose with several users stays, since sinking it would copy it, unless it can sink through all
    of them; so does one whose operands meet untransposed activations. Nothing moves through reshapes.
    """

    name: ClassVar[str] = "sink-transposes"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT, Stage.INTEGER})

    def match(self, node: Node) -> Transposed | None:
        if not isinstance(node.op, (ops.Transpose, *_POINTWISE, *_ALONG_AXES)):
            return None
        for operand in node.operands:
            above = producer_of(operand, ops.Transpose)
            if above is not None and isinstance(above.op, ops.Transpose):
                return Transposed(node, above.op.perm)
        return None

    def check(self, graph: Graph, match: Transposed) -> str | None:
        del graph
        node, perm = match.node, match.perm
        if isinstance(node.op, ops.Transpose):
            return None
        for index, operand in enumerate(node.operands):
            if operand.is_constant:
                if _is_parameter(node.op, index) or operand.type.rank <= len(perm):
                    continue
                return f"its constant {operand!r} has more axes than the transposed operand"
            above = producer_of(operand, ops.Transpose)
            if above is None or not isinstance(above.op, ops.Transpose):
                return f"its operand {operand!r} is not transposed"
            if above.op.perm != perm:
                return f"its operands are transposed by {list(perm)} and {list(above.op.perm)}"
            users = other_users(operand, node)
            if users is not None and not _sinks_through_all(operand, perm):
                return f"its transposed operand '{above.name}' is also used by {users}"
        return None

    def rewrite(self, graph: Graph, match: Transposed) -> None:
        node, perm = match.node, match.perm
        above = [producer_of(operand, ops.Transpose) for operand in node.operands]
        if isinstance(node.op, ops.Transpose):
            _merge(graph, node, node.op.perm, perm)
        else:
            _sink(graph, node, perm)
        for transpose in above:
            if transpose is not None and not transpose.erased:
                graph.erase_if_unused(transpose)


def _sinks_through_all(value: Value, perm: Perm) -> bool:
    """Whether all users of a transposed value take values transposed alike, and constants."""
    if value.is_output or not all(isinstance(user.op, (*_POINTWISE, *_ALONG_AXES)) for user in value.users):
        return False
    others = [(user.op, i, operand) for user in value.users for i, operand in enumerate(user.operands)]
    return all(
        _is_parameter(op, i) or operand.type.rank <= len(perm) if operand.is_constant else _is_transposed(operand, perm)
        for op, i, operand in others
    )


def _is_transposed(value: Value, perm: Perm) -> bool:
    return value.producer is not None and value.producer.op == ops.Transpose(perm)


def _merge(graph: Graph, node: Node, outer: Perm, inner: Perm) -> None:
    x = next(v for above in [node.operands[0].producer] if above is not None for v in above.operands)
    merged = tuple(inner[axis] for axis in outer)
    if merged == tuple(range(len(merged))):
        graph.replace_node(node, [x])
    else:
        node.op = ops.Transpose(merged)
        graph.set_operand(node, 0, x)


def _sink(graph: Graph, node: Node, perm: Perm) -> None:
    operands = [_untransposed(graph, node.op, i, operand, perm) for i, operand in enumerate(node.operands)]
    op, result_perm = _along(node.op, perm)
    node.op = op
    graph.set_operands(node, operands)
    if result_perm == tuple(range(len(result_perm))):
        return
    _, following = node.neighbours(1)
    for result in node.results:
        shape = result.type.shape
        result.type = result.type.with_shape(shape[result_perm.index(axis)] for axis in range(len(result_perm)))
        transpose = graph.add_node(
            ops.Transpose(result_perm), [result], name=f"{result.name}.transpose", before=next(iter(following), None)
        )
        graph.replace_uses(result, transpose.result, except_by=transpose)


def _untransposed(graph: Graph, op: Op, index: int, operand: Value, perm: Perm) -> Value:
    """What takes the place of an operand in front of the transpose."""
    if not operand.is_constant:
        above = operand.producer
        return above.operands[0] if above is not None else operand
    if _is_parameter(op, index) or operand.data is None or operand.data.size == 1:
        return operand
    data = operand.data.reshape((1,) * (len(perm) - operand.data.ndim) + operand.data.shape)
    inverse = np.argsort(perm)
    return graph.add_constant(data.transpose(inverse), operand.name, dtype=operand.type.dtype, quant=operand.type.quant)


def _is_parameter(op: Op, index: int) -> bool:
    """Whether a constant operand is a table or the like, not an array along the axes of the activation."""
    return isinstance(op, ops.IntLut | ops.IntSoftmax | ops.IntPRelu) and index > 0


def _along(op: Op, perm: Perm) -> tuple[Op, Perm]:
    """`op` in front of the transpose, and the transpose behind it."""
    match op:
        case ops.Slice(axes=axes):
            return dataclasses.replace(op, axes=tuple(perm[axis] for axis in axes)), perm
        case ops.Split() | ops.Concat() | ops.Softmax() | ops.IntSoftmax() | ops.IntPRelu():
            return dataclasses.replace(op, axis=perm[op.axis]), perm
        case ops.Pad() | ops.IntPad():
            return dataclasses.replace(op, pads=_reordered(op.pads, perm)), perm
        case ops.ReduceMean(axes=axes, keepdims=keepdims) | ops.IntMean(axes=axes, keepdims=keepdims):
            over = tuple(sorted(perm[axis] for axis in axes))
            kept = [axis for axis in perm if keepdims or axis not in over]
            return dataclasses.replace(op, axes=over), tuple(sorted(kept).index(axis) for axis in kept)
        case _:
            return op, perm


def _reordered(pads: Perm, perm: Perm) -> Perm:
    """Begins and ends for the axes of the operand, from those for the axes of its transpose."""
    rank = len(perm)
    return tuple(pads[side * rank + perm.index(axis)] for side in (0, 1) for axis in range(rank))
