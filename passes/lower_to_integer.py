"""`lower-to-integer`: from ops on real numbers to exact integer arithmetic."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.errors import MultiplierRangeError, UnsupportedOpError
from qcompiler.ir import DType, Graph, Node, Stage, TensorType, ops
from qcompiler.ir.graph import infer_result_types
from qcompiler.pass_manager import Pass, PassContext, register_pass
from qcompiler.passes import lower_elementwise, lower_linear, lower_movement, lower_pooling
from qcompiler.passes.integer_lowering import Lowering, Unlowerable, lowering_of
from qcompiler.runtime.reference.real import to_real

FAMILIES = (lower_elementwise, lower_linear, lower_movement, lower_pooling)
"""The modules whose import registers the integer forms."""


@register_pass
@dataclass(frozen=True)
class LowerToInteger(Pass):
    """Replace every op by its integer form; scales become multipliers and shifts, and are gone.

        y = conv(x: u8{s_x, z_x}, w: s8{s_w[c]}, b: s32{s_x·s_w[c]}): u8{s_y, z_y}               before
        y = int.conv(x, w, b − z_x·Σw, M[c], shift[c]): M·2^−shift ≈ s_x·s_w[c]/s_y               after

        y = conv(x): s16; z = add(y, r)                                                          before
        z = int.conv(x, w, b, M, shift, r, f[c]): f[c] ≈ s_r/(s_x·s_w[c])                          after

    Why: what is left can be computed by integer instructions only and means the same on every machine. The
    arithmetic is that of `qcompiler.numerics`; unary functions become tables of 256 entries.

    Nodes without an integer form are an error that names all of them. With `allow_float` they stay float,
    between an int.dequantize for each operand and an int.quantize for each result.

    Known limits: normalizations have no integer form yet.
    """

    name: ClassVar[str] = "lower-to-integer"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED})
    result_stage: ClassVar[Stage | None] = Stage.INTEGER

    def run(self, graph: Graph, context: PassContext) -> bool:
        lowering = Lowering(graph)
        for constant in graph.constants():
            if constant.type.quant is not None:
                lowering.define(constant, constant.type.dtype, constant.type.quant)
        refused: list[tuple[Node, str]] = []
        for node in graph.nodes():
            if isinstance(node.op, ops.IntegerOp):
                continue  # the quantize behind a node that stays float
            reason = _lower(node, lowering)
            if reason is not None:
                refused.append((node, reason))
                if context.allow_float:
                    _keep_float(node, lowering)
                else:
                    _define_results(node, lowering)  # so that all of the nodes after it can be judged
        for layer in lowering.absorbed:
            graph.erase_if_unused(layer)
        if refused and not context.allow_float:
            raise UnsupportedOpError(_refusal(graph, refused))
        for node, reason in refused:
            context.remark(self, node, f"it stays float: {reason}")
        for constant in graph.constants():
            constant.type = constant.type.with_quant(None)
        graph.erase_unused_constants()
        graph.allow_float = bool(refused)
        graph.stage = Stage.INTEGER
        return True


def _lower(node: Node, lowering: Lowering) -> str | None:
    """Give the node its integer form, or say why it has none."""
    lower = lowering_of(node.op)
    if lower is None:
        return f"{node.op.name} has no integer form"
    try:
        op, operands = lower(node, lowering)
    except (Unlowerable, MultiplierRangeError) as error:
        return str(error)
    _define_results(node, lowering)
    node.op = op
    lowering.graph.set_operands(node, operands)
    for result, inferred in zip(node.results, infer_result_types(op, operands, node.name), strict=True):
        result.type = inferred
    return None


def _define_results(node: Node, lowering: Lowering) -> None:
    for result in node.results:
        if result.type.quant is not None:
            lowering.define(result, result.type.dtype, result.type.quant)


def _keep_float(node: Node, lowering: Lowering) -> None:
    """Let the node work on dequantized operands and quantize its results, where they are not dequantized at once."""
    graph = lowering.graph
    for index, operand in enumerate(node.operands):
        if not lowering.has_meaning(operand):
            continue
        x = lowering.operand(node, index)
        if x.data is not None:
            real = to_real(TensorType(x.dtype, operand.type.shape, x.quant), x.data).astype(np.float32)
            replacement = graph.add_constant(real, f"{operand.name}_f32")
        else:
            op = ops.IntDequantize(x.quant.scale, x.quant.zero_point, x.quant.axis)
            replacement = lowering.emit(node, op, [x.value], f"dequantize_{index}")
        graph.set_operand(node, index, replacement)
    following = next(iter(node.neighbours(1)[1]), None)
    for index, result in enumerate(node.results):
        if result.type.quant is None:
            continue
        y = lowering.result(node, index)
        result.type = TensorType(DType.F32, result.type.shape)
        for user in result.users:
            if isinstance(user.op, ops.Dequantize):
                graph.replace_node(user, [result])
        if not result.uses:
            continue
        if y.dtype is DType.S32:
            raise UnsupportedOpError(
                f"node '{node.name}' ({node.op.name}) stays float, but its result %{result.name} is an s32 accumulator"
                " that integer nodes use: run fold-requantization first"
            )
        boundary = ops.IntQuantize(y.dtype, y.quant.scale, y.quant.zero_point, y.quant.axis)
        quantize = graph.add_node(boundary, [result], name=f"{node.name}_quantize_{index}", before=following)
        lowering.define(quantize.result, y.dtype, y.quant)
        graph.replace_uses(result, quantize.result, except_by=quantize)


def _refusal(graph: Graph, refused: list[tuple[Node, str]]) -> str:
    lines = [f"  node '{node.name}' ({node.op.name}): {reason}" for node, reason in refused]
    return "\n".join(
        [
            f"{len(refused)} of the nodes of '{graph.name}' cannot be computed in integers:",
            *lines,
            "use --allow-float to keep them in float",
        ]
    )
