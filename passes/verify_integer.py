"""`verify-integer`: confirm that the program is integer from boundary to boundary."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.errors import UnsupportedOpError
from qcompiler.integer_proofs import float_nodes
from qcompiler.ir import Graph, Stage
from qcompiler.pass_manager import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class VerifyInteger(Pass):
    """Raise unless every node between the boundary ops computes integers from integers.

    Why: "fully integer" is a promise, so it is checked on the graph that becomes the program, after all other passes.
    With allow_float the float nodes are reported as a warning instead.

        x -> int.quantize -> conv -> int.dequantize -> y             an error: conv works on float32
        x -> int.quantize -> int.conv -> int.dequantize -> y         fine

    Known limits: none; the pass changes nothing.
    """

    name: ClassVar[str] = "verify-integer"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INTEGER})

    def run(self, graph: Graph, context: PassContext) -> bool:
        found = float_nodes(graph)
        if found and not graph.allow_float:
            names = ", ".join(f"'{node.name}' ({node.op.name})" for node in found)
            raise UnsupportedOpError(f"graph '{graph.name}' computes in float at {names}")
        for node in found:
            context.warn(f"node '{node.name}' ({node.op.name}) computes in float")
        return False
