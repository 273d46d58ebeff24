"""`fold-requantization`: fewer roundings between quantized values."""

from dataclasses import dataclass
from typing import Any, ClassVar

from qcompiler.ir import Graph, Stage
from qcompiler.ir.rewrite import Refusal, Rewrite, apply_rewrite
from qcompiler.pass_manager import Pass, PassContext, register_pass
from qcompiler.passes import requantize_rules as rules

RULES: tuple[Rewrite[Any], ...] = (
    rules.BoundaryPair(),
    rules.SameParameters(),
    rules.RequantizeChain(),
    rules.ClampIntoProducer(),
    rules.ClampWithoutEffect(),
    rules.RequantizeOverMovement(),
    rules.RequantizeOverConcat(),
    rules.RequantizeIntoProducer(),
)
"""In the order in which they are tried; each makes matches for those after it."""


@register_pass
@dataclass(frozen=True)
class FoldRequantization(Pass):
    """Merge changes of scale with each other and with the op that computes the value.

    With y: {s, z} a value and its quantization parameters:

        quantize(dequantize(x))                       ->  requantize(x)
        requantize(x): the parameters of x            ->  x
        requantize(requantize(x))                     ->  requantize(x)
        relu(conv(x)), clip(add(a, b)), ...           ->  conv(x){clamp}, add(a, b){clamp}: saturation does it
        relu(x) of an x that cannot be negative       ->  requantize(x)
        requantize(max_pool(x)), ... (reshape(x))     ->  max_pool(requantize(x))
        requantize(concat(a, b))                      ->  concat(requantize(a), requantize(b))
        requantize(conv(x): {s1, z1}): {s2, z2}       ->  conv(x): {s2, z2}

    Why: each requantize reads and writes a tensor and rounds once more; an op that computes its result anyway can give
    it in any parameters. Rewrites that move a requantize upwards fire only where it then disappears into a producer.

    Known limits: a value with several users keeps its parameters. The softmax gives parts of a power of two only.
    """

    name: ClassVar[str] = "fold-requantization"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.QUANTIZED})

    def run(self, graph: Graph, context: PassContext) -> bool:
        applied = -1
        total = 0
        refusals: list[Refusal] = []
        while applied:
            refusals.clear()
            applied = sum(apply_rewrite(graph, rule, refusals.append) for rule in RULES)
            total += applied
        for refusal in refusals:
            context.remark(self, refusal.node, refusal.reason)
        if total:
            graph.erase_unused_nodes()
            graph.erase_unused_constants()
        return total > 0
