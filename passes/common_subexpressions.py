"""`common-subexpressions`: compute equal things once, keep equal constants once."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Op, TensorType, Value, ops
from qcompiler.pass_manager import Pass, PassContext, register_pass

_COMMUTATIVE = (ops.Add, ops.Mul)
_COMPARED = 64

_Key = tuple[Op, tuple[str, ...], tuple[TensorType, ...]]


@register_pass
@dataclass(frozen=True)
class CommonSubexpressions(Pass):
    """Merge nodes with the same op, operands and result types, and constants with the same type and content.

    Why: exporters repeat shape constants, transposes and scalings for every use.

        a = relu(x); b = relu(x); y = add(a, b)          before
        a = relu(x); y = add(a, a)                       after

    Operands of a sum or product may be swapped. One sweep in execution order is enough: what a node's operands were
    merged with is known when it is reached.

    Known limits: observers are not merged, each has a key of its own.
    """

    name: ClassVar[str] = "common-subexpressions"

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        changed = _merge_constants(graph)
        seen: dict[_Key, Node] = {}
        for node in graph.nodes():
            first = seen.setdefault(_key(node), node)
            if first is not node:
                graph.replace_node(node, first.results)
                changed = True
        if changed:
            graph.erase_unused_constants()
        return changed


def _merge_constants(graph: Graph) -> bool:
    alike: dict[tuple[TensorType, bytes], list[Value]] = {}
    changed = False
    for constant in graph.constants():
        others = alike.setdefault((constant.type, _some_elements(constant)), [])
        first = next((other for other in others if other.digest == constant.digest), None)
        if first is None:
            others.append(constant)
        elif constant.is_used:
            graph.replace_uses(constant, first)
            changed = True
    return changed


def _some_elements(constant: Value) -> bytes:
    """A few elements that lie far apart: nearly all constants differ there, so most need no digest."""
    if constant.data is None:
        return b""
    flat = constant.data.reshape(-1)
    return flat[:: max(1, flat.size // _COMPARED)].tobytes()


def _key(node: Node) -> _Key:
    # Names are unique within a graph, hash fast and can be ordered.
    names = [operand.name for operand in node.operands]
    if isinstance(node.op, _COMMUTATIVE):
        names.sort()
    return node.op, tuple(names), tuple(result.type for result in node.results)
