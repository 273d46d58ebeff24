"""Which ops read and write tensors whose rows, along the last axis, are apart: slices of a concatenation.

The rules of these ops ask for `Lowering.rows` and `Lowering.result_rows`; all others get contiguous copies.
"""

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import (
    Concat,
    IntAdd,
    IntAveragePool,
    IntConv,
    IntGemm,
    IntLut,
    IntMul,
    IntRescale,
    MaxPool,
    Slice,
    Split,
)
from qcompiler.ir.ops.integer_linear import RESIDUAL, X
from qcompiler.runtime import isa
from qcompiler.runtime.lowering.tables import looked_up_layer

FAST_SHIFT = 32  # smallest shift whose low product half only rounds


def writes_rows(node: Node) -> bool:
    """Whether the kernel that computes the node's result can leave room between its rows."""
    match node.op:
        case IntConv() | IntGemm():
            return len(node.operands) <= RESIDUAL  # a residual is read at the distances at which results are stored
        case Concat() | Slice() | Split():
            return True
        case MaxPool(layout=layout) | IntAveragePool(layout=layout):
            return layout == "nhwc" and has_8_bits(node)
        case IntAdd():
            return is_fast_add(node)
        case IntMul() | IntLut() | IntRescale():
            return has_8_bits(node) and (not isinstance(node.op, IntMul) or is_fast_mul(node))
        case _:
            return False


def reads_rows(node: Node, value: Value) -> bool:
    """Whether the kernel that computes the node can read its operand `value` with room between the rows."""
    match node.op:
        case IntConv() | IntGemm():
            return value is node.operands[X] and node.operands.count(value) == 1
        case IntLut():
            return looked_up_layer(node, isa.current()) is None and writes_rows(node)
        case _:
            return writes_rows(node)


def is_fast_add(node: Node) -> bool:
    """Whether it is an addition of 8-bit tensors, whose sums fit 32 bits: see `limits_of_sum`."""
    return isinstance(node.op, IntAdd) and has_8_bits(node)


def is_fast_mul(node: Node) -> bool:
    """Whether a product of 8-bit tensors is rescaled by a shift whose low half only rounds."""
    op = node.op
    return isinstance(op, IntMul) and has_8_bits(node) and op.shift >= FAST_SHIFT


def has_8_bits(node: Node) -> bool:
    """Whether the result and the operands of an elementwise op, tables aside, have 8 bits."""
    operands = node.operands if isinstance(node.op, IntAdd | IntMul) else node.operands[:1]
    return all(value.type.dtype.is_8_bit for value in (*operands, node.result))
