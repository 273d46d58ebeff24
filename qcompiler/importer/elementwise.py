"""Functions of single elements, binary arithmetic and softmax."""

import math
from collections.abc import Callable

import numpy as np

from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.importer.registry import importer
from qcompiler.ir import Op, Value, ops
from qcompiler.ir.types import multiply_dims

_UNARY: dict[str, Callable[[], Op]] = {
    "Relu": ops.Relu,
    "Sigmoid": ops.Sigmoid,
    "HardSwish": ops.HardSwish,
    "Tanh": ops.Tanh,
    "Erf": ops.Erf,
    "Exp": ops.Exp,
    "Log": ops.Log,
    "Sqrt": ops.Sqrt,
    "Abs": ops.Abs,
    "Neg": ops.Neg,
    "Reciprocal": ops.Reciprocal,
}
_BINARY: dict[str, Callable[[], Op]] = {"Add": ops.Add, "Sub": ops.Sub, "Mul": ops.Mul, "Div": ops.Div}


@importer(*_UNARY)
def import_unary(node: NodeReader) -> Value:
    return node.emit(_UNARY[node.op_type](), node.value(0))


@importer(*_BINARY)
def import_binary(node: NodeReader) -> Value:
    return node.emit(_BINARY[node.op_type](), node.value(0), node.value(1))


@importer("Sum")
def import_sum(node: NodeReader) -> Value:
    total, *others = node.values()
    for other in others:
        total = node.emit(ops.Add(), total, other)
    return total


@importer("LeakyRelu")
def import_leaky_relu(node: NodeReader) -> Value:
    return node.emit(ops.LeakyRelu(node.attr_float("alpha", 0.01)), node.value(0))


@importer("PRelu")
def import_prelu(node: NodeReader) -> Value:
    return node.emit(ops.PRelu(), node.value(0), node.value(1))


@importer("HardSigmoid")
def import_hard_sigmoid(node: NodeReader) -> Value:
    return node.emit(ops.HardSigmoid(node.attr_float("alpha", 0.2), node.attr_float("beta", 0.5)), node.value(0))


@importer("Clip")
def import_clip(node: NodeReader) -> Value:
    """Bounds are attributes before operator set 11, then optional operands."""
    if node.version < 11:
        low, high = node.attr_float("min", -math.inf), node.attr_float("max", math.inf)
    else:
        low = node.scalar(1) if node.has(1) else -math.inf
        high = node.scalar(2) if node.has(2) else math.inf
    # ONNX defines Clip as Min(Max(x, low), high), so crossed bounds give the upper one everywhere.
    return node.emit(ops.Clip(min(low, high), high), node.value(0))


@importer("Min", "Max")
def import_extremum(node: NodeReader) -> Value:
    """With one constant number: a clip."""
    if node.operand_count != 2:
        raise Unsupported(f"{node.operand_count} operands; only one tensor and one constant number are supported")
    tensor = 0 if isinstance(node.operand(0), Value) else 1
    bound = node.scalar(1 - tensor)
    op = ops.Clip(high=bound) if node.op_type == "Min" else ops.Clip(low=bound)
    return node.emit(op, node.value(tensor))


@importer("Pow")
def import_pow(node: NodeReader) -> Value:
    x, exponent = node.value(0), node.scalar(1)
    if node.array(1).ndim > x.type.rank:
        raise Unsupported(f"an exponent of more axes than the base {list(x.type.shape)}")
    return node.emit(ops.Power(exponent), x)


@importer("Gelu")
def import_gelu(node: NodeReader) -> Value:
    """``x · (1 + erf(x / √2)) / 2``, or with approximate="tanh" ``x · (1 + tanh(√(2/π) · (x + 0.044715 x³))) / 2``."""
    x = node.value(0)
    if node.attr_string("approximate", "none") == "tanh":
        cubic = node.emit(ops.Mul(), node.emit(ops.Power(3.0), x), _number(node, 0.044715))
        inner = node.emit(ops.Mul(), node.emit(ops.Add(), x, cubic), _number(node, math.sqrt(2 / math.pi)))
        bounded = node.emit(ops.Tanh(), inner)
    else:
        bounded = node.emit(ops.Erf(), node.emit(ops.Mul(), x, _number(node, math.sqrt(0.5))))
    gate = node.emit(ops.Mul(), node.emit(ops.Add(), bounded, _number(node, 1.0)), _number(node, 0.5))
    return node.emit(ops.Mul(), x, gate)


@importer("Swish")
def import_swish(node: NodeReader) -> Value:
    """``x · sigmoid(alpha · x)``."""
    x, alpha = node.value(0), node.attr_float("alpha", 1.0)
    if alpha == 1:
        return node.emit(ops.Silu(), x)
    gate = node.emit(ops.Sigmoid(), node.emit(ops.Mul(), x, _number(node, alpha)))
    return node.emit(ops.Mul(), x, gate)


@importer("Softmax", since=13)
def import_softmax(node: NodeReader) -> Value:
    x = node.value(0)
    return node.emit(ops.Softmax(node.axis(node.attr_int("axis", -1), x.type.rank)), x)


@importer("Softmax", since=1)
def import_flattened_softmax(node: NodeReader) -> Value:
    """Before operator set 13 all axes from `axis` on are normalized together."""
    x = node.value(0)
    axis = node.axis(node.attr_int("axis", 1), x.type.rank)
    if axis == x.type.rank - 1:
        return node.emit(ops.Softmax(axis), x)
    flat = node.emit(ops.Reshape((*x.type.shape[:axis], multiply_dims(x.type.shape[axis:]))), x)
    return node.emit(ops.Reshape(x.type.shape), node.emit(ops.Softmax(axis), flat))


def _number(node: NodeReader, number: float) -> Value:
    return node.constant(np.array(number, dtype=np.float32), "number")
