"""Each op in each of its forms: the imported graph computes what onnxruntime computes."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qcompiler.ir import Graph, ops

RNG = np.random.default_rng(3)


def f32(*shape):
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def i64(*values):
    return np.array(values, dtype=np.int64)


def op_names(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes()]


CONV = [
    ((2, 3, 8, 9), (4, 3, 3, 3), {}),
    ((2, 3, 8, 9), (4, 3, 3, 2), {"pads": [0, 1, 2, 0], "strides": [2, 1]}),
    ((1, 4, 9, 9), (8, 2, 3, 3), {"group": 2, "dilations": [2, 3], "pads": [2, 2, 2, 2]}),
    ((1, 4, 9, 9), (4, 1, 3, 3), {"group": 4, "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 4, 8, 9), (4, 1, 4, 2), {"group": 4, "auto_pad": "SAME_LOWER", "strides": [3, 1]}),
    ((1, 2, 7, 7), (3, 2, 3, 3), {"auto_pad": "VALID"}),
    ((2, 3, 11), (5, 3, 3), {"pads": [1, 2], "strides": [2], "kernel_shape": [3]}),
    ((2, 3, 11), (6, 1, 3), {"group": 3, "auto_pad": "SAME_UPPER"}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONV)
@pytest.mark.parametrize("bias", [False, True])
def test_conv(model, compare, x, w, attributes, bias):
    names = ["x", "w", "b"] if bias else ["x", "w"]
    constants = {"w": f32(*w)} | ({"b": f32(w[0])} if bias else {})
    graph = compare(model([helper.make_node("Conv", names, ["y"], **attributes)], {"x": x}, constants))
    assert op_names(graph) == ["conv"]


CONV_TRANSPOSE = [
    ((2, 3, 4, 5), (3, 4, 2, 2), {"strides": [2, 2]}),
    ((2, 3, 4, 5), (3, 4, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 3, 4, 5), (3, 4, 3, 3), {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}),
    ((2, 3, 4, 5), (3, 4, 3, 2), {"kernel_shape": [3, 2]}),
    ((1, 4, 4, 5), (4, 3, 3, 4), {"group": 2, "strides": [3, 2], "dilations": [2, 3], "pads": [1, 0, 2, 4]}),
    ((1, 4, 4, 5), (4, 1, 4, 3), {"group": 4, "strides": [2, 4], "output_padding": [1, 3]}),
    ((1, 2, 5, 4), (2, 3, 4, 5), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 2, 5, 4), (2, 3, 4, 5), {"auto_pad": "SAME_LOWER", "strides": [3, 2], "output_padding": [1, 0]}),
    ((1, 2, 5, 4), (2, 3, 2, 1), {"auto_pad": "SAME_UPPER", "strides": [4, 3]}),
    ((1, 2, 5, 4), (2, 3, 3, 3), {"auto_pad": "VALID", "strides": [2, 1]}),
    ((1, 2, 5, 4), (2, 3, 3, 3), {"output_shape": [10, 8], "strides": [2, 2]}),
    ((1, 2, 5, 4), (2, 3, 3, 3), {"output_shape": [8, 6], "strides": [2, 2], "auto_pad": "SAME_UPPER"}),
    ((1, 2, 5, 4), (2, 3, 3, 3), {"output_shape": [8, 12], "strides": [2, 3], "output_padding": [0, 1]}),
    ((2, 3, 7), (3, 5, 3), {"strides": [2], "pads": [1, 0]}),
    ((2, 4, 7), (4, 1, 5), {"group": 4, "strides": [3], "auto_pad": "SAME_LOWER"}),
    ((2, 3, 7), (3, 2, 3), {"strides": [2], "output_shape": [13], "dilations": [2]}),
]


@pytest.mark.parametrize(("x", "w", "attributes"), CONV_TRANSPOSE)
@pytest.mark.parametrize("bias", [False, True])
def test_conv_transpose(model, compare, x, w, attributes, bias):
    names = ["x", "w", "b"] if bias else ["x", "w"]
    constants = {"w": f32(*w)} | ({"b": f32(w[1] * attributes.get("group", 1))} if bias else {})
    made = model([helper.make_node("ConvTranspose", names, ["y"], **attributes)], {"x": x}, constants)
    # onnx's shape inference adds output_padding to SAME as well; onnxruntime and the reference implementation do not.
    graph = compare(without_output_sizes(made))
    assert op_names(graph) == ["conv_transpose"]


@pytest.mark.parametrize(
    ("b", "c", "attributes"),
    [
        ((5, 3), (3,), {}),
        ((3, 5), (3,), {"transB": 1}),
        ((3, 5), (1, 3), {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ((5, 3), (1,), {"beta": 0.25}),
        ((5, 3), (), {}),
        ((5, 3), None, {"alpha": -1.5}),
        ((5, 3), (4, 3), {"beta": 3.0}),
        ((5, 3), (4, 1), {}),
    ],
)
def test_gemm_with_constant_weight(model, compare, b, c, attributes):
    names = ["x", "w"] if c is None else ["x", "w", "c"]
    constants = {"w": f32(*b)} | ({} if c is None else {"c": f32(*c)})
    graph = compare(model([helper.make_node("Gemm", names, ["y"], **attributes)], {"x": (4, 5)}, constants))
    assert op_names(graph)[0] == "gemm"
    assert ("add" in op_names(graph)) == (c is not None and len(c) == 2 and c[0] == 4)


@pytest.mark.parametrize("attributes", [{}, {"transA": 1}, {"transB": 1, "alpha": 2.0, "beta": 0.5}])
def test_gemm_of_two_activations(model, compare, attributes):
    a = (5, 4) if attributes.get("transA") else (4, 5)
    b = (3, 5) if attributes.get("transB") else (5, 3)
    node = helper.make_node("Gemm", ["a", "b", "c"], ["y"], **attributes)
    graph = compare(model([node], {"a": a, "b": b}, {"c": f32(3)}))
    assert "matmul" in op_names(graph)


@pytest.mark.parametrize(
    ("a", "b"), [((4, 5), (5, 3)), ((2, 4, 5), (5, 3)), ((2, 1, 4, 5), (3, 5, 2)), ((5,), (5, 3)), ((4, 5), (5,))]
)
def test_matmul(model, compare, a, b):
    compare(model([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": a}, {"b": f32(*b)}))


def test_matmul_of_two_vectors_is_a_scalar(model, compare):
    compare(model([helper.make_node("MatMul", ["a", "b"], ["y"])], {"a": (5,)}, {"b": f32(5)}))


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(model, compare, opset):
    constants = {"s": f32(3), "b": f32(3), "m": f32(3), "v": f32(3) + 1.5}
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3)
    compare(model([node], {"x": (2, 3, 4, 5)}, constants, opset=opset))


UNARY = ["Relu", "Sigmoid", "Tanh", "Erf", "Exp", "Abs", "Neg", "LeakyRelu", "HardSigmoid", "HardSwish"]


@pytest.mark.parametrize("op_type", UNARY)
def test_unary(model, compare, op_type):
    compare(model([helper.make_node(op_type, ["x"], ["y"])], {"x": (2, 3, 4)}))


@pytest.mark.parametrize(("op_type", "attributes"), [("LeakyRelu", {"alpha": 0.3}), ("HardSigmoid", {"alpha": 0.4})])
def test_unary_with_attribute(model, compare, op_type, attributes):
    compare(model([helper.make_node(op_type, ["x"], ["y"], **attributes)], {"x": (2, 3, 4)}))


@pytest.mark.parametrize("op_type", ["Log", "Sqrt", "Reciprocal"])
def test_unary_of_positive_numbers(model, compare, op_type):
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node(op_type, ["e"], ["y"])]
    compare(model(nodes, {"x": (2, 3)}))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(model, compare, approximate):
    compare(model([helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)], {"x": (2, 30)}, opset=20))


@pytest.mark.parametrize("exponent", [2.0, 3.0])
def test_pow_with_constant_exponent(model, compare, exponent):
    node = helper.make_node("Pow", ["x", "p"], ["y"])
    graph = compare(model([node], {"x": (2, 3)}, {"p": np.array(exponent, np.float32)}))
    assert [n.op for n in graph.nodes()] == [ops.Power(exponent)]


@pytest.mark.parametrize("slope", [(1,), (3, 1, 1), (3, 4, 5)])
def test_prelu(model, compare, slope):
    compare(model([helper.make_node("PRelu", ["x", "s"], ["y"])], {"x": (2, 3, 4, 5)}, {"s": f32(*slope)}))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("shapes", [((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)), ((4,), (2, 1, 4))])
def test_binary_of_activations(model, compare, op_type, shapes):
    nodes = [helper.make_node("Exp", ["b"], ["e"]), helper.make_node(op_type, ["a", "e"], ["y"])]
    compare(model(nodes, {"a": shapes[0], "b": shapes[1]}))


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_binary_with_constant_on_the_left(model, compare, op_type):
    nodes = [helper.make_node("Exp", ["x"], ["e"]), helper.make_node(op_type, ["c", "e"], ["y"])]
    compare(model(nodes, {"x": ("N", 3)}, {"c": f32(3)}))


def test_sum(model, compare):
    compare(model([helper.make_node("Sum", ["a", "b", "a"], ["y"])], {"a": (2, 3), "b": (3,)}))


@pytest.mark.parametrize("op_type", ["Min", "Max"])
def test_extremum_with_a_number_is_a_clip(model, compare, op_type):
    node = helper.make_node(op_type, ["c", "x"], ["y"])
    graph = compare(model([node], {"x": (2, 3)}, {"c": np.array(0.25, np.float32)}))
    assert op_names(graph) == ["clip"]


@pytest.mark.parametrize(("low", "high"), [(-0.5, 1.0), (None, 1.0), (-0.5, None), (None, None), (1.0, -0.5)])
def test_clip_with_operands(model, compare, low, high):
    names = ["x", "" if low is None else "low", "" if high is None else "high"]
    constants = {n: np.array(v, np.float32) for n, v in (("low", low), ("high", high)) if v is not None}
    compare(model([helper.make_node("Clip", names, ["y"])], {"x": (2, 30)}, constants))


@pytest.mark.parametrize("attributes", [{"min": -0.5, "max": 1.0}, {"max": 1.0}, {}])
def test_clip_with_attributes(model, compare, attributes):
    compare(model([helper.make_node("Clip", ["x"], ["y"], **attributes)], {"x": (2, 30)}, opset=9))


@pytest.mark.parametrize("axis", [None, 0, 1, 2, 3, -1])
@pytest.mark.parametrize("opset", [11, 13])
def test_softmax(model, compare, axis, opset):
    attributes = {} if axis is None else {"axis": axis}
    node = helper.make_node("Softmax", ["x"], ["y"], **attributes)
    compare(model([node], {"x": (2, 3, 4, 5)}, opset=opset))


def test_old_softmax_normalizes_all_later_axes_of_a_dynamic_batch(model, compare):
    graph = compare(model([helper.make_node("Softmax", ["x"], ["y"])], {"x": ("N", 3, 4)}, opset=12))
    assert op_names(graph) == ["reshape", "softmax", "reshape"]
    assert graph.outputs[0].type.shape == ("N", 3, 4)


def without_output_sizes(model):
    """onnx's shape inference keeps a last window that starts in the padding; onnxruntime, PyTorch and we drop it."""
    for dim in model.graph.output[0].type.tensor_type.shape.dim:
        dim.dim_param = "any"
    return model


POOL = [
    {"kernel_shape": [3, 2]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 1, 1]},
    {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
    {"kernel_shape": [2, 3], "strides": [3, 2], "pads": [1, 1, 0, 1], "ceil_mode": 1},
    {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"kernel_shape": [2, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "auto_pad": "VALID"},
]


@pytest.mark.parametrize("attributes", POOL)
def test_max_pool(model, compare, attributes):
    node = helper.make_node("MaxPool", ["x"], ["y"], **attributes)
    compare(without_output_sizes(model([node], {"x": (2, 3, 8, 9)})))


def test_max_pool_with_dilations(model, compare):
    node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[2, 3], dilations=[2, 3])
    compare(model([node], {"x": (2, 3, 8, 9)}))


@pytest.mark.parametrize("attributes", POOL)
@pytest.mark.parametrize("count_include_pad", [0, 1])
def test_average_pool(model, compare, attributes, count_include_pad):
    node = helper.make_node("AveragePool", ["x"], ["y"], count_include_pad=count_include_pad, **attributes)
    compare(without_output_sizes(model([node], {"x": (2, 3, 8, 9)}, opset=19)))


def test_one_dimensional_pooling(model, compare):
    nodes = [
        helper.make_node("MaxPool", ["x"], ["m"], kernel_shape=[3], strides=[2], pads=[1, 1]),
        helper.make_node("AveragePool", ["m"], ["y"], kernel_shape=[2]),
    ]
    compare(model(nodes, {"x": (2, 3, 9)}))


@pytest.mark.parametrize("op_type", ["GlobalAveragePool", "GlobalMaxPool"])
@pytest.mark.parametrize("spatial", [(5, 6), (7,)])
def test_global_pooling(model, compare, op_type, spatial):
    compare(model([helper.make_node(op_type, ["x"], ["y"])], {"x": ("N", 3, *spatial)}))


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [[1], [-1, 1], None])
def test_reduce_mean_with_attribute(model, compare, keepdims, axes):
    attributes = {} if axes is None else {"axes": axes}
    node = helper.make_node("ReduceMean", ["x"], ["y"], keepdims=keepdims, **attributes)
    compare(model([node], {"x": (2, 3, 4)}, opset=13))


@pytest.mark.parametrize(("axes", "noop"), [([2, 1], 0), ([], 0), ([], 1), (None, 0)])
def test_reduce_mean_with_operand(model, compare, axes, noop):
    names, constants = (["x"], {}) if axes is None else (["x", "axes"], {"axes": i64(*axes)})
    node = helper.make_node("ReduceMean", names, ["y"], noop_with_empty_axes=noop)
    compare(model([node], {"x": (2, 3, 4)}, constants, opset=18))


@pytest.mark.parametrize("axis", [1, -2])
def test_concat(model, compare, axis):
    node = helper.make_node("Concat", ["a", "c", "b"], ["y"], axis=axis)
    compare(model([node], {"a": (2, 3, 4), "b": (2, 1, 4)}, {"c": f32(2, 2, 4)}))


@pytest.mark.parametrize(
    ("opset", "attributes", "sizes", "outputs"),
    [
        (11, {"split": [1, 4], "axis": 1}, None, 2),
        (11, {"axis": -1}, None, 2),
        (13, {"axis": 1}, [2, 3], 2),
        (13, {"axis": 2}, None, 3),
        (18, {"axis": 1, "num_outputs": 2}, None, 2),
        (18, {"axis": 1, "num_outputs": 3}, None, 3),
    ],
)
def test_split(model, compare, opset, attributes, sizes, outputs):
    names, constants = (["x"], {}) if sizes is None else (["x", "sizes"], {"sizes": i64(*sizes)})
    results = [f"y{i}" for i in range(outputs)]
    node = helper.make_node("Split", names, results, **attributes)
    compare(model([node], {"x": (2, 5, 6)}, constants, opset=opset, outputs=results))


INT_MAX, LONG_MAX, LONG_MIN = 2**31 - 1, 2**63 - 1, -(2**63)


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [4], [1], None),
        ([1, 0], [INT_MAX, LONG_MAX], [1, 2], [2, 3]),
        ([-1], [LONG_MIN], [1], [-1]),
        ([LONG_MAX, 3], [-100, 0], [-1, 1], [-2, -1]),
        ([0, 1, 2], [2, 3, 4], None, None),
        ([-3], [-1], [2], [1]),
        ([0], [LONG_MAX], [0], [1]),
    ],
)
def test_slice_with_operands(model, compare, starts, ends, axes, steps):
    names = ["x", "starts", "ends", "" if axes is None else "axes", "" if steps is None else "steps"]
    given = {"starts": starts, "ends": ends, "axes": axes, "steps": steps}
    constants = {name: i64(*values) for name, values in given.items() if values is not None}
    compare(model([helper.make_node("Slice", names, ["y"])], {"x": (2, 5, 6)}, constants))


@pytest.mark.parametrize("attributes", [{"starts": [1], "ends": [-1], "axes": [2]}, {"starts": [0, 1], "ends": [2, 9]}])
def test_slice_with_attributes(model, compare, attributes):
    compare(model([helper.make_node("Slice", ["x"], ["y"], **attributes)], {"x": (2, 5, 6)}, opset=9))


def test_slice_that_keeps_a_dynamic_axis(model, compare):
    constants = {"starts": i64(0, 1), "ends": i64(LONG_MAX, 3), "axes": i64(0, 1)}
    graph = compare(
        model([helper.make_node("Slice", ["x", "starts", "ends", "axes"], ["y"])], {"x": ("N", 5)}, constants)
    )
    assert graph.outputs[0].type.shape == ("N", 2)


@pytest.mark.parametrize("pads", [[0, 1, 0, 2], [1, 0, 3, 0], [-1, 2, 0, -2]])
def test_pad_with_attribute(model, compare, pads):
    compare(model([helper.make_node("Pad", ["x"], ["y"], pads=pads, value=0.5)], {"x": (4, 5)}, opset=10))


@pytest.mark.parametrize(("pads", "value", "axes"), [([0, 1, 0, 2], None, None), ([1, 2], 0.5, [-1])])
def test_pad_with_operands(model, compare, pads, value, axes):
    names = ["x", "pads", "" if value is None else "value", "" if axes is None else "axes"]
    constants = {"pads": i64(*pads)}
    if value is not None:
        constants["value"] = np.array(value, np.float32)
    if axes is not None:
        constants["axes"] = i64(*axes)
    compare(model([helper.make_node("Pad", names, ["y"])], {"x": (4, 5)}, constants, opset=18))


@pytest.mark.parametrize(
    ("shape", "target", "attributes"),
    [((2, 3, 4), [6, 4], {}), ((2, 3, 4), [0, -1], {}), ((2, 3, 4), [-1], {}), (("N", 3, 4), [-1, 12], {})],
)
def test_reshape(model, compare, shape, target, attributes):
    node = helper.make_node("Reshape", ["x", "shape"], ["y"], **attributes)
    compare(model([node], {"x": shape}, {"shape": i64(*target)}))


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_flatten(model, compare, axis):
    compare(model([helper.make_node("Flatten", ["x"], ["y"], axis=axis)], {"x": ("N", 3, 4)}))


@pytest.mark.parametrize("perm", [[0, 2, 1], [2, 0, 1], None])
def test_transpose(model, compare, perm):
    attributes = {} if perm is None else {"perm": perm}
    compare(model([helper.make_node("Transpose", ["x"], ["y"], **attributes)], {"x": (2, 3, 4)}))


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axes", [[1], [1, -1], None])
def test_squeeze(model, compare, opset, axes):
    attributes = {"axes": axes} if opset < 13 and axes is not None else {}
    names = ["x", "axes"] if opset >= 13 and axes is not None else ["x"]
    constants = {"axes": i64(*axes)} if len(names) == 2 else {}
    compare(
        model([helper.make_node("Squeeze", names, ["y"], **attributes)], {"x": (2, 1, 3, 1)}, constants, opset=opset)
    )


@pytest.mark.parametrize("opset", [11, 13])
@pytest.mark.parametrize("axes", [[0], [1, 3], [-1, 0]])
def test_unsqueeze(model, compare, opset, axes):
    attributes = {"axes": axes} if opset < 13 else {}
    names, constants = (["x"], {}) if opset < 13 else (["x", "axes"], {"axes": i64(*axes)})
    compare(model([helper.make_node("Unsqueeze", names, ["y"], **attributes)], {"x": ("N", 3)}, constants, opset=opset))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(model, compare, mode):
    node = helper.make_node("DepthToSpace", ["x"], ["y"], blocksize=2, mode=mode)
    compare(model([node], {"x": (2, 12, 3, 2)}))


@pytest.mark.parametrize("indices", [np.array(2), i64(0, 1, 2), i64(3, 1), np.array(-1), i64(1)])
def test_gather_of_evenly_spaced_indices(model, compare, indices):
    node = helper.make_node("Gather", ["x", "i"], ["y"], axis=1)
    compare(model([node], {"x": ("N", 4, 3)}, {"i": indices}))


def test_identity_dropout_and_float_casts_vanish(model, compare):
    nodes = [
        helper.make_node("Identity", ["x"], ["a"]),
        helper.make_node("Dropout", ["a"], ["b"]),
        helper.make_node("Cast", ["b"], ["c"], to=TensorProto.FLOAT),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    assert op_names(compare(model(nodes, {"x": (2, 3)}))) == ["relu"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"value": helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, 2.0])},
        {"value_float": 1.5},
        {"value_floats": [1.5, 2.5]},
    ],
)
def test_constant_node(model, compare, attributes):
    nodes = [helper.make_node("Constant", [], ["c"], **attributes), helper.make_node("Add", ["x", "c"], ["y"])]
    compare(model(nodes, {"x": (3, 2)}))


@pytest.mark.parametrize("attributes", [{"value_int": 4}, {"value_ints": [4]}])
def test_integer_constant_node_as_a_shape(model, compare, attributes):
    nodes = [
        helper.make_node("Constant", [], ["c"], **attributes),
        helper.make_node("Constant", [], ["axis"], value_ints=[-1]),
        helper.make_node("Reshape", ["c", "axis"], ["shape"]),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    compare(model(nodes, {"x": (2, 2)}))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_float_weights_become_float32(model, compare, dtype):
    weight = f32(3).astype(dtype)
    nodes = [
        helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "w32"], ["y"]),
    ]
    graph = compare(model(nodes, {"x": (2, 3)}, {"w": weight}))
    (constant,) = graph.constants()
    assert constant.data.dtype == np.float32
