"""Models that cannot be imported: one message that names file, node, value and fix."""

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from qcompiler.errors import ModelError, QCompilerError, UnsupportedOpError
from qcompiler.importer import import_model
from qcompiler.importer.tensors import decode
from qcompiler.importer.windows import empty_window
from qcompiler.ir.ops.shapes import window_output
from qcompiler.numerics import window_count

RELU = [helper.make_node("Relu", ["x"], ["y"], name="act")]


def node(op_type, inputs, output, **attributes):
    return helper.make_node(op_type, inputs.split(), output.split(), **attributes)


# ---- the file -------------------------------------------------------------------------------------------------------


def test_no_such_file(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.onnx: no such file"):
        import_model(tmp_path / "absent.onnx")


def test_a_directory(tmp_path):
    with pytest.raises(ModelError, match=r"is a directory; give the \.onnx file"):
        import_model(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello, this is no model", "is not an ONNX model"),
        (b"PK\x03\x04rest", "zip archive, perhaps a PyTorch checkpoint; export the model to ONNX"),
        (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    ],
)
def test_not_onnx(tmp_path, content, message):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"model\.onnx: .*{message}"):
        import_model(path)
    with pytest.raises(ModelError, match=message):
        import_model(content)


def test_every_truncation_is_a_model_error(model):
    data = model([node("Add", "x c", "y")], {"x": (2,)}, {"c": np.ones(2, np.float32)}).SerializeToString()
    for length in range(len(data)):
        with pytest.raises(ModelError, match="model: "):
            import_model(data[:length])


def test_every_flipped_byte_is_survived(model):
    """A damaged file is an error of ours or happens to be a model, never anything else."""
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s i", "n"),
        node("Concat", "n m", "t", axis=0),
        node("Conv", "x w", "c", pads=[0, 0, 0, 0]),
        node("Reshape", "c t", "y"),
    ]
    constants = {"i": np.array([0]), "m": np.array([-1]), "w": np.ones((1, 1, 1, 1), np.float32)}
    data = model(nodes, {"x": ("N", 1, 2, 2)}, constants).SerializeToString()
    outcomes = {True: 0, False: 0}
    for position in range(len(data)):
        for value in (0, 127, 128, 255, data[position] ^ 1):
            damaged = data[:position] + bytes([value]) + data[position + 1 :]
            try:
                import_model(damaged)
            except QCompilerError:
                outcomes[False] += 1
            else:
                outcomes[True] += 1
    assert min(outcomes.values()) > 0


@pytest.mark.parametrize(("version", "message"), [(6, "supported are 7 to"), (999, "install a newer onnx")])
def test_opset_out_of_range(model, version, message):
    source = model(RELU, {"x": (2,)})
    source.opset_import[0].version = version
    with pytest.raises(ModelError, match=f"uses opset {version}.*{message}"):
        import_model(source)


@pytest.mark.parametrize("version", range(7, onnx.defs.onnx_opset_version() + 1))
def test_every_opset_in_range(model, version):
    assert len(import_model(model(RELU, {"x": (2,)}, opset=version))) == 1


# ---- the structure --------------------------------------------------------------------------------------------------


def test_missing_input(model):
    with pytest.raises(ModelError, match=r"node 'act' \(Relu\) uses 'x', which nothing defines"):
        import_model(model(RELU, {"z": (2,)}))


def test_cycle(model):
    source = model(
        [node("Add", "x b", "a", name="one"), node("Relu", "a", "b", name="two")], {"x": (2,)}, outputs=["b"]
    )
    with pytest.raises(ModelError, match=r"cycle: node 'two' \(Relu\) -> node 'one' \(Add\)|cycle: node 'one' \(Add\)"):
        import_model(source)


def test_a_node_that_uses_its_own_result(model):
    source = model([node("Add", "x y", "y", name="self")], {"x": (2,)})
    with pytest.raises(ModelError, match="cycle: node 'self'"):
        import_model(source)


def test_wrong_order(model):
    source = model([node("Relu", "a", "y", name="late"), node("Abs", "x", "a")], {"x": (2,)})
    with pytest.raises(ModelError, match=r"node 'late' \(Relu\) comes before a node whose result it uses"):
        import_model(source)


def test_a_value_defined_twice(model):
    with pytest.raises(ModelError, match="defines 'y', which is defined already"):
        import_model(model([*RELU, node("Abs", "x", "y", name="again")], {"x": (2,)}))


def test_an_output_that_nothing_defines(model):
    with pytest.raises(ModelError, match="output 'z' is defined by nothing"):
        import_model(model(RELU, {"x": (2,)}, outputs=["z"]))


def test_an_output_without_shape(model):
    source = model(RELU, {"x": (2,)})
    source.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match=r"output 'y' has no shape.*infer_shapes"):
        import_model(source)
    import_model(onnx.shape_inference.infer_shapes(source))


def test_a_compiled_model(tmp_path):
    (tmp_path / "model.qc").write_bytes(b"QCMODEL\n" + bytes(100))
    with pytest.raises(ModelError, match="is a compiled model already; run it with `qcompile run`"):
        import_model(tmp_path / "model.qc")


def test_a_node_without_outputs(model):
    source = model(RELU, {"x": (2,)})
    source.graph.node.append(helper.make_node("Relu", ["x"], [], name="nothing"))
    with pytest.raises(ModelError, match=r"node 'nothing' \(Relu\) has no outputs"):
        import_model(source)


def test_checker_failure(model):
    with pytest.raises(ModelError, match=r"fails the ONNX checker: .*foo"):
        import_model(model([node("Relu", "x", "y", foo=1)], {"x": (2,)}))


# ---- shapes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Conv", "x w", "y", name="c")], r"node 'c' \(conv\): group=1 .* the input has 3"),
        ([node("Conv", "x w", "y", name="c", kernel_shape=[5, 5])], r"'c' \(Conv\): kernel_shape \[5, 5\] contradicts"),
        ([node("Conv", "x w", "y", name="c", strides=[1])], r"'c' \(Conv\): strides=\[1\]; 2 spatial axes need 2"),
        ([node("MaxPool", "x", "y", name="p", kernel_shape=[99, 1])], r"'p' \(max_pool\): a window of 99 does not fit"),
        ([node("Add", "x w", "y", name="a")], r"'a' \(add\): shapes .* do not broadcast"),
        ([node("Reshape", "x s", "y", name="r")], r"'r' \(Reshape\): .*\[2, 3, 4, 4\] cannot be reshaped to \[5\]"),
        ([node("Reshape", "x m", "y", name="r")], r"'r' \(Reshape\): .*the sizes do not divide"),
        ([node("Concat", "x w", "y", name="c", axis=7)], r"'c' \(Concat\): axis 7 lies outside rank 4"),
        ([node("Squeeze", "x one", "y", name="q")], r"'q' \(Squeeze\): axis 1 of \[2, 3, 4, 4\] is not 1"),
        ([node("Gather", "x nine", "y", name="g", axis=1)], r"'g' \(Gather\): indices \[9\] lie outside axis 1"),
    ],
)
def test_contradictory_shapes(model, nodes, message):
    constants = {
        "w": np.ones((4, 5, 3, 3), np.float32), "s": np.array([5]), "m": np.array([5, -1]), "one": np.array([1]),
        "nine": np.array([9]),
    }  # fmt: skip
    source = model(nodes, {"x": (2, 3, 4, 4)}, constants, output_shape=())
    with pytest.raises(ModelError, match=message):
        import_model(source)


@pytest.mark.parametrize("op_type", ["MaxPool", "AveragePool"])
def test_an_output_declared_with_the_window_that_ceil_mode_drops(model, op_type):
    # Six elements and one of padding: the windows start at 0 and 3, but not at 6, which lies in the padding.
    pool = node(op_type, "x", "y", kernel_shape=[2], strides=[3], pads=[0, 1], ceil_mode=1)
    source = model([pool], {"x": (1, 1, 6)})
    size = source.graph.output[0].type.tensor_type.shape.dim[2]
    size.dim_value = 3
    assert import_model(source).outputs[0].type.shape == (1, 1, 2)
    size.dim_value = 1
    with pytest.raises(ModelError, match=r"declared as \[1, 1, 1\] but its nodes compute \[1, 1, 2\]"):
        import_model(source)


@pytest.mark.parametrize(
    ("size", "attributes", "message"),
    [
        (6, {"kernel_shape": [2], "pads": [2, 0]}, "window 0 along spatial axis 0"),
        (6, {"kernel_shape": [2], "pads": [0, 3], "strides": [2]}, "window 3 along spatial axis 0"),
        (3, {"kernel_shape": [2], "pads": [1, 1], "dilations": [4]}, r"size 3, kernel 2, dilation 4, pads 1 and 1"),
    ],
)
def test_a_maximum_over_padding_alone(model, size, attributes, message):
    with pytest.raises(UnsupportedOpError, match=rf"MaxPool 'p': .*{message}"):
        import_model(model([node("MaxPool", "x", "y", name="p", **attributes)], {"x": (1, 1, size)}))


@given(
    size=st.integers(1, 9), kernel=st.integers(1, 4), stride=st.integers(1, 4), dilation=st.integers(1, 5),
    pads=st.tuples(st.integers(0, 9), st.integers(0, 9)), ceil_mode=st.booleans(),
)  # fmt: skip
def test_windows_over_padding_alone_are_found(size, kernel, stride, dilation, pads, ceil_mode):
    assume((kernel - 1) * dilation < size + sum(pads))
    windows = window_output(size, kernel, stride, dilation, *pads, ceil_mode=ceil_mode)
    counts = [window_count(p, size, kernel, stride, dilation, *pads, include_pad=False) for p in range(windows)]
    found = empty_window(size, windows, kernel, stride, dilation, pads[0])
    assert (found is None) == all(counts)
    assert found is None or counts[found] == 0


def test_an_output_declared_otherwise(model):
    source = model(RELU, {"x": (2, 3)})
    source.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(ModelError, match=r"output 'y' is declared as \[2, 5\] but its nodes compute \[2, 3\]"):
        import_model(source)


# ---- tensors --------------------------------------------------------------------------------------------------------


def test_a_tensor_with_too_little_data(model):
    source = model([node("Add", "x c", "y")], {"x": (2,)}, {"c": np.ones(2, np.float32)})
    source.graph.initializer[0].dims[0] = 3
    with pytest.raises(ModelError, match=r"fails the ONNX checker: .*tensor name: c"):
        import_model(source)
    with pytest.raises(
        ModelError, match=r"tensor 'c' declares the shape \[3\] of float, which is 12 bytes, but stores 8"
    ):
        decode(source.graph.initializer[0], None, "model")


def test_a_large_tensor_whose_elements_the_checker_does_not_see(model):
    elements = np.ones(10_000, np.float32)
    source = model([node("Add", "x c", "y")], {"x": (10_000,)}, {"c": elements})
    (constant,) = (value for value in import_model(source).values() if value.is_constant)
    assert np.array_equal(np.asarray(constant.data), elements)
    source.graph.initializer[0].dims[0] = 10_001
    with pytest.raises(
        ModelError, match=r"tensor 'c' declares the shape \[10001\] of float, which is 40004 bytes, but"
    ):
        import_model(source)
    for dims in ([-1, -10_001], [20_000], [2**62, 4]):  # nothing uses it
        unused = model([node("Relu", "x", "y")], {"x": (2,)}, {"c": elements})
        del unused.graph.initializer[0].dims[:]
        unused.graph.initializer[0].dims.extend(dims)
        with pytest.raises(ModelError, match=r"fails the ONNX checker: .*tensor name: c"):
            import_model(unused)
    source.graph.initializer[0].float_data.append(1.0)
    with pytest.raises(ModelError, match=r"fails the ONNX checker: .*tensor name: c"):
        import_model(source)


@pytest.mark.parametrize("raw", [False, True])
def test_a_segment_of_a_tensor(model, raw):
    source = model([node("Add", "x c", "y")], {"x": (2,)}, {"c": np.ones(2, np.float32)})
    constant = helper.make_tensor("c", TensorProto.FLOAT, [2], b"12345678" if raw else [1.0, 2.0], raw=raw)
    constant.segment.end = 1
    source.graph.initializer[0].CopyFrom(constant)
    with pytest.raises(ModelError, match="tensor 'c' is a segment of a larger one"):
        import_model(source)


@pytest.mark.parametrize("to", [0, 77, TensorProto.STRING, TensorProto.COMPLEX64])
def test_a_cast_of_a_constant_to_no_dtype_of_ours(model, to):
    nodes = [node("Cast", "c", "d", to=TensorProto.FLOAT), node("Add", "x d", "y")]
    source = model(nodes, {"x": (2,)}, {"c": np.ones(2, np.float32)})
    source.graph.node[0].attribute[0].i = to
    with pytest.raises(UnsupportedOpError, match="Cast 'd': casts to "):
        import_model(source)


def test_a_huge_declared_tensor(model):
    source = model([node("Constant", "", "y", value=helper.make_tensor("t", TensorProto.FLOAT, [1], [1.0]))], {})
    constant = source.graph.node[0].attribute[0].t
    constant.dims[:] = [1 << 40, 1 << 20]
    with pytest.raises(ModelError, match="1152921504606846976"):
        import_model(source)
    with pytest.raises(ModelError, match=r"tensor 't' declares the shape .* more than the 2147483647 of the largest"):
        decode(constant, None, "model")


def test_float64_beyond_float32(model):
    nodes = [node("Cast", "c", "d", to=TensorProto.FLOAT), node("Add", "x d", "y")]
    with pytest.raises(ModelError, match="'c' holds float64 values beyond the range of float32"):
        import_model(model(nodes, {"x": (2,)}, {"c": np.array([1.0, 1e300])}))


# ---- what is not supported ------------------------------------------------------------------------------------------


def test_all_unsupported_parts_are_listed_at_once(model):
    nodes = [
        node("Einsum", "x", "a", name="e1", equation="ij->ji"),
        node("Einsum", "a", "b", name="e2", equation="ij->ji"),
        node("Pad", "x pads", "c", name="p", mode="reflect"),
        node("Custom", "b c", "d", name="mine", domain="my.domain"),
        node("QuantizeLinear", "d s", "e", name="q"),
        node("Foo", "e", "y", name="unheard_of"),
    ]
    constants = {"pads": np.zeros(4, np.int64), "s": np.ones((), np.float32)}
    source = model(nodes, {"x": (3, 3)}, constants, domains={"my.domain": 2})
    with pytest.raises(UnsupportedOpError) as error:
        import_model(source)
    lines = str(error.value).splitlines()
    assert lines == [
        "model: 6 parts of this model cannot be compiled:",
        "  Einsum 'e1', 'e2': there is no such operator in this compiler (opset 17)",
        "  Pad 'p': mode='reflect'; only 'constant' is supported (opset 17)",
        "  my.domain.Custom 'mine': there is no such operator in this compiler (domain my.domain version 2)",
        "  QuantizeLinear 'q': quantized models are not accepted yet (opset 17)",
        "  Foo 'unheard_of': there is no such operator in this compiler (opset 17)",
        "  Give the float model it was made from, before quantization: qcompiler quantizes it itself.",
    ]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        (
            [node("MaxPool", "x", "y i", kernel_shape=[2, 2]), node("Cast", "i", "z", to=1)],
            "its result 1 .'i'. is used",
        ),
        ([node("BatchNormalization", "x c c c c", "y m v", training_mode=1)], "training_mode=1"),
        ([node("Relu", "x", "lo"), node("Clip", "x lo", "y")], "operand 1 .* has to be a constant"),
        ([node("Cast", "x", "i", to=TensorProto.INT64), node("Cast", "i", "y", to=1)], "casts of run-time tensors"),
        ([node("Constant", "", "t", value_string="a"), node("Identity", "t", "y")], "strings or sparse"),
        ([node("Max", "x x", "y")], "has to be a constant"),
        ([node("Expand", "x s", "y")], "repeats elements"),
    ],
)
def test_unsupported_forms(model, nodes, message):
    constants = {"c": np.ones(3, np.float32), "s": np.array([2, 2, 3, 4, 4])}
    source = model(nodes, {"x": (2, 3, 4, 4)}, constants, opset=14, output_shape=(), outputs=[nodes[-1].output[0]])
    with pytest.raises(UnsupportedOpError, match=message):
        import_model(source)


def test_control_flow(model):
    branch = helper.make_graph([node("Relu", "x", "r")], "b", [], [helper.make_tensor_value_info("r", 1, [2])])
    source = model(
        [node("If", "flag", "y", name="choice", then_branch=branch, else_branch=branch)],
        {"x": (2,)},
        {"flag": np.array([True])[0]},
    )
    with pytest.raises(UnsupportedOpError, match="If 'choice': control flow is not supported"):
        import_model(source)


def test_sparse_initializers(model):
    source = model([node("Add", "x c", "y")], {"x": (4,)}, output_shape=(4,))
    values = helper.make_tensor("c", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    source.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    with pytest.raises(UnsupportedOpError, match="initializer 'c': sparse tensors are not supported"):
        import_model(source)


def test_string_initializers_matter_only_if_used(model):
    source = model(RELU, {"x": (2,)}, {"s": np.array([b"text"], dtype=object)})
    assert len(import_model(source)) == 1
