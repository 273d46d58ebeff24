"""Models and data that are legal and odd: dead channels, constant tensors, tiny weights, outliers, long sums."""

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.calibration.data import open_source
from qcompiler.integer_proofs import prove
from qcompiler.ir import DType, Graph, TensorType, ops
from qcompiler.pass_manager import PassContext, PassManager
from qcompiler.pipeline import pipeline_for

RANDOM = np.random.default_rng(12)


def two_layers(first: np.ndarray, bias: np.ndarray, second: np.ndarray) -> Graph:
    """y = second · relu(first · x + bias)."""
    graph = Graph()
    x = graph.add_input("x", TensorType(DType.F32, ("N", first.shape[1])))
    operands = [x, graph.add_constant(first.astype(np.float32)), graph.add_constant(bias.astype(np.float32))]
    hidden = graph.add_node(ops.Relu(), [graph.add_node(ops.Gemm(), operands, name="first").result]).result
    y = graph.add_node(ops.Gemm(), [hidden, graph.add_constant(second.astype(np.float32))], name="second").result
    graph.add_output(y, "y")
    return graph


def relative_error(graph: Graph, data: np.ndarray, test: np.ndarray) -> float:
    compiled, context = graph.clone(), PassContext()
    context.calibration = open_source(data.astype(np.float32), graph)
    PassManager(pipeline_for("int8", 2)).run(compiled, context)
    assert all(proof.is_proven for proof in prove(compiled))
    feeds = {"x": test.astype(np.float32)}
    exact, got = (reference.run(g, feeds)["y"].astype(np.float64) for g in (graph, compiled))
    return float(np.abs(got - exact).max() / max(np.abs(exact).max(), 1e-30))


DATA = RANDOM.normal(size=(200, 6))
FIRST, BIAS, SECOND = RANDOM.normal(size=(5, 6)), RANDOM.normal(size=5), RANDOM.normal(size=(3, 5))


def test_dead_channels():
    first, bias = FIRST.copy(), BIAS.copy()
    first[1] = 0
    bias[1] = 2.5
    first[3] = 0
    bias[3] = 0
    assert relative_error(two_layers(first, bias, SECOND), DATA, DATA) < 0.03


def test_weights_that_are_tiny_beside_their_bias():
    first, bias = FIRST.copy(), BIAS.copy()
    first[2] *= 1e-12
    bias[2] = 4.0
    assert relative_error(two_layers(first, bias, SECOND), DATA, DATA) < 0.03


@pytest.mark.parametrize("value", [0.0, 1.5, -3.0])
def test_constant_data(value):
    data = np.full((8, 6), value)
    assert relative_error(two_layers(FIRST, BIAS, SECOND), data, data) < 0.03


def test_a_layer_that_is_zero_on_all_data():
    graph = two_layers(FIRST, -np.full(5, 1e6), SECOND)
    assert relative_error(graph, DATA, DATA) == 0.0


def test_an_outlier_of_a_million_does_not_harm_with_percentile():
    graph = two_layers(FIRST, BIAS, SECOND)
    data = RANDOM.normal(size=(40_000, 6))
    data[77] = 1e6
    compiled, context = graph.clone(), PassContext(calibration_method="percentile")
    context.calibration = open_source(data.astype(np.float32), graph)
    PassManager(pipeline_for("int8", 2)).run(compiled, context)
    assert any("outliers" in warning for warning in context.warnings)
    feeds = {"x": DATA.astype(np.float32)}
    exact, got = (reference.run(g, feeds)["y"] for g in (graph, compiled))
    assert np.abs(got - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("scale", [1e-20, 1e-3, 1e4, 1e15])
def test_any_order_of_magnitude(scale):
    graph = two_layers(FIRST, BIAS * scale, SECOND)
    assert relative_error(graph, DATA * scale, DATA * scale) < 0.03


def test_a_sum_too_long_for_32_bits_is_repaired():
    wide = np.abs(RANDOM.normal(size=(2, 80_000))) + 2
    graph = two_layers(wide, np.zeros(2), SECOND[:, :2])
    data = np.abs(RANDOM.normal(size=(3, 80_000)))
    assert relative_error(graph, data, data) < 0.05
