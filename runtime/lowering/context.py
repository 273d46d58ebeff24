"""What a lowering rule works with: the registry of rules, the packed constants of a model, one run of the lowering.

A rule turns one node into instructions and is registered for the op's class::

    @lowers(IntRescale)
    def lower_rescale(lowering: Lowering, node: Node, op: IntRescale) -> None: ...
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from qcompiler.errors import InternalError, PluginError, UnsupportedOpError
from qcompiler.ir import AnyArray, Graph, Node, Op, Value
from qcompiler.ir.types import bind_shape
from qcompiler.runtime.lowering.copies import copy_call, steps_of
from qcompiler.runtime.lowering.geometry import merged_walk
from qcompiler.runtime.program import Buffer, Operand, aligned
from qcompiler.runtime.program_builder import ProgramBuilder

_OpType = TypeVar("_OpType", bound=Op)
_Made = TypeVar("_Made")
Rule = Callable[["Lowering", Node, Any], None]
_rules: dict[type[Op], Rule] = {}

SHARE_NS = 2_000.0
"""Work that is worth a share of its own, predicted nanoseconds."""
MOST_SHARES = 64


def lowers(op_class: type[_OpType]) -> Callable[[Callable[["Lowering", Node, _OpType], None]], Rule]:
    """Decorator: register the lowering rule of an op class (and of subclasses without one of their own).

    Raises:
        PluginError: the class has a rule already.
    """

    def register(rule: Callable[["Lowering", Node, _OpType], None]) -> Rule:
        if op_class in _rules:
            raise PluginError(f"op {op_class.name!r} has two lowering rules")
        _rules[op_class] = rule
        return rule

    return register


def rule_for(op_class: type[Op]) -> Rule | None:
    """The rule of an op class or of its nearest base that has one."""
    return next((_rules[base] for base in op_class.__mro__ if base in _rules), None)


@dataclass(frozen=True)
class Place:
    """Where in the buffer of `whole` a value is to be written.

    Attributes:
        offset: byte from which on it is there.
        by_rows: it is a part of each row, along the last axis, else it is contiguous.
    """

    whole: Value
    offset: int
    by_rows: bool


class PackedModel:
    """A graph with its constants in the forms that kernels want.

    What is packed serves any input shape, so it is done once, on demand, and shared by the programs of all shapes; a
    matrix unit's tiles are chosen for the first of them.

    Attributes:
        graph: the graph.
        counters: key of an `observe` node -> what counts its operand's elements, s64[lanes, rows, ROW]; see
            `qcompiler.runtime.kernels.observation`.
    """

    def __init__(self, graph: Graph, counters: Mapping[str, AnyArray] = MappingProxyType({})) -> None:
        self.graph = graph
        self.counters = counters
        self._arrays: dict[tuple[str, str], AnyArray] = {}
        self._objects: dict[tuple[str, str], object] = {}

    def array(self, name: str, form: str, make: Callable[[], AnyArray]) -> AnyArray:
        """The array kept for the node or value `name` under `form`, aligned; made when it is first wanted."""
        if (name, form) not in self._arrays:
            self._arrays[name, form] = aligned(make())
        return self._arrays[name, form]

    def made(self, name: str, form: str, make: Callable[[], _Made]) -> _Made:
        """The same for any other immutable object that is expensive to make."""
        if (name, form) not in self._objects:
            self._objects[name, form] = make()
        return self._objects[name, form]  # type: ignore[return-value]  # `form` decides the type


class Lowering:
    """One graph on its way to a program, for given values of the symbolic dimensions."""

    def __init__(self, model: PackedModel, symbols: Mapping[str, int], build: ProgramBuilder) -> None:
        self.model = model
        self.symbols = symbols
        self.build = build
        self._buffers: dict[Value, Buffer] = {}
        self._places: dict[Value, Place] = {}
        self._contiguous: dict[Value, Buffer] = {}  # copies of those whose rows are apart

    def shape(self, value: Value) -> tuple[int, ...]:
        """The concrete shape of a value."""
        return bind_shape(value.type.shape, self.symbols)

    def rows(self, value: Value) -> Buffer:
        """The buffer that holds a value which has been computed, or is a constant; it may be pitched."""
        if value not in self._buffers and value.data is not None:
            data = value.data
            array = self.model.array(value.name, "value", lambda: data)
            self._buffers[value] = self.build.constant(value.name, array, value.type.dtype)
        return self._buffers[value]

    def buffer(self, value: Value) -> Buffer:
        """The same for rules that read no pitched buffers: a copy of one."""
        found = self.rows(value)
        if not found.pitch:
            return found
        if value not in self._contiguous:
            copy = self.build.tensor(f"{value.name}.contiguous", found.dtype, found.shape)
            self._contiguous[value] = copy
            self.copy_rows(value.name, found, copy)
        return self._contiguous[value]

    def copy_rows(self, label: str, source: Buffer, target: Buffer) -> None:
        """Copy a buffer to another one of the same shape; either may be pitched."""
        steps = (steps_of(buffer, source.shape) for buffer in (source, target))
        copy = copy_call(source, target, merged_walk(source.shape, *steps), label)
        self.build.emit(
            "copy",
            copy.words,
            writes=("target",),
            pitched=("source", "target"),
            shares=shares_for(copy.cost, copy.rows),
            cost=copy.cost,
            label=label,
        )

    def result_rows(self, value: Value) -> Buffer:
        """The buffer that a rule has to write `value` to; part of another value's where `place` said so.

        It may be pitched for those ops alone that `qcompiler.runtime.lowering.rows` names.
        """
        if value not in self._buffers:
            shape, dtype = self.shape(value), value.type.dtype
            place = self._places.get(value)
            if place is None:
                buffer = self.build.tensor(value.name, dtype, shape)
            elif place.by_rows:
                buffer = self.build.slice(self.result_rows(place.whole), value.name, shape, offset=place.offset)
            else:
                buffer = self.build.view(self.result_rows(place.whole), value.name, shape, offset=place.offset)
            self._buffers[value] = buffer
        return self._buffers[value]

    def result(self, value: Value) -> Buffer:
        """The same for rules that write no pitched buffers.

        Raises:
            InternalError: the value was placed in rows all the same.
        """
        buffer = self.result_rows(value)
        if buffer.pitch:
            raise InternalError(f"%{value.name} was placed in rows, and the kernel that computes it writes none")
        return buffer

    def alias(self, value: Value, buffer: Buffer) -> None:
        """Let `value` be held by an existing buffer."""
        self._buffers[value] = buffer

    def place(self, value: Value, place: Place) -> None:
        """Have `value`, not yet computed, written straight to a part of another one."""
        self._places[value] = place

    def place_of(self, value: Value) -> Place | None:
        """Where `value` was placed."""
        return self._places.get(value)

    def constant(self, node: Node, form: str, make: Callable[[], AnyArray]) -> Buffer:
        """A constant made for a node, once for the model."""
        return self.build.constant(f"{node.name}.{form}", self.model.array(node.name, form, make))

    def emit(
        self,
        node: Node,
        kernel: str,
        operands: Mapping[str, Operand],
        *,
        writes: Sequence[str] = ("out",),
        scratch: Sequence[str] = (),
        overwrites: Mapping[str, str] | None = None,
        pitched: Sequence[str] = (),
        cost: float,
        items: int,
    ) -> None:
        """Append a kernel call for `node`, cut into shares as `shares_for` says; none if it has nothing to write."""
        written = [operands[word] for word in writes]
        if all(isinstance(buffer, Buffer) and buffer.nbytes == 0 for buffer in written):
            return
        self.build.emit(
            kernel,
            operands,
            writes=writes,
            scratch=scratch,
            overwrites=overwrites,
            pitched=pitched,
            shares=shares_for(cost, items),
            cost=cost,
            label=node.name,
        )

    def unsupported(self, node: Node, why: str) -> UnsupportedOpError:
        """The error to raise for a node that no kernel can do."""
        return UnsupportedOpError(f"node '{node.name}' ({node.op.name}) has no kernel: {why}")


def shares_for(cost: float, items: int) -> int:
    """How many shares `items` indivisible pieces of work that take `cost` nanoseconds together are cut into."""
    return max(1, min(MOST_SHARES, items, int(cost / SHARE_NS)))
