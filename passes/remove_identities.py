"""`remove-identities`: erase nodes that give back their operand."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Value, ops
from qcompiler.ir.rewrite import producer_of
from qcompiler.ir.types import format_shape
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True, slots=True)
class NoOp:
    """`node` gives `operand`, or, where `reshapes`, a reshape of it."""

    node: Node
    operand: Value
    reshapes: bool = False


@register_pass
@dataclass(frozen=True)
class RemoveIdentities(RewritePass[NoOp]):
    """Erase nodes that compute nothing, and merge chains of reshapes.

    Why: exporters leave them; each would cost a pass over memory, and they stand between ops that could be fused.

        a = reshape(x){shape=["N", 12]}; b = reshape(a){shape=["N", 3, 4]}; y = mul(b, 1)          before
        y = reshape(x){shape=["N", 3, 4]}                                                        after

    Removed: identity; reshape to the same shape; transpose in the same order; slice and split of everything; pad by
    nothing; concat of one; depth_to_space of 1; pooling by 1; mean over nothing; clip to all numbers; adding and
    subtracting 0; multiplying, dividing by and raising to the power of 1. A transpose that moves only axes of 1, and a
    mean that drops such axes, become reshapes.

    Known limits: −0 + 0 is +0; that sign is not kept.
    """

    name: ClassVar[str] = "remove-identities"

    def match(self, node: Node) -> NoOp | None:
        operand = _given_back(node)
        if operand is not None:
            return NoOp(node, operand)
        if isinstance(node.op, ops.Reshape):
            inner = producer_of(node.operands[0], ops.Reshape)
            return NoOp(node, inner.operands[0], reshapes=True) if inner is not None else None
        return NoOp(node, node.operands[0], reshapes=True) if _only_reshapes(node) else None

    def check(self, graph: Graph, match: NoOp) -> str | None:
        del graph
        have, want = match.operand.type, match.node.results[0].type
        if not match.reshapes and have.shape != want.shape:
            return f"it also broadcasts {match.operand!r} from {format_shape(have.shape)} to {format_shape(want.shape)}"
        if (have.dtype, have.quant) != (want.dtype, want.quant):
            return f"it also changes the dtype or the quantization of {match.operand!r}"
        return None

    def rewrite(self, graph: Graph, match: NoOp) -> None:
        shape = match.node.results[0].type.shape
        if match.reshapes and match.operand.type.shape != shape:
            match.node.op = ops.Reshape(shape)
            graph.set_operands(match.node, [match.operand])
        else:
            graph.replace_node(match.node, [match.operand])


def _given_back(node: Node) -> Value | None:
    """The operand that a node gives back, if it does."""
    first = node.operands[0]
    match node.op:
        case ops.Identity():
            return first
        case ops.Add(clamp=None):
            return _other_than(node, 0.0)
        case ops.Mul(clamp=None):
            return _other_than(node, 1.0)
        case ops.Sub(clamp=None):
            return first if _is_filled(node.operands[1], 0.0) else None
        case ops.Div():
            return first if _is_filled(node.operands[1], 1.0) else None
        case _:
            return first if _moves_nothing(node) or _computes_nothing(node) else None


def _moves_nothing(node: Node) -> bool:
    shape = node.operands[0].type.shape
    match node.op:
        case ops.Reshape(shape=target):
            return target == shape
        case ops.Transpose(perm=perm):
            return perm == tuple(range(len(shape)))
        case ops.Slice(steps=steps):
            return node.result.type.shape == shape and all(step == 1 for step in steps)
        case ops.Pad(pads=pads) | ops.IntPad(pads=pads):
            return not any(pads)
        case ops.Split() | ops.Concat():
            return len(node.results) == len(node.operands) == 1
        case ops.DepthToSpace(blocks=(1, 1)):
            return True
        case _:
            return False


def _computes_nothing(node: Node) -> bool:
    match node.op:
        case ops.Clip(low=low, high=high):
            return (low, high) == (-math.inf, math.inf)
        case ops.Power(exponent=1.0):
            return True
        case ops.MaxPool() | ops.AveragePool() as op:
            return {*op.kernel, *op.strides} == {1} and not any(op.pads)
        case ops.ReduceMean(axes=axes, keepdims=keepdims):
            return not axes or (keepdims and _are_ones(node, axes))
        case _:
            return False


def _only_reshapes(node: Node) -> bool:
    shape = node.operands[0].type.shape
    match node.op:
        case ops.Transpose(perm=perm):
            moved = [axis for axis in perm if shape[axis] != 1]
            return moved == sorted(moved)
        case ops.ReduceMean(axes=axes):
            return _are_ones(node, axes)
        case _:
            return False


def _are_ones(node: Node, axes: tuple[int, ...]) -> bool:
    return all(node.operands[0].type.shape[axis] == 1 for axis in axes)


def _other_than(node: Node, neutral: float) -> Value | None:
    a, b = node.operands
    if _is_filled(b, neutral):
        return a
    return b if _is_filled(a, neutral) else None


def _is_filled(value: Value, number: float) -> bool:
    # Quantized constants are left alone: their elements are not the numbers that they mean.
    return value.data is not None and value.type.quant is None and bool((value.data == number).all())
