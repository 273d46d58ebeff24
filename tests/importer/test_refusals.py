"""Forms of known operators that the compiler does not have, or that contradict themselves: each says what and where."""

import numpy as np
import pytest
from onnx import helper

from qcompiler import reference
from qcompiler.errors import ModelError, UnsupportedOpError
from qcompiler.importer import import_model

CONSTANTS = {
    "w": np.ones((3, 3), np.float32),
    "w3": np.ones((3, 3, 3), np.float32),
    "ones": np.ones(3, np.float32),
    "zero": np.array([0]),
    "one": np.array([1]),
    "uneven": np.array([0, 1, 3]),
    "grid": np.array([[0, 1]]),
    "pads1": np.array([1]),
    "pads8": np.array([0] * 7 + [1]),
    "crop": np.array([-1] + [0] * 7),
    "nan": np.array(np.nan, np.float32),
    "training": np.array(1, bool),
    "four": np.ones(4, np.float32),
    "long": np.array([0, 0, 0, 0, 0]),
    "pieces": np.array([1, 1]),
    "two_fives": np.array([5, 5]),
    "same": np.array([0, 0]),
    "square": np.ones((3, 3, 3, 3), np.float32),
}


def node(op_type, inputs, **attributes):
    return helper.make_node(op_type, inputs.split(), ["y"], name="n", **attributes)


@pytest.mark.parametrize(
    ("made", "opset", "message"),
    [
        (node("Max", "x x x"), 17, "3 operands; only one tensor and one constant number"),
        (node("Max", "x four"), 17, r"operand 1 of shape \[4\] has to be one constant number"),
        (node("BatchNormalization", "x ones ones ones ones", spatial=0), 7, "spatial=0"),
        (node("Dropout", "x nan training"), 17, "training_mode is true; export the model in evaluation mode"),
        (node("Gather", "x uneven", axis=2), 17, r"indices \[0, 1, 3\] that do not step evenly"),
        (node("Gather", "x grid", axis=2), 17, r"indices of shape \[1, 2\] along axis 2"),
        (node("Pad", "x pads8", mode="reflect"), 17, "mode='reflect'; only 'constant' is supported"),
        (node("Pad", "x pads8 nan"), 17, "it pads with nan"),
        (node("Pad", "x crop"), 17, r"it crops the symbolic axis 0 of \['N', 3, 4, 4\]"),
        (node("Split", "x", axis=0), 17, "the axis to split has the symbolic size N; fix it with --dim N=SIZE"),
        (node("Squeeze", "x zero"), 17, "it removes the symbolic axis 0 .*--dim N=1"),
        (node("Conv", "x wide", auto_pad="SAME_UPPER"), 17, "auto_pad=SAME_UPPER with the symbolic size W"),
        (node("ConvTranspose", "x wide", auto_pad="SAME_LOWER"), 17, "auto_pad=SAME_LOWER with the symbolic size W"),
        (node("ConvTranspose", "x wide", output_shape=[4, 9]), 17, "output_shape with the symbolic size W"),
        (node("ConvTranspose", "x x"), 17, "its weight is computed at run time; only constant weights are supported"),
        (node("GlobalMaxPool", "x"), 17, "the spatial size .* is symbolic"),
    ],
)
def test_a_form_that_is_not_there(model, made, opset, message):
    constants = CONSTANTS | {"wide": np.ones((3, 3, 1, 3), np.float32)}
    width = "W" if "symbolic size W" in message or "spatial size" in message else 4
    source = model([made], {"x": ("N", 3, 4, width)}, constants, opset=opset)
    with pytest.raises(UnsupportedOpError, match=rf"{made.op_type} 'n': .*{message}"):
        import_model(source)


@pytest.mark.parametrize(
    "made",
    [
        node("Conv", "x wide"),
        node("ConvTranspose", "x wide"),
        node("MaxPool", "x", kernel_shape=[2, 2, 2]),
        node("GlobalMaxPool", "x"),
    ],
)
def test_windows_along_three_axes(model, made):
    source = model([made], {"x": ("N", 3, 4, 4, 4)}, {"wide": np.ones((3, 3, 2, 2, 2), np.float32)})
    with pytest.raises(UnsupportedOpError, match=rf"{made.op_type} 'n': 3 spatial axes; windows slide along 1 or 2"):
        import_model(source)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("Conv", "x w3"), r"input \[2, 3, 4, 4\] and weight \[3, 3, 3\] differ in rank"),
        (
            node("ConvTranspose", "x square", output_shape=[4, 7]),
            r"output_shape=\[4, 7\]; axis 1 has 6 positions at most",
        ),
        (node("ConvTranspose", "x square", output_padding=[1]), r"output_padding=\[1\]; 2 spatial axes need 2 values"),
        (node("Gemm", "x w"), r"A has shape \[2, 3, 4, 4\], expected two axes"),
        (node("Pad", "x pads1"), "1 pads for 4 axes; a begin and an end each are needed"),
        (node("Slice", "x zero one one zero"), "the step along axis 1 is 0"),
        (node("Slice", "x zero uneven"), "1 starts, 3 ends, 1 axes, 1 steps do not match"),
        (node("Split", "x pieces", axis=1), r"pieces \[1, 1\] for 1 outputs of an axis of 3"),
        (node("Reshape", "x long"), r"keeps axis 4, which \[2, 3, 4, 4\] does not have"),
        (node("Unsqueeze", "x same"), r"axes \[0, 0\] name one axis twice"),
        (node("MaxPool", "x", kernel_shape=[2, 2], auto_pad="SOME"), "auto_pad='SOME' is none of NOTSET"),
    ],
)
def test_a_node_that_contradicts_itself(model, made, message):
    source = helper.make_model(
        model([node("Relu", "x")], {"x": (2, 3, 4, 4)}, CONSTANTS, output_shape=()).graph,
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    source.graph.node[0].CopyFrom(made)
    source.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", 1, ["a", "b", "c", "d"]))
    with pytest.raises(ModelError, match=rf"node 'n' \({made.op_type}\): .*{message}"):
        import_model(source)


@pytest.mark.parametrize("alpha", [1.0, 1.5])
def test_swish(model, alpha):
    graph = import_model(model([node("Swish", "x", alpha=alpha)], {"x": (2, 30)}, opset=24))
    x = np.linspace(-6, 6, 60, dtype=np.float32).reshape(2, 30)
    expected = x / (1 + np.exp(-alpha * x.astype(np.float64)))
    np.testing.assert_allclose(reference.run(graph, {"x": x})["y"], expected, rtol=1e-5, atol=1e-6)
