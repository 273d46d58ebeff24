"""`dead-code`: erase what no output needs."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph
from qcompiler.pass_manager import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class DeadCode(Pass):
    """Erase nodes and constants that no graph output depends on.

    Why: rewrites leave them behind, and exporters too.

        a = relu(x); b = tanh(x); output a          before
        a = relu(x); output a                       after

    Known limits: a graph input without a use stays, it is part of the interface; so does a node of which one result
    of several is used.
    """

    name: ClassVar[str] = "dead-code"

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        nodes = graph.erase_unused_nodes()
        return graph.erase_unused_constants() + nodes > 0
