"""Lowering of float32 averages, means and softmax."""

from qcompiler.ir import Node
from qcompiler.ir.ops import AveragePool, ReduceMean, Softmax
from qcompiler.ir.ops.shapes import normalize_axis
from qcompiler.runtime.kernels import float_pooling, float_reduction  # noqa: F401  # registers the kernels
from qcompiler.runtime.lowering.context import Lowering
from qcompiler.runtime.lowering.float_rules import lowers_f32
from qcompiler.runtime.lowering.geometry import split_at
from qcompiler.runtime.lowering.pooling import counted_region, middle_axis, window_cost, window_words
from qcompiler.runtime.program import Operand

_ADD_NS, _STRIDED_NS, _EXPONENTIAL_NS = 0.5, 2.0, 5.0  # an element


@lowers_f32(AveragePool)
def lower_average_pool(lowering: Lowering, node: Node, op: AveragePool) -> None:
    """One result after the other, each over its own count."""
    geometry = window_words(
        lowering, node, layout="nchw", kernel=op.kernel, strides=op.strides, pads=op.pads, dilations=op.dilations
    )
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    words: dict[str, Operand] = {"x": x, "out": out, **geometry}
    words |= counted_region(geometry, op.pads, include_pad=op.count_include_pad)
    items = geometry["batch"] * geometry["out_h"]
    lowering.emit(node, "float_average_pool", words, cost=window_cost(geometry, _STRIDED_NS), items=items)


@lowers_f32(ReduceMean)
def lower_reduce_mean(lowering: Lowering, node: Node, op: ReduceMean) -> None:
    """A reduction of the middle axis of three."""
    x, (outer, length, inner) = middle_axis(lowering, node, op.axes)
    words: dict[str, Operand] = {"x": x, "out": lowering.result(node.result)}
    words |= {"outer": outer, "length": length, "inner": inner}
    cost = outer * length * inner * (_ADD_NS if inner == 1 else _STRIDED_NS)
    lowering.emit(node, "float_mean", words, cost=cost, items=outer * inner)


@lowers_f32(Softmax)
def lower_softmax(lowering: Lowering, node: Node, op: Softmax) -> None:
    """Along the middle axis of three."""
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    axis = normalize_axis(op.axis, len(out.shape))
    outer, length, inner = split_at(out.shape, axis, axis + 1)
    words: dict[str, Operand] = {"x": x, "out": out, "outer": outer, "length": length, "inner": inner}
    cost = outer * length * inner * _EXPONENTIAL_NS
    lowering.emit(node, "float_softmax", words, cost=cost, items=outer * inner)
