"""What an integer value can hold: the range of its dtype, or less where its producer clamps."""

from qcompiler.ir.graph import Value
from qcompiler.ir.types import DType


def held_range(value: Value) -> tuple[int, int]:
    """Least and largest element of a value of an integer graph, whatever the input."""
    low, high = value.type.dtype.limits
    if value.producer is not None and value.type.dtype is not DType.S32:  # accumulators are not clamped
        op = value.producer.op
        low, high = max(low, getattr(op, "lo", low)), min(high, getattr(op, "hi", high))
    return low, high
