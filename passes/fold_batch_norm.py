"""`fold-batch-norm`: scales and shifts per channel go into the weights before them."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import AnyArray, Graph, Node, Op, Shape, Stage, Value, ops
from qcompiler.ir.rewrite import Refusal, apply_rewrite, other_users, producer_of
from qcompiler.ir.types import multiply_dims
from qcompiler.pass_manager import PassContext, RewritePass, register_pass
from qcompiler.passes.channel_affine import ChannelAffine, Vector, batch_norm_affine, channel_affine
from qcompiler.passes.constant_operands import replace_constant


@dataclass(frozen=True, slots=True)
class Folding:
    """`node` is `affine` on the result of `linear`, a conv, conv_transpose or gemm."""

    node: Node
    linear: Node
    affine: ChannelAffine | None


@register_pass
@dataclass(frozen=True)
class FoldBatchNorm(RewritePass[Folding]):
    """Fold batch normalization, and sums and products with per-channel constants, into the layer before.

    A layer is a conv, conv_transpose or gemm.

    Why: at inference they are a scale and a shift per channel, which weights and bias take for nothing.

    Algebra, per output channel c, with g = γ/σ, σ = sqrt(variance + ε):
    W'[c, ...] = W[c, ...] · g[c],  b'[c] = (b[c] − mean[c]) · g[c] + β[c]; for x · s + t: g = s, mean = 0, β = t.
    Computed in float64, rounded once.

        c = conv(x, W, b); y = batch_normalization(c, gamma, beta, mean, variance)          before
        y = conv(x, W', b')                                                                 after

    A batch normalization that cannot be folded becomes a depthwise 1×1 conv with the weights g and the bias
    β − mean · g, which quantizes without loss of scale: one weight per channel is ±127 times its own scale. Reshapes
    around it make an image of [N, C] and of more than two spatial axes.

    Known limits: folds backwards only, so a normalization *before* a conv becomes that depthwise conv.
    """

    name: ClassVar[str] = "fold-batch-norm"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        while True:
            refusals: list[Refusal] = []
            changed |= apply_rewrite(graph, self, refusals.append) > 0
            reasons = {refusal.node: refusal.reason for refusal in refusals}
            converted = [node for node in graph.nodes() if _becomes_conv(node)]
            for node in converted:
                before = reasons.get(node, f"its input {node.operands[0]!r} is no result of a conv or gemm")
                context.remark(self, node, f"not folded but made a depthwise conv: {before}")
                _make_depthwise(graph, node)
            # What follows the new convs can be folded into them; a dead node counts as another user until it is gone.
            changed = changed or bool(converted)
            if not converted and not (changed and graph.erase_unused_nodes()):
                break
        for refusal in refusals:
            context.remark(self, refusal.node, refusal.reason)
        if changed:
            graph.erase_unused_constants()
        return changed

    def match(self, node: Node) -> Folding | None:
        for operand in node.operands[:2]:
            linear = producer_of(operand, ops.Conv, ops.ConvTranspose, ops.Gemm)
            if linear is not None and _is_arithmetic_with_constants(node, operand):
                axis = 1 if isinstance(linear.op, ops.Conv | ops.ConvTranspose) else operand.type.rank - 1
                return Folding(node, linear, channel_affine(node, axis))
        return None

    def check(self, graph: Graph, match: Folding) -> str | None:
        del graph
        linear, affine = match.linear, match.affine
        if affine is None:
            return f"its constants are not one number per output channel of '{linear.name}'"
        if not (np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all()):
            return "its scale or shift is not finite: a variance is negative, or a parameter NaN or infinite"
        if _clamp_of(linear) is not None:
            return f"its input '{linear.name}' has a clamp in between"
        users = other_users(linear.result, match.node)
        if users is not None:
            return f"its input '{linear.name}' is also used by {users}"
        if not all(operand.is_constant for operand in linear.operands[1:]):
            return f"the weight or bias of its input '{linear.name}' is computed at run time"
        return None

    def rewrite(self, graph: Graph, match: Folding) -> None:
        linear, affine = match.linear, match.affine
        if affine is None:
            return
        _, weight, *bias = linear.operands
        shift = affine.shift + (np.asarray(bias[0].data) * affine.scale if bias else 0)
        replace_constant(graph, linear, 1, _scaled(linear.op, np.asarray(weight.data), affine.scale))
        if bias:
            replace_constant(graph, linear, 2, shift.astype(np.float32))
        else:
            added = graph.add_constant(shift.astype(np.float32), f"{linear.name}.bias")
            graph.set_operands(linear, [*linear.operands, added])
        if isinstance(linear.op, ops.Conv | ops.ConvTranspose | ops.Gemm):
            linear.op = dataclasses.replace(linear.op, clamp=affine.clamp)
        graph.replace_node(match.node, [linear.result])


def _is_arithmetic_with_constants(node: Node, activation: Value) -> bool:
    others = [operand for operand in node.operands if operand is not activation]
    match node.op:
        case ops.BatchNormalization():
            return activation is node.operands[0]
        case ops.Add() | ops.Sub() | ops.Mul():
            return len(others) == 1 and others[0].is_constant
        case ops.Div():
            return others == [node.operands[1]] and others[0].is_constant
        case _:
            return False


def _clamp_of(linear: Node) -> ops.linear.Clamp:
    return linear.op.clamp if isinstance(linear.op, ops.Conv | ops.ConvTranspose | ops.Gemm) else None


def _scaled(op: Op, weight: AnyArray, scale: Vector) -> AnyArray:
    """f32 weights with each output channel times its scale."""
    if not isinstance(op, ops.ConvTranspose):
        return (weight * scale.reshape(-1, *[1] * (weight.ndim - 1))).astype(np.float32)
    own = weight.reshape(op.group, -1, *weight.shape[1:])  # the channels of a group are the third axis
    return (own * scale.reshape(op.group, 1, -1, *[1] * (weight.ndim - 2))).astype(np.float32).reshape(weight.shape)


def _becomes_conv(node: Node) -> bool:
    if not isinstance(node.op, ops.BatchNormalization):
        return False
    if any(isinstance(dim, str) for dim in node.operands[0].type.shape[1:]):  # a conv takes no symbols there
        return False
    affine = batch_norm_affine(node)
    return affine is not None and bool(np.isfinite(affine.scale).all() and np.isfinite(affine.shift).all())


def _make_depthwise(graph: Graph, node: Node) -> None:
    x = node.operands[0]
    affine = batch_norm_affine(node)
    if affine is None:
        return
    channels = len(affine.scale)
    shape = _image_shape(x.type.shape)
    n = len(shape) - 2
    op = ops.Conv((1,) * n, (0,) * (2 * n), (1,) * n, group=channels)
    arrays = {"weight": affine.scale.reshape(-1, 1, *[1] * n), "bias": affine.shift}
    parameters = [graph.add_constant(a.astype(np.float32), f"{node.name}.{part}") for part, a in arrays.items()]
    if shape == x.type.shape:
        node.op = op
        graph.set_operands(node, [x, *parameters])
        return
    image = graph.add_node(ops.Reshape(shape), [x], name=f"{node.name}.image", before=node)
    conv = graph.add_node(op, [image.result, *parameters], name=f"{node.name}.conv", before=node)
    node.op = ops.Reshape(x.type.shape)
    graph.set_operands(node, [conv.result])


def _image_shape(shape: Shape) -> Shape:
    """The shape with one or two spatial axes that holds the same channels."""
    match len(shape):
        case 2:
            return (*shape, 1, 1)
        case 3 | 4:
            return shape
        case _:
            return (*shape[:2], multiply_dims(shape[2:-1]), shape[-1])
