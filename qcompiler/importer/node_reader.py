"""What an importer entry sees of one ONNX node, and how it builds IR for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from onnx import AttributeProto, NodeProto

from qcompiler.errors import ModelError
from qcompiler.importer.known import Known, settle
from qcompiler.importer.tensors import MAX_ELEMENTS, decode
from qcompiler.ir import AnyArray, Dim, Graph, Op, Shape, Value
from qcompiler.ir.types import split_dim


class Unsupported(Exception):  # noqa: N818  # a signal: the importer goes on and reports all of them together
    """The node is valid ONNX that the compiler has no form for; the message says what exactly."""


@dataclass
class ImportState:
    """An import so far.

    Attributes:
        graph: being built.
        opset: version of the default operator set.
        folder: where external data may lie; None if the model did not come from a file.
        environment: what each ONNX name stands for.
        constants: the IR constants made of tensors known at import.
        drops_windows: whether a pool has fewer windows than ONNX's shape inference may count (see
            `qcompiler.importer.pooling`), so that declared sizes may be too large.
    """

    graph: Graph
    opset: int
    folder: Path | None
    environment: dict[str, Value | Known] = field(default_factory=dict)
    constants: dict[Known, Value] = field(default_factory=dict)
    drops_windows: bool = False


class NodeReader:
    """One ONNX node: attributes, operands, and a place to emit IR nodes.

    Attributes:
        op_type: the ONNX operator.
        version: of the operator set.
        name: the node's name, or that of its first output where it has none.
        outputs: names of the outputs, "" for those left out.
        emitted: values made for this node so far.
    """

    def __init__(self, node: NodeProto, state: ImportState) -> None:
        self.op_type = node.op_type
        self.version = state.opset
        self.name = node.name or next((o for o in node.output if o), node.op_type)
        self.outputs = tuple(node.output)
        self.emitted: set[Value] = set()
        self._state = state
        self._attributes: dict[str, AttributeProto] = {a.name: a for a in node.attribute}
        self._operands = [state.environment[name] if name else None for name in node.input]

    @property
    def label(self) -> str:
        """``node 'conv_3' (Conv)``."""
        return f"node '{self.name}' ({self.op_type})"

    def note_dropped_window(self) -> None:
        """Say that the result is smaller than ONNX's shape inference may have declared it."""
        self._state.drops_windows = True

    # ---- attributes ---------------------------------------------------------------------------------------------

    def has_attribute(self, name: str) -> bool:
        return name in self._attributes

    def attr_int(self, name: str, default: int) -> int:
        attribute = self._attribute(name, AttributeProto.INT)
        return default if attribute is None else int(attribute.i)

    def attr_float(self, name: str, default: float) -> float:
        attribute = self._attribute(name, AttributeProto.FLOAT)
        return default if attribute is None else float(attribute.f)

    def attr_string(self, name: str, default: str) -> str:
        attribute = self._attribute(name, AttributeProto.STRING)
        return default if attribute is None else attribute.s.decode("utf-8", "replace")

    def attr_ints(self, name: str) -> tuple[int, ...] | None:
        attribute = self._attribute(name, AttributeProto.INTS)
        return None if attribute is None else tuple(attribute.ints)

    def attr_floats(self, name: str) -> tuple[float, ...] | None:
        attribute = self._attribute(name, AttributeProto.FLOATS)
        return None if attribute is None else tuple(attribute.floats)

    def attr_tensor(self, name: str) -> AnyArray | None:
        attribute = self._attribute(name, AttributeProto.TENSOR)
        return None if attribute is None else decode(attribute.t, self._state.folder, self.label)

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        attribute = self._attributes.get(name)
        if attribute is not None and attribute.type != kind:
            want, have = (AttributeProto.AttributeType.Name(k) for k in (kind, attribute.type))
            raise ModelError(f"{self.label}: attribute {name} has type {have}, expected {want}")
        return attribute

    # ---- operands -----------------------------------------------------------------------------------------------

    @property
    def operand_count(self) -> int:
        return len(self._operands)

    @property
    def all_known(self) -> bool:
        """Whether every operand that is there is known at import."""
        return all(operand is None or isinstance(operand, Known) for operand in self._operands)

    def has(self, index: int) -> bool:
        """Whether operand `index` is there."""
        return index < len(self._operands) and self._operands[index] is not None

    def operand(self, index: int) -> Value | Known:
        """Operand `index`, known at import or not.

        Raises:
            ModelError: it is missing.
        """
        operand = self._operands[index] if index < len(self._operands) else None
        if operand is None:
            raise ModelError(f"{self.label}: operand {index} is missing")
        return operand

    def value(self, index: int) -> Value:
        """Operand `index` as an IR value; a known tensor becomes a constant."""
        return self.as_value(self.operand(index))

    def values(self) -> tuple[Value, ...]:
        """All operands as IR values."""
        return tuple(self.value(i) for i in range(len(self._operands)))

    def as_value(self, operand: Value | Known) -> Value:
        """An IR value for what an operand stands for."""
        if isinstance(operand, Value):
            return operand
        if operand.is_symbolic:
            raise Unsupported(
                f"it computes with the value of the symbolic dimension {operand.symbol}; fix it with "
                f"--dim {operand.symbol}=SIZE"
            )
        if operand.array.dtype != np.float32:
            raise Unsupported(f"it computes with '{operand.name}' of dtype {operand.array.dtype} at run time")
        if operand not in self._state.constants:
            self._state.constants[operand] = self._state.graph.add_constant(operand.array, operand.name)
        return self._state.constants[operand]

    def array(self, index: int) -> AnyArray:
        """Operand `index` if it is known at import; dtype object if it has symbolic entries."""
        operand = self.operand(index)
        if isinstance(operand, Value):
            raise Unsupported(f"operand {index} (%{operand.name}) has to be a constant")
        return operand.array

    def arrays(self) -> list[AnyArray]:
        """All operands of an evaluated node."""
        return [self.array(i) for i in range(len(self._operands))]

    def dims(self, index: int) -> tuple[Dim, ...]:
        """Operand `index`, a vector (or scalar) of dimensions, as ints and symbols."""
        elements = settle(self.array(index)).reshape(-1).tolist()
        return tuple(e if isinstance(e, str) else int(e) for e in elements)

    def int_list(self, index: int) -> tuple[int, ...]:
        """Operand `index`, a vector (or scalar) of integers."""
        dims = self.dims(index)
        for dim in dims:
            if isinstance(dim, str):
                symbol = split_dim(dim)[1]
                raise Unsupported(f"operand {index} depends on the dimension {symbol}; fix it with --dim {symbol}=SIZE")
        return cast("tuple[int, ...]", dims)

    def scalar(self, index: int) -> float:
        """Operand `index`, a tensor of one element, as a number."""
        array = self.array(index)
        if array.size != 1 or array.dtype == np.dtype(object):
            raise Unsupported(f"operand {index} of shape {list(array.shape)} has to be one constant number")
        return float(array.reshape(-1)[0])

    def axes(self, operand_index: int, since: int) -> tuple[int, ...] | None:
        """`axes`, an attribute before operator set version `since` and an operand from then on."""
        if self.version < since:
            return self.attr_ints("axes")
        return self.int_list(operand_index) if self.has(operand_index) else None

    def axis(self, axis: int, rank: int) -> int:
        """A non-negative axis.

        Raises:
            ModelError: it lies outside the rank.
        """
        if not -rank <= axis < rank:
            raise ModelError(f"{self.label}: axis {axis} lies outside rank {rank}")
        return axis % rank

    # ---- building -----------------------------------------------------------------------------------------------

    def emit(self, op: Op, *operands: Value) -> Value:
        """Append `op` to the graph; its only result."""
        return self.emit_all(op, operands)[0]

    def emit_all(self, op: Op, operands: Sequence[Value]) -> tuple[Value, ...]:
        """Append `op` to the graph; all its results.

        Raises:
            ModelError: a result would have more than `MAX_ELEMENTS` elements.
        """
        results = self._state.graph.add_node(op, operands, name=self.name).results
        self.emitted.update(results)
        for result in results:
            self.check_size(result.type.shape)
        return results

    def constant(self, array: AnyArray, suffix: str) -> Value:
        """A new constant named after the node."""
        return self._state.graph.add_constant(array, f"{self.name}.{suffix}")

    def check_size(self, shape: Shape, most: int = MAX_ELEMENTS) -> None:
        """Raise ModelError for a tensor that is too large to be meant."""
        elements = 1
        for dim in shape:
            elements *= split_dim(dim)[0]
        if elements > most:
            raise ModelError(f"{self.label}: a result of shape {list(shape)} has more than {most} elements")

    def known_result(self, array: AnyArray, index: int = 0) -> Known:
        """A result that is known at import."""
        return Known(settle(np.asarray(array)), self.outputs[index])
