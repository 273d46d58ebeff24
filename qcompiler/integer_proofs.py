"""What is proven of an integer graph: that its accumulators fit 32 bits, and which of its nodes compute in float.

Loading an artifact proves it again, so this imports neither passes nor kernels.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qcompiler.ir import Graph, Node, Value, ops
from qcompiler.ir.held_range import held_range
from qcompiler.ir.integer_layer import IntegerLayer, integer_layer
from qcompiler.ir.ops.shapes import static_dim
from qcompiler.numerics import headroom_bits

LARGEST_ACCUMULATOR = 2**31 - 1
Bounds = npt.NDArray[np.int64]
_UNKNOWN: Bounds = np.full(1, np.iinfo(np.int64).max)
"""Of a layer without constants: never proven."""


@dataclass(frozen=True, slots=True)
class AccumulatorProof:
    """What is known of one node's accumulators.

    Attributes:
        node: the node's name.
        channels: accumulators with a bound of their own: output channels, or 1.
        bound: the largest |accumulator| over all of them.
    """

    node: str
    channels: int
    bound: int

    @property
    def headroom_bits(self) -> int:
        """How often the bound can be doubled within 32 bits; negative: not proven."""
        return headroom_bits(self.bound)

    @property
    def is_proven(self) -> bool:
        return self.bound <= LARGEST_ACCUMULATOR


def prove(graph: Graph) -> list[AccumulatorProof]:
    """A proof for each accumulating node of an integer graph, proven or not, in execution order.

    Convolutions and fully connected layers are bounded per output channel by their weights, products of activations,
    pools and means by their number of terms. Operand ranges are those of the clamp of what computed them, or of the
    dtype.
    """
    proofs = []
    for node in graph.nodes():
        bounds = accumulator_bounds(node)
        if bounds is not None:
            proofs.append(AccumulatorProof(node.name, len(bounds), int(bounds.max(initial=0))))
    return proofs


def accumulator_bounds(node: Node) -> Bounds | None:
    """The largest |accumulator| of each output channel, s64; None for an op without accumulators."""
    layer = integer_layer(node)
    if layer is not None:
        return _layer_bounds(layer)
    match node.op:
        case ops.IntMatMul(zp_a=zp_a, zp_b=zp_b):
            a, b = node.operands
            return np.array([product_bound(a, b, zp_a, zp_b)])
        case ops.IntMean(axes=axes, zp_in=zp):
            sizes = [node.operands[0].type.shape[axis] for axis in axes]
            count = np.prod([s for s in sizes if isinstance(s, int)], dtype=np.int64)
            return np.array([reach(node.operands[0], zp) * count])
        case ops.IntAveragePool(kernel=kernel, zp_in=zp):
            return np.array([reach(node.operands[0], zp) * kernel[0] * kernel[1]])
        case _:
            return None


def _layer_bounds(layer: IntegerLayer) -> Bounds:
    weight, folded = layer.weight.data, layer.bias.data
    if weight is None or folded is None:
        return _UNKNOWN
    rows = weight.reshape(len(weight), -1)
    # The true bias lies in s32: undo the folding modulo 2^32.
    total = rows.sum(axis=1, dtype=_exact(rows)).astype(np.int64)
    bias = (folded.astype(np.int64) + layer.op.zp_in * total).astype(np.uint64).astype(np.uint32)
    magnitudes: Bounds = np.abs(bias.view(np.int32).astype(np.int64))
    if layer.residual is not None and layer.factor is not None:
        if layer.factor.data is None:
            return _UNKNOWN
        factor = np.abs(layer.factor.data.astype(np.int64))
        magnitudes += reach(layer.residual, layer.op.zp_residual) * factor
    return magnitudes + reach(layer.x, layer.op.zp_in) * sums_of_magnitudes(rows)


def sums_of_magnitudes(rows: npt.NDArray[np.int8]) -> Bounds:
    """The sum of |w| of each row of s8[rows, terms], without a wider copy of them."""
    sums: Bounds = np.abs(rows).view(np.uint8).sum(axis=1, dtype=_exact(rows)).astype(np.int64)  # |−128| is 128 as u8
    return sums


def _exact(rows: npt.NDArray[np.int8]) -> type[np.signedinteger]:
    """A dtype that holds the sum of a row; 32 bits are twice as fast."""
    return np.int32 if rows.shape[1] < 2**24 else np.int64


def product_bound(a: Value, b: Value, zp_a: int, zp_b: int) -> int:
    """The largest |accumulator| of a product of two activations a[..., m, k] and b[..., k, n] in the integer stage."""
    terms = static_dim(a.type.shape[-1], "the axis that is summed")
    return terms * reach(a, zp_a) * reach(b, zp_b)


def reach(value: Value, zero_point: int) -> int:
    """The largest |x − zero_point| of what the value can hold."""
    low, high = held_range(value)
    return max(high - zero_point, zero_point - low, 0)


def float_nodes(graph: Graph) -> list[Node]:
    """The nodes of an integer graph that compute on float values.

    Boundary ops do not, whether at inputs and outputs or beside a float node; but a dequantize that a quantize reads
    is a change of scale in float, and counts.
    """
    return [node for node in graph.nodes() if _computes_in_float(node)]


def _computes_in_float(node: Node) -> bool:
    match node.op:
        case ops.IntQuantize():
            return False
        case ops.IntDequantize():
            return any(isinstance(user.op, ops.IntQuantize) for user in node.result.users)
        case _:
            return any(value.type.dtype.is_float for value in (*node.operands, *node.results))
