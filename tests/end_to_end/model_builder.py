"""A random ONNX model in the making, and the registry of the steps that it is made of.

Shapes come from onnx's own inference, a node at a time; a dynamic batch is the number `BATCH` meanwhile.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

BATCH = 9973  # stands for the dynamic batch; a prime larger than any other size here
_MAX_ELEMENTS = 6000  # of a value, in one sample
_ODD_NAMES = (
    "a b", "x/y:0", "größe", "%v", "12", "const", 'quo"te', "-0", "graph", "{", "back\\slash", "new\nline", "@n",
)  # fmt: skip


@dataclass
class Builder:
    """A model in the making: `pool` maps the names of its values to their shapes."""

    random: Random
    numbers: np.random.Generator
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    pool: dict[str, Shape] = field(default_factory=dict)
    filters: list[str] = field(default_factory=list)
    names: int = 0

    # ---- choosing -----------------------------------------------------------------------------------------------

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, suits: Callable[[Shape], bool] = lambda _: True) -> str | None:
        """A value whose shape suits, more often a young one."""
        found = [name for name, shape in self.pool.items() if suits(shape)]
        return found[-1 - int(min(self.random.expovariate(0.7), len(found) - 1))] if found else None

    def fresh(self) -> str:
        self.names += 1
        if self.chance(0.1):
            name = self.random.choice(_ODD_NAMES)
            if name not in self.pool and name not in self.constants:
                return name
        return f"v{self.names}"

    def const(self, array: npt.ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """An initializer, or at times the result of a Constant node."""
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(array, dtype)
        return name

    def normal(self, shape: Sequence[int], scale: float = 1.0) -> Array:
        return (scale * self.numbers.standard_normal(shape)).astype(np.float32)

    # ---- nodes --------------------------------------------------------------------------------------------------

    def node(self, op_type: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Append a node; its results join the pool. Raises onnx's inference error where the node is impossible."""
        names = [self.fresh() for _ in range(outputs)]
        while len(set(names)) < outputs:
            names = [self.fresh() for _ in range(outputs)]
        node = helper.make_node(op_type, inputs, names, **attributes)
        known, data = {}, {}
        for name in filter(None, inputs):
            if name in self.constants:
                array = self.constants[name]
                data[name] = numpy_helper.from_array(array, name)
                known[name] = helper.make_tensor_type_proto(data[name].data_type, array.shape)
            else:
                known[name] = helper.make_tensor_type_proto(TensorProto.FLOAT, self.pool[name])
        schema = onnx.defs.get_schema(op_type, self.opset, "")
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, node, known, data, opset_imports=[helper.make_opsetid("", self.opset)]
        )
        types = [inferred[name].tensor_type for name in names]
        shapes = [tuple(d.dim_value for d in t.shape.dim) if t.HasField("shape") else (0,) for t in types]
        for shape in shapes:
            per_sample = math.prod(d for d in shape if d % BATCH)
            if min(shape, default=1) < 1 or per_sample > _MAX_ELEMENTS or sum(d % BATCH == 0 for d in shape) > 1:
                raise ValueError(f"{op_type} gives {shape}")
        if not self.chance(0.2):
            node.name = self.random.choice([f"n{len(self.nodes)}", f"/layer.{len(self.nodes)}/{op_type}"])
        self.nodes.append(node)
        self.pool.update(zip(names, shapes, strict=True))
        return names

    def one(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self.node(op_type, inputs, **attributes)[0]


Maker = Callable[[Builder], object]
MAKERS: list[tuple[Maker, float]] = []


def maker(weight: float) -> Callable[[Maker], Maker]:
    def register(function: Maker) -> Maker:
        MAKERS.append((function, weight))
        return function

    return register


def images(shape: Shape) -> bool:
    return len(shape) in (3, 4)
