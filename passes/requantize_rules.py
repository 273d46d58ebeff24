"""The rewrites of `fold-requantization`, one class each, split in match, check and rewrite."""

import dataclasses
from dataclasses import dataclass

from qcompiler.ir import DType, Graph, Node, Quantization, QuantParams, TensorType, Value, ops
from qcompiler.ir.rewrite import other_users, producer_of

_MOVES = frozenset({Quantization.PASSTHROUGH, Quantization.SELECTS})
_COMPUTES = frozenset({Quantization.ACCUMULATES, Quantization.ARITHMETIC, Quantization.FIXED_RANGE})
Clamped = ops.Conv | ops.Gemm | ops.Add | ops.Sub | ops.Mul


@dataclass(frozen=True)
class Pair:
    """A node and the producer of its first operand."""

    producer: Node
    node: Node


def _parameters(value: Value) -> tuple[DType, QuantParams | None]:
    return value.type.dtype, value.type.quant


def _shared(pair: Pair) -> str | None:
    users = other_users(pair.node.operands[0], pair.node)
    return None if users is None else f"its input '{pair.producer.name}' is also used by {users}"


def _merge_into_producer(graph: Graph, pair: Pair) -> None:
    """Let the producer give the node's result in the node's parameters."""
    value, result = pair.producer.result, pair.node.result
    value.type = TensorType(result.type.dtype, value.type.shape, result.type.quant)
    graph.replace_node(pair.node, [value])


@dataclass(frozen=True)
class BoundaryPair:
    """quantize(dequantize(x)) is requantize(x)."""

    def match(self, node: Node) -> Pair | None:
        producer = producer_of(node.operands[0], ops.Dequantize) if isinstance(node.op, ops.Quantize) else None
        return None if producer is None else Pair(producer, node)

    def check(self, graph: Graph, match: Pair) -> str | None:
        del graph
        quant = match.producer.operands[0].type.quant
        return None if quant is not None and quant.is_per_tensor else "it has a scale per channel"

    def rewrite(self, graph: Graph, match: Pair) -> None:
        match.node.op = ops.Requantize()
        graph.set_operand(match.node, 0, match.producer.operands[0])
        graph.erase_if_unused(match.producer)


@dataclass(frozen=True)
class SameParameters:
    """requantize(x) with the parameters of x is x."""

    def match(self, node: Node) -> Node | None:
        if not isinstance(node.op, ops.Requantize):
            return None
        return node if _parameters(node.operands[0]) == _parameters(node.result) else None

    def check(self, graph: Graph, match: Node) -> str | None:
        del graph, match
        return None

    def rewrite(self, graph: Graph, match: Node) -> None:
        graph.replace_node(match, [match.operands[0]])


@dataclass(frozen=True)
class RequantizeChain:
    """requantize(requantize(x)) is requantize(x), rounded once."""

    def match(self, node: Node) -> Pair | None:
        if not isinstance(node.op, ops.Requantize):
            return None
        producer = producer_of(node.operands[0], ops.Requantize)
        return None if producer is None else Pair(producer, node)

    def check(self, graph: Graph, match: Pair) -> str | None:
        del graph, match
        return None

    def rewrite(self, graph: Graph, match: Pair) -> None:
        graph.set_operand(match.node, 0, match.producer.operands[0])
        graph.erase_if_unused(match.producer)


@dataclass(frozen=True)
class ClampIntoProducer:
    """relu or clip of a result becomes the clamp of the op that computes it."""

    def match(self, node: Node) -> Pair | None:
        if not isinstance(node.op, ops.Relu | ops.Clip) or node.result.type.quant is None:
            return None
        producer = producer_of(node.operands[0], ops.Conv, ops.Gemm, ops.Add, ops.Sub, ops.Mul)
        return None if producer is None else Pair(producer, node)

    def check(self, graph: Graph, match: Pair) -> str | None:
        del graph
        return _shared(match)

    def rewrite(self, graph: Graph, match: Pair) -> None:
        op = match.producer.op
        if isinstance(op, Clamped):
            low, high = _bounds(match.node)
            ours = op.clamp or (float("-inf"), float("inf"))
            inner = (min(max(ours[0], low), high), min(max(ours[1], low), high))
            match.producer.op = dataclasses.replace(op, clamp=inner)
        _merge_into_producer(graph, match)


@dataclass(frozen=True)
class ClampWithoutEffect:
    """relu or clip whose bounds lie outside all that its operand's function can give only changes parameters.

    That the operand's parameters saturate there is not enough: other rewrites may give it other parameters.
    """

    def match(self, node: Node) -> Node | None:
        if not isinstance(node.op, ops.Relu | ops.Clip) or node.operands[0].type.quant is None:
            return None
        known, bounds = _function_range(node.operands[0]), _bounds(node)
        return node if bounds[0] <= known[0] and known[1] <= bounds[1] else None

    def check(self, graph: Graph, match: Node) -> str | None:
        del graph, match
        return None

    def rewrite(self, graph: Graph, match: Node) -> None:
        del graph
        match.op = ops.Requantize()


@dataclass(frozen=True)
class RequantizeOverMovement:
    """A requantize after data movement or max pooling goes before it, where its producer takes it."""

    def match(self, node: Node) -> Pair | None:
        if not isinstance(node.op, ops.Requantize):
            return None
        producer = producer_of(node.operands[0])
        moves = producer is not None and producer.op.quantization in _MOVES and len(producer.results) == 1
        return Pair(producer, node) if producer is not None and moves else None

    def check(self, graph: Graph, match: Pair) -> str | None:
        del graph
        return _shared(match) or _why_not_absorbed(match.producer.operands[0], match.producer)

    def rewrite(self, graph: Graph, match: Pair) -> None:
        mover, requantize = match.producer, match.node
        _requantize_before(graph, mover, 0, requantize.result.type)
        _merge_into_producer(graph, match)


@dataclass(frozen=True)
class RequantizeOverConcat:
    """A requantize after a concatenation goes to each operand, where the producers take it."""

    def match(self, node: Node) -> Pair | None:
        if not isinstance(node.op, ops.Requantize):
            return None
        producer = producer_of(node.operands[0], ops.Concat)
        return None if producer is None else Pair(producer, node)

    def check(self, graph: Graph, match: Pair) -> str | None:
        del graph
        if (reason := _shared(match)) is not None:
            return reason
        reasons = (_why_not_absorbed(operand, match.producer) for operand in match.producer.operands)
        return next((reason for reason in reasons if reason is not None), None)

    def rewrite(self, graph: Graph, match: Pair) -> None:
        for index in range(len(match.producer.operands)):
            _requantize_before(graph, match.producer, index, match.node.result.type)
        _merge_into_producer(graph, match)


@dataclass(frozen=True)
class RequantizeIntoProducer:
    """An op that computes its result gives it in the parameters that its only user wants."""

    def match(self, node: Node) -> Pair | None:
        if not isinstance(node.op, ops.Requantize):
            return None
        producer = producer_of(node.operands[0])
        return Pair(producer, node) if producer is not None and _absorbs(producer) else None

    def check(self, graph: Graph, match: Pair) -> str | None:
        del graph
        return _shared(match)

    def rewrite(self, graph: Graph, match: Pair) -> None:
        _merge_into_producer(graph, match)


def _function_range(value: Value) -> tuple[float, float]:
    """What the function that computes a value can give, whatever its operands are."""
    producer = value.producer
    if producer is None:
        return float("-inf"), float("inf")
    match producer.op:
        case ops.Relu() | ops.Clip():
            return _bounds(producer)
        case ops.Requantize() | ops.Reshape() | ops.Transpose() | ops.Slice() | ops.Split() | ops.MaxPool():
            return _function_range(producer.operands[0])
        case op:
            return op.result_range() or getattr(op, "clamp", None) or (float("-inf"), float("inf"))


def _bounds(node: Node) -> tuple[float, float]:
    match node.op:
        case ops.Clip(low=low, high=high):
            return low, high
        case _:
            return 0.0, float("inf")


def _absorbs(node: Node) -> bool:
    """Whether the node can give its result in any parameters."""
    if isinstance(node.op, ops.Softmax):
        return False
    return isinstance(node.op, ops.Quantize | ops.Requantize) or node.op.quantization in _COMPUTES


def _why_not_absorbed(value: Value, user: Node) -> str | None:
    """Why a requantize of `value`, used by `user`, would not vanish into the computation above it."""
    producer = value.producer
    if producer is None:
        return f"%{value.name} is an input or constant"
    if (users := other_users(value, user)) is not None:
        return f"%{value.name} is also used by {users}"
    if _absorbs(producer):
        return None
    if producer.op.quantization in _MOVES and len(producer.results) == 1:
        return _why_not_absorbed(producer.operands[0], producer)
    return f"'{producer.name}' ({producer.op.name}) cannot give other parameters"


def _requantize_before(graph: Graph, node: Node, index: int, wanted: TensorType) -> None:
    operand = node.operands[index]
    requantize = graph.add_node(
        ops.Requantize(),
        [operand],
        name=f"{operand.name}_requantize",
        result_types=[wanted.with_shape(operand.type.shape)],
        before=node,
    )
    graph.set_operand(node, index, requantize.result)
