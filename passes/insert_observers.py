"""`insert-observers`: mark every value that will get quantization parameters of its own."""

from dataclasses import dataclass
from itertools import zip_longest
from typing import ClassVar

from qcompiler.ir import DType, Graph, Node, Quantization, Stage, Value, ops
from qcompiler.pass_manager import Pass, PassContext, register_pass

_NO_PARAMETERS_OF_ITS_OWN = frozenset({Quantization.PASSTHROUGH, Quantization.SELECTS, Quantization.NONE})


@register_pass
@dataclass(frozen=True)
class InsertObservers(Pass):
    """Put an `observe` after each float input and after each result that is computed rather than moved.

    Why: calibration fills the ranges of these values in, and the passes after it find them there.

        y = conv(x, w, b)          before
        x1 = observe(x); y = conv(x1, w, b); y1 = observe(y)          after

    Run it after the float rewrites: a clamp fused into its producer saves an observer and a rounding.
    Constants are not observed, their elements are known; results of data movement and of max pooling have
    their operand's range. Dead code, which nothing would give a range, is erased.

    Known limits: only float32 values are observed.
    """

    name: ClassVar[str] = "insert-observers"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})
    result_stage: ClassVar[Stage | None] = Stage.OBSERVED

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        graph.erase_unused_nodes()
        nodes = list(graph.nodes())
        first = nodes[0] if nodes else None
        for value in graph.inputs:
            _observe(graph, value, first)
        for node, following in zip_longest(nodes, nodes[1:]):
            if node.op.quantization not in _NO_PARAMETERS_OF_ITS_OWN:
                for result in node.results:
                    _observe(graph, result, following)
        graph.stage = Stage.OBSERVED
        return True


def _observe(graph: Graph, value: Value, before: Node | None) -> None:
    if value.type.dtype is not DType.F32 or not value.is_used:
        return
    observe = graph.add_node(
        ops.Observe(key=value.name),
        [value],
        name=f"observe_{value.name}",
        result_names=[f"{value.name}_observed"],
        before=before,
    )
    graph.replace_uses(value, observe.result, except_by=observe)
