"""Symbolic dimensions of inputs, and sizes given for them."""

import pytest
from onnx import TensorProto, helper

from qcompiler.errors import ModelError, UnsupportedOpError, UsageError
from qcompiler.importer import import_model

RELU = [helper.make_node("Relu", ["x"], ["y"])]


def shape_of(model, **dims):
    return import_model(model, dims=dims).inputs[0].type.shape


def test_names_are_kept(model):
    assert shape_of(model(RELU, {"x": ("batch_size", 3, "2*height", 4)})) == ("batch_size", 3, "2*height", 4)


def test_unnamed_dimensions_get_names(model):
    anonymous = model(RELU, {"x": ("N", 3, "W")})
    for axis in (0, 2):
        anonymous.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    assert shape_of(anonymous) == ("N", 3, "x_2")


def test_odd_names_are_spelled_with_underscores_and_stay_different(model):
    assert shape_of(model(RELU, {"x": ("s0 + 1", "s0_+_1", "1st", "s0 + 1")})) == (
        "_s0___1",
        "_s0___1_1",
        "_1st",
        "_s0___1",
    )


def test_sizes_replace_symbols_wherever_they_occur(model):
    source = model(RELU, {"x": ("batch", 3, "2*h", "h")})
    assert shape_of(source, batch=4, h=5) == (4, 3, 10, 5)
    assert shape_of(source, h=5) == ("batch", 3, 10, 5)


@pytest.mark.parametrize("size", [0, -1, True, 2.0])
def test_an_impossible_size(model, size):
    with pytest.raises(UsageError, match="batch="):
        import_model(model(RELU, {"x": ("batch", 3)}), dims={"batch": size})


def test_a_size_for_an_unknown_symbol_lists_the_known_ones(model):
    with pytest.raises(UsageError, match="no symbolic dimension 'N'; the model has: batch"):
        import_model(model(RELU, {"x": ("batch", 3)}), dims={"N": 1})


def test_initializers_listed_as_inputs_are_no_inputs(model):
    source = model([helper.make_node("Add", ["x", "c"], ["y"])], {"x": (2,), "c": (2,)})
    source.graph.initializer.append(helper.make_tensor("c", TensorProto.FLOAT, [2], [1.0, 2.0]))
    assert [value.name for value in import_model(source).inputs] == ["x"]


def test_public_names_are_the_models(model):
    nodes = [helper.make_node("Relu", ["x"], ["y"], name="n"), helper.make_node("Identity", ["y"], ["z"], name="m")]
    graph = import_model(model(nodes, {"x": (2,)}, outputs=["z", "y"]))
    assert graph.output_names == ("z", "y")
    assert [node.name for node in graph.nodes()] == ["n"]


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.INT64, TensorProto.STRING])
def test_other_dtypes_are_refused(model, dtype):
    source = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (2,)})
    for info in (source.graph.input[0], source.graph.output[0]):
        info.type.tensor_type.elem_type = dtype
    with pytest.raises(UnsupportedOpError, match=f"input 'x': dtype {TensorProto.DataType.Name(dtype).lower()}"):
        import_model(source)


def test_sequences_are_refused(model):
    source = model([helper.make_node("Identity", ["x"], ["y"])], {"x": (2,)})
    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, [2])
    for info in (source.graph.input[0], source.graph.output[0]):
        info.type.CopyFrom(helper.make_sequence_type_proto(tensor))
    with pytest.raises(UnsupportedOpError, match="input 'x': it is a sequence, not a tensor"):
        import_model(source)


def test_an_input_without_rank(model):
    source = model(RELU, {"x": (2,)})
    source.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="input 'x' has no shape, not even a rank; export it with one"):
        import_model(source)
