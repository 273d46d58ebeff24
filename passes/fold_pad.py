"""`fold-pad`: borders of zeros become padding of the conv or pool that reads them."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Stage, Value, ops
from qcompiler.ir.rewrite import producer_of
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True, slots=True)
class PaddedWindow:
    """A conv or pool whose input is the result of `pad`."""

    node: Node
    op: ops.Conv | ops.AveragePool | ops.MaxPool
    pad: Node
    border: ops.Pad


@register_pass
@dataclass(frozen=True)
class FoldPad(RewritePass[PaddedWindow]):
    """Let a conv, average_pool or max_pool do the padding with zeros before it.

    Why: a border written to memory costs a pass over the tensor; kernels read it for nothing.

    Algebra: pads' = pads + border on the spatial axes. For an average the border counts, so the pool becomes
    `count_include_pad`, which is the same if it had no pads of its own or counted them already. For a maximum a border
    of zeros never wins against elements that are all ≥ 0, as long as no window lies in the border alone.

        p = pad(x){pads=[0, 0, 1, 1, 0, 0, 1, 1]}; y = conv(p, w){pads=[0, 0, 0, 0]}          before
        y = conv(x, w){pads=[1, 1, 1, 1]}                                                      after

    Known limits: "all ≥ 0" is seen only where the producer is relu, clip, or has a clamp. Other users of the padded
    tensor keep it.
    """

    name: ClassVar[str] = "fold-pad"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> PaddedWindow | None:
        match node.op:
            case ops.Conv() | ops.AveragePool() | ops.MaxPool() as op:
                pad = producer_of(node.operands[0], ops.Pad)
                border = pad.op if pad is not None else None
                return PaddedWindow(node, op, pad, border) if pad and isinstance(border, ops.Pad) else None
            case _:
                return None

    def check(self, graph: Graph, match: PaddedWindow) -> str | None:
        del graph
        name, border, rank = match.pad.name, match.border, match.pad.operands[0].type.rank
        if border.value != 0:
            return f"'{name}' pads with {border.value}, not with 0"
        if any(border.pads[axis] or border.pads[rank + axis] for axis in (0, 1)):
            return f"'{name}' also pads the batch or channel axis"
        match match.op:
            case ops.AveragePool() as op:
                return _check_average(op, name)
            case ops.MaxPool() as op:
                return _check_maximum(op, match.pad, border)
            case _:
                return None

    def rewrite(self, graph: Graph, match: PaddedWindow) -> None:
        rank = match.pad.operands[0].type.rank
        border = (*match.border.pads[2:rank], *match.border.pads[rank + 2 :])
        pads = tuple(a + b for a, b in zip(match.op.pads, border, strict=True))
        op = dataclasses.replace(match.op, pads=pads)
        match.node.op = dataclasses.replace(op, count_include_pad=True) if isinstance(op, ops.AveragePool) else op
        graph.set_operand(match.node, 0, match.pad.operands[0])
        graph.erase_if_unused(match.pad)


def _check_average(op: ops.AveragePool, pad: str) -> str | None:
    if op.ceil_mode:
        return f"with ceil_mode windows that start in the border of '{pad}' would be dropped"
    if any(op.pads) and not op.count_include_pad:
        return f"it counts the border of '{pad}' but not its own padding"
    return None


def _check_maximum(op: ops.MaxPool, pad: Node, border: ops.Pad) -> str | None:
    if not _is_non_negative(pad.operands[0]):
        return f"an element of {pad.operands[0]!r} below 0 would win where a zero of '{pad.name}' does now"
    rank = pad.operands[0].type.rank
    ends = zip(op.pads, (*border.pads[2:rank], *border.pads[rank + 2 :]), op.kernel * 2, strict=True)
    if op.ceil_mode or set(op.dilations) != {1} or any(own + added >= k for own, added, k in ends):
        return f"a window may lie in the border of '{pad.name}' alone"
    return None


def _is_non_negative(value: Value) -> bool:
    node = value.producer
    match node.op if node is not None else None:
        case ops.Relu():
            return True
        case ops.Clip(low=low):
            return low >= 0
        case ops.Conv() | ops.ConvTranspose() | ops.Gemm() | ops.Add() | ops.Sub() | ops.Mul() as op:
            return op.clamp is not None and op.clamp[0] >= 0
        case _:
            return False
