"""Lowering of products of two activations: the second operand is packed at run time, then tiles run over the first."""

import math

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import IntMatMul
from qcompiler.ir.types import DType
from qcompiler.runtime import isa
from qcompiler.runtime.kernels import products  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.product_plan import Call, ProductTypes, View, plan_product
from qcompiler.runtime.lowering.context import MOST_SHARES, Lowering, lowers
from qcompiler.runtime.lowering.geometry import contiguous_steps
from qcompiler.runtime.program import Operand


@lowers(IntMatMul)
def lower_matmul(lowering: Lowering, node: Node, op: IntMatMul) -> None:
    """Two instructions: one packs the matrices of b, one multiplies those of a by them."""
    a, b = node.operands
    out = lowering.result(node.result)
    if math.prod(lowering.shape(node.result)) == 0:
        return
    types = ProductTypes(isa.current(), a.type.dtype, b.type.dtype, op)
    views = [_view(lowering, value) for value in (a, b, node.result)]
    plan = plan_product(types, *views, max_shares=MOST_SHARES)
    build = lowering.build
    packed = build.tensor(f"{node.name}.packed", DType.U8, (plan.packed_bytes,))
    words: dict[str, Operand] = {"source": lowering.buffer(b), "packed": packed}
    _emit(lowering, node, "int_product_pack", words, plan.pack, writes=("packed",))
    words = {"a": lowering.buffer(a), "packed": packed, "out": out}
    words["scratch"] = build.tensor(f"{node.name}.scratch", DType.U8, (plan.scratch_bytes,))
    _emit(lowering, node, "int_product", words, plan.multiply, writes=("out",), scratch=("scratch",))


def _view(lowering: Lowering, value: Value) -> View:
    shape = lowering.shape(value)
    return View(shape, contiguous_steps(shape))


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
