"""Lowering of products of two activations: the second operand is packed at run time, then tiles run over the first."""

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import IntMatMul, Transpose
from qcompiler.ir.types import DType
from qcompiler.runtime import isa
from qcompiler.runtime.kernels import products  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.product_plan import ProductTypes, View, plan_product
from qcompiler.runtime.lowering.context import MOST_SHARES, Lowering, lowers
from qcompiler.runtime.lowering.geometry import contiguous_steps
from qcompiler.runtime.lowering.planned_calls import emit_planned
from qcompiler.runtime.lowering.product_views import read_through, written_through
from qcompiler.runtime.program import Buffer


@lowers(IntMatMul)
def lower_matmul(lowering: Lowering, node: Node, op: IntMatMul) -> None:
    """Two instructions: one packs the matrices of b, one multiplies those of a by them."""
    a, b = node.operands
    transposition = written_through(node.result)
    result = node.result if transposition is None else transposition.result
    out = lowering.result(result)
    if math.prod(lowering.shape(result)) == 0:
        return
    (a_buffer, a_view), (b_buffer, b_view) = (_operand(lowering, value) for value in (a, b))
    out_view = _contiguous(lowering.shape(result))
    if transposition is not None:
        out_view = _permuted(out_view, np.argsort(_perm(transposition)).tolist())
    types = ProductTypes(isa.current(), a.type.dtype, b.type.dtype, op)
    pack, multiply = plan_product(types, a_view, b_view, out_view, max_shares=MOST_SHARES)
    packed = lowering.build.tensor(f"{node.name}.packed", DType.U8, pack.out_shape)
    emit_planned(lowering, node.name, pack, {"source": b_buffer, "packed": packed}, writes=("packed",))
    emit_planned(lowering, node.name, multiply, {"a": a_buffer, "packed": packed, "out": out}, writes=("out",))


def _operand(lowering: Lowering, value: Value) -> tuple[Buffer, View]:
    """Where an operand is, and how its elements lie there."""
    transposition = read_through(value)
    if transposition is None:
        return lowering.buffer(value), _contiguous(lowering.shape(value))
    source = transposition.operands[0]
    return lowering.buffer(source), _permuted(_contiguous(lowering.shape(source)), _perm(transposition))


def _contiguous(shape: tuple[int, ...]) -> View:
    return View(shape, contiguous_steps(shape))


def _permuted(view: View, perm: Sequence[int]) -> View:
    return View(tuple(view.shape[axis] for axis in perm), tuple(view.steps[axis] for axis in perm))


def _perm(transposition: Node) -> tuple[int, ...]:
    return transposition.op.perm if isinstance(transposition.op, Transpose) else ()
