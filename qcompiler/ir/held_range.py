"""What an integer value can hold: the range of its dtype, or less where what made its elements clamps."""

from qcompiler.ir.graph import Value
from qcompiler.ir.ops import Identity, MaxPool, Reshape, Slice, Split, Transpose
from qcompiler.ir.types import DType

_MOVES = (Reshape, Transpose, Slice, Split, Identity, MaxPool)
"""Ops whose results have elements of their first operand only."""


def held_range(value: Value) -> tuple[int, int]:
    """Least and largest element of a value of an integer graph, whatever the input."""
    low, high = value.type.dtype.limits
    producer = value.producer
    while producer is not None and isinstance(producer.op, _MOVES):
        producer = producer.operands[0].producer
    if producer is not None and value.type.dtype is not DType.S32:  # accumulators are not clamped
        op = producer.op
        low, high = max(low, getattr(op, "lo", low)), min(high, getattr(op, "hi", high))
    return low, high
