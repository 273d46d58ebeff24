"""Train the two small models of tests/assets on scikit-learn's digits and write them as ONNX.

    pip install torch scikit-learn onnx onnxruntime
    python tools/train_digits.py tests/assets

`digits_cnn.onnx` keeps each BatchNormalization a node of its own. In `digits_dsnet.onnx`, of inverted
residual blocks with HardSwish, it is folded into the convolutions, as exporters do by default. Both take
`image`: f32[N, 1, 8, 8], pixel / 8 - 1, so in [-1, 1], and give `logits`: f32[N, 10].

The test images are a third of the data, chosen at random class by class, and play no part in the training;
the calibration images are training images. Seeds and summation order are fixed, so that one version of torch
on one kind of CPU writes the same files again.
"""

import argparse
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

OPSET = 17
EPOCHS = 120
BATCH = 32
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Block:
    """Layers one after another; with `residual`, their input is added to their result."""

    name: str
    layers: nn.Sequential
    residual: bool = False


def conv_bn(cin: int, cout: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution with the padding that keeps the size at stride 1, and BatchNormalization."""
    convolution = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(cout)]


def cnn() -> list[Block]:
    """Three 3x3 convolutions, two poolings, two dense layers: about 23,000 weights."""
    return [
        Block(
            "features",
            nn.Sequential(
                *conv_bn(1, 16, 3),
                nn.ReLU(),
                *conv_bn(16, 32, 3),
                nn.ReLU(),
                nn.MaxPool2d(2),
                *conv_bn(32, 32, 3),
                nn.ReLU(),
                nn.MaxPool2d(2),
            ),
        ),
        Block("classifier", nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))),
    ]


def inverted_residual(name: str, cin: int, cout: int, *, stride: int = 1) -> Block:
    """Expand by 1x1, filter each channel by 3x3, project by 1x1 (MobileNetV2, §3.3), with HardSwish."""
    wide = 3 * cin
    layers = nn.Sequential(
        *conv_bn(cin, wide, 1),
        nn.Hardswish(),
        *conv_bn(wide, wide, 3, stride=stride, groups=wide),
        nn.Hardswish(),
        *conv_bn(wide, cout, 1),
    )
    return Block(name, layers, residual=stride == 1 and cin == cout)


def dsnet() -> list[Block]:
    """A stem, five inverted residual blocks, three of them with an add, and a head: about 24,000 weights."""
    return [
        Block("stem", nn.Sequential(*conv_bn(1, 16, 3), nn.Hardswish())),
        inverted_residual("block0", 16, 16),
        inverted_residual("block1", 16, 24, stride=2),
        inverted_residual("block2", 24, 24),
        inverted_residual("block3", 24, 32, stride=2),
        inverted_residual("block4", 32, 32),
        Block("head", nn.Sequential(*conv_bn(32, 64, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1))),
        Block("classifier", nn.Sequential(nn.Flatten(), nn.Linear(64, 10))),
    ]


def forward(blocks: list[Block], x: torch.Tensor) -> torch.Tensor:
    """Logits f32[n, 10] of images f32[n, 1, 8, 8]."""
    for block in blocks:
        y = block.layers(x)
        x = x + y if block.residual else y
    return x


def shifted(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image moved by up to one pixel either way, background (-1) coming in, and a little noise added."""
    n = images.shape[0]
    padded = nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    dy, dx = torch.randint(0, 3, (2, n), generator=generator)
    rows = dy[:, None, None] + torch.arange(8)[None, :, None]
    columns = dx[:, None, None] + torch.arange(8)[None, None, :]
    moved = padded[torch.arange(n)[:, None, None], 0, rows, columns][:, None]
    return moved + 0.05 * torch.randn(moved.shape, generator=generator)


def train(blocks: list[Block], images: Images, labels: Labels) -> None:
    """Fit the blocks in place: Adam, one cycle, cross-entropy with smoothed labels."""
    network = nn.ModuleList([block.layers for block in blocks])
    network.train()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=5e-3, epochs=EPOCHS, steps_per_epoch=len(x) // BATCH
    )
    for _ in range(EPOCHS):
        order = torch.randperm(len(x), generator=generator)
        for step in range(len(x) // BATCH):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            logits = forward(blocks, shifted(x[chosen], generator))
            loss = nn.functional.cross_entropy(logits, y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()


def folded(blocks: list[Block]) -> list[Block]:
    """The same blocks with every BatchNormalization folded into the convolution before it."""
    result = []
    for block in blocks:
        layers: list[nn.Module] = []
        for layer in block.layers:
            if isinstance(layer, nn.BatchNorm2d):
                layers.append(fuse_conv_bn_eval(layers.pop(), layer))
            else:
                layers.append(layer)
        result.append(Block(block.name, nn.Sequential(*layers), block.residual))
    return result


@dataclass
class OnnxWriter:
    """Collects the nodes and weights of one ONNX graph, named the way torch's own exporter names them."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    def node(self, op: str, path: str, inputs: list[str], **attributes: object) -> str:
        """Append a node and return the name of its result."""
        name = f"/{path}/{op}"
        result = f"{name}_output_0"
        node = helper.make_node(op, inputs, [result], name)
        node.attribute.extend(helper.make_attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)
        return result

    def parameters(self, path: str, layer: nn.Module, names: list[str]) -> list[str]:
        """Store those of the layer's tensors that it has, and return their names in the graph."""
        found = [(name, getattr(layer, name)) for name in names if getattr(layer, name) is not None]
        prefix = path.replace("/", ".")
        for name, tensor in found:
            array = tensor.detach().numpy()
            self.weights.append(numpy_helper.from_array(array, f"{prefix}.{name}"))
        return [f"{prefix}.{name}" for name, _ in found]

    def layer(self, path: str, layer: nn.Module, x: str) -> str:
        """Append what computes one layer of value `x`."""
        match layer:
            case nn.Conv2d():
                return self.node(
                    "Conv",
                    path,
                    [x, *self.parameters(path, layer, ["weight", "bias"])],
                    dilations=list(layer.dilation),
                    group=layer.groups,
                    kernel_shape=list(layer.kernel_size),
                    pads=[*layer.padding, *layer.padding],
                    strides=list(layer.stride),
                )
            case nn.BatchNorm2d():
                names = ["weight", "bias", "running_mean", "running_var"]
                inputs = [x, *self.parameters(path, layer, names)]
                return self.node("BatchNormalization", path, inputs, epsilon=layer.eps)
            case nn.Linear():
                inputs = [x, *self.parameters(path, layer, ["weight", "bias"])]
                return self.node("Gemm", path, inputs, alpha=1.0, beta=1.0, transB=1)
            case nn.MaxPool2d():
                size = [layer.kernel_size, layer.kernel_size]
                return self.node("MaxPool", path, [x], kernel_shape=size, strides=size)
            case nn.AdaptiveAvgPool2d():
                return self.node("GlobalAveragePool", path, [x])
            case nn.Flatten():
                return self.node("Flatten", path, [x], axis=1)
            case nn.ReLU():
                return self.node("Relu", path, [x])
            case nn.Hardswish():
                return self.node("HardSwish", path, [x])
        raise TypeError(f"no ONNX form for layer {path}: {layer}")


def to_onnx(name: str, blocks: list[Block]) -> onnx.ModelProto:
    """The trained blocks as a checked ONNX model with a dynamic batch `N`."""
    writer = OnnxWriter()
    x = "image"
    for block in blocks:
        y = x
        for index, layer in enumerate(block.layers):
            y = writer.layer(f"{block.name}/{index}", layer, y)
        x = writer.node("Add", block.name, [x, y]) if block.residual else y
    writer.nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 1, 8, 8])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])
    graph = helper.make_graph(writer.nodes, name, [image], [logits], writer.weights)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, producer_name="tools/train_digits.py", opset_imports=[opset], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def accuracy(model: onnx.ModelProto, images: Images, labels: Labels) -> float:
    """Share of the images whose largest logit is the label, by onnxruntime."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"image": images})
    return float(np.mean(np.argmax(logits, axis=1) == labels))


def main() -> None:
    """Write the models, the calibration images and the labelled test images into a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where to write; tests/assets holds the shipped files")
    folder: Path = parser.parse_args().folder
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder")

    torch.use_deterministic_algorithms(mode=True)
    torch.set_num_threads(1)

    pixels, digits = load_digits(return_X_y=True)
    images = (pixels.reshape(-1, 1, 8, 8) / 8 - 1).astype(np.float32)
    labels = digits.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=1 / 3, random_state=0, stratify=labels
    )
    np.savez_compressed(folder / "digits_calibration.npz", image=train_x[:CALIBRATION_IMAGES])
    np.savez_compressed(folder / "digits_test.npz", image=test_x, labels=test_y)

    for name, make, finish in (("digits_cnn", cnn, list), ("digits_dsnet", dsnet, folded)):
        torch.manual_seed(0)
        blocks = make()
        train(blocks, train_x, train_y)
        model = to_onnx(name, finish(blocks))
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString(deterministic=True))
        print(f"{name}: top-1 {accuracy(model, test_x, test_y):.2%} of {len(test_y)} test images")


if __name__ == "__main__":
    main()
