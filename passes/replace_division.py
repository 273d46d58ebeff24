"""`replace-division`: dividing by a constant becomes multiplying by its reciprocal."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from qcompiler.ir import Graph, Node, Stage, ops
from qcompiler.pass_manager import RewritePass, register_pass


@register_pass
@dataclass(frozen=True)
class ReplaceDivision(RewritePass[Node]):
    """Multiply by 1/c instead of dividing by the constant c.

    Why: a product has a clamp to fuse into, folds into the weights before it, and costs one multiplication in integers.

    Algebra: x / c = x · r with r = float32(1 / c). Exact if every c is a power of two; else r is off by at most half a
    unit in its last place, and the result by at most 1.5 in its own.

        y = div(x, 8)             before
        y = mul(x, 0.125)         after

    Known limits: not where 1/c is not a normal float32, since digits would be lost.
    """

    name: ClassVar[str] = "replace-division"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> Node | None:
        return node if isinstance(node.op, ops.Div) and node.operands[1].is_constant else None

    def check(self, graph: Graph, match: Node) -> str | None:
        del graph
        divisor = match.operands[1]
        reciprocal = _reciprocal(match)
        normal = np.isfinite(reciprocal) & (np.abs(reciprocal) >= np.finfo(np.float32).tiny)
        if not normal.all():
            return f"its divisor {divisor!r} has an element whose reciprocal is no normal float32"
        return None

    def rewrite(self, graph: Graph, match: Node) -> None:
        factor = graph.add_constant(_reciprocal(match), f"{match.operands[1].name}.reciprocal")
        match.op = ops.Mul()
        graph.set_operand(match, 1, factor)


def _reciprocal(node: Node) -> npt.NDArray[np.float32]:
    with np.errstate(divide="ignore", over="ignore", under="ignore"):
        return np.asarray(1 / np.asarray(node.operands[1].data, dtype=np.float64), dtype=np.float32)
