"""`assign-layout`: convolutions and pools with channels innermost, as the kernels want them."""

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.ir import Graph, Node, Stage, ops
from qcompiler.ir.integer_layer import integer_layer
from qcompiler.ir.ops.integer_linear import RESIDUAL, X
from qcompiler.pass_manager import Pass, PassContext, register_pass

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)


@register_pass
@dataclass(frozen=True)
class AssignLayout(Pass):
    """Let every op that knows where its channels are work on NHWC, between two transposes.

        y = int.conv(x){layout="nchw"}                              before
        x1 = transpose(x){perm=[0,2,3,1]}                           after
        y1 = int.conv(x1){layout="nhwc"}; y = transpose(y1){perm=[0,3,1,2]}

    Why: with channels innermost one load of the dot-product kernels takes neighbouring channels of a pixel, and no
    image is copied to columns. Run `sink-transposes` next: it cancels nearly all of the transposes.

    Bits are preserved: only the order of elements in memory changes.

    Known limits: one-dimensional layers have become two-dimensional ones of height 1 before.
    """

    name: ClassVar[str] = "assign-layout"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.INTEGER})

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        changed = False
        for node in graph.nodes():
            match node.op:
                case (
                    ops.IntConv(layout="nchw")
                    | ops.IntAveragePool(layout="nchw")
                    | ops.MaxPool(layout="nchw")
                    | ops.DepthToSpace(layout="nchw")
                ) if node.operands[0].type.rank == 4 and not node.operands[0].type.dtype.is_float:
                    _change_layout(graph, node, dataclasses.replace(node.op, layout="nhwc"))
                    changed = True
                case _:
                    pass
        return changed


def _change_layout(
    graph: Graph, node: Node, op: ops.IntConv | ops.IntAveragePool | ops.MaxPool | ops.DepthToSpace
) -> None:
    layer, images = integer_layer(node), {X: node.name}
    if layer is not None and layer.residual is not None:  # it lies as the result
        images[RESIDUAL] = f"{node.name}_residual"
    for index, name in images.items():
        before = graph.add_node(ops.Transpose(TO_NHWC), [node.operands[index]], name=f"{name}_to_nhwc", before=node)
        graph.set_operand(node, index, before.result)
    node.op = op
    nchw = node.result.type
    node.result.type = nchw.with_shape(nchw.shape[axis] for axis in TO_NHWC)
    following = next(iter(node.neighbours(1)[1]), None)
    after = graph.add_node(ops.Transpose(TO_NCHW), [node.result], name=f"{node.name}_to_nchw", before=following)
    graph.replace_uses(node.result, after.result, except_by=after)
