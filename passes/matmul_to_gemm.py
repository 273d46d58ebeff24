"""`matmul-to-gemm`: products with a constant matrix become fully connected layers."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import AnyArray, Graph, Node, Stage, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of, split_constant_operand
from qcompiler.pass_manager import RewritePass, register_pass
from qcompiler.passes.constant_operands import replace_constant


@dataclass(frozen=True, slots=True)
class Product:
    """A matmul with a constant operand."""

    node: Node


@dataclass(frozen=True, slots=True)
class Sum:
    """`node` adds the constant `bias` to the result of `gemm`, which has none yet."""

    node: Node
    gemm: Node
    bias: AnyArray


@register_pass
@dataclass(frozen=True)
class MatMulToGemm(RewritePass[Product | Sum]):
    """Turn a matmul by a constant into a gemm, and the addition of a constant vector after it into its bias.

    Why: gemm is what accumulates in integers with constant weights, one scale per output channel.

    Algebra: x[..., k] · B[k, m] + b[m] = gemm(x, W, b) with W[m, k] = Bᵀ.

        p = matmul(x, B); y = add(p, b)          before
        y = gemm(x, W, b)                        after

    A constant on the left, C[m, k] · x[..., k, p], is the same with the last two axes of x and of the result swapped:

        y = matmul(C, x)                                       before
        y = transpose(gemm(transpose(x), C))                   after

    A factor alpha goes into the weights.

    Known limits: a stack of different matrices stays a matmul, and a bias is taken up on the right only.
    """

    name: ClassVar[str] = "matmul-to-gemm"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> Product | Sum | None:
        if isinstance(node.op, ops.MatMul):
            return Product(node) if any(operand.is_constant for operand in node.operands) else None
        pair = split_constant_operand(node) if isinstance(node.op, ops.Add) else None
        if pair is None:
            return None
        gemm = producer_of(pair[0], ops.Gemm)
        bias = pair[1].data
        return Sum(node, gemm, bias) if gemm is not None and len(gemm.operands) == 2 and bias is not None else None

    def check(self, graph: Graph, match: Product | Sum) -> str | None:
        del graph
        return _check_product(match.node) if isinstance(match, Product) else _check_sum(match)

    def rewrite(self, graph: Graph, match: Product | Sum) -> None:
        node = match.node
        match match:
            case Product() if not node.operands[1].is_constant:
                _rewrite_left(graph, node)
            case Product():
                weight = _rows(node).T
                node.op = ops.Gemm()
                replace_constant(graph, node, 1, weight)
            case Sum(gemm=gemm, bias=bias):
                clamp = node.op.clamp if isinstance(node.op, ops.Add) else None
                gemm.op = dataclasses.replace(ops.Gemm(), clamp=clamp)
                graph.set_operands(gemm, [*gemm.operands, graph.add_constant(bias.reshape(-1), f"{gemm.name}.bias")])
                graph.replace_node(node, [gemm.result])


def _check_product(node: Node) -> str | None:
    left, right = node.operands
    x, matrix = (left, right) if right.is_constant else (right, left)
    if any(d != 1 for d in matrix.type.shape[:-2]) or matrix.type.rank > max(2, x.type.rank):
        return f"its constant {matrix!r} is a stack of matrices"
    return None


def _rewrite_left(graph: Graph, node: Node) -> None:
    """C · x = (xᵀ · Cᵀ)ᵀ, and the weight of a gemm is transposed already."""
    matrix, x = node.operands
    rank = x.type.rank
    swap = ops.Transpose((*range(rank - 2), rank - 1, rank - 2))
    columns = graph.add_node(swap, [x], name=f"{node.name}.columns", before=node).result
    gemm = graph.add_node(ops.Gemm(), [columns, _weight(graph, node, matrix)], name=f"{node.name}.gemm", before=node)
    node.op = swap
    graph.set_operands(node, [gemm.result])


def _weight(graph: Graph, node: Node, matrix: Value) -> Value:
    as_it_is = matrix.type.rank == 2 and node.op == ops.MatMul()
    return matrix if as_it_is else graph.add_constant(_rows(node), f"{matrix.name}.rows")


def _check_sum(match: Sum) -> str | None:
    gemm = match.gemm
    if gemm.op != ops.Gemm():
        return f"its input '{gemm.name}' has a clamp before the addition"
    users = other_users(gemm.result, match.node)
    if users is not None:
        return f"its input '{gemm.name}' is also used by {users}"
    outputs = gemm.result.type.shape[-1]
    if match.bias.size != outputs or match.bias.shape[-1:] not in ((), (outputs,)):
        return f"its constant is not one number for each of the {outputs} outputs of '{gemm.name}'"
    if match.node.result.type.shape != gemm.result.type.shape:
        return f"it also broadcasts the result of '{gemm.name}'"
    return None


def _rows(node: Node) -> AnyArray:
    """The constant matrix of a product, times alpha."""
    matrix = node.operands[1] if node.operands[1].is_constant else node.operands[0]
    data = np.asarray(matrix.data)
    alpha = node.op.alpha if isinstance(node.op, ops.MatMul) else 1.0
    scaled: AnyArray = np.multiply(data, alpha, dtype=data.dtype)
    return scaled.reshape(data.shape[-2:])
