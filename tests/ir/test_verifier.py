"""The verifier: each rule has a graph that breaks it, and the message shows where."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from qcompiler.errors import VerifyError
from qcompiler.ir import DType, Graph, QuantParams, Stage, TensorType, ops, parse_graph, verify


def parse(body: str, stage: str = "float") -> Graph:
    return parse_graph(f"qir 1\ngraph g {stage} {{ {body} }}")


CHAIN = (
    "input %x: f32[2,4] "
    + " ".join(f"%v{i} = relu(%{'x' if i == 0 else f'v{i - 1}'})" for i in range(20))
    + " output y = %v19"
)


def chain() -> Graph:
    """x -> v0 -> v1 -> ... -> v19 -> y."""
    return parse(CHAIN)


def wrong_shape(graph: Graph) -> None:
    graph.value("v10").type = TensorType(DType.F32, (2, 5))


def use_before_definition(graph: Graph) -> None:
    graph.set_operand(graph.node("v10"), 0, graph.value("v12"))


def foreign_operand(graph: Graph) -> None:
    graph.set_operand(graph.node("v10"), 0, chain().value("v3"))


def forgotten_use(graph: Graph) -> None:
    del graph.value("v9")._uses[graph.node("v10"), 0]


def invented_use(graph: Graph) -> None:
    graph.value("v9")._uses[graph.node("v12"), 3] = None


def wrong_producer(graph: Graph) -> None:
    graph.value("v10").producer = graph.node("v11")


def wrong_attribute_type(graph: Graph) -> None:
    graph.node("v10").op = ops.LeakyRelu(alpha=1)


def list_attribute(graph: Graph) -> None:
    graph.node("v10").op = ops.Transpose(perm=[1, 0])  # type: ignore[arg-type]


def wrong_operand_count(graph: Graph) -> None:
    graph.node("v10").op = ops.Add()


def wrong_result_dtype(graph: Graph) -> None:
    graph.value("v10").type = TensorType(DType.S32, (2, 4))


def wrong_dtype(graph: Graph) -> None:
    value = graph.add_constant(np.zeros(3, np.float32), "c")
    value.type = value.type.with_dtype(DType.S32)


def writeable_constant(graph: Graph) -> None:
    value = graph.add_constant(np.zeros(3, np.float32), "c")
    value.data = np.zeros(3, np.float32)


def s4_out_of_range(graph: Graph) -> None:
    graph.stage, graph.allow_float = Stage.INTEGER, True
    graph.add_constant(np.array([8], np.int8), "c", dtype=DType.S4)


def input_with_data(graph: Graph) -> None:
    graph.value("x").data = np.zeros((2, 4), np.float32)


def stray_value(graph: Graph) -> None:
    graph._values["stray"] = chain().value("x")


def duplicate_output_names(graph: Graph) -> None:
    graph.add_output(graph.value("v3"), "y")


def forgotten_output(graph: Graph) -> None:
    graph.value("v19")._output_positions.clear()


def foreign_output(graph: Graph) -> None:
    graph.set_output(0, chain().value("v3"))


def wrong_name(graph: Graph) -> None:
    graph.node("v10").name = "v11"


def unlinked_node(graph: Graph) -> None:
    graph._node_names["ghost"] = chain().node("v1")


@pytest.mark.parametrize(
    ("damage", "culprit", "reason"),
    [
        (wrong_shape, "node 'v10' (relu)", "result %v10 has type f32[2,5], the op gives f32[2,4]"),
        (wrong_result_dtype, "node 'v10' (relu)", "result %v10 has type s32[2,4], the op gives f32[2,4]"),
        (use_before_definition, "node 'v10' (relu)", "operand 0, %v12, is used before it is defined"),
        (foreign_operand, "node 'v10' (relu)", "operand 0, %v3, is not a value of this graph"),
        (forgotten_use, "node 'v10' (relu)", "operand 0, %v9, does not know of this use"),
        (invented_use, "def-use chains", "21 uses are recorded, the nodes have 20 operands"),
        (wrong_producer, "node 'v10' (relu)", "its result %v10 is not registered as such"),
        (wrong_attribute_type, "node 'v10' (leaky_relu)", "attribute alpha is 1 of type int, expected float"),
        (list_attribute, "node 'v10' (transpose)", "attribute perm is [1, 0] of type list, expected list of int"),
        (wrong_operand_count, "node 'v10' (add)", "add takes the operands (a b), got 1"),
        (wrong_dtype, "constant %c", "its type is s32[3], its data float32 [3]"),
        (writeable_constant, "constant %c", "its data is writeable; constants are shared and must not change"),
        (s4_out_of_range, "constant %c", "its data lies outside the range of s4, [-8, 7]"),
        (input_with_data, "input %x", "it has data, as a constant has"),
        (stray_value, "value %x", "nothing in the graph defines it"),
        (duplicate_output_names, "output 'y'", "another output has the same name"),
        (forgotten_output, "output 'y'", "%v19 does not know that it is an output"),
        (foreign_output, "output 'y'", "it is %v3, which is not a value of this graph"),
        (wrong_name, "node 'v11' (relu)", "it is not registered under its name"),
        (unlinked_node, "node table", "20 nodes are linked, 21 registered"),
    ],
)
def test_broken_graphs(damage: Callable[[Graph], None], culprit: str, reason: str):
    graph = chain()
    verify(graph)
    damage(graph)
    with pytest.raises(VerifyError, match=re.escape(f"stage): {culprit}: {reason}")):
        verify(graph)


def test_the_message_shows_the_neighbourhood():
    graph = chain()
    wrong_shape(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert str(caught.value).splitlines() == [
        "graph 'g' (float stage): node 'v10' (relu): result %v10 has type f32[2,5], the op gives f32[2,4]",
        "    %v6: f32[2,4] = relu(%v5)",
        "    %v7: f32[2,4] = relu(%v6)",
        "    %v8: f32[2,4] = relu(%v7)",
        "    %v9: f32[2,4] = relu(%v8)",
        "  > %v10: f32[2,5] = relu(%v9)",
        "    %v11: f32[2,4] = relu(%v10)",
        "    %v12: f32[2,4] = relu(%v11)",
        "    %v13: f32[2,4] = relu(%v12)",
        "    %v14: f32[2,4] = relu(%v13)",
    ]


def test_the_message_shows_constants_and_users():
    graph = parse("input %x: f32[2] const %c: f32[2] = [1, 2] %y = add(%x, %c) output y = %y")
    graph.value("c").type = TensorType(DType.F32, (1,))
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert str(caught.value).splitlines()[1:] == [
        "  > const %c: f32[1] = [1.0, 2.0]",
        "    %y: f32[2] = add(%x, %c)",
    ]


QUANT = "<scale=0.5, zero_point=3>"
RESCALE = "int.rescale(%x) {dtype=u8, zp_in=0, multiplier=1073741824, shift=31, zp_out=0, lo=0, hi=255}"


@pytest.mark.parametrize(
    ("stage", "body", "reason"),
    [
        ("float", "input %x: s8[2]", "dtype s8 is not legal in the float stage"),
        ("float", f"input %x: s32[2]{QUANT}", "a value of dtype s32 has no quantization parameters in the float stage"),
        ("float", 'input %x: f32[2] %y = observe(%x) {key="x"}', "op observe is not legal in the float stage"),
        (
            "float",
            (
                "input %x: f32[1,6,6,4] %y = max_pool(%x) {kernel=[2,2], strides=[1,1], pads=[0,0,0,0], "
                'dilations=[1,1], layout="nhwc"}'
            ),
            "layout nhwc belongs to the integer stage",
        ),
        ("quantized", "input %x: u8[2]", "a value of dtype u8 needs quantization parameters in the quantized stage"),
        ("quantized", f"input %x: u8[2]{QUANT} %y: f32[2] = relu(%x)", "quantize all or none"),
        (
            "quantized",
            f"input %x: u8[2,1]{QUANT} %y: u8[2]<scale=0.25, zero_point=3> = reshape(%x) {{shape=[2]}}",
            "reshape does no arithmetic, so its operands and results share dtype and quantization parameters",
        ),
        (
            "quantized",
            (
                f"input %x: u8[2]{QUANT} input %z: u8[2]<scale=1.0, zero_point=3> "
                f"%y: u8[4]{QUANT} = concat(%x, %z) {{axis=0}}"
            ),
            "concat does no arithmetic",
        ),
        ("quantized", f"input %x: u8[2]{QUANT} %y: u8[2]{QUANT} = quantize(%x)", "quantize takes a float value"),
        ("quantized", "input %x: f32[2] %y: f32[2] = requantize(%x)", "requantize takes a quantized value"),
        ("quantized", "input %x: f32[2] %y: f32[2] = dequantize(%x)", "the operand has no quantization parameters"),
        ("quantized", f"input %x: u8[2]{QUANT} %y: u8[2]{QUANT} = {RESCALE}", "not legal in the quantized stage"),
        (
            "integer",
            f"input %x: u8[2]{QUANT}",
            "a value of dtype u8 has no quantization parameters in the integer stage",
        ),
        ("integer", "input %x: f32[2] %y = reshape(%x) {shape=[2,1]}", "a float value lies inside the integer graph"),
        (
            "integer",
            "input %x: u8[2] %y = int.dequantize(%x) {scale=[0.5], zero_point=[0]} %z = reshape(%y) {shape=[2,1]}",
            "result %y: a float value lies inside the integer graph, and allow_float is not set",
        ),
        (
            "integer",
            "input %x: u8[2] const %c: f32[2] = [1, 2] %y = concat(%x) {axis=0} %z = reshape(%c) {shape=[2,1]}",
            "constant %c: a float value lies inside the integer graph",
        ),
        ("integer", "input %x: u8[2] %y = relu(%x)", "op relu is not legal in the integer stage"),
    ],
)
def test_stage_rules(stage: str, body: str, reason: str):
    graph = parse(body, stage)
    with pytest.raises(VerifyError, match=re.escape(reason)):
        verify(graph)


@pytest.mark.parametrize(
    ("stage", "body"),
    [
        ("observed", 'input %x: f32[2] %y = observe(%x) {key="x", low=-1.0, high=1.0}'),
        (
            "quantized",
            f"input %x: f32[2] %q: u8[2]{QUANT} = quantize(%x) %y: u8[2]{QUANT} = relu(%q) %f = dequantize(%y)",
        ),
        ("quantized", f"input %x: u8[2]{QUANT} const %c: f32[2] = [1, 2] %y: u8[2]{QUANT} = add(%x, %c)"),
        ("integer", f"input %x: u8[2] %y = {RESCALE}"),
        (
            "integer",
            (
                "input %i: f32[2] %x = int.quantize(%i) {dtype=u8, scale=[0.5], zero_point=[3]} "
                "%y = int.dequantize(%x) {scale=[0.5], zero_point=[3]} output y = %y"
            ),
        ),
        ("integer", "const %c: f32[2] = [1, 2] output y = %c"),
        ("integer allow_float", "input %x: f32[2] %y = relu(%x) output y = %y"),
    ],
)
def test_what_the_stages_allow(stage: str, body: str):
    verify(parse(body, stage))


def test_an_op_of_another_class_is_refused():
    class Relu(ops.Relu):
        """The name is registered, for another class."""

    graph = chain()
    graph.node("v10").op = Relu()
    with pytest.raises(VerifyError, match=r"its op is of class .*Relu, registered is Relu"):
        verify(graph)


def test_an_unknown_op_is_refused():
    class Unknown(ops.Relu):
        name = "unknown"

    graph = chain()
    graph.node("v10").op = Unknown()
    with pytest.raises(VerifyError, match="there is no op named 'unknown'"):
        verify(graph)


def test_quantization_parameters_are_checked():
    with pytest.raises(VerifyError, match=r"a zero point lies outside \[-128, 127\] of s8"):
        TensorType(DType.S8, (2,), QuantParams.per_tensor(1.0, 128))
    with pytest.raises(VerifyError, match="2 scales along axis 0 do not fit shape"):
        TensorType(DType.S8, (3,), QuantParams.per_channel([1, 2], [0, 0], 0))
    with pytest.raises(VerifyError, match="a value of dtype f32 cannot have quantization parameters"):
        TensorType(DType.F32, (3,), QuantParams.per_tensor(1.0))
