import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcompiler import reference
from qcompiler.errors import CalibrationDataError
from qcompiler.ir import DType, Graph, QuantParams, Stage, parse_graph
from qcompiler.numerics import choose_params, choose_symmetric_scale, quantize_bias, round_to_f32
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline
from qcompiler.passes.quantize_constants import LARGEST_BIAS, weight_scales

shapes = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(1, 7)),
    st.tuples(st.integers(1, 3), st.integers(2, 6), st.integers(1, 3), st.integers(1, 3)),
)


def quantized(body: str, context: PassContext | None = None) -> Graph:
    graph = parse_graph(f"qir 1\ngraph test observed {{\n{body}\n}}\n")
    (result,) = PassManager(parse_pipeline("quantize"), check_claims=True).run(graph, context)
    assert result.changed
    assert graph.stage is Stage.QUANTIZED
    return graph


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes()]


LAYER = """
    input %x: f32[N,2]
    const %w: f32[2,2] = [1, -0.25, 0.25, 0.125]
    const %b: f32[2] = [3, -4]
    %x1 = observe(%x) {key="x", low=-1.0, high=3.0}
    %y = gemm(%x1, %w, %b) {clamp=[0.0, inf]} @fc
    %y1 = observe(%y) {key="y", low=0.0, high=7.0}
    %z = tanh(%y1)
    %z1 = observe(%z) {key="z", low=-1.0, high=1.0}
    output z = %z1
"""


def test_a_layer():
    graph = quantized(LAYER)
    assert ops_of(graph) == ["quantize", "gemm", "tanh", "dequantize"]
    x, y = graph.value("x_quantized").type, graph.value("y").type
    assert (x.dtype, x.quant) == (DType.U8, choose_params(-1, 3, DType.U8))
    assert (y.dtype, y.quant) == (DType.U8, choose_params(0, 7, DType.U8))
    weight, bias = graph.node("fc").operands[1:]
    assert weight.type.dtype is DType.S8
    assert weight.data is not None
    assert weight.data.tolist() == [[127, -32], [127, 64]]
    assert weight.type.quant is not None
    assert weight.type.quant.scale == (float(np.float32(1 / 127)), float(np.float32(0.25 / 127)))
    assert bias.type.dtype is DType.S32
    assert x.quant is not None
    assert bias.type.quant is not None
    assert bias.type.quant.scale == tuple(x.quant.scale[0] * s for s in weight.type.quant.scale)
    assert bias.data is not None
    assert (bias.data * np.array(bias.type.quant.scale)).tolist() == pytest.approx([3, -4], abs=1e-4)
    exact = [quantize_bias(b, scale) for b, scale in zip([3, -4], bias.type.quant.scale, strict=True)]
    assert bias.data.tolist() == exact


def test_the_last_value_has_16_bits_and_outputs_keep_their_names():
    graph = quantized(LAYER)
    assert graph.value("z").type.dtype is DType.S16
    assert graph.output_names == ("z",)
    assert graph.outputs[0].type.dtype is DType.F32


def test_a_layer_that_is_an_output_stays_an_accumulator():
    graph = quantized("""
        input %x: f32[N,3,4,4]
        const %w: f32[2,3,1,1] = [1, 2, 3, 4, 5, 6]
        %x1 = observe(%x) {key="x", low=0.0, high=1.0}
        %y = conv(%x1, %w) {strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]} @c
        %y1 = observe(%y) {key="y", low=0.0, high=7.0}
        output y = %y1
    """)
    y = graph.value("y").type
    weight = graph.node("c").operands[1].type.quant
    x = graph.value("x_quantized").type.quant
    assert y.dtype is DType.S32
    assert weight is not None
    assert x is not None
    assert y.quant == QuantParams.per_channel([x.scale[0] * s for s in weight.scale], [0, 0], axis=1)


@pytest.mark.parametrize(
    ("last", "dtype"),
    [
        ("gemm(%x1, %w) {clamp=[0.0, 1.0]}", DType.S16),
        ("gemm(%x1, %w)", DType.S32),
    ],
)
def test_a_clamp_needs_the_result_in_16_bits(last, dtype):
    graph = quantized(f"""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 2, 3, 4]
        %x1 = observe(%x) {{key="x", low=0.0, high=1.0}}
        %y = {last}
        %y1 = observe(%y) {{key="y", low=0.0, high=1.0}}
        output y = %y1
    """)
    assert graph.value("y").type.dtype is dtype


def test_softmax_counts_parts_of_a_power_of_two_and_takes_16_bits():
    graph = quantized("""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 2, 3, 4]
        %x1 = observe(%x) {key="x", low=0.0, high=1.0}
        %y = gemm(%x1, %w)
        %y1 = observe(%y) {key="y", low=0.0, high=7.0}
        %z = softmax(%y1)
        %z1 = observe(%z) {key="z", low=0.0, high=1.0}
        output z = %z1
    """)
    assert graph.value("y").type.dtype is DType.S16
    assert graph.value("z").type.quant == QuantParams.per_tensor(1 / 32768)


def test_concatenations_with_the_same_parameters_share_what_is_requantized_for_them():
    graph = quantized("""
        input %x: f32[N,4]
        %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
        %a = sigmoid(%x1)
        %a1 = observe(%a) {key="a", low=0.0, high=1.0}
        %c = concat(%a1, %x1) {axis=1}
        %c1 = observe(%c) {key="c", low=-1.0, high=1.0}
        %d = concat(%x1, %a1) {axis=1}
        %d1 = observe(%d) {key="d", low=-1.0, high=1.0}
        output c = %c1
        output d = %d1
    """)
    assert ops_of(graph) == ["quantize", "sigmoid", "requantize", "concat", "concat", "dequantize", "dequantize"]


def test_moved_values_share_parameters_and_concatenated_ones_are_requantized_where_they_differ():
    graph = quantized("""
        input %x: f32[N,4]
        const %k: f32[1,4] = [1, -1, 0.5, 2]
        %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
        %r = reshape(%x1) {shape=["N", 2, 2]}
        %a = sigmoid(%r)
        %a1 = observe(%a) {key="a", low=0.0, high=1.0}
        %b = reshape(%a1) {shape=["N", 4]}
        %c = concat(%b, %x1) {axis=1}
        %c1 = observe(%c) {key="c", low=-1.0, high=1.0}
        %d = silu(%c1)
        %d1 = observe(%d) {key="d", low=-1.0, high=1.0}
        output d = %d1
    """)
    assert ops_of(graph) == [
        "quantize", "reshape", "sigmoid", "reshape", "requantize", "concat", "silu", "dequantize",
    ]  # fmt: skip
    assert graph.value("r").type.quant == graph.value("x_quantized").type.quant
    assert graph.value("b").type.quant == choose_params(0, 1, DType.U8)
    assert graph.value("c").type.quant == choose_params(-1, 1, DType.U8)


def test_constant_operands_get_16_bits_and_constants_in_a_concatenation_its_parameters():
    graph = quantized("""
        input %x: f32[2,2]
        const %k: f32[2] = [0.5, -2]
        const %m: f32[2,2] = [1, 0, -1, 0.5]
        %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
        %y = mul(%x1, %k) @m
        %y1 = observe(%y) {key="y", low=-2.0, high=2.0}
        %c = concat(%y1, %m) {axis=0} @c
        %c1 = observe(%c) {key="c", low=-2.0, high=2.0}
        %d = silu(%c1)
        %d1 = observe(%d) {key="d", low=-1.0, high=2.0}
        output d = %d1
    """)
    constant = graph.node("m").operands[1]
    assert constant.type.dtype is DType.S16
    assert constant.data is not None
    assert constant.data.tolist() == [8192, -32767]
    moved = graph.node("c").operands[1]
    assert moved.type.quant == graph.value("c").type.quant
    assert moved.type.dtype is DType.U8


def test_an_output_in_two_places_is_dequantized_once():
    graph = quantized("""
        input %x: f32[N,2]
        %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
        output a = %x1
        output b = %x1
    """)
    assert ops_of(graph) == ["quantize", "dequantize"]
    assert graph.output_names == ("a", "b")


def test_a_value_without_a_range_is_refused():
    with pytest.raises(CalibrationDataError, match=r"%y has no range: .* run 'calibrate' before 'quantize'"):
        quantized("""
            input %x: f32[N,2]
            %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
            %y = exp(%x1)
            %y1 = observe(%y) {key="y"}
            output y = %y1
        """)


def test_a_zero_range_is_scale_one_and_a_remark():
    context = PassContext()
    graph = quantized(
        """
        input %x: f32[N,2]
        %x1 = observe(%x) {key="x", low=0.0, high=0.0}
        %y = relu(%x1)
        %y1 = observe(%y) {key="y", low=0.0, high=0.0}
        output y = %y1
        """,
        context,
    )
    assert graph.value("x_quantized").type.quant == QuantParams.per_tensor(1.0)
    assert any("%x is zero on all of the calibration data" in str(r) for r in context.remarks)


def test_numbers_stay_within_a_step():
    x = np.random.default_rng(0).uniform(-1, 3, (40, 2)).astype(np.float32)
    expected = np.tanh(np.maximum(x.astype(np.float64) @ np.array([[1, 0.25], [-0.25, 0.125]]) + [3, -4], 0))
    got = reference.run(quantized(LAYER), {"x": x})["z"]
    assert np.abs(got - expected).max() < 7 / 255 + 4 / 255


def test_channels_with_large_biases_get_coarser_weights():
    weight = np.array([[1e-9, 1e-9], [0, 0], [0, 0], [2, 1]])
    bias = np.array([5.0, 0.0, 3.0, 1.0])
    scales = weight_scales(weight, bias, input_scale=0.01)
    quantized_bias = bias / (0.01 * np.array(scales))
    assert np.abs(quantized_bias).max() <= LARGEST_BIAS * (1 + 1e-6)
    assert quantized_bias[0] == pytest.approx(LARGEST_BIAS, rel=1e-6)
    assert scales[1] == 1.0
    assert quantized_bias[2] == pytest.approx(2**24, rel=1e-6)
    assert scales[3] == pytest.approx(2 / 127)


@settings(max_examples=60)
@given(
    weight=shapes.flatmap(lambda shape: arrays.arrays(np.float64, shape, elements=st.floats(-9, 9, width=32))),
)
def test_reduced_range_bounds_neighbours(weight):
    """Neighbours in either order in which a kernel may have them, and no more than a factor of 2 for it."""
    scales = np.array(weight_scales(weight, None, 1.0, reduce_range=True))
    full = np.array(weight_scales(weight, None, 1.0))
    assert (full <= scales).all()
    assert (scales <= 2.001 * full).all()
    integers = np.floor(weight / scales.reshape(-1, *[1] * (weight.ndim - 1)) + 0.5)
    innermost = np.moveaxis(integers, 1, -1)
    for size in {innermost.shape[-1], math.prod(innermost.shape[max(1, weight.ndim - 2) :])}:
        for run in innermost.reshape(-1, size):
            pairs = combinations(run, 2) if weight.ndim == 2 else zip(run[::2], run[1::2], strict=False)
            assert max((abs(a + b) for a, b in pairs if a * b > 0), default=0) <= 128


def test_reduced_range_leaves_depthwise_layers_their_bits():
    weight = np.random.default_rng(0).standard_normal((8, 1, 3, 3))
    assert weight_scales(weight, None, 1.0, reduce_range=True) == weight_scales(weight, None, 1.0)


def padded_softmax(value: float) -> Graph:
    return quantized(f"""
        input %x: f32[N,4]
        %x1 = observe(%x) {{key="x", low=-1.0, high=3.0}}
        %s = softmax(%x1) {{axis=1}}
        %s1 = observe(%s) {{key="s", low=0.0, high=1.0}}
        %p = pad(%s1) {{pads=[0, 1, 0, 1], value={value}}}
        %z = tanh(%p)
        %z1 = observe(%z) {{key="z", low=-1.0, high=1.0}}
        output z = %z1
    """)


def test_padding_beyond_the_fixed_range_of_its_operand_is_not_cut_off():
    graph = padded_softmax(-0.5)
    assert ops_of(graph) == ["quantize", "softmax", "requantize", "pad", "tanh", "dequantize"]
    assert graph.value("s").type.quant == QuantParams.per_tensor(1 / 256)
    assert graph.value("p").type.quant == choose_params(-0.5, 255 / 256, DType.U8)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_padding_within_the_range_of_its_operand_needs_no_arithmetic(value):
    assert "requantize" not in ops_of(padded_softmax(value))


def test_scales_of_channels_are_those_of_the_numerics_page():
    weight = np.array([[1.0, -2.5], [0.0, 0.0], [1e-44, 0.0], [3e38, 1.0], [0.0, 0.0]], np.float32)
    bias = np.array([0.5, 2.0, 1000.0, -1.0, 0.0])
    scales = weight_scales(weight, bias, 0.25)
    limits = [round_to_f32(abs(b) / 0.25 / LARGEST_BIAS) for b in bias]
    assert scales == (
        max(choose_symmetric_scale(2.5, DType.S8), limits[0]),
        round_to_f32(2.0 / 0.25 / 2**24),
        max(choose_symmetric_scale(float(weight[2, 0]), DType.S8), limits[2]),
        choose_symmetric_scale(float(weight[3, 0]), DType.S8),
        1.0,
    )
