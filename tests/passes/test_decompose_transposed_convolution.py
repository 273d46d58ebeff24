import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

import qcompiler
from qcompiler import reference
from qcompiler.errors import VerifyError
from qcompiler.ir import DType, Graph, Node, TensorType, ops
from qcompiler.output_phases import phase_axis
from qcompiler.pass_manager import PassManager, parse_pipeline
from qcompiler.runtime.session import Session

NAME = "decompose-transposed-convolution"
ONE = "dilations=[1, 1], output_padding=[0, 0]"


def test_a_kernel_as_large_as_the_stride(apply):
    """Each phase has one tap; phases of one place are neighbours, channels innermost."""
    outcome = apply(
        NAME,
        f"""
        input %x: f32[N,1,2,2]
        const %w: f32[1,2,2,2] = [1, 2, 3, 4, 5, 6, 7, 8]
        const %b: f32[2] = [-1, -2]
        %u = conv_transpose(%x, %w, %b) {{strides=[2, 2], pads=[0, 0, 0, 0], {ONE}, clamp=[0.0, 6.0]}}
        %y = tanh(%u)
        output y = %y
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,1,2,2]
        const %u.filters: f32[8,1,1,1] = [1, 5, 2, 6, 3, 7, 4, 8]
        const %u.biases: f32[8] = [-1, -2, -1, -2, -1, -2, -1, -2]
        %u = conv(%x, %u.filters, %u.biases) {strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], clamp=[0.0, 6.0]}
        %u.pixels = depth_to_space(%u) {blocks=[2, 2]}
        %y = tanh(%u.pixels)
        output y = %y
    """)


def test_one_axis_whose_end_is_cut_off(apply):
    """Five positions of three phases: the kernel's middle tap at 3q, its last at 3q + 1 and its first at 3q + 2."""
    outcome = apply(
        NAME,
        """
        input %x: f32[N,1,2]
        const %w: f32[1,1,3] = [1, 2, 3]
        %u = conv_transpose(%x, %w) {strides=[3], pads=[1, 0], dilations=[1], output_padding=[0]}
        output y = %u
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,1,2]
        const %u.filters: f32[3,1,1,2] = [2, 0, 3, 0, 0, 1]
        %u.image = reshape(%x) {shape=["N", 1, 1, 2]}
        %u = conv(%u.image, %u.filters) {strides=[1, 1], pads=[0, 0, 0, 1], dilations=[1, 1]}
        %u.pixels = depth_to_space(%u) {blocks=[1, 3]}
        %u.cut = slice(%u.pixels) {axes=[3], starts=[0], counts=[5], steps=[1]}
        %u.row = reshape(%u.cut) {shape=["N", 1, 5]}
        output y = %u.row
    """)


def test_stride_1_flips_the_kernel(apply):
    outcome = apply(
        NAME,
        """
        input %x: f32[N,2,4]
        const %w: f32[2,1,3] = [1, 2, 3, 4, 5, 6]
        %u = conv_transpose(%x, %w) {strides=[1], pads=[2, 1], dilations=[2], output_padding=[0], group=2}
        output y = %u
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,2,4]
        const %u.filters: f32[2,1,3] = [3, 2, 1, 6, 5, 4]
        %u = conv(%x, %u.filters) {strides=[1], pads=[2, 3], dilations=[2], group=2}
        output y = %u
    """)


def test_filters_of_a_group_stay_together(apply):
    outcome = apply(
        NAME,
        f"""
        input %x: f32[N,2,1,1]
        const %w: f32[2,1,1,2] = [1, 2, 3, 4]
        %u = conv_transpose(%x, %w) {{strides=[1, 2], pads=[0, 0, 0, 0], {ONE}, group=2}}
        output y = %u
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,2,1,1]
        const %u.filters: f32[4,1,1,1] = [1, 2, 3, 4]
        %u = conv(%x, %u.filters) {strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], group=2}
        %u.pixels = depth_to_space(%u) {blocks=[1, 2], mode="CRD"}
        output y = %u.pixels
    """)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            f"""input %x: f32[N,1,2,2]  input %w: f32[1,1,2,2]
            %u = conv_transpose(%x, %w) {{strides=[2, 2], pads=[0, 0, 0, 0], {ONE}}}  output y = %u""",
            "its weight or bias is computed at run time",
        ),
        (
            """input %x: f32[N,1,2,2,2]  const %w: f32[1,1,1,1,2] = [1, 2]
            %u = conv_transpose(%x, %w) {strides=[2, 2, 2], pads=[0, 0, 0, 0, 0, 0], dilations=[1, 1, 1],
            output_padding=[0, 0, 0]}  output y = %u""",
            "it has 3 spatial axes, and depth_to_space has two",
        ),
    ],
)
def test_near_misses(apply, body, reason):
    outcome = apply(NAME, body)
    assert not outcome.changed
    assert outcome.remarks == [f"u: {reason}"]


@settings(max_examples=300)
@given(
    size=st.integers(1, 6), kernel=st.integers(1, 6), stride=st.integers(1, 5), dilation=st.integers(1, 4),
    pad=st.integers(0, 9), out=st.integers(1, 30),
)  # fmt: skip
def test_every_tap_meets_the_positions_that_it_is_to_meet(size, kernel, stride, dilation, pad, out):
    axis = phase_axis(size, kernel, out, stride, dilation, pad)
    assert min(axis.pads) >= 0
    assert axis.count == size + sum(axis.pads) - (axis.window - 1) * axis.dilation
    assert axis.count * stride >= out
    assert len(set(axis.places)) == kernel
    for k, (phase, place) in enumerate(axis.places):
        assert 0 <= place < axis.window
        for q in range(axis.count):
            i = q - axis.pads[0] + place * axis.dilation
            assert i * stride + k * dilation == stride * q + phase + pad


@st.composite
def transposed_convolutions(draw: st.DrawFn) -> tuple[ops.ConvTranspose, tuple[int, ...], tuple[int, ...]]:
    """The op, the shape of its input without the batch, and that of its weight."""
    rank = draw(st.sampled_from([1, 2, 2]))

    def each(low: int, high: int, count: int = rank) -> tuple[int, ...]:
        return tuple(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    group, per_group = draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 2, 3, 20]))
    cin = group * draw(st.integers(1, 3))
    clamp = draw(st.sampled_from([None, (0.0, math.inf), (-1.0, 1.0)]))
    op = ops.ConvTranspose(each(1, 4), each(0, 3, 2 * rank), each(1, 3), each(0, 3), group, clamp)
    return op, (cin, *each(1, 6)), (cin, per_group, *each(1, 5))


def graph_of(op: ops.ConvTranspose, x: Any, weight: Any, *, bias: bool) -> tuple[Graph, Node]:
    rng = np.random.default_rng(0)
    graph = Graph("up")
    image = graph.add_input("x", TensorType(DType.F32, ("N", *x)))
    constants = [graph.add_constant(rng.standard_normal(weight).astype(np.float32), "w")]
    if bias:
        constants.append(graph.add_constant(rng.standard_normal(weight[1] * op.group).astype(np.float32), "b"))
    try:
        node = graph.add_node(op, [image, *constants], name="up")
    except VerifyError:
        reject()  # nothing is left of an axis
    graph.add_output(node.result, "y")
    return graph, node


@settings(max_examples=150, deadline=None)
@given(case=transposed_convolutions(), bias=st.booleans())
def test_the_numbers_stay_in_any_form(case, bias):
    graph, node = graph_of(*case, bias=bias)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, *case[1])).astype(np.float32)}
    expected = reference.run(graph, feeds)["y"]
    np.testing.assert_allclose(Session(graph, threads=1).run(feeds)["y"], expected, rtol=1e-4, atol=1e-4)
    (result,) = PassManager(parse_pipeline(NAME), check_claims=True).run(graph)
    assert result.changed
    assert isinstance(node.op, ops.Conv)
    np.testing.assert_allclose(reference.run(graph, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=40, deadline=None)
@given(case=transposed_convolutions(), bias=st.booleans())
def test_integers_are_those_of_the_reference(case, bias):
    graph, _ = graph_of(*case, bias=bias)
    x = np.random.default_rng(1).standard_normal((4, *case[1])).astype(np.float32)
    expected = reference.run(graph, {"x": x})["y"]
    compiled = compile_graph(graph, x)
    got = Session(compiled, threads=2).run({"x": x})["y"]
    assert np.array_equal(got, reference.run(compiled, {"x": x})["y"])
    # Roundings of 8 bits, that a clamp may make large beside the result; a tap at a wrong place is off by far more.
    assert np.abs(got - expected).mean() <= 0.05 * np.abs(expected).max() + 1e-6


def compile_graph(graph: Graph, x: np.ndarray) -> Graph:
    from qcompiler.calibration.data import open_source
    from qcompiler.pass_manager import PassContext
    from qcompiler.pipeline import pipeline_for

    context = PassContext(calibration=open_source(x, graph))
    PassManager(pipeline_for("int8", 2), check_claims=True).run(graph, context)
    return graph


def test_normalization_and_activation_are_folded_and_one_walk_is_left():
    """Upsampling as U-Nets have it: no op but the convolutions and depth_to_space between them."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2)
    constants = {
        "w1": rng.standard_normal((8, 3, 3, 3)), "w2": rng.standard_normal((8, 4, 2, 2)),
        "gamma": rng.random(4) + 0.5, "beta": rng.random(4), "mean": rng.random(4), "variance": rng.random(4) + 0.5,
        "w3": rng.standard_normal((2, 4, 1, 1)),
    }  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("ConvTranspose", ["c", "w2"], ["u"], strides=[2, 2], name="up"),
        helper.make_node("BatchNormalization", ["u", "gamma", "beta", "mean", "variance"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "w3"], ["y"]),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "u",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2, 16, 16])],
            [numpy_helper.from_array(a.astype(np.float32), name) for name, a in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    compiled = qcompiler.compile(model, calibration=rng.standard_normal((16, 3, 8, 8)).astype(np.float32))
    names = [node.op.name for node in compiled.graph.nodes()]
    layers = ["int.conv", "int.conv", "depth_to_space", "int.conv"]
    assert names == ["int.quantize", "transpose", *layers, "transpose", "int.dequantize"]
    assert compiled.summary["accumulators_proven"] == 3
    assert compiled.summary["sqnr_db"]["y"] > 25
