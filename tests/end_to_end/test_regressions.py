"""Models that broke the compiler once, each reduced to what mattered."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler.calibration.methods import choose_range
from qcompiler.calibration.statistics import Statistics
from qcompiler.errors import CalibrationDataError

RNG = np.random.default_rng(11)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    outputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any] | None = None,
    *,
    batch: int | str = "N",
) -> onnx.ModelProto:
    """A model of one input `x`: f32[batch, 4]."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int) -> np.ndarray:
    return RNG.uniform(-1, 1, (count, 4)).astype(np.float32)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_dead_branch_disappears_at_every_level(level):
    nodes = [helper.make_node("Neg", ["x"], ["dead"]), helper.make_node("Abs", ["x"], ["y"])]
    model = qcompiler.compile(make_model(nodes, {"y": ["N", 4]}), calibration=samples(8), opt_level=level)
    assert model.summary["integer_only"]
    assert [node.op.name for node in model.graph.nodes()] == ["int.quantize", "int.lut", "int.dequantize"]


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_model_may_only_pass_its_input_on(level):
    model = make_model([helper.make_node("Identity", ["x"], ["y"])], {"y": ["N", 4]})
    data = samples(8)
    compiled = qcompiler.compile(model, calibration=data, opt_level=level)
    np.testing.assert_allclose(compiled.session().run({"x": data})["y"], data, atol=0.5 * 2 / 255)


def test_a_fixed_batch_is_compared_whole():
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"])]
    model = make_model(nodes, {"y": [2, 3]}, {"w": RNG.normal(size=(4, 3))}, batch=2)
    data, labels = samples(8), RNG.integers(0, 3, 8)
    compiled = qcompiler.compile(model, calibration=data, validation=[{"x": data, "labels": labels}])
    assert compiled.summary["sqnr_db"]["y"] > 35
    assert compiled.summary["agreement"] == 1
    assert compiled.summary["top1_int"] == compiled.summary["top1_float"]


def test_entropy_takes_values_that_many_elements_have_exactly():
    """Their bins have no width, at least for numbers below the normal ones."""
    statistics = Statistics()
    statistics.add(np.array([1e-45] * 9 + [40.0, 35.0, 3.0], np.float32))
    low, high = choose_range(statistics, "entropy")
    assert low == 0
    assert 0 < high <= 40


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_divisors_of_very_different_sizes_divide_at_every_level(level):
    """In 16 bits beside 1000, 0.001 is 0."""
    constants = {"c": [1, 1e-3, 1e3, -2]}
    model = make_model([helper.make_node("Div", ["x", "c"], ["y"])], {"y": ["N", 4]}, constants)
    compiled = qcompiler.compile(model, calibration=samples(16), opt_level=level)
    assert compiled.summary["sqnr_db"]["y"] > 40


@pytest.mark.parametrize("level", [2, 3])
def test_a_clamp_of_the_input_is_not_lost(level):
    nodes = [helper.make_node("Clip", ["x", "low", "high"], ["y"])]
    model = make_model(nodes, {"y": ["N", 4]}, {"low": np.float32(-0.1), "high": np.float32(0.9)})
    compiled = qcompiler.compile(model, calibration=samples(16), opt_level=level)
    assert compiled.summary["sqnr_db"]["y"] > 40


def test_a_part_that_is_concatenated_with_large_numbers_does_not_coarsen_the_other_part():
    nodes = [
        helper.make_node("Split", ["x"], ["a", "b"], axis=1),
        helper.make_node("Abs", ["a"], ["y"]),
        helper.make_node("Exp", ["x"], ["e"]),
        helper.make_node("Mul", ["e", "hundred"], ["large"]),
        helper.make_node("Concat", ["b", "large"], ["z"], axis=1),
    ]
    model = make_model(nodes, {"y": ["N", 2], "z": ["N", 6]}, {"hundred": np.float32(100)})
    compiled = qcompiler.compile(model, calibration=samples(16))
    assert compiled.summary["sqnr_db"]["y"] > 40


def test_a_number_is_the_bias_of_a_single_output():
    nodes = [helper.make_node("Gemm", ["x", "w"], ["p"]), helper.make_node("Add", ["p", "c"], ["y"])]
    model = make_model(nodes, {"y": ["N", 1]}, {"w": RNG.normal(size=(4, 1)), "c": np.float32(0.5)})
    compiled = qcompiler.compile(model, calibration=samples(16))
    assert [node.op.name for node in compiled.graph.nodes()] == ["int.quantize", "int.gemm", "int.dequantize"]
    assert compiled.summary["sqnr_db"]["y"] > 35


def test_a_compilation_that_fails_leaves_no_thread_behind() -> None:
    model = make_model([helper.make_node("Exp", ["x"], ["y"])], {"y": ["N", 4]})
    data = samples(3)
    data[1] = 1000
    with pytest.raises(CalibrationDataError) as caught:  # which keeps the frames of `compile` alive
        qcompiler.compile(model, calibration=data)
    for thread in threading.enumerate():
        if thread.name.startswith("qcompiler-background"):
            thread.join(timeout=20)
            assert not thread.is_alive()
    assert "sample 1 of the calibration data" in str(caught.value)
