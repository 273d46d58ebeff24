"""`propagate-ranges`: complete the observers' ranges, and let those that have to agree agree."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Op, Quantization, Stage, Value, ops
from qcompiler.ir.rewrite import producer_of
from qcompiler.pass_manager import Pass, PassContext, register_pass
from qcompiler.passes.intervals import Interval, result_interval, useful_interval

_SAME_RANGE = frozenset({Quantization.PASSTHROUGH, Quantization.SELECTS})


@register_pass
@dataclass(frozen=True)
class PropagateRanges(Pass):
    """Fill in the ranges that calibration left open, cut ranges to what an op can give, and unify at concatenations.

    - A bounded function has its bounds: sigmoid [0, 1], softmax [0, 1], tanh [−1, 1], and so on.
    - A value without a range gets one by interval arithmetic from its operands, where that is possible.
    - A result with a clamp, or of relu or clip, is cut to the clamp's bounds.
    - A value that only goes into flat-ended functions is cut to where they are not flat: hard_swish does not tell −5
      from −3, and with [−3, 4] instead of [−9, 4] the steps are half as large.
    - The operands of concatenations that nothing else uses share the union of their ranges, through data movement and
      max pooling on the way, so that concatenating needs no arithmetic.

        a = observe(..){low=0, high=1};  b = observe(..){low=-2, high=1}; y = concat(a, b)     before
        a = observe(..){low=-2, high=1}; b = observe(..){low=-2, high=1}; y = concat(a, b)     after

    Known limits: intervals grow with every layer, so without any data they are far too wide for deep models.
    """

    name: ClassVar[str] = "propagate-ranges"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.OBSERVED})

    def run(self, graph: Graph, context: PassContext) -> bool:
        ranges = _complete_ranges(graph)
        _cut_to_use(graph, ranges)
        _unify(graph, ranges)
        changed = False
        for node in graph.nodes():
            match node.op:
                case ops.Observe() as op:
                    found = ranges.get(node.result)
                    if found is None:
                        context.remark(self, node, "no range can be told: give calibration data")
                    elif found != (op.low, op.high):
                        node.op = dataclasses.replace(op, low=found[0], high=found[1])
                        changed = True
                case _:
                    pass
        return changed


def _complete_ranges(graph: Graph) -> dict[Value, Interval]:
    """The range of every real value whose range is known, from observers or by arithmetic."""
    ranges: dict[Value, Interval] = {}
    for constant in graph.constants():
        if constant.data is not None and constant.type.dtype.is_float and constant.data.size:
            ranges[constant] = float(constant.data.min()), float(constant.data.max())
    for node in graph.nodes():
        match node.op:
            case ops.Observe(low=float() as low, high=float() as high):
                ranges[node.result] = _cut(node.operands[0], (low, high))
            case op if isinstance(op, ops.Observe) or op.quantization in _SAME_RANGE:
                if node.operands[0] in ranges:
                    ranges.update(dict.fromkeys(node.results, _with_padding(op, ranges[node.operands[0]])))
            case op:
                intervals = [ranges.get(v) for v in node.operands]
                found = result_interval(op, intervals, [v.data for v in node.operands])
                if found is not None:
                    ranges.update(dict.fromkeys(node.results, found))
    return ranges


def _with_padding(op: Op, interval: Interval) -> Interval:
    match op:
        case ops.Pad(value=value):
            return min(interval[0], value), max(interval[1], value)
        case _:
            return interval


def _cut(value: Value, interval: Interval) -> Interval:
    """The observed range within what the producer of the value can give at all."""
    match value.producer:
        case Node(op=op):
            low, high = _bounds(op)
            return min(max(interval[0], low), high), max(min(interval[1], high), low)
        case _:
            return interval


def _cut_to_use(graph: Graph, ranges: dict[Value, Interval]) -> None:
    """Cut ranges to what the users of the value tell apart."""
    for node in graph.nodes():
        value = node.results[0]
        if not isinstance(node.op, ops.Observe) or value not in ranges or value.is_output or not value.users:
            continue
        parts = []
        for user in value.users:
            result = next((u.result for u in user.results[0].users if isinstance(u.op, ops.Observe)), None)
            if not isinstance(user.op, ops.Unary) or result not in ranges:
                break
            parts.append(useful_interval(user.op, ranges[value], ranges[result]))
        else:
            ranges[value] = _hull(parts) or ranges[value]


def _bounds(op: Op) -> Interval:
    bounded = op.result_range()
    if bounded is not None:
        return bounded
    match op:
        case ops.Relu():
            return 0.0, float("inf")
        case ops.Clip(low=low, high=high):
            return low, high
        case _:
            return getattr(op, "clamp", None) or (float("-inf"), float("inf"))


def _unify(graph: Graph, ranges: dict[Value, Interval]) -> None:
    """Give the observers that feed concatenations, and only those, the union of their ranges."""
    groups = _Groups()
    needs: list[tuple[Value, Value]] = []  # (result, operand): the result's range has to hold the operand's
    for node in graph.nodes():
        if node.op.quantization in _SAME_RANGE or isinstance(node.op, ops.Observe):
            if isinstance(node.op, ops.Observe) and producer_of(node.operands[0], ops.Concat) is None:
                continue
            for result in node.results:
                groups.join(node.operands[0], result)
        elif node.op.quantization is Quantization.UNIFIED:
            for operand in node.operands:
                if _is_only_concatenated(operand):
                    groups.join(node.result, operand)
                else:
                    needs.append((node.result, operand))
    members = groups.members()
    # Each round widens at least one group by the range of another, so there are at most as many rounds as groups.
    union = {root: _hull(ranges[v] for v in values if v in ranges) for root, values in members.items()}
    changed = True
    while changed:
        changed = False
        for result, operand in needs:
            root = groups.root(result)
            theirs = union.get(groups.root(operand)) or ranges.get(operand)
            wider = _hull(r for r in (union.get(root), theirs) if r is not None)
            if wider != union.get(root):
                union[root] = wider
                changed = True
    for root, values in members.items():
        found = union[root]
        if found is not None:
            ranges.update(dict.fromkeys(values, found))


def _is_only_concatenated(value: Value) -> bool:
    """Whether only concatenations use the value and what it was moved from, so that its parameters are free."""
    if value.is_output or value.is_constant:
        return False
    if value.use_count != 1 and any(user.op.quantization is not Quantization.UNIFIED for user in value.users):
        return False
    producer = value.producer
    if producer is None or producer.op.quantization not in _SAME_RANGE:
        return True
    return len(producer.results) == 1 and all(_is_only_concatenated(operand) for operand in producer.operands)


def _hull(intervals: Iterable[Interval]) -> Interval | None:
    found = list(intervals)
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


class _Groups:
    """Disjoint sets of values."""

    def __init__(self) -> None:
        self._parent: dict[Value, Value] = {}

    def root(self, value: Value) -> Value:
        while (parent := self._parent.get(value, value)) is not value:
            self._parent[value] = self._parent.get(parent, parent)
            value = parent
        return value

    def join(self, a: Value, b: Value) -> None:
        for value in (a, b):
            self._parent.setdefault(value, value)
        self._parent[self.root(a)] = self.root(b)

    def members(self) -> dict[Value, list[Value]]:
        found: dict[Value, list[Value]] = {}
        for value in self._parent:
            found.setdefault(self.root(value), []).append(value)
        return found
