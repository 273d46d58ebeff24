"""Reading a node as ``y = scale[c] · x + shift[c]``: batch normalization and arithmetic with per-channel constants."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qcompiler.ir import AnyArray, Node, Value, ops
from qcompiler.ir.rewrite import split_constant_operand

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChannelAffine:
    """``y = scale[c] · x + shift[c]`` along one axis of `x`, then the clamp of the node, if it has one.

    Attributes:
        x: the activation.
        scale, shift: f64[channels], in the unit of the result per unit of `x`, and in that of the result.
        clamp: bounds of the result.
    """

    x: Value
    scale: Vector
    shift: Vector
    clamp: ops.linear.Clamp = None


def channel_affine(node: Node, axis: int) -> ChannelAffine | None:
    """The affine function that `node` is along `axis` of its activation, or None if it is none.

    The channel axis must have a static size and the constants must vary along it only.
    """
    if isinstance(node.op, ops.BatchNormalization):
        return batch_norm_affine(node) if axis == 1 else None
    if not isinstance(node.op, ops.Add | ops.Sub | ops.Mul | ops.Div):
        return None
    pair = split_constant_operand(node)
    if pair is None:
        return None
    x, constant = pair
    vector = per_channel(constant, x, axis)
    if vector is None or node.result.type.shape != x.type.shape:
        return None
    one, zero = np.ones_like(vector), np.zeros_like(vector)
    on_the_left = node.operands[0] is constant
    match node.op:
        case ops.Add(clamp=clamp):
            return ChannelAffine(x, one, vector, clamp)
        case ops.Sub(clamp=clamp):
            return ChannelAffine(x, -one, vector, clamp) if on_the_left else ChannelAffine(x, one, -vector, clamp)
        case ops.Mul(clamp=clamp):
            return ChannelAffine(x, vector, zero, clamp)
        case _:
            return None if on_the_left or not vector.all() else ChannelAffine(x, 1 / vector, zero)


def batch_norm_affine(node: Node) -> ChannelAffine | None:
    """``scale = γ / sqrt(variance + ε)``, ``shift = β − mean · scale``, or None if a parameter is not constant."""
    parameters: list[Vector] = [v.data.astype(np.float64) for v in node.operands[1:] if v.data is not None]
    if len(parameters) != 4 or not isinstance(node.op, ops.BatchNormalization):
        return None
    gamma, beta, mean, variance = parameters
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = gamma / np.sqrt(variance + node.op.epsilon)
        return ChannelAffine(node.operands[0], scale, beta - mean * scale)


def per_channel(constant: Value, x: Value, axis: int) -> Vector | None:
    """A constant that broadcasts to `x` and varies along `axis` only, as f64[channels]."""
    channels, data = x.type.shape[axis], constant.data
    if not isinstance(channels, int) or data is None or constant.type.quant is not None or data.ndim > x.type.rank:
        return None
    aligned: AnyArray = data.reshape((1,) * (x.type.rank - data.ndim) + data.shape)
    if aligned.size != aligned.shape[axis] or aligned.size not in (1, channels):
        return None
    vector: Vector = np.broadcast_to(aligned.reshape(-1), (channels,)).astype(np.float64)
    return vector
