"""Shape computations of exporters are folded, and a symbolic batch stays symbolic."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from qcompiler.errors import ModelError, UnsupportedOpError, VerifyError
from qcompiler.importer import import_model
from qcompiler.importer.known import add_dims, divide_dims, equal_dims, multiply_two_dims, subtract_dims
from qcompiler.ir import ops


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs.split(), [output], **attributes)


def i64(*values):
    return np.array(values, dtype=np.int64)


def test_view_of_pytorch_keeps_the_batch(model, compare):
    """``x.view(x.size(0), -1)`` as opset 9 exporters write it."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Constant", "", "zero", value=helper.make_tensor("t", TensorProto.INT64, [], [0])),
        node("Gather", "shape zero", "batch", axis=0),
        node("Unsqueeze", "batch", "batch1", axes=[0]),
        node("Concat", "batch1 rest", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    graph = compare(model(nodes, {"x": ("N", 3, 4)}, {"rest": i64(-1)}, opset=9, output_shape=("N", 12)), {"N": 3})
    assert [n.op for n in graph.nodes()] == [ops.Reshape(("N", 12))]


def test_sizes_are_multiplied_divided_and_sliced(model, compare):
    """Half of the channels of each group move into the batch: [N, 8, 5] to [2N, 4, 5]."""
    nodes = [
        node("Shape", "x", "shape"),
        node("Slice", "shape zero one", "batch"),
        node("Slice", "shape one two", "channels"),
        node("Slice", "shape two three", "length"),
        node("Mul", "batch two", "double"),
        node("Div", "channels two", "half"),
        node("Concat", "double half length", "target", axis=0),
        node("Reshape", "x target", "y"),
    ]
    constants = {"zero": i64(0), "one": i64(1), "two": i64(2), "three": i64(3)}
    graph = compare(model(nodes, {"x": ("N", 8, 5)}, constants))
    assert graph.outputs[0].type.shape == ("2*N", 4, 5)


def test_expand_to_the_same_shape_vanishes(model, compare):
    """``x.expand(-1, 3)`` by ConstantOfShape, Mul, Equal and Where; −1 stands for "as it is"."""
    nodes = [
        node("Constant", "", "wanted", value_ints=[-1, 3]),
        node("Shape", "wanted", "rank"),
        node("ConstantOfShape", "rank", "ones", value=helper.make_tensor("t", TensorProto.INT64, [1], [1])),
        node("Mul", "ones minus", "minus_ones"),
        node("Equal", "wanted minus_ones", "keep"),
        node("Where", "keep ones wanted", "target"),
        node("Expand", "x target", "e"),
        node("Relu", "e", "y"),
    ]
    graph = compare(model(nodes, {"x": ("N", 3)}, {"minus": i64(-1)}))
    assert [n.op for n in graph.nodes()] == [ops.Relu()]


def test_a_symbol_is_compared_with_what_it_cannot_be(model, compare):
    nodes = [
        node("Shape", "x", "shape"),
        node("Equal", "shape minus", "unknown"),
        node("Where", "unknown ones shape", "target"),
        node("Reshape", "x target", "y"),
    ]
    graph = compare(model(nodes, {"x": ("N", 3)}, {"minus": i64(-1), "ones": i64(1, 1)}))
    assert graph.outputs[0].type.shape == ("N", 3)


def test_a_scale_computed_from_a_static_size_becomes_a_constant(model, compare):
    nodes = [
        node("Shape", "x", "shape", start=1, end=2),
        node("Cast", "shape", "size", to=TensorProto.FLOAT),
        node("Sqrt", "size", "root"),
        node("Div", "x root", "y"),
    ]
    compare(model(nodes, {"x": ("N", 16)}, opset=15))


def test_product_of_a_shape_is_a_size(model, compare):
    nodes = [
        node("Shape", "x", "shape"),
        node("ReduceProd", "shape", "size", keepdims=1),
        node("Size", "x", "same"),
        node("Reshape", "x size", "flat"),
        node("Reshape", "flat same1", "y"),
        node("Unsqueeze", "same zero", "same1"),
    ]
    nodes = [*nodes[:4], nodes[5], nodes[4]]
    graph = compare(model(nodes, {"x": ("N", 3, 4)}, {"zero": i64(0)}))
    assert graph.outputs[0].type.shape == ("12*N",)


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([node("Range", "a b c", "t")], [1, 3, 5]),
        ([node("Mod", "list b", "t")], [2, 4, 2]),
        ([node("Neg", "list", "n"), node("Div", "n three", "t")], [0, -1, -2]),
        ([node("Max", "list three", "t")], [3, 4, 7]),
        ([node("ReduceSum", "list", "t", keepdims=0)], [13]),
        ([node("Tile", "three two", "t")], [3, 3]),
        ([node("Expand", "three two", "t")], [3, 3]),
        ([node("Gather", "list minus", "t")], [7]),
        ([node("Concat", "list three", "n", axis=0), node("Slice", "n minus far minus1 minus", "t")], [3, 7, 4, 2]),
        ([node("Cast", "list", "f", to=1), node("Div", "f b_float", "d"), node("Floor", "d", "t")], [0, 0, 1]),
        ([node("Not", "flag", "n"), node("Where", "n three list", "t")], [2, 3, 7]),
        ([node("Less", "list b", "n"), node("Cast", "n", "t", to=TensorProto.INT64)], [1, 1, 0]),
        ([node("Transpose", "list", "t", perm=[0])], [2, 4, 7]),
        ([node("Squeeze", "three", "n"), node("Flatten", "n", "t", axis=0)], [3]),
        ([node("Identity", "three", "t")], [3]),
    ],
)
def test_evaluation(model, nodes, expected):
    """The result is used as the size of a constant, whose elements are then read off the graph."""
    constants = {
        "a": np.array(1), "b": np.array(5), "c": np.array(2), "b_float": np.array(5, np.float32), "two": i64(2),
        "list": i64(2, 4, 7), "three": i64(3), "minus": i64(-1), "minus1": i64(0), "far": i64(-99),
        "flag": np.array([True, False, True]), "ones": np.ones(16, np.float32),
    }  # fmt: skip
    constants["b"] = np.array(5 if nodes[0].op_type != "Range" else 6)
    tail = [
        node("Cast", "t", "number", to=TensorProto.FLOAT),
        node("Mul", "x number", "y"),
    ]
    graph = import_model(model([*nodes, *tail], {"x": ("N", 1)}, constants))
    (constant,) = graph.constants()
    assert constant.data is not None
    assert constant.data.reshape(-1).tolist() == expected


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Shape", "x", "s"), node("Cast", "s", "f", to=1), node("Mul", "x f", "y")], "symbolic dimension N"),
        ([node("Shape", "x", "s"), node("ConstantOfShape", "s", "c"), node("Add", "x c", "y")], "--dim N=SIZE"),
        ([node("Shape", "x", "s"), node("Mod", "s three", "m"), node("Reshape", "x m", "y")], "Mod of the symbolic"),
        ([node("Gather", "table x", "y")], "has to be a constant"),
        ([node("Range", "x x x", "y")], "Range is supported only where all operands are constants or shapes"),
    ],
)
def test_what_cannot_be_folded_is_named(model, nodes, message):
    constants = {"three": i64(3), "table": np.ones((3, 2), np.float32)}
    with pytest.raises(UnsupportedOpError, match=message):
        import_model(model(nodes, {"x": ("N", 3)}, constants, output_shape=()))


def test_a_bomb_is_refused_before_it_is_allocated(model):
    nodes = [node("ConstantOfShape", "size", "c"), node("Add", "x c", "y")]
    with pytest.raises(ModelError, match="more than 16777216 elements"):
        import_model(model(nodes, {"x": (1,)}, {"size": i64(1 << 20, 1 << 20)}))


def test_a_huge_activation_is_refused(model):
    with pytest.raises(ModelError, match=r"node 'y' \(Pad\): a result of shape .* has more than 2147483647 elements"):
        import_model(model([node("Pad", "x pads", "y")], {"x": (1, 1)}, {"pads": i64(0, 0, 1 << 20, 1 << 20)}))


def test_dimension_arithmetic():
    assert add_dims("N", "2*N") == "3*N"
    assert add_dims(0, "N") == "N"
    assert subtract_dims("3*N", "N") == "2*N"
    assert subtract_dims("N", "N") == 0
    assert multiply_two_dims("2*N", 3) == "6*N"
    assert divide_dims("6*N", "N") == 6
    assert divide_dims("6*N", 3) == "2*N"
    assert equal_dims("N", "N")
    assert not equal_dims("N", 0)
    assert not equal_dims("N", "2*N")
    for function, a, b in (
        (add_dims, "N", 1), (subtract_dims, "N", "2*N"), (multiply_two_dims, "N", "M"), (divide_dims, "N", 2),
        (multiply_two_dims, "N", -1), (equal_dims, "N", 1), (equal_dims, "N", "M"),
    ):  # fmt: skip
        with pytest.raises(VerifyError):
            function(a, b)


def test_a_slice_that_depends_on_a_symbol_names_it(model):
    bounds = {"starts": np.array([1]), "ends": np.array([3])}
    source = model([helper.make_node("Slice", ["x", "starts", "ends"], ["y"])], {"x": ("batch", 4)}, bounds)
    with pytest.raises(UnsupportedOpError, match=r"takes \[1:3:1\] of axis 0 of size batch; .*--dim batch=SIZE"):
        import_model(source)
