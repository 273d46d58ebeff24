"""The verifier: whether a graph keeps the rules of the IR and of its stage.

It checks, for each node in order: the op is registered and legal in the stage; attributes are of their declared types;
operands are defined before use; def-use chains agree both ways; results have the types that the op's rule gives; and
quantization parameters are where the stage spec wants them. Inputs, constants and outputs are checked alike. It takes
O(nodes + uses + elements of per-channel parameters).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import is_
from weakref import WeakValueDictionary

from qcompiler.errors import UsageError, VerifyError
from qcompiler.ir.attributes import describe, matches
from qcompiler.ir.graph import Graph, Node, Value, infer_result_types
from qcompiler.ir.op import Op, Quantization, Stage, attribute_types, op_class
from qcompiler.ir.ops.quantization import Dequantize, Quantize, Requantize
from qcompiler.ir.printer import format_attribute, format_constant, format_input, format_node, format_type
from qcompiler.ir.stages import is_legal, value_violation
from qcompiler.ir.types import DType, TensorType

_NEIGHBOURS = 4
_checked_ops: WeakValueDictionary[int, Op] = WeakValueDictionary()
"""By id: ops whose attributes have their declared types. Ops cannot be changed."""


def verify(graph: Graph) -> None:
    """Check every rule of the IR.

    Raises:
        VerifyError: a rule is broken; the message names the culprit and shows the lines around it.
    """
    defined: set[int] = set()
    for value in graph.inputs:
        _check_source(graph, value, "input")
        defined.add(id(value))
    for value in graph.constants():
        _check_source(graph, value, "constant")
        defined.add(id(value))
    uses = 0
    count = 0
    for node in graph.nodes():
        count += 1
        uses += len(node.operands)
        _check_node(graph, node, defined)
        defined.update(map(id, node.results))
    _check_books(graph, defined, count, uses)
    _check_outputs(graph, defined)


def _check_source(graph: Graph, value: Value, kind: str) -> None:
    """An input or constant."""

    def fail(reason: str) -> VerifyError:
        return _error(graph, f"{kind} %{value.name}", reason, partial(_source_lines, value))

    if not _owns(graph, value):
        raise fail("it is not registered under its name")
    if value.producer is not None:
        raise fail(f"it claims to be a result of node '{value.producer.name}'")
    if (kind == "constant") != value.is_constant:
        raise fail("it has data, as a constant has")
    if value.data is not None:
        if value.data.shape != value.type.shape or value.data.dtype != value.type.dtype.numpy:
            actual = f"{value.data.dtype} {list(value.data.shape)}"
            raise fail(f"its type is {format_type(value.type, abbreviate=True)}, its data {actual}")
        if value.data.flags.writeable:
            raise fail("its data is writeable; constants are shared and must not change")
        if value.type.dtype is DType.S4 and value.data.size and (value.data.min() < -8 or value.data.max() > 7):
            raise fail("its data lies outside the range of s4, [-8, 7]")
    if (problem := value_violation(graph, value)) is not None:
        raise fail(problem)


def _check_node(graph: Graph, node: Node, defined: set[int]) -> None:
    def fail(reason: str) -> VerifyError:
        return _error(graph, f"node '{node.name}' ({node.op.name})", reason, partial(_node_lines, node))

    if node.erased or not graph.has_node(node):
        raise fail("it is not registered under its name")
    _check_op(graph, node.op, fail)
    for index, operand in enumerate(node.operands):
        if not _owns(graph, operand):
            raise fail(f"operand {index}, %{operand.name}, is not a value of this graph")
        if id(operand) not in defined:
            raise fail(f"operand {index}, %{operand.name}, is used before it is defined")
        if not operand.is_used_by(node, index):
            raise fail(f"operand {index}, %{operand.name}, does not know of this use")
    try:
        inferred = _inferred(node)
    except VerifyError as error:
        raise fail(str(error.__cause__ or error)) from error
    if len(inferred) != len(node.results):
        raise fail(f"it has {len(node.results)} results, the op gives {len(inferred)}")
    for result, expected in zip(node.results, inferred, strict=True):
        if result.producer is not node or not _owns(graph, result):
            raise fail(f"its result %{result.name} is not registered as such")
        free_dtype = graph.stage is Stage.QUANTIZED and not node.op.fixes_dtype
        same_dtype = result.type.dtype is expected.dtype or free_dtype
        if result.type.shape != expected.shape or not same_dtype:
            actual, wanted = (format_type(t.with_quant(None)) for t in (result.type, expected))
            raise fail(f"result %{result.name} has type {actual}, the op gives {wanted}")
        if (problem := value_violation(graph, result)) is not None:
            raise fail(f"result %{result.name}: {problem}")
    if graph.stage is Stage.QUANTIZED and (problem := _quantization_problem(node)) is not None:
        raise fail(problem)


@dataclass(frozen=True, slots=True)
class _Inferred:
    """Result types by the op's own rule, which hold as long as op, operands and their types are the same objects."""

    op: Op
    operands: tuple[Value, ...]
    types: list[TensorType]
    results: tuple[TensorType, ...]


def _inferred(node: Node) -> tuple[TensorType, ...]:
    known, operands = node.inferred, node.operands
    types = [operand.type for operand in operands]
    match known:
        case _Inferred() if known.op is node.op and known.operands is operands and all(map(is_, known.types, types)):
            return known.results
    results = infer_result_types(node.op, operands, node.name)
    node.inferred = _Inferred(node.op, operands, types, results)
    return results


def _check_op(graph: Graph, op: Op, fail: Callable[[str], VerifyError]) -> None:
    try:
        registered = op_class(op.name)
    except UsageError as error:
        raise fail(str(error)) from error
    if registered is not type(op):
        raise fail(f"its op is of class {type(op).__qualname__}, registered is {registered.__qualname__}")
    if not is_legal(op, graph.stage, allow_float=graph.allow_float):
        raise fail(f"op {op.name} is not legal in the {graph.stage} stage")
    if _checked_ops.get(id(op)) is not op:
        for name, annotation in attribute_types(type(op)).items():
            value = getattr(op, name)
            if not matches(value, annotation):
                found = f"{format_attribute(value)} of type {type(value).__name__}"
                raise fail(f"attribute {name} is {found}, expected {describe(annotation)}")
        _checked_ops[id(op)] = op
    if getattr(op, "layout", "nchw") == "nhwc" and graph.stage is not Stage.INTEGER:
        raise fail("layout nhwc belongs to the integer stage")


def _quantization_problem(node: Node) -> str | None:
    """What breaks the rules of the quantized stage, or None."""
    operand_quants = [operand.type.quant for operand in node.operands]
    result_quants = [result.type.quant for result in node.results]
    match node.op:
        case Quantize():
            if operand_quants[0] is not None or result_quants[0] is None:
                return "quantize takes a float value and gives a quantized one"
        case Requantize():
            if operand_quants[0] is None or result_quants[0] is None:
                return "requantize takes a quantized value and gives one"
        case Dequantize():
            pass  # its type rule asks for a quantized operand
        case Op(quantization=Quantization.PASSTHROUGH | Quantization.UNIFIED | Quantization.SELECTS):
            for operand in node.operands:
                for result in node.results:
                    per_channel = operand.type.quant is not None and not operand.type.quant.is_per_tensor
                    if not per_channel and operand.type.with_shape(()) != result.type.with_shape(()):
                        ours, theirs = (format_type(v.type, abbreviate=True) for v in (result, operand))
                        return (
                            f"{node.op.name} does no arithmetic, so its operands and results share dtype and "
                            f"quantization parameters; %{result.name} is {ours}, %{operand.name} {theirs}"
                        )
        case _:
            activations = [operand for operand in node.operands if not operand.is_constant]
            for value in (*activations, *node.results):
                if (value.type.quant is None) != (result_quants[0] is None):
                    ours, theirs = (format_type(v.type, abbreviate=True) for v in (node.results[0], value))
                    return f"%{node.results[0].name} is {ours}, but %{value.name} is {theirs}: quantize all or none"
    return None


def _check_books(graph: Graph, defined: set[int], nodes: int, uses: int) -> None:
    """The graph's own tables hold just what the walk over its nodes has seen."""
    if nodes != len(graph):
        raise _error(graph, "node table", f"{nodes} nodes are linked, {len(graph)} registered", lambda: iter(()))
    recorded = 0
    for value in graph.values():
        recorded += value.use_count
        if id(value) not in defined:
            raise _error(
                graph,
                f"value %{value.name}",
                "nothing in the graph defines it",
                partial(_source_lines, value),
            )
    if recorded != uses:
        reason = f"{recorded} uses are recorded, the nodes have {uses} operands"
        raise _error(graph, "def-use chains", reason, lambda: iter(()))


def _check_outputs(graph: Graph, defined: set[int]) -> None:
    seen: set[str] = set()
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        reason = None
        if not _owns(graph, value) or id(value) not in defined:
            reason = f"it is %{value.name}, which is not a value of this graph"
        elif not graph.is_output(value):
            reason = f"%{value.name} does not know that it is an output"
        elif name in seen:
            reason = "another output has the same name"
        seen.add(name)
        if reason is not None:
            raise _error(graph, f"output '{name}'", reason, partial(_source_lines, value))


def _owns(graph: Graph, value: Value) -> bool:
    return graph.get_value(value.name) is value


def _error(graph: Graph, culprit: str, reason: str, lines: Callable[[], Iterator[str]]) -> VerifyError:
    return VerifyError("\n".join([f"graph '{graph.name}' ({graph.stage} stage): {culprit}: {reason}", *lines()]))


def _source_lines(value: Value) -> Iterator[str]:
    """The line of an input, constant or stray value, then its first users."""
    if value.producer is not None:
        yield from _node_lines(value.producer)
        return
    line = format_constant(value, abbreviate=True) if value.is_constant else format_input(value, abbreviate=True)
    yield f"  > {line}"
    for user in value.users[: 2 * _NEIGHBOURS]:
        yield f"    {format_node(user, abbreviate=True)}"


def _node_lines(node: Node) -> Iterator[str]:
    """The constants that a node takes and the nodes before and after it."""
    for operand in dict.fromkeys(node.operands):
        if operand.is_constant:
            yield f"    {format_constant(operand, abbreviate=True)}"
    before, after = node.neighbours(_NEIGHBOURS)
    for neighbour in before:
        yield f"    {format_node(neighbour, abbreviate=True)}"
    yield f"  > {format_node(node, abbreviate=True)}"
    for neighbour in after:
        yield f"    {format_node(neighbour, abbreviate=True)}"
