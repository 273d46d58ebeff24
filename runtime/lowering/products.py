"""Lowering of products of two activations: the second operand is packed at run time, then tiles run over the first."""

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import IntMatMul, Transpose
from qcompiler.ir.types import DType
from qcompiler.runtime import isa
from qcompiler.runtime.kernels import products  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.product_plan import Call, ProductTypes, View, plan_product
from qcompiler.runtime.lowering.context import MOST_SHARES, Lowering, lowers
from qcompiler.runtime.lowering.geometry import contiguous_steps
from qcompiler.runtime.lowering.product_views import read_through, written_through
from qcompiler.runtime.program import Buffer, Operand


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
    plan = plan_product(types, a_view, b_view, out_view, max_shares=MOST_SHARES)
    build = lowering.build
    packed = build.tensor(f"{node.name}.packed", DType.U8, (plan.packed_bytes,))
    words: dict[str, Operand] = {"source": b_buffer, "packed": packed}
    _emit(lowering, node, "int_product_pack", words, plan.pack, writes=("packed",))
    words = {"a": a_buffer, "packed": packed, "out": out}
    words["scratch"] = build.tensor(f"{node.name}.scratch", DType.U8, (plan.scratch_bytes,))
    _emit(lowering, node, "int_product", words, plan.multiply, writes=("out",), scratch=("scratch",))


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


def _emit(
    lowering: Lowering,
    node: Node,
    kernel: str,
    words: dict[str, Operand],
    call: Call,
    *,
    writes: tuple[str, ...],
    scratch: tuple[str, ...] = (),
) -> None:
    build = lowering.build
    words |= {word: build.constant(f"{node.name}.{word}", array) for word, array in call.constants.items()}
    words |= call.integers
    build.emit(kernel, words, writes=writes, scratch=scratch, shares=call.shares, cost=call.cost, label=node.name)
