"""Small random ONNX models over every operator that the importer takes, in the forms that exporters give them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.end_to_end import random_elements, random_layers, random_movement
from tests.end_to_end.model_builder import BATCH, MAKERS, Builder, Shape

STEPS = (random_elements, random_layers, random_movement)
"""The modules that register steps; importing them fills the registry."""

_NEWEST_OPSET = 24
_RANGES = [(0.0, 1.0), (0.0, 1.0), (0.5, 0.17), (-3.0, 1.0), (0.0, 40.0), (0.0, 0.01)]


@dataclass(frozen=True)
class RandomModel:
    """A model and what is good to know about it.

    Attributes:
        seed: makes the same model again with `random_model`.
        proto: the model.
        inputs: shape of each input; the first size is None where the batch is dynamic.
        ranges: from where to draw each input: mean and standard deviation.
    """

    seed: int
    proto: onnx.ModelProto
    inputs: Mapping[str, tuple[int | None, ...]]
    ranges: Mapping[str, tuple[float, float]]

    @property
    def is_dynamic(self) -> bool:
        return all(shape[0] is None for shape in self.inputs.values())

    def feeds(self, batch: int, seed: int) -> dict[str, npt.NDArray[np.float32]]:
        """Normally distributed inputs, cut off at 3 standard deviations; `batch` counts only where it is dynamic."""
        generator = np.random.default_rng([self.seed, seed])
        drawn = {}
        for name, shape in self.inputs.items():
            mean, deviation = self.ranges[name]
            size = tuple(batch if d is None else d for d in shape)
            drawn[name] = (mean + deviation * np.clip(generator.standard_normal(size), -3, 3)).astype(np.float32)
        return drawn

    def calibration(self) -> list[dict[str, npt.NDArray[np.float32]]]:
        """Two dictionaries of samples, the first what `feeds(8, 0)` gives."""
        return [self.feeds(8, 0), self.feeds(8, 1)]


def random_model(seed: int) -> RandomModel:
    """The model of a seed, of up to 12 steps."""
    random = Random(seed)  # noqa: S311  # no secret
    b = Builder(random, np.random.default_rng(seed), opset=random.choice([random.randint(7, _NEWEST_OPSET), 13, 17]))
    dynamic = b.chance(0.7)
    batch = BATCH if dynamic else random.choice([1, 1, 2, 3])
    inputs: dict[str, Shape] = {}
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        if inputs and b.chance(0.5):
            shape = next(iter(inputs.values()))
        else:
            rank = random.choice([4, 4, 4, 3, 2])
            channels = random.choice([1, 3, 4, 8, 15, 16, 33, 70])
            shape = (batch, channels, *(random.choice([1, 5, 6, 8, 9]) for _ in range(rank - 2)))
        name = random.choice(["x", "input", "in.put:0", "data 1"]) + str(len(inputs))
        inputs[name] = b.pool[name] = shape
    ranges = {name: random.choice(_RANGES) for name in inputs}

    _take_steps(b, random.randint(1, 12))
    used = {name for node in b.nodes for name in node.input}
    loose = [name for name in b.pool if name not in used and name not in inputs]
    outputs = [name for name in loose if b.chance(0.8)] or loose[-1:] or [next(iter(inputs))]
    if b.chance(0.2):
        outputs.append(random.choice([name for name in b.pool if name not in inputs] or outputs))
    if b.chance(0.03):
        outputs.append(next(iter(inputs)))
    outputs = list(dict.fromkeys(outputs))
    shapes = {name: tuple(None if d == BATCH else d for d in shape) for name, shape in inputs.items()}
    return RandomModel(seed, _proto(b, inputs, outputs), shapes, ranges)


def _take_steps(b: Builder, wanted: int) -> None:
    """Steps that turn out impossible are undone."""
    makers, weights = zip(*MAKERS, strict=True)
    for _ in range(4 * wanted):
        if wanted == 0:
            break
        nodes, pool = len(b.nodes), dict(b.pool)
        try:
            made = b.random.choices(makers, weights)[0](b)
        except (onnx.shape_inference.InferenceError, ValueError):
            del b.nodes[nodes:]
            b.pool = pool
            continue
        wanted -= made is not None


def _proto(b: Builder, inputs: Mapping[str, Shape], outputs: Sequence[str]) -> onnx.ModelProto:
    def info(name: str, *, shaped: bool = True) -> onnx.ValueInfoProto:
        shape = ["N" if d == BATCH else d if shaped and d < BATCH else None for d in b.pool[name]]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    needed = {name for node in b.nodes for name in node.input}
    initializers, constants = [], []
    for name, array in b.constants.items():
        if name in needed and b.chance(0.2) and (b.opset >= 9 or array.dtype == np.float32):
            constants.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        elif name in needed:
            initializers.append(numpy_helper.from_array(array, name))
    shaped = b.chance(0.7)
    graph = helper.make_graph(
        constants + b.nodes,
        b.random.choice(["random", "main graph", ""]) or "g",
        [info(name) for name in inputs],
        [info(name, shaped=shaped) for name in outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=8)
