"""The graph: SSA values with def-use chains, nodes in a valid topological order, and the edits on them.

Nodes form a doubly linked list, so inserting and erasing are O(1) and replacing a value is O(its uses): a pass over a
graph of 100,000 nodes stays linear. The order of the list is always a valid execution order; the verifier checks it.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.ir.content import content_digest
from qcompiler.ir.op import Op, Operands, Stage, check_operand_count
from qcompiler.ir.types import AnyArray, DType, QuantParams, TensorType


class Value:
    """One SSA tensor: a graph input, a constant (`data` is its array) or a result of `producer`.

    Values are made by a `Graph` only. `type` may be refined by passes; everything else changes through the graph.
    """

    __slots__ = ("_digest", "_output_positions", "_uses", "data", "name", "producer", "type")

    def __init__(self, name: str, value_type: TensorType, producer: "Node | None", data: AnyArray | None) -> None:
        self.name = name
        self.type = value_type
        self.producer = producer
        self.data = data
        self._uses: dict[tuple[Node, int], None] = {}
        self._output_positions: dict[int, None] = {}
        self._digest: str | None = None

    @property
    def is_constant(self) -> bool:
        return self.data is not None

    @property
    def uses(self) -> tuple[tuple["Node", int], ...]:
        """(node, operand index) of every use by a node, in the order in which they were made."""
        return tuple(self._uses)

    @property
    def users(self) -> tuple["Node", ...]:
        """The nodes that use the value, each once."""
        return tuple(dict.fromkeys(node for node, _ in self._uses))

    @property
    def use_count(self) -> int:
        """Uses by nodes; being a graph output does not count."""
        return len(self._uses)

    def is_used_by(self, node: "Node", index: int) -> bool:
        """Whether the def-use chain holds the use as operand `index` of `node`."""
        return (node, index) in self._uses

    @property
    def is_used(self) -> bool:
        """Whether a node uses the value or a graph output is it."""
        return bool(self._uses or self._output_positions)

    @property
    def is_output(self) -> bool:
        """Whether a graph output is the value."""
        return bool(self._output_positions)

    @property
    def digest(self) -> str:
        """The first 128 bits of the SHA-256, in hexadecimal, of a constant's dtype, shape and elements.

        Raises:
            VerifyError: the value is not a constant.
        """
        if self.data is None:
            raise VerifyError(f"%{self.name} is not a constant and has no content")
        if self._digest is None:
            self._digest = content_digest(self.type, self.data)
        return self._digest

    def __repr__(self) -> str:
        return f"%{self.name}"


class Node:
    """An op applied to operands.

    `name` is for people (the ONNX node's name where there is one) and unique in the graph.
    """

    __slots__ = ("_graph", "_next", "_operands", "_previous", "inferred", "name", "op", "results")

    def __init__(self, graph: "Graph", op: Op, name: str) -> None:
        self._graph: Graph | None = graph
        self.op = op
        self.name = name
        self._operands: tuple[Value, ...] = ()
        self.results: tuple[Value, ...] = ()
        self._previous: Node | None = None
        self._next: Node | None = None
        self.inferred: object = None  # the verifier's own

    @property
    def operands(self) -> tuple[Value, ...]:
        return self._operands

    @property
    def result(self) -> Value:
        """The only result.

        Raises:
            VerifyError: the node has several.
        """
        if len(self.results) != 1:
            raise VerifyError(f"node '{self.name}' ({self.op.name}) has {len(self.results)} results, not one")
        return self.results[0]

    def neighbours(self, count: int) -> tuple[list["Node"], list["Node"]]:
        """Up to `count` nodes before and after this one in execution order."""
        before: list[Node] = []
        node = self._previous
        while node is not None and len(before) < count:
            before.append(node)
            node = node._previous
        after: list[Node] = []
        node = self._next
        while node is not None and len(after) < count:
            after.append(node)
            node = node._next
        return before[::-1], after

    @property
    def erased(self) -> bool:
        return self._graph is None

    def __repr__(self) -> str:
        return f"<{self.op.name} '{self.name}'>"


class Graph:
    """A function from named inputs to named outputs.

    Attributes:
        name: of the model.
        stage: which stage spec the graph follows.
        allow_float: whether the integer stage may hold float nodes between boundary ops (`--allow-float`).
    """

    def __init__(self, name: str = "graph", stage: Stage = Stage.FLOAT, *, allow_float: bool = False) -> None:
        self.name = name
        self.stage = stage
        self.allow_float = allow_float
        self._inputs: list[Value] = []
        self._outputs: list[Value] = []
        self._output_names: list[str] = []
        self._values: dict[str, Value] = {}
        self._node_names: dict[str, Node] = {}
        self._suffix: dict[str, int] = {}
        self._first: Node | None = None
        self._last: Node | None = None

    # ---- reading ------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        return tuple(self._outputs)

    @property
    def output_names(self) -> tuple[str, ...]:
        """The outputs' public names, which stay when a pass replaces the value behind one."""
        return tuple(self._output_names)

    def nodes(self) -> Iterator[Node]:
        """All nodes in execution order; any may be erased meanwhile, and nodes inserted behind are visited."""
        node = self._first
        while node is not None:
            yield node
            node = node._next  # an erased node keeps its links
            while node is not None and node.erased:
                node = node._next

    def nodes_reversed(self) -> Iterator[Node]:
        """All nodes, users before producers; any may be erased meanwhile, and nodes inserted before are visited."""
        node = self._last
        while node is not None:
            yield node
            node = node._previous
            while node is not None and node.erased:
                node = node._previous

    def constants(self) -> Iterator[Value]:
        """All constants, in the order in which they were added."""
        return (v for v in tuple(self._values.values()) if v.is_constant)

    def values(self) -> Iterator[Value]:
        """All values: inputs, constants and results."""
        return iter(tuple(self._values.values()))

    def value(self, name: str) -> Value:
        """The value of that name.

        Raises:
            VerifyError: there is none.
        """
        if name not in self._values:
            raise VerifyError(f"graph '{self.name}' has no value %{name}")
        return self._values[name]

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            VerifyError: there is none.
        """
        if name not in self._node_names:
            raise VerifyError(f"graph '{self.name}' has no node '{name}'")
        return self._node_names[name]

    def get_value(self, name: str) -> Value | None:
        """The value of that name, or None."""
        return self._values.get(name)

    def has_node(self, node: Node) -> bool:
        """Whether `node` is one of this graph's, under its own name."""
        return self._node_names.get(node.name) is node

    def has_node_named(self, name: str) -> bool:
        """Whether a node has that name."""
        return name in self._node_names

    def is_output(self, value: Value) -> bool:
        """Whether a graph output is `value`."""
        return value.is_output

    def __len__(self) -> int:
        """Number of nodes."""
        return len(self._node_names)

    # ---- building -----------------------------------------------------------------------------------------------

    def add_input(self, name: str, value_type: TensorType) -> Value:
        """Append a graph input. The name is part of the interface, so it must be free.

        Raises:
            VerifyError: the name is taken.
        """
        if name in self._values:
            raise VerifyError(f"graph '{self.name}' has two values named %{name}")
        value = self._new_value(name, value_type, None, None)
        self._inputs.append(value)
        return value

    def add_constant(
        self,
        data: AnyArray,
        name: str = "constant",
        *,
        dtype: DType | None = None,
        quant: QuantParams | None = None,
        digest: str | None = None,
    ) -> Value:
        """Add a constant; the array is made read-only and C-contiguous.

        `dtype` is for what NumPy has no dtype for (s4); `digest` is that of the content, if it is known.
        """
        array = np.array(data, order="C", copy=data.flags.writeable or not data.flags.c_contiguous)
        array.flags.writeable = False
        constant_type = TensorType(dtype or DType.from_numpy(array.dtype), array.shape, quant)
        value = self._new_value(name, constant_type, None, array)
        value._digest = digest
        return value

    def add_node(
        self,
        op: Op,
        operands: Sequence[Value],
        *,
        name: str | None = None,
        result_types: Sequence[TensorType] | None = None,
        result_names: Sequence[str] | None = None,
        before: Node | None = None,
    ) -> Node:
        """Insert `op` at the end, or just before a node.

        Result types are inferred unless given (an op in the quantized stage, or with a dtype of its own choice, has
        to be told). Names are made unique by a numeric suffix.

        Raises:
            VerifyError: the operands do not fit the op.
        """
        node = Node(self, op, self._free_name(name or op.name, self._node_names))
        if result_types is None:
            result_types = infer_result_types(op, operands, node.name)
        self._node_names[node.name] = node
        node._operands = tuple(operands)
        for index, operand in enumerate(operands):
            operand._uses[node, index] = None
        names = result_names or default_result_names(node.name, len(result_types))
        node.results = tuple(self._new_value(n, t, node, None) for n, t in zip(names, result_types, strict=True))
        self._link(node, before)
        return node

    def add_output(self, value: Value, name: str | None = None) -> None:
        """Append a graph output with a public name (default: the value's)."""
        value._output_positions[len(self._outputs)] = None
        self._outputs.append(value)
        self._output_names.append(name or value.name)

    # ---- editing ------------------------------------------------------------------------------------------------

    def set_operand(self, node: Node, index: int, value: Value) -> None:
        """Make `value` operand `index` of `node`."""
        old = node._operands[index]
        del old._uses[node, index]
        value._uses[node, index] = None
        node._operands = (*node._operands[:index], value, *node._operands[index + 1 :])

    def set_operands(self, node: Node, operands: Sequence[Value]) -> None:
        """Give `node` these operands instead of all of its own."""
        for index, operand in enumerate(node._operands):
            del operand._uses[node, index]
        node._operands = tuple(operands)
        for index, operand in enumerate(node._operands):
            operand._uses[node, index] = None

    def replace_uses(self, old: Value, new: Value, *, except_by: Node | None = None) -> None:
        """Let everything that uses `old`, graph outputs too, use `new`; O(uses of old, operands of its users)."""
        if new is old:
            return
        for node in old.users:
            if node is not except_by:
                self.set_operands(node, [new if operand is old else operand for operand in node._operands])
        for position in tuple(old._output_positions):
            self.set_output(position, new)

    def set_output(self, index: int, value: Value) -> None:
        """Put `value` behind the public output `index`."""
        del self._outputs[index]._output_positions[index]
        value._output_positions[index] = None
        self._outputs[index] = value

    def replace_node(self, node: Node, values: Sequence[Value]) -> None:
        """Let the users of each result use the given value instead, then erase `node`."""
        for result, value in zip(node.results, values, strict=True):
            self.replace_uses(result, value)
        self.erase(node)

    def erase(self, node: Node) -> None:
        """Remove a node whose results nobody uses.

        Raises:
            VerifyError: a result is still used, or the node is not in the graph.
        """
        if not self.has_node(node):
            raise VerifyError(f"node '{node.name}' is not in graph '{self.name}' (any more)")
        for result in node.results:
            if result.is_used:
                user = result.users[0].name if result._uses else "the graph's outputs"
                raise VerifyError(f"cannot erase node '{node.name}': its result %{result.name} is used by {user}")
        for index, operand in enumerate(node._operands):
            del operand._uses[node, index]
        for result in node.results:
            del self._values[result.name]
        del self._node_names[node.name]
        if node._previous is None:
            self._first = node._next
        else:
            node._previous._next = node._next
        if node._next is None:
            self._last = node._previous
        else:
            node._next._previous = node._previous
        node._graph = None

    def erase_if_unused(self, node: Node) -> int:
        """Erase `node` if nobody uses its results, then in turn its operands' producers; returns how many."""
        erased = 0
        candidates = [node]
        while candidates:
            candidate = candidates.pop()
            if candidate.erased or any(result.is_used for result in candidate.results):
                continue
            self.erase(candidate)
            erased += 1
            candidates += [v.producer for v in candidate.operands if v.producer is not None]
        return erased

    def erase_unused_nodes(self) -> int:
        """Erase every node that no graph output depends on; returns how many."""
        before = len(self)
        for node in self.nodes_reversed():
            if not any(result.is_used for result in node.results):
                self.erase(node)
        return before - len(self)

    def erase_unused_constants(self) -> int:
        """Drop constants without a use; returns how many."""
        unused = [v for v in self.constants() if not v.is_used]
        for value in unused:
            del self._values[value.name]
        return len(unused)

    def remove_input(self, value: Value) -> None:
        """Drop an unused graph input.

        Raises:
            VerifyError: it is used.
        """
        if value.is_used:
            raise VerifyError(f"input %{value.name} is used and cannot be removed")
        self._inputs = [v for v in self._inputs if v is not value]
        del self._values[value.name]

    def rename(self, value: Value, name: str) -> None:
        """Give a value another name, made unique."""
        del self._values[value.name]
        value.name = self._free_name(name, self._values)
        self._values[value.name] = value

    def clone(self) -> "Graph":
        """An independent copy; constant arrays, being read-only, are shared."""
        copy = Graph(self.name, self.stage, allow_float=self.allow_float)
        mapping: dict[int, Value] = {}
        for value in self._inputs:
            mapping[id(value)] = copy.add_input(value.name, value.type)
        for value in self.constants():
            twin_constant = copy._new_value(value.name, value.type, None, value.data)
            twin_constant._digest = value._digest
            mapping[id(value)] = twin_constant
        for node in self.nodes():
            twin = copy.add_node(
                node.op,
                [mapping[id(v)] for v in node.operands],
                name=node.name,
                result_types=[v.type for v in node.results],
                result_names=[v.name for v in node.results],
            )
            mapping.update({id(a): b for a, b in zip(node.results, twin.results, strict=True)})
        for value, name in zip(self._outputs, self._output_names, strict=True):
            copy.add_output(mapping[id(value)], name)
        return copy

    # ---- internals ----------------------------------------------------------------------------------------------

    def _new_value(self, name: str, value_type: TensorType, producer: Node | None, data: AnyArray | None) -> Value:
        value = Value(self._free_name(name, self._values), value_type, producer, data)
        self._values[value.name] = value
        return value

    def _free_name(self, wanted: str, taken: "dict[str, Value] | dict[str, Node]") -> str:
        """`wanted`, with a numeric suffix if it is taken; amortized O(1)."""
        base = wanted or "_"
        name = base
        while name in taken:
            self._suffix[base] = self._suffix.get(base, 0) + 1
            name = f"{base}_{self._suffix[base]}"
        return name

    def _link(self, node: Node, before: Node | None) -> None:
        if before is None:
            node._previous, self._last = self._last, node
            if node._previous is None:
                self._first = node
            else:
                node._previous._next = node
            return
        node._previous, node._next, before._previous = before._previous, before, node
        if node._previous is None:
            self._first = node
        else:
            node._previous._next = node


def infer_result_types(op: Op, operands: Iterable[Value], name: str) -> tuple[TensorType, ...]:
    """Types of the results of `op` on these operands, by the op's own rule.

    Raises:
        VerifyError: they do not fit; the message names the node.
    """
    values = tuple(operands)
    try:
        check_operand_count(op, len(values))
        return op.infer(Operands([v.type for v in values], [v.data for v in values]))
    except VerifyError as error:
        raise VerifyError(f"node '{name}' ({op.name}): {error}") from error


def default_result_names(node_name: str, count: int) -> list[str]:
    """Names of a node's results unless given: the node's own for one, ``name.0``, ``name.1``, ... for several."""
    return [node_name] if count == 1 else [f"{node_name}.{i}" for i in range(count)]
