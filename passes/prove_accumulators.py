"""`prove-accumulators`: no 32-bit accumulator can overflow, whatever the input."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qcompiler.errors import AccumulatorOverflowError
from qcompiler.integer_proofs import LARGEST_ACCUMULATOR, AccumulatorProof, prove, sums_of_magnitudes
from qcompiler.ir import DType, Graph, Node, QuantParams, Stage, ops
from qcompiler.pass_manager import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class ProveAccumulators(Pass):
    """Bound every accumulator by its actual weights and the range of its operand.

        max |x − z_x| · Σ|w| + max |r − z_r| · |f| + |b| <= 2^31 − 1        for each output channel
        K · max |a − z_a| · max |b − z_b| <= 2^31 − 1                       for a product of two activations of K terms

    Why: an int32 sum that wraps gives a plausible wrong number, and no test input need show it. The bound is on the
    final sum; partial sums may wrap, which is exact modulo 2^32.

    In the quantized stage a channel that breaks the bound is repaired: its weight scale doubles, its weights and bias
    lose one bit, until the bound holds. In the integer stage, where bits must stay, it is refused. A product of two
    activations has no weights to repair, and is refused if it sums too many terms for what its operands can hold.

        w: s8{s}  bound 3·2^31                before
        w: s8{4·s}, two bits fewer            after

    Known limits: a bias alone beyond 32 bits is a fault of its own that `quantize` prevents.
    """

    name: ClassVar[str] = "prove-accumulators"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED, Stage.INTEGER})

    def run(self, graph: Graph, context: PassContext) -> bool:
        if graph.stage is Stage.QUANTIZED:
            repaired = [node for node in graph.nodes() if _repair(graph, node)]
            for node in repaired:
                context.remark(self, node, "some channels have coarser weights, or their sums could overflow")
            graph.erase_unused_constants()
            return bool(repaired)
        broken = [proof for proof in prove(graph) if not proof.is_proven]
        if broken:
            names = ", ".join(f"'{proof.node}' (bound {proof.bound})" for proof in broken)
            raise AccumulatorOverflowError(f"32-bit accumulators could overflow at {names}: {_remedy(graph, broken)}")
        return False


def _remedy(graph: Graph, broken: Sequence[AccumulatorProof]) -> str:
    layers = "run 'prove-accumulators' before 'lower-to-integer' too, which repairs layers"
    products = "a product of two activations has to sum fewer terms"
    of_products = [isinstance(graph.node(proof.node).op, ops.IntMatMul) for proof in broken]
    return "; ".join([*([] if all(of_products) else [layers]), *([products] if any(of_products) else [])])


def _repair(graph: Graph, node: Node) -> bool:
    """Give channels of a quantized layer whose accumulators could overflow coarser weights; whether any did."""
    if not isinstance(node.op, ops.Conv | ops.Gemm) or len(node.operands) < 2:
        return False
    x, weight = node.operands[:2]
    bias = node.operands[2] if len(node.operands) > 2 else None
    weight_quant = weight.type.quant
    if x.type.quant is None or weight.data is None or weight_quant is None or weight_quant.is_per_tensor:
        return False
    if weight.type.dtype is not DType.S8:  # which `lower-to-integer` refuses
        return False
    rows = weight.data.reshape(len(weight.data), -1)
    offsets = np.zeros(len(rows), np.int64) if bias is None or bias.data is None else bias.data.astype(np.int64)
    low, high = x.type.dtype.limits
    zero_point = x.type.quant.zero_point[0]
    reach = max(high - zero_point, zero_point - low)
    if (reach * sums_of_magnitudes(rows) + np.abs(offsets) <= LARGEST_ACCUMULATOR).all():
        return False
    rows, bits = rows.astype(np.int64), np.zeros(len(rows), np.int64)
    while (over := reach * np.abs(rows).sum(axis=1) + np.abs(offsets) > LARGEST_ACCUMULATOR).any():
        bits += over
        rows[over] = np.rint(rows[over] / 2)
        offsets[over] = np.rint(offsets[over] / 2)
    _replace_weights(graph, node, rows.reshape(weight.data.shape), offsets, (2.0**bits).tolist())
    return True


def _replace_weights(
    graph: Graph, node: Node, rows: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64], factors: list[float]
) -> None:
    """New weight and bias constants, with the channels' scales multiplied by `factors`."""
    for index, data in ((1, rows), (2, offsets)):
        if index >= len(node.operands):
            continue
        old = node.operands[index]
        dtype, quant = old.type.dtype, old.type.quant
        if quant is None:
            continue
        scales = tuple(scale * factor for scale, factor in zip(quant.scale, factors, strict=True))
        coarser = QuantParams(scales, quant.zero_point, quant.axis)
        new = graph.add_constant(data.astype(dtype.numpy), old.name, quant=coarser)
        graph.set_operand(node, index, new)
    result = node.result.type
    if result.dtype is DType.S32 and result.quant is not None:
        scales = tuple(scale * factor for scale, factor in zip(result.quant.scale, factors, strict=True))
        node.result.type = result.with_quant(QuantParams(scales, result.quant.zero_point, result.quant.axis))
