"""Quantize and dequantize against onnxruntime, bit for bit, and against the scalar definition."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from qcompiler import numerics, reference
from qcompiler.ir import DType, Graph, QuantParams, Stage, TensorType
from qcompiler.ir.ops import Dequantize, IntDequantize, IntQuantize, Quantize

Array = npt.NDArray[np.generic]
ZERO_POINTS = {DType.U8: (0, 7, 255), DType.S8: (-128, 0, 5), DType.S16: (0,)}
PAIRS = [(dtype, zero_point) for dtype, zero_points in ZERO_POINTS.items() for zero_point in zero_points]


def onnxruntime(op_type: str, x: Array, scale: Array, zero_point: Array, axis: int | None) -> Array:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    node = helper.make_node(op_type, ["x", "scale", "zero_point"], ["y"], **attributes)
    x_type, y_type = x.dtype, zero_point.dtype if op_type == "QuantizeLinear" else np.dtype(np.float32)
    graph = helper.make_graph(
        [node],
        op_type,
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x_type), x.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(y_type), x.shape)],
        [onnx.numpy_helper.from_array(scale, "scale"), onnx.numpy_helper.from_array(zero_point, "zero_point")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: Array = session.run(None, {"x": x})[0]
    return result


def awkward_floats(scale: float) -> npt.NDArray[np.float32]:
    """Ties at every half step, their neighbours, the ends, infinities and random values: f32[4096]."""
    halves = (np.arange(-600, 600) / 2 * np.float32(scale)).astype(np.float32)
    special = np.array([np.inf, -np.inf, np.nan, -0.0, 3e38, -3e38, 1e-45], np.float32)
    near = [halves, np.nextafter(halves, np.float32(np.inf)), np.nextafter(halves, np.float32(-np.inf)), special]
    found = np.concatenate(near)
    rest = np.random.default_rng(0).normal(0, 100 * scale, 4096 - found.size)
    return np.concatenate([found, rest.astype(np.float32)])


def single(op: IntQuantize | IntDequantize, x: Array) -> Array:
    graph = Graph("single", Stage.INTEGER)
    operand = graph.add_input("x", TensorType(DType.from_numpy(x.dtype), x.shape))
    graph.add_output(graph.add_node(op, [operand]).result, "y")
    return reference.run(graph, {"x": x})["y"]


@pytest.mark.parametrize(("dtype", "zero_point"), PAIRS)
@pytest.mark.parametrize("scale", [0.1, 0.0078125, 1 / 3, 117.25])
def test_quantize_equals_onnxruntime(dtype: DType, zero_point: int, scale: float):
    x = awkward_floats(scale)
    got = single(IntQuantize(dtype, (scale,), (zero_point,)), x)
    expected = onnxruntime(
        "QuantizeLinear", x, np.array(scale, np.float32), np.array(zero_point, dtype.numpy), axis=None
    )
    # What NaN becomes differs between onnxruntime's machines; ours is the smallest value everywhere.
    number = ~np.isnan(x)
    np.testing.assert_array_equal(got[number], expected[number])
    assert (got[~number] == dtype.limits[0]).all()


@pytest.mark.parametrize(("dtype", "zero_point"), [*PAIRS, (DType.S32, 0)])
def test_dequantize_equals_onnxruntime(dtype: DType, zero_point: int):
    scale = 0.1
    x = np.random.default_rng(0).integers(*dtype.limits, 4096, dtype.numpy, endpoint=True)
    got = single(IntDequantize((scale,), (zero_point,)), x)
    expected = onnxruntime(
        "DequantizeLinear", x, np.array(scale, np.float32), np.array(zero_point, dtype.numpy), axis=None
    )
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_both_along_an_axis_equal_onnxruntime(axis: int):
    x = np.random.default_rng(1).normal(0, 3, (3, 3, 3)).astype(np.float32)
    scale, zero_point = np.array([0.1, 0.02, 0.05], np.float32), np.array([0, 100, 255], np.uint8)
    parameters = (tuple(scale.tolist()), tuple(zero_point.tolist()), axis)
    q = single(IntQuantize(DType.U8, *parameters), x)
    np.testing.assert_array_equal(q, onnxruntime("QuantizeLinear", x, scale, zero_point, axis))
    y = single(IntDequantize(*parameters), q)
    np.testing.assert_array_equal(y, onnxruntime("DequantizeLinear", q, scale, zero_point, axis))


@given(
    x=st.floats(width=32),
    scale=st.floats(2.0**-126, 2.0**127, width=32) | st.floats(1e-6, 10.0),
    pair=st.sampled_from(PAIRS),
)
def test_quantize_equals_the_scalar_definition(x: float, scale: float, pair: tuple[DType, int]):
    dtype, zero_point = pair
    got = single(IntQuantize(dtype, (scale,), (zero_point,)), np.array([x], np.float32))
    assert got.tolist() == [numerics.quantize(x, scale, zero_point, dtype)]


@given(q=st.integers(-(2**31), 2**31 - 1), scale=st.floats(2.0**-126, 1.0), zero_point=st.sampled_from([0, -3]))
def test_dequantize_equals_the_scalar_definition(q: int, scale: float, zero_point: int):
    got = single(IntDequantize((scale,), (zero_point,)), np.array([q], np.int32))
    assert got.tolist() == [numerics.dequantize(q, scale, zero_point)]


def test_the_borders_of_the_quantized_stage_are_those_of_the_integer_stage():
    quant = QuantParams.per_tensor(0.1, 7)
    graph = Graph("borders", Stage.QUANTIZED)
    x = graph.add_input("x", TensorType(DType.F32, (4096,)))
    q = graph.add_node(Quantize(), [x], result_types=[TensorType(DType.U8, (4096,), quant)]).result
    graph.add_output(q, "q")
    graph.add_output(graph.add_node(Dequantize(), [q]).result, "y")
    values = awkward_floats(0.1)
    got = reference.run(graph, {"x": values})
    expected = single(IntQuantize(DType.U8, (0.1,), (7,)), values)
    np.testing.assert_array_equal(got["q"], expected)
    np.testing.assert_array_equal(got["y"], single(IntDequantize((0.1,), (7,)), expected))
