"""`fold-constants`: compute at compile time what depends on constants only."""

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler import reference
from qcompiler.ir import Graph, Node, Stage
from qcompiler.pass_manager import RewritePass, register_pass


@register_pass
@dataclass(frozen=True)
class FoldConstants(RewritePass[Node]):
    """Replace a node whose operands are all constants by the constants that the reference executor computes for it.

    Why: exporters leave scaled weights, transposed tables and anchor boxes to be computed at run time.

        w = const; t = transpose(w){perm=[1, 0]}; y = matmul(x, t)          before
        t = const; y = matmul(x, t)                                          after

    Options:
        max_growth: a result may hold this many more bytes than the operands together; the artifact grows by that.

    Known limits: an integer graph keeps its bits; a float one may differ from other runtimes in the last place, since
    the reference rounds once from float64.
    """

    name: ClassVar[str] = "fold-constants"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT, Stage.INTEGER})
    max_growth: int = 1 << 20

    def match(self, node: Node) -> Node | None:
        return node if all(operand.is_constant for operand in node.operands) else None

    def check(self, graph: Graph, match: Node) -> str | None:
        del graph
        have = sum(v.data.nbytes for v in match.operands if v.data is not None)
        need = 0
        for result in match.results:
            if not result.type.is_static:
                return f"its result {result!r} has a symbolic shape"
            need += math.prod(d for d in result.type.shape if isinstance(d, int)) * result.type.dtype.itemsize
        if need > have + self.max_growth:
            return f"its result would take {need} bytes, its operands take {have}; see max-growth"
        return None

    def rewrite(self, graph: Graph, match: Node) -> None:
        alone = Graph(stage=graph.stage, allow_float=graph.allow_float)
        operands = [
            alone.add_constant(v.data, v.name, dtype=v.type.dtype, quant=v.type.quant)
            for v in match.operands
            if v.data is not None
        ]
        types = [result.type for result in match.results]
        for index, value in enumerate(alone.add_node(match.op, operands, result_types=types).results):
            alone.add_output(value, str(index))
        arrays = reference.run(alone, {})
        names = [result.name for result in match.results]
        constants = [
            graph.add_constant(arrays[str(index)], dtype=result_type.dtype, quant=result_type.quant)
            for index, result_type in enumerate(types)
        ]
        graph.replace_node(match, constants)
        for name, constant in zip(names, constants, strict=True):
            graph.rename(constant, name)
