"""Lowering of float32 functions element by element."""

import math

from qcompiler.ir import Node, Op
from qcompiler.ir.ops import (
    Abs,
    Add,
    BatchNormalization,
    Clip,
    Div,
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Mul,
    Neg,
    Power,
    PRelu,
    Reciprocal,
    Relu,
    Sigmoid,
    Silu,
    Sqrt,
    Sub,
    Tanh,
)
from qcompiler.runtime.kernels import float_elementwise, float_functions  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.float_bits import bits_of_f32, bits_of_f64
from qcompiler.runtime.lowering.context import Lowering
from qcompiler.runtime.lowering.elementwise import broadcast_operands, repeats_first_operand
from qcompiler.runtime.lowering.float_rules import clamp_words, lowers_f32
from qcompiler.runtime.program import Operand

_SIMPLE_NS, _DOUBLE_NS, _EXPONENTIAL_NS, _LIBRARY_NS = 0.2, 0.5, 2.5, 10.0  # an element


@lowers_f32(Add)
@lowers_f32(Mul)
def lower_commutative(lowering: Lowering, node: Node, op: Add | Mul) -> None:
    """The broadcast operand second, for which kernels have a fast path."""
    swapped = repeats_first_operand(lowering, node)
    words = broadcast_operands(lowering, node, swapped=swapped) | clamp_words(op.clamp)
    _emit_binary(lowering, node, words)


@lowers_f32(Sub)
def lower_sub(lowering: Lowering, node: Node, op: Sub) -> None:
    """Operands as they are."""
    _emit_binary(lowering, node, broadcast_operands(lowering, node) | clamp_words(op.clamp))


@lowers_f32(Div)
@lowers_f32(PRelu)
def lower_unclamped(lowering: Lowering, node: Node, op: Div | PRelu) -> None:  # noqa: ARG001
    """Bounds that clamp nothing: the op has none."""
    _emit_binary(lowering, node, broadcast_operands(lowering, node) | clamp_words(None))


def _emit_binary(lowering: Lowering, node: Node, words: dict[str, Operand]) -> None:
    count = math.prod(lowering.shape(node.result))
    lowering.emit(node, f"float_{node.op.name}", words, cost=_SIMPLE_NS * count, items=count // 64)


@lowers_f32(Relu)
def lower_relu(lowering: Lowering, node: Node, op: Relu) -> None:  # noqa: ARG001
    """A clip at zero."""
    _emit_unary(lowering, node, "clip", {"lo": bits_of_f32(0.0), "hi": bits_of_f32(math.inf)}, _SIMPLE_NS)


@lowers_f32(Clip)
def lower_clip(lowering: Lowering, node: Node, op: Clip) -> None:
    """In float32, unlike the other functions: no rounding takes place."""
    _emit_unary(lowering, node, "clip", {"lo": bits_of_f32(op.low), "hi": bits_of_f32(op.high)}, _SIMPLE_NS)


@lowers_f32(LeakyRelu)
def lower_leaky_relu(lowering: Lowering, node: Node, op: LeakyRelu) -> None:
    """One parameter."""
    _emit_function(lowering, node, op, _DOUBLE_NS, op.alpha)


@lowers_f32(HardSigmoid)
def lower_hard_sigmoid(lowering: Lowering, node: Node, op: HardSigmoid) -> None:
    """Two parameters."""
    _emit_function(lowering, node, op, _DOUBLE_NS, op.alpha, op.beta)


@lowers_f32(Power)
def lower_power(lowering: Lowering, node: Node, op: Power) -> None:
    """A call of the C library for each element, but for squares."""
    _emit_function(lowering, node, op, _DOUBLE_NS if op.exponent == 2 else _LIBRARY_NS, op.exponent)


@lowers_f32(Abs)
@lowers_f32(HardSwish)
@lowers_f32(Neg)
@lowers_f32(Reciprocal)
@lowers_f32(Sqrt)
def lower_simple(lowering: Lowering, node: Node, op: Abs | HardSwish | Neg | Reciprocal | Sqrt) -> None:
    """A few instructions."""
    _emit_function(lowering, node, op, _DOUBLE_NS)


@lowers_f32(Erf)
@lowers_f32(Exp)
@lowers_f32(Log)
@lowers_f32(Sigmoid)
@lowers_f32(Silu)
@lowers_f32(Tanh)
def lower_transcendental(lowering: Lowering, node: Node, op: Erf | Exp | Log | Sigmoid | Silu | Tanh) -> None:
    """A polynomial in double precision; `log` is a call of the C library."""
    _emit_function(lowering, node, op, _EXPONENTIAL_NS)


def _emit_function(lowering: Lowering, node: Node, op: Op, cost: float, p: float = 0.0, q: float = 0.0) -> None:
    _emit_unary(lowering, node, op.name, {"p": bits_of_f64(p), "q": bits_of_f64(q)}, cost)


def _emit_unary(lowering: Lowering, node: Node, name: str, parameters: dict[str, int], cost: float) -> None:
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    count = math.prod(out.shape)
    words: dict[str, Operand] = {"x": x, "out": out, "count": count, **parameters}
    lowering.emit(
        node, f"float_{name}", words, overwrites={"out": "x"}, cost=cost * count, items=count // 64
    )  # fmt: skip


@lowers_f32(BatchNormalization)
def lower_batch_normalization(lowering: Lowering, node: Node, op: BatchNormalization) -> None:
    """Parameters may be computed: their gain is found in the kernel."""
    names = ("x", "scale", "bias", "mean", "variance")
    words: dict[str, Operand] = {n: lowering.buffer(v) for n, v in zip(names, node.operands, strict=True)}
    out = lowering.result(node.result)
    count = math.prod(out.shape)
    words |= {"out": out, "count": count, "channels": out.shape[1], "inner": math.prod(out.shape[2:])}
    words["epsilon"] = bits_of_f32(op.epsilon)
    lowering.emit(
        node, "float_batch_normalization", words, overwrites={"out": "x"}, cost=_SIMPLE_NS * count, items=count // 64
    )  # fmt: skip
