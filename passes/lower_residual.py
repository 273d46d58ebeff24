"""The integer form of an addition after a layer: the layer adds the other operand to its accumulators."""

import dataclasses

import numpy as np
import numpy.typing as npt

from qcompiler.integer_proofs import LARGEST_ACCUMULATOR, accumulator_bounds, reach
from qcompiler.ir import DType, Node, ops
from qcompiler.ir.integer_layer import IntegerLayer, integer_layer
from qcompiler.ir.ops.integer_linear import WEIGHT, X
from qcompiler.ir.rewrite import other_users
from qcompiler.numerics import quantize_multiplier, quantize_residual_factor
from qcompiler.passes.integer_lowering import Lowered, Lowering, Quantized, result_fields

_WHOLE_S16 = (DType.S16, 0, *DType.S16.limits)


def lower_residual_sum(node: Node, lowering: Lowering) -> Lowered | None:
    """The layer that makes an operand of a sum or difference, with the other operand as its residual.

        y = int.conv(x, w, b, M[c], shift[c]): s16; z = y + r             before
        z = int.conv(x, w, b, M'[c], shift'[c], r, f[c])                  after

    with f[c] ≈ s_r/(s_x·s_w[c]) and M'[c]·2^−shift'[c] ≈ s_x·s_w[c]/s_z, so that the sum is rounded once.

    None where that is not possible: y has 8 bits or other users, the shapes differ, a factor has not 8 to 15 bits, or
    the accumulators could overflow; a depthwise convolution has a kernel of its own, which adds nothing.
    """
    signs = (1, -1) if isinstance(node.op, ops.Sub) else (1, 1)
    for index in (0, 1):
        y, r = lowering.operand(node, index), lowering.operand(node, 1 - index)
        layer = integer_layer(y.value.producer)
        if layer is not None and _can_add(layer, node, r):
            lowered = _with_residual(node, lowering, layer, r, (signs[index], signs[1 - index]))
            if lowered is not None:
                return lowered
    return None


def _can_add(layer: IntegerLayer, node: Node, residual: Quantized) -> bool:
    if layer.multiplier is None or layer.residual is not None or layer.is_depthwise:
        return False
    op, result = layer.op, layer.result
    only_rounds = (op.dtype, op.zp_out, op.lo, op.hi) == _WHOLE_S16 and other_users(result, node) is None
    fits = residual.is_8_bit and residual.data is None and residual.value.type.shape == result.type.shape
    return only_rounds and fits and node.result.type.dtype.is_8_bit


def _with_residual(
    node: Node, lowering: Lowering, layer: IntegerLayer, residual: Quantized, signs: tuple[int, int]
) -> Lowered | None:
    x, weight, z = lowering.operand(layer.node, X), lowering.operand(layer.node, WEIGHT), lowering.result(node)
    scales = signs[0] * x.scale * np.broadcast_to(np.array(weight.quant.scale), layer.channels)
    factors = _factors(signs[1] * residual.scale / scales)
    bounds = accumulator_bounds(layer.node)
    if factors is None or bounds is None:
        return None
    if (bounds + reach(residual.value, residual.zero_point) * np.abs(factors) > LARGEST_ACCUMULATOR).any():
        return None
    multipliers, shifts = zip(*(quantize_multiplier(scale / z.scale) for scale in scales.tolist()), strict=True)
    vectors = [
        lowering.constant(node, np.array(data, np.int32), what)
        for what, data in (("multiplier", multipliers), ("shift", shifts), ("factor", factors))
    ]
    lowering.absorb(layer.node)
    fields = result_fields(z, getattr(node.op, "clamp", None))
    op = dataclasses.replace(layer.op, zp_residual=residual.zero_point, **fields)
    return op, [layer.x, layer.weight, layer.bias, *vectors[:2], residual.value, vectors[2]]


def _factors(ratios: npt.NDArray[np.float64]) -> npt.NDArray[np.int64] | None:
    """Each channel's factor, or None if one of them cannot be expressed."""
    factors = [quantize_residual_factor(ratio) for ratio in ratios.tolist()]
    found = [factor for factor in factors if factor is not None]
    return np.array(found, np.int64) if len(found) == len(factors) else None
