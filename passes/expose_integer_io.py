"""`expose-integer-io`: inputs and outputs become the quantized tensors themselves."""

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Stage, ops
from qcompiler.pass_manager import Pass, PassContext, register_pass


@register_pass
@dataclass(frozen=True)
class ExposeIntegerIo(Pass):
    """Drop the boundary ops, so that a caller feeds and gets integers.

    Why: a pipeline whose neighbours are quantized already has no use for float at the boundary.

        x: f32 -> int.quantize -> u8 ...  s32 -> int.dequantize -> y: f32     before
        x: u8 -> ...                      ... -> y: s32                       after

    Input i stays at position i under its name. Scale and zero point of each tensor are in the summary's `interface`.

    Known limits: an input that something other than one quantize uses, and an output that is not the result of a
    dequantize, stay float.
    """

    name: ClassVar[str] = "expose-integer-io"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INTEGER})

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for value in graph.inputs:
            users = value.users
            if len(users) != 1 or not isinstance(users[0].op, ops.IntQuantize) or graph.is_output(value):
                if any(isinstance(user.op, ops.IntQuantize) for user in users):
                    context.remark(self, users[0], f"input %{value.name} has other users, so it stays float")
                continue
            quantized = users[0].result
            value.type = quantized.type
            graph.replace_node(users[0], [value])
            changed = True
        for index, value in enumerate(graph.outputs):
            producer = value.producer
            if producer is None or not isinstance(producer.op, ops.IntDequantize):
                continue
            graph.set_output(index, producer.operands[0])
            if not value.uses and not graph.is_output(value):
                graph.erase(producer)
            changed = True
        return changed
