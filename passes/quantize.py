"""`quantize`: give every observed value its quantization parameters."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import CalibrationDataError
from qcompiler.ir import DType, Graph, Node, Quantization, QuantParams, Stage, TensorType, Value, ops
from qcompiler.numerics import choose_params, is_zero_range
from qcompiler.pass_manager import Pass, PassContext, register_pass
from qcompiler.passes.precision import accumulator_outputs, wide_values
from qcompiler.passes.quantize_constants import ConstantQuantizer

_SAME_PARAMETERS = frozenset({Quantization.PASSTHROUGH, Quantization.SELECTS})


@register_pass
@dataclass(frozen=True)
class Quantize(Pass):
    """Turn observed ranges into scales and zero points, and constants into integers.

        x1 = observe(x){low=-1, high=1}                       before
        y = conv(x1, w, b); y1 = observe(y){low=0, high=6}

        x1 = quantize(x): u8{s_x, z_x}                        after
        y = conv(x1, w: s8{s_w[c]}, b: s32{s_x·s_w[c]}): u8{s_y, z_y}

    Why: from here on a value's type says what its integers mean, while ops still mean real functions.

    Activations are u8, asymmetric; weights s8, symmetric per output channel in [−127, 127]; biases s32.
    Values that only reach the outputs are s16 (`qcompiler.passes.precision`); a convolution or fully
    connected layer that is an output itself stays s32, its accumulators. Inputs are quantized, outputs
    dequantized; a concatenation's operands are requantized where their parameters differ from the result's,
    and so is what a pad surrounds with a number beyond its range (a softmax has a fixed one).

    With `reduce_range` a channel's scale is so large that two neighbouring weights of one sign are at most 128
    together: 128 · 255 < 2^15, so the sum of their products fits 16 bits, which lets CPUs without a dot product of
    bytes use a faster instruction (docs/performance.md), at the price of up to one bit of the weights.

    Known limits: 8-bit activations are per tensor; there is no 4-bit form.
    """

    name: ClassVar[str] = "quantize"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.OBSERVED})
    result_stage: ClassVar[Stage | None] = Stage.QUANTIZED
    reduce_range: bool = False

    def run(self, graph: Graph, context: PassContext) -> bool:
        types = _ResultTypes(graph)
        constants = ConstantQuantizer(graph, reduce_range=self.reduce_range)
        for node in graph.nodes():
            if isinstance(node.op, ops.Observe):
                self._replace_observer(graph, node, types, context)
            elif any(v.type.quant is not None for v in node.operands) or types.is_observed(node.results[0]):
                self._quantize_node(graph, node, types, constants)
        _dequantize_outputs(graph)
        graph.erase_unused_constants()
        graph.stage = Stage.QUANTIZED
        return True

    def _replace_observer(self, graph: Graph, node: Node, types: "_ResultTypes", context: PassContext) -> None:
        """At an input the observer becomes the quantize; elsewhere its work is done."""
        (value,) = node.operands
        match node.op:
            case ops.Observe(low=float() as low, high=float() as high) if is_zero_range(low, high):
                context.remark(self, node, f"%{value.name} is zero on all of the calibration data: scale 1")
            case _:
                pass
        if value.type.quant is None:
            name = value.name
            quantize = graph.add_node(
                ops.Quantize(),
                [value],
                name=f"quantize_{name}",
                result_types=[types.of(value)],
                result_names=[f"{name}_quantized"],
                before=node,
            )
            graph.replace_node(node, quantize.results)
        else:
            graph.replace_node(node, [value])

    @staticmethod
    def _quantize_node(graph: Graph, node: Node, types: "_ResultTypes", constants: ConstantQuantizer) -> None:
        kind = node.op.quantization
        if kind in _SAME_PARAMETERS:
            _make_room_for_padding(graph, node)
            source = node.operands[0].type
            for result in node.results:
                result.type = TensorType(source.dtype, result.type.shape, source.quant)
            return
        if kind is Quantization.UNIFIED:
            wanted = types.of(node.result)
            for index, operand in enumerate(node.operands):
                graph.set_operand(node, index, _with_parameters(graph, node, operand, wanted, constants))
            node.result.type = wanted
            return
        if kind is Quantization.ACCUMULATES:
            scales = constants.quantize_layer(node)
            if types.stays_accumulator(node.result):
                node.result.type = _accumulator_type(node, scales)
                return
        else:
            constants.quantize_operands(node)
        for result in node.results:
            if types.is_observed(result):
                result.type = types.of(result)


class _ResultTypes:
    """The type that each observed value gets."""

    def __init__(self, graph: Graph) -> None:
        self._wide = wide_values(graph)
        self._accumulators = accumulator_outputs(graph)

    @staticmethod
    def is_observed(value: Value) -> bool:
        return any(isinstance(user.op, ops.Observe) for user in value.users)

    def stays_accumulator(self, value: Value) -> bool:
        return value in self._accumulators

    def of(self, value: Value) -> TensorType:
        """The quantized type of an observed value.

        Raises:
            CalibrationDataError: its observer has no range.
        """
        dtype = DType.S16 if value in self._wide else DType.U8
        low, high = _observed_range(value)
        match value.producer:
            case Node(op=ops.Softmax()):
                # The integer softmax counts in parts of a power of two; its largest value stands for almost 1.
                quant = QuantParams.per_tensor(1 / 32768 if dtype is DType.S16 else 1 / 256)
            case _:
                quant = choose_params(low, high, dtype)
        return TensorType(dtype, value.type.shape, quant)


def _observed_range(value: Value) -> tuple[float, float]:
    for user in value.users:
        match user.op:
            case ops.Observe(low=float() as low, high=float() as high):
                return low, high
            case _:
                pass
    raise CalibrationDataError(
        f"%{value.name} has no range: give calibration data, or run 'calibrate' before 'quantize'"
    )


def _accumulator_type(node: Node, weight_scales: tuple[float, ...]) -> TensorType:
    """s32 with a scale per output channel."""
    x = node.operands[0].type.quant
    input_scale = 1.0 if x is None else x.scale[0]
    axis = 1 if isinstance(node.op, ops.Conv) else node.result.type.rank - 1
    scales = [input_scale * scale for scale in weight_scales]
    quant = QuantParams.per_channel(scales, [0] * len(scales), axis)
    return TensorType(DType.S32, node.result.type.shape, quant)


def _make_room_for_padding(graph: Graph, node: Node) -> None:
    """Requantize the operand of a pad whose value its integers cannot stand for, over a range with that value."""
    x = node.operands[0]
    match node.op:
        case ops.Pad(value=value) if x.type.quant is not None and x.type.quant.axis is None and math.isfinite(value):
            scale, zero_point = x.type.quant.scale[0], x.type.quant.zero_point[0]
            low, high = ((limit - zero_point) * scale for limit in x.type.dtype.limits)
            if low - scale <= value <= high + scale:
                return
            quant = choose_params(min(low, value), max(high, value), x.type.dtype)
            wider = TensorType(x.type.dtype, x.type.shape, quant)
            name = f"{node.name}_requantize"
            graph.set_operand(
                node, 0, graph.add_node(ops.Requantize(), [x], name=name, result_types=[wider], before=node).result
            )
        case _:
            pass


def _with_parameters(
    graph: Graph, node: Node, operand: Value, wanted: TensorType, constants: ConstantQuantizer
) -> Value:
    """The operand of a concatenation in the parameters of its result, which others may want as well."""
    if operand.is_constant and wanted.quant is not None:
        return constants.quantized(operand, wanted.dtype, wanted.quant)
    if (operand.type.dtype, operand.type.quant) == (wanted.dtype, wanted.quant):
        return operand
    for user in operand.users:
        if isinstance(user.op, ops.Requantize) and user.result.type == wanted.with_shape(operand.type.shape):
            return user.result
    return graph.add_node(
        ops.Requantize(),
        [operand],
        name=f"{operand.name}_requantize",
        result_types=[wanted.with_shape(operand.type.shape)],
        before=node,
    ).result


def _dequantize_outputs(graph: Graph) -> None:
    dequantized: dict[Value, Value] = {}
    for index, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        if value.type.quant is None:
            continue
        if value not in dequantized:
            node = graph.add_node(ops.Dequantize(), [value], name=f"dequantize_{name}")
            dequantized[value] = node.result
        graph.set_output(index, dequantized[value])
