"""Write a ResNet-50 with random weights, to measure speed with, and images to calibrate it on.

    python tools/make_resnet50.py resnet50.onnx [--calibration resnet50.npz] [--images 32] [--seed 0]

The network is version 1.5 of He et al., "Deep residual learning for image recognition", 2015, table 1: the stride of a
stage is in its first 3x3 convolution, not in the 1x1 before it. `image`: f32[N, 3, 224, 224] to `logits`: f32[N, 1000],
opset 17, each BatchNormalization a node of its own.

Weights are normal with variance 2 / fan-in (He et al., "Delving deep into rectifiers", 2015, section 2.2). The
statistics of the BatchNormalizations are those of a few of the images, so activations neither explode nor vanish, which
is checked. NumPy draws everything from one seed; only the last bits of the statistics depend on its matrix product.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]

Attribute = int | float | list[int]

OPSET = 17
BLOCKS = (3, 4, 6, 3)
EXPANSION = 4
CLASSES = 1000
EPSILON = 1e-5
STATISTICS_IMAGES = 2
SANE_DEVIATIONS = (0.05, 20.0)
"""Of activations and logits, where 1 is usual; a network that explodes or vanishes leaves it in a few layers."""


@dataclass(frozen=True)
class Tensor:
    """A value of the network: its ONNX name, and f32[n, c, h, w] (or f32[n, c]) that a few images give there."""

    name: str
    sample: Array


class Network:
    """Nodes and initializers, collected layer by layer; every layer is also computed on a few images."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []

    def conv_bn(self, x: Tensor, name: str, filters: int, kernel: int, *, stride: int = 1, gain: float = 1.0) -> Tensor:
        """Convolution without bias and BatchNormalization; `gain` is the usual scale of the result."""
        channels = x.sample.shape[1]
        deviation = np.sqrt(2 / (channels * kernel**2))
        weights = self.rng.normal(0, deviation, (filters, channels, kernel, kernel)).astype(np.float32)
        pad = kernel // 2
        attributes: dict[str, Attribute] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        raw = self._emit("Conv", [x.name, self._keep(f"{name}.weight", weights)], name, **attributes)
        summed = convolve(x.sample, weights, stride, pad)
        gamma = (gain * self.rng.uniform(0.5, 1.5, filters)).astype(np.float32)
        beta = (gain * self.rng.normal(0, 0.2, filters)).astype(np.float32)
        mean, variance = summed.mean(axis=(0, 2, 3)), summed.var(axis=(0, 2, 3))
        parts = {"gamma": gamma, "beta": beta, "mean": mean, "variance": variance}
        operands = [self._keep(f"{name}.{part}", values) for part, values in parts.items()]
        result = self._emit("BatchNormalization", [raw, *operands], f"{name}.bn", epsilon=EPSILON)
        scale = gamma / np.sqrt(variance + EPSILON)
        return Tensor(result, summed * scale[:, None, None] + (beta - mean * scale)[:, None, None])

    def relu(self, x: Tensor) -> Tensor:
        """ReLU; checks that the activations are sane."""
        result = Tensor(self._emit("Relu", [x.name], f"{x.name}.relu"), np.maximum(x.sample, 0))
        check_sane(result)
        return result

    def add(self, a: Tensor, b: Tensor, name: str) -> Tensor:
        """Sum of two tensors of one shape."""
        return Tensor(self._emit("Add", [a.name, b.name], name), a.sample + b.sample)

    def max_pool(self, x: Tensor) -> Tensor:
        """Largest of 3x3, stride 2, after a ReLU: a border of zeros changes nothing."""
        name = self._emit("MaxPool", [x.name], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        return Tensor(name, windows(x.sample, 3, 2, 1).max(axis=(4, 5)))

    def classify(self, x: Tensor) -> Tensor:
        """Mean over the image, then the fully connected layer."""
        pooled = self._emit("GlobalAveragePool", [x.name], "mean")
        flat = self._emit("Flatten", [pooled], "flat", axis=1)
        features = x.sample.mean(axis=(2, 3))
        weights = self.rng.normal(0, 1 / np.sqrt(features.shape[1]), (CLASSES, features.shape[1])).astype(np.float32)
        bias = self.rng.normal(0, 0.1, CLASSES).astype(np.float32)
        operands = [flat, self._keep("fc.weight", weights), self._keep("fc.bias", bias)]
        logits = Tensor(self._emit("Gemm", operands, "logits", transB=1), features @ weights.T + bias)
        check_sane(logits)
        return logits

    def _keep(self, name: str, values: Array) -> str:
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
        return name

    def _emit(self, op: str, inputs: Sequence[str], output: str, **attributes: Attribute) -> str:
        node = helper.make_node(op, inputs, [output], output)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
        self.nodes.append(node)
        return output


def windows(x: Array, kernel: int, stride: int, pad: int) -> Array:
    """All windows of f32[n, c, h, w], a border of zeros around it: f32[n, c, oh, ow, kernel, kernel]."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    found: Array = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(2, 3))
    return found[:, :, ::stride, ::stride]


def convolve(x: Array, weights: Array, stride: int, pad: int) -> Array:
    """Convolution of f32[n, c, h, w] with f32[filters, c, k, k]."""
    summed = np.tensordot(windows(x, weights.shape[2], stride, pad), weights, axes=((1, 4, 5), (1, 2, 3)))
    return np.ascontiguousarray(summed.transpose(0, 3, 1, 2))


def check_sane(x: Tensor) -> None:
    """Raise ValueError if the values of `x` are not finite, or far from what they should be."""
    deviation = float(x.sample.std())
    low, high = SANE_DEVIATIONS
    if not low <= deviation <= high:  # false for NaN, too
        raise ValueError(f"{x.name} has a standard deviation of {deviation}, expected {low} to {high}")


def smooth_images(rng: np.random.Generator, count: int, size: int) -> Array:
    """f32[count, 3, size, size]: coarse random patches blended into each other, and noise; about mean 0, variance 1."""
    patches = rng.normal(size=(count, 3, 8, 8))
    position = (np.arange(size) + 0.5) * 7 / size
    low = position.astype(int)
    blend = np.zeros((size, 8))
    blend[np.arange(size), low] = low + 1 - position
    blend[np.arange(size), low + 1] = position - low
    smooth = np.einsum("yi,ncij,xj->ncyx", blend, patches, blend, optimize=True)
    images: Array = (1.4 * smooth + rng.normal(0, 0.3, smooth.shape)).astype(np.float32)
    return images


def resnet50(images: Array, rng: np.random.Generator, width: int = 64) -> tuple[onnx.ModelProto, Array]:
    """The model, and its f32[n, 1000] logits of the first few images; `width` channels come out of the stem.

    Raises:
        ValueError: the activations explode or vanish.
    """
    size = images.shape[2]
    network = Network(rng)
    x = network.relu(network.conv_bn(Tensor("image", images[:STATISTICS_IMAGES]), "stem", width, 7, stride=2))
    x = network.max_pool(x)
    for stage, blocks in enumerate(BLOCKS):
        narrow = width << stage
        for block in range(blocks):
            name = f"stage{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            inner = network.relu(network.conv_bn(x, f"{name}.reduce", narrow, 1))
            inner = network.relu(network.conv_bn(inner, f"{name}.conv", narrow, 3, stride=stride))
            # The sum grows with each block: half the usual scale keeps six of them in a row in bounds.
            inner = network.conv_bn(inner, f"{name}.expand", EXPANSION * narrow, 1, gain=0.5)
            shortcut = x
            if not block:
                shortcut = network.conv_bn(x, f"{name}.shortcut", EXPANSION * narrow, 1, stride=stride)
            x = network.relu(network.add(inner, shortcut, name))
    logits = network.classify(x)
    graph = helper.make_graph(
        network.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        network.initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model, logits.sample


def main() -> None:
    """Make images and model, write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="the ONNX file to write")
    parser.add_argument("--calibration", type=Path, help="the .npz of images to write")
    parser.add_argument("--images", type=int, default=32, help="how many images (default: 32)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=224, help="height and width of an image, at least 32")
    parser.add_argument("--width", type=int, default=64, help="channels after the stem (default: 64)")
    options = parser.parse_args()
    if options.images < STATISTICS_IMAGES or options.size < 32 or options.width < 1:
        parser.error(f"--images must be at least {STATISTICS_IMAGES}, --size at least 32, --width at least 1")
    rng = np.random.default_rng(options.seed)
    images = smooth_images(rng, options.images, options.size)
    model, logits = resnet50(images, rng, options.width)
    onnx.save(model, str(options.model))
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    print(f"{options.model}: {weights} weights, logits have a standard deviation of {logits.std():.2f}")
    if options.calibration:
        np.savez(options.calibration, image=images)
        print(f"{options.calibration}: {len(images)} images")


if __name__ == "__main__":
    main()
