"""`compose-tables`: one look-up instead of two."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import AnyArray, DType, Graph, Node, Stage, ops
from qcompiler.ir.rewrite import other_users, producer_of
from qcompiler.numerics import requantize
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True)
class _Match:
    first: Node
    second: Node


@register_pass
@dataclass(frozen=True)
class ComposeTables(RewritePass[_Match]):
    """Merge a function of an 8-bit value into the table that is looked up with its result.

        y = int.lut(x, f); z = int.lut(y, g)            before
        z = int.lut(x, h)     h[i] = g[f[i]]            after

    Why: each look-up reads and writes the whole tensor. The result has the same bits: h is evaluated for all 256
    operands. `f` may be an int.rescale of an 8-bit value too, which is a function of one value as well, and so may `g`.

    Known limits: does not fire where something else uses y, which would then be computed besides.
    """

    name: ClassVar[str] = "compose-tables"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INTEGER})

    def match(self, node: Node) -> _Match | None:
        if not isinstance(node.op, ops.IntLut | ops.IntRescale):
            return None
        first = producer_of(node.operands[0], ops.IntLut, ops.IntRescale)
        if first is None or not _is_function(first) or node.result.type.dtype is DType.S32:
            return None
        if isinstance(node.op, ops.IntLut) and node.operands[1].data is None:
            return None
        return _Match(first, node)

    def check(self, graph: Graph, match: _Match) -> str | None:
        del graph
        users = other_users(match.first.result, match.second)
        return None if users is None else f"the result of '{match.first.name}' is also used by {users}"

    def rewrite(self, graph: Graph, match: _Match) -> None:
        first, second = match.first, match.second
        middle = _function(first, _all_elements(first.operands[0].type.dtype))
        table = _function(second, middle).astype(second.result.type.dtype.numpy)
        constant = graph.add_constant(table, f"{second.name}_table")
        second.op = ops.IntLut()
        graph.set_operands(second, [first.operands[0], constant])
        graph.erase(first)


def _is_function(node: Node) -> bool:
    if isinstance(node.op, ops.IntLut) and node.operands[1].data is None:
        return False
    return node.operands[0].type.dtype.is_8_bit and node.result.type.dtype is not DType.S32


def _all_elements(dtype: DType) -> AnyArray:
    low, high = dtype.limits
    return np.arange(low, high + 1)


def _function(node: Node, x: AnyArray) -> AnyArray:
    """The node's result for each element of x."""
    match node.op:
        case ops.IntRescale() as op:
            results = [
                requantize(int(q) - op.zp_in, op.multiplier, op.shift, op.zp_out, op.lo, op.hi) for q in x.tolist()
            ]
            return np.array(results)
        case _:
            table = np.asarray(node.operands[1].data)
            return table[x.astype(np.int64) - node.operands[0].type.dtype.limits[0]]
