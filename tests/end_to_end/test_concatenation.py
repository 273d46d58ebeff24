"""Small models whose architectures concatenate channels, from ONNX to a program without copies."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler import reference
from qcompiler.runtime.reference import bind_feeds

SIZE = 12


class Model:
    """An ONNX model in the making; values are names, `channels` their channels."""

    def __init__(self) -> None:
        self.numbers = np.random.default_rng(3)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.channels = {"x": 3}

    def weight(self, array: npt.NDArray[np.float64]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def add(self, op: str, inputs: list[str], channels: int, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        self.channels[name] = channels
        return name

    def conv(self, x: str, channels: int, kernel: int = 1, activation: str = "Relu") -> str:
        shape = (channels, self.channels[x], kernel, kernel)
        weight = self.weight(self.numbers.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape))
        y = self.add("Conv", [x, weight], channels, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)
        return self.add(activation, [y], channels)

    def normalized(self, x: str) -> str:
        channels = self.channels[x]
        scale, bias, mean, variance = (self.weight(self.numbers.uniform(0.5, 1.5, channels)) for _ in range(4))
        return self.add("Relu", [self.add("BatchNormalization", [x, scale, bias, mean, variance], channels)], channels)

    def concat(self, *values: str) -> str:
        return self.add("Concat", list(values), sum(self.channels[v] for v in values), axis=1)

    def pool(self, x: str) -> str:
        return self.add("MaxPool", [x], self.channels[x], kernel_shape=[2, 2], strides=[2, 2])

    def finish(self, y: str) -> onnx.ModelProto:
        x_port = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, SIZE, SIZE])
        y_port = helper.make_tensor_value_info(y, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "model", [x_port], [y_port], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        return onnx.shape_inference.infer_shapes(model)


def squeezenet(model: Model) -> str:
    x = model.conv("x", 16, 3)
    for squeezed, expanded in ((8, 16), (8, 24)):
        s = model.conv(x, squeezed)
        x = model.concat(model.conv(s, expanded), model.conv(s, expanded, 3))
    return model.conv(x, 5)


def unet(model: Model) -> str:
    outer = model.conv("x", 16, 3)
    inner = model.conv(model.pool(outer), 32, 3)
    up = model.add("DepthToSpace", [model.conv(inner, 64)], 16, blocksize=2)
    return model.conv(model.concat(outer, model.conv(up, 16)), 5, 3)


def densenet(model: Model) -> str:
    features = [model.conv("x", 16, 3)]
    for _ in range(3):
        seen = model.concat(*features) if len(features) > 1 else features[0]
        features.append(model.conv(model.conv(model.normalized(seen), 24), 8, 3, "Sigmoid"))
    return model.conv(model.normalized(model.concat(*features)), 5)


def inception(model: Model) -> str:
    x = model.conv("x", 16, 3)
    pooled = model.add("MaxPool", [x], 16, kernel_shape=[3, 3], pads=[1] * 4)
    branches = model.conv(x, 16), model.conv(model.conv(x, 8), 24, 3), model.conv(pooled, 16), pooled
    return model.conv(model.concat(*branches), 5)


@pytest.mark.parametrize("architecture", [squeezenet, unet, densenet, inception], ids=lambda f: f.__name__)
def test_channels_are_concatenated_without_copies(architecture: Callable[[Model], str]):
    model = Model()
    proto = model.finish(architecture(model))
    x = np.random.default_rng(0).normal(size=(6, 3, SIZE, SIZE)).astype(np.float32)
    compiled = qcompiler.compile(proto, calibration=x)
    assert any(node.op.name == "concat" for node in compiled.graph.nodes())
    plan = compiled.session(2).plan_for(bind_feeds(compiled.graph, {"x": x}))
    kernels = [i.kernel for i in plan.program.instructions]
    assert "concat" not in kernels
    assert kernels.count("transpose") <= 1  # of the result
    assert kernels.count("copy") == (architecture is unet)  # from depth to space
    assert plan.placement.peak_bytes == plan.placement.lower_bound_bytes
    (got,) = compiled.session(2).run({"x": x}).values()
    (expected,) = reference.run(compiled.graph, {"x": x}).values()
    assert np.array_equal(got, expected)
    assert len(np.unique(got)) > 50
