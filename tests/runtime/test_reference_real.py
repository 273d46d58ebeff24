"""Real ops of the reference executor against onnxruntime's float32 and exact answers."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from qcompiler import reference
from qcompiler.errors import PluginError
from qcompiler.ir import DType, Graph, Op, TensorType
from qcompiler.ir import ops as o
from qcompiler.runtime.reference import real_function

Float = npt.NDArray[np.float32]
Array = npt.NDArray[Any]
INF = float("inf")


def normal(*shape: int, seed: int = 0) -> Float:
    return np.random.default_rng(seed).normal(0, 2, shape).astype(np.float32)


def evaluate(op: Op, *arrays: Float) -> list[Array]:
    """All results of `op` on these operands, in the float stage."""
    graph = Graph("single")
    operands = [graph.add_input(f"x{i}", TensorType(DType.F32, a.shape)) for i, a in enumerate(arrays)]
    for i, result in enumerate(graph.add_node(op, operands).results):
        graph.add_output(result, f"y{i}")
    return list(reference.run(graph, {f"x{i}": a for i, a in enumerate(arrays)}).values())


def onnxruntime(
    op_type: str, attributes: dict[str, Any], arrays: Sequence[Float], constants: Sequence[Any], results: int = 1
) -> list[Float]:
    """All results of one ONNX node; `constants` are its s64 or f32 operands after `arrays`."""
    names = [f"x{i}" for i in range(len(arrays))]
    fixed = [onnx.numpy_helper.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(constants)]
    outputs = [f"y{i}" for i in range(results)]
    node = helper.make_node(op_type, names + [c.name for c in fixed], outputs, **attributes)
    graph = helper.make_graph(
        [node],
        op_type,
        [helper.make_tensor_value_info(n, 1, a.shape) for n, a in zip(names, arrays, strict=True)],
        [helper.make_tensor_value_info(n, 1, None) for n in outputs],
        fixed,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(zip(names, arrays, strict=True))))


def check(op: Op, op_type: str, attributes: dict[str, Any], arrays: Sequence[Float], *constants: object) -> None:
    got = evaluate(op, *arrays)
    expected = onnxruntime(op_type, attributes, arrays, constants, len(got))
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.dtype == np.float32
        # onnxruntime sums tens of float32 products, some of which cancel.
        np.testing.assert_allclose(mine, theirs, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize(
    ("x", "w", "strides", "pads", "dilations", "group"),
    [
        ((2, 3, 7, 6), (4, 3, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        ((1, 4, 9, 8), (6, 2, 3, 2), (2, 1), (0, 1, 2, 0), (1, 2), 2),
        ((2, 3, 5, 5), (3, 1, 3, 3), (2, 2), (1, 0, 0, 1), (1, 1), 3),
        ((1, 2, 4, 4), (3, 2, 1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1),
        ((2, 4, 11), (2, 2, 3), (2,), (1, 2), (2,), 2),
        ((1, 2, 4, 5, 6), (3, 2, 2, 3, 2), (1, 2, 1), (1, 0, 0, 0, 1, 1), (1, 1, 2), 1),
    ],
)
def test_conv(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, group: int):
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "group": group}
    arrays = [normal(*x), normal(*w, seed=1), normal(w[0], seed=2)]
    check(o.Conv(strides, pads, dilations, group), "Conv", attributes, arrays)
    check(o.Conv(strides, pads, dilations, group), "Conv", attributes, arrays[:2])
    (got,) = evaluate(o.Conv(strides, pads, dilations, group, clamp=(-0.5, 1.0)), *arrays)
    (plain,) = evaluate(o.Conv(strides, pads, dilations, group), *arrays)
    np.testing.assert_array_equal(got, np.clip(plain, -0.5, 1))


def test_conv_gathers_rows_in_blocks(monkeypatch: pytest.MonkeyPatch):
    arrays = [normal(2, 3, 9, 8), normal(4, 3, 3, 3, seed=1)]
    op = o.Conv((2, 1), (1, 1, 1, 1), (1, 1))
    (whole,) = evaluate(op, *arrays)
    monkeypatch.setattr("qcompiler.runtime.reference.linear.COLUMN_BYTES", 1)
    (by_row,) = evaluate(op, *arrays)
    np.testing.assert_allclose(by_row, whole, rtol=1e-6)


def test_gemm():
    arrays = [normal(3, 5), normal(4, 5, seed=1), normal(4, seed=2)]
    check(o.Gemm(), "Gemm", {"transB": 1}, arrays)
    (vector,) = evaluate(o.Gemm(clamp=(0.0, INF)), arrays[0][0], *arrays[1:])
    (matrix,) = evaluate(o.Gemm(), *arrays)
    np.testing.assert_array_equal(vector, np.maximum(matrix[0], 0))


@pytest.mark.parametrize(
    ("a", "b"), [((3, 4), (4, 2)), ((2, 3, 4), (4, 2)), ((2, 1, 3, 4), (5, 4, 2)), ((3, 4), (2, 4, 1))]
)
def test_matmul(a: Any, b: Any):
    check(o.MatMul(), "MatMul", {}, [normal(*a), normal(*b, seed=1)])


@pytest.mark.parametrize(
    "op", [o.Conv((1, 1), (1, 1, 1, 1), (1, 1)), o.MatMul(), o.Softmax(), o.ReduceMean((2, 3)), o.Sigmoid()]
)
def test_no_result_depends_on_the_batch(op: Op):
    x = normal(7, 8, 16, 16)
    others = {"conv": [normal(9, 8, 3, 3, seed=1)], "matmul": [normal(16, 33, seed=1)]}.get(op.name, [])
    (together,) = evaluate(op, x, *others)
    alone = [evaluate(op, x[i : i + 1], *others)[0] for i in range(7)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


@pytest.mark.parametrize(
    ("kernel", "strides", "pads", "dilations", "ceil"),
    [
        ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1), False),
        ((3, 2), (2, 1), (1, 0, 1, 1), (1, 1), False),
        ((3, 3), (2, 2), (0, 1, 1, 0), (1, 1), True),
        ((2, 2), (3, 3), (0, 0, 0, 0), (1, 1), True),
        ((2, 3), (1, 2), (1, 1, 0, 1), (2, 1), False),
    ],
)
def test_pooling(kernel: Any, strides: Any, pads: Any, dilations: Any, *, ceil: bool):
    x = normal(2, 3, 8, 7)
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations, "ceil_mode": ceil}
    check(o.MaxPool(kernel, strides, pads, dilations, ceil), "MaxPool", attributes, [x])
    for include_pad in (False, True):
        op = o.AveragePool(kernel, strides, pads, dilations, ceil, include_pad)
        check(op, "AveragePool", {**attributes, "count_include_pad": include_pad}, [x])


def test_max_pool_in_one_dimension():
    attributes = {"kernel_shape": (3,), "strides": (2,), "pads": (1, 1), "dilations": (1,)}
    check(o.MaxPool((3,), (2,), (1, 1), (1,)), "MaxPool", attributes, [normal(2, 3, 9)])


@pytest.mark.parametrize("keepdims", [True, False])
@pytest.mark.parametrize("axes", [(2, 3), (1,), (0, 3)])
def test_reduce_mean(axes: tuple[int, ...], *, keepdims: bool):
    op = o.ReduceMean(axes, keepdims)
    check(op, "ReduceMean", {"keepdims": keepdims}, [normal(2, 3, 4, 5)], np.array(axes, np.int64))


X = normal(2, 3, 4)
POSITIVE = np.abs(X) + np.float32(0.01)


@pytest.mark.parametrize(
    ("op", "op_type", "attributes", "x"),
    [
        (o.Relu(), "Relu", {}, X),
        (o.LeakyRelu(0.3), "LeakyRelu", {"alpha": 0.3}, X),
        (o.Sigmoid(), "Sigmoid", {}, X * 20),
        (o.HardSigmoid(0.3, 0.4), "HardSigmoid", {"alpha": 0.3, "beta": 0.4}, X),
        (o.HardSwish(), "HardSwish", {}, X * 2),
        (o.Tanh(), "Tanh", {}, X),
        (o.Erf(), "Erf", {}, X),
        (o.Exp(), "Exp", {}, X),
        (o.Log(), "Log", {}, POSITIVE),
        (o.Sqrt(), "Sqrt", {}, POSITIVE),
        (o.Abs(), "Abs", {}, X),
        (o.Neg(), "Neg", {}, X),
        (o.Reciprocal(), "Reciprocal", {}, POSITIVE),
        (o.Softmax(1), "Softmax", {"axis": 1}, X * 10),
        (o.Softmax(-1), "Softmax", {"axis": -1}, X),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_functions_of_one_operand(op: Op, op_type: str, attributes: dict[str, Any], x: Float):
    check(op, op_type, attributes, [x])


def test_functions_with_constants():
    check(o.Clip(-1.0, INF), "Clip", {}, [X], np.float32(-1))
    check(o.Clip(-1.0, 0.5), "Clip", {}, [X], np.float32(-1), np.float32(0.5))
    check(o.Power(1.7), "Pow", {}, [POSITIVE], np.float32(1.7))
    np.testing.assert_allclose(evaluate(o.Silu(), X)[0], X * evaluate(o.Sigmoid(), X)[0], rtol=1e-6)


@pytest.mark.parametrize(("op", "op_type"), [(o.Add(), "Add"), (o.Sub(), "Sub"), (o.Mul(), "Mul"), (o.Div(), "Div")])
def test_binary_ops_are_those_of_float32_exactly(op: Op, op_type: str):
    a, b = normal(2, 1, 4), normal(3, 1, seed=1)
    np.testing.assert_array_equal(evaluate(op, a, b)[0], onnxruntime(op_type, {}, [a, b], [])[0])


@pytest.mark.parametrize("op", [o.Add(clamp=(-1.0, 0.5)), o.Sub(clamp=(-1.0, 0.5)), o.Mul(clamp=(-1.0, 0.5))])
def test_binary_ops_clamp(op: o.Add | o.Sub | o.Mul):
    (plain,) = evaluate(type(op)(), X, X)
    np.testing.assert_array_equal(evaluate(op, X, X)[0], np.clip(plain, -1, 0.5))


def test_prelu_and_batch_normalization():
    check(o.PRelu(), "PRelu", {}, [normal(2, 3, 4, 4), normal(3, 1, 1, seed=1)])
    arrays = [normal(2, 3, 4, 4), *(normal(3, seed=s) for s in (1, 2, 3)), np.abs(normal(3, seed=4))]
    check(o.BatchNormalization(1e-3), "BatchNormalization", {"epsilon": 1e-3}, arrays)


def test_movement():
    x = normal(2, 8, 3, 5)
    s64 = np.int64
    check(o.Transpose((0, 2, 3, 1)), "Transpose", {"perm": (0, 2, 3, 1)}, [x])
    check(o.Reshape((2, 24, 5)), "Reshape", {}, [x], np.array([2, 24, 5], s64))
    check(o.Concat(1), "Concat", {"axis": 1}, [x, x[:, :2]])
    check(o.Split(1, (3, 0, 5)), "Split", {"axis": 1}, [x], np.array([3, 0, 5], s64))
    check(
        o.Slice((1, 3), (7, 1), (3, 2), (-2, 2)), "Slice", {}, [x],
        *(np.array(v, s64) for v in ([7, 1], [1, 5], [1, 3], [-2, 2])),
    )  # fmt: skip
    pads = (0, 1, 0, 2, 1, 0, 0, 3)
    check(o.Pad(pads, -1.5), "Pad", {}, [x], np.array(pads, s64), np.float32(-1.5))
    check(o.Identity(), "Identity", {}, [x])
    for mode in ("DCR", "CRD"):
        check(o.DepthToSpace((2, 2), mode), "DepthToSpace", {"blocksize": 2, "mode": mode}, [x])


def test_layouts_of_the_integer_stage_agree_with_nchw():
    x = normal(2, 8, 4, 6)
    nhwc = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    for op, twin in (
        (o.DepthToSpace((2, 2), "DCR"), o.DepthToSpace((2, 2), "DCR", "nhwc")),
        (o.DepthToSpace((2, 2), "CRD"), o.DepthToSpace((2, 2), "CRD", "nhwc")),
        (
            o.MaxPool((3, 2), (2, 2), (1, 0, 1, 1), (1, 1), ceil_mode=True),
            o.MaxPool((3, 2), (2, 2), (1, 0, 1, 1), (1, 1), ceil_mode=True, layout="nhwc"),
        ),
    ):
        np.testing.assert_array_equal(evaluate(twin, nhwc)[0], evaluate(op, x)[0].transpose(0, 2, 3, 1))


def test_real_function_is_one_number_in_one_number_out():
    assert real_function(o.Tanh())(0.5) == math.tanh(0.5)
    assert real_function(o.LeakyRelu(0.25))(-2.0) == -0.5
    assert real_function(o.Log())(0.0) == -INF
    assert math.isnan(real_function(o.Sqrt())(-1.0))
    assert real_function(o.Erf())(0.3) == math.erf(0.3)


@pytest.mark.parametrize("op", [o.Add(), o.Softmax(), o.Identity()])
def test_real_function_of_another_op_is_refused(op: Op):
    with pytest.raises(PluginError, match="not a real function of one operand"):
        real_function(op)


def test_infinities_and_nan_pass_through():
    x = np.array([INF, -INF, np.nan, 3e38], np.float32)
    (total,) = evaluate(o.Add(), x, np.array([-INF, -INF, 1, 3e38], np.float32))
    np.testing.assert_array_equal(total, np.array([np.nan, -INF, np.nan, INF], np.float32))
    (quotient,) = evaluate(o.Div(), x, np.zeros(4, np.float32))
    np.testing.assert_array_equal(quotient, np.array([INF, -INF, np.nan, INF], np.float32))
    assert np.isnan(evaluate(o.Softmax(), x)[0]).all()
