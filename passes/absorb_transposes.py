"""`absorb-transposes`: permute a fully connected layer's weights instead of its operand."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import AnyArray, Graph, Node, Stage, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True)
class _Match:
    gemm: Node
    flatten: Node
    transpose: Node
    weight: AnyArray
    perm: tuple[int, ...]


@register_pass
@dataclass(frozen=True)
class AbsorbTransposes(RewritePass[_Match]):
    """Fold a transpose before flatten and a fully connected layer into the layer's weight columns.

        y = int.gemm(reshape(transpose(x)), W)            before
        y = int.gemm(reshape(x), W')                      after
        W'[m, i] = W[m, j], where element i of x becomes element j of its transpose

    Why: after `assign-layout` the last convolution gives NHWC and the flatten wants NCHW; weights are permuted once,
    at compile time. Bits are preserved: the same products are added.

    Known limits: the transpose must keep the batch axis, and flatten all others of known sizes into one.
    """

    name: ClassVar[str] = "absorb-transposes"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INTEGER})

    def match(self, node: Node) -> _Match | None:
        if not isinstance(node.op, ops.IntGemm) or (weight := node.operands[1].data) is None:
            return None
        flatten = producer_of(node.operands[0], ops.Reshape)
        transpose = None if flatten is None else producer_of(flatten.operands[0], ops.Transpose)
        match transpose:
            case Node(op=ops.Transpose(perm=perm)) if flatten is not None:
                return _Match(node, flatten, transpose, weight, perm)
            case _:
                return None

    def check(self, graph: Graph, match: _Match) -> str | None:
        del graph
        for value, user in ((match.flatten.result, match.gemm), (match.transpose.result, match.flatten)):
            users = other_users(value, user)
            if users is not None:
                return f"%{value.name} is also used by {users}"
        shape, flat = match.transpose.result.type.shape, match.flatten.result.type.shape
        sizes = [dim for dim in shape[1:] if isinstance(dim, int)]
        if match.perm[0] != 0 or len(sizes) != len(shape) - 1 or flat != (shape[0], math.prod(sizes)):
            return f"'{match.flatten.name}' does not flatten exactly the axes after the first"
        return None

    def rewrite(self, graph: Graph, match: _Match) -> None:
        x: Value = match.transpose.operands[0]
        rows = len(match.weight)
        sizes = [dim for dim in match.transpose.result.type.shape[1:] if isinstance(dim, int)]
        # Axis i of the transposed tensor is axis perm[i] of x; argsort gives the way back.
        back = (0, *(1 + np.argsort([axis - 1 for axis in match.perm[1:]])).tolist())
        permuted = match.weight.reshape(rows, *sizes).transpose(back).reshape(rows, -1)
        graph.set_operand(match.flatten, 0, x)
        graph.set_operand(match.gemm, 1, graph.add_constant(permuted, match.gemm.operands[1].name))
