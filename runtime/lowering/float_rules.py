"""What the rules of float32 ops share."""

import math
from collections.abc import Callable
from typing import TypeVar

from qcompiler.ir import DType, Node, Op
from qcompiler.ir.ops.linear import Clamp
from qcompiler.runtime.kernels.float_bits import bits_of_f32
from qcompiler.runtime.lowering.context import Lowering, Rule, lowers
from qcompiler.runtime.program import Operand

_OpType = TypeVar("_OpType", bound=Op)


def lowers_f32(op_class: type[_OpType]) -> Callable[[Callable[[Lowering, Node, _OpType], None]], Rule]:
    """Decorator: as `lowers`, for a rule whose kernels take operands and results of float32 only."""

    def register(rule: Callable[[Lowering, Node, _OpType], None]) -> Rule:
        def checked(lowering: Lowering, node: Node, op: _OpType) -> None:
            for value in (*node.operands, *node.results):
                if value.type.dtype is not DType.F32:
                    raise lowering.unsupported(node, f"%{value.name} is {value.type.dtype}, not f32")
            rule(lowering, node, op)

        lowers(op_class)(checked)
        return rule

    return register


def clamp_words(clamp: Clamp) -> dict[str, Operand]:
    """The words lo and hi; infinite without a clamp."""
    lo, hi = (-math.inf, math.inf) if clamp is None else clamp
    return {"lo": bits_of_f32(lo), "hi": bits_of_f32(hi)}
