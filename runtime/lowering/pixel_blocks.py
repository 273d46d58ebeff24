"""Which depth_to_space the layer before it does as well, by writing each result where it belongs.

Then the layer's own result never reaches memory, and nothing has to be walked through once more.
"""

import math

from qcompiler.ir import Node
from qcompiler.ir.integer_layer import IntegerLayer, integer_layer
from qcompiler.ir.ops import DepthToSpace, IntConv, Transpose
from qcompiler.ir.ops.shapes import static_dim
from qcompiler.runtime.codegen.primitives import primitive_named


def transposition_of(blocks: Node) -> Node | None:
    """The transposition that is all that uses the result of a DepthToSpace; one walk then does both."""
    if not isinstance(blocks.op, DepthToSpace) or blocks.result.is_output or blocks.result.use_count != 1:
        return None
    user = blocks.result.users[0]
    return user if isinstance(user.op, Transpose) else None


def blocks_of(layer: IntegerLayer, isa: str) -> Node | None:
    """The DepthToSpace that the kernel of `layer` does as well, on the primitive `isa`.

    Neighbouring channels of the layer are to be neighbours in the result, and enough of them to fill a vector.
    """
    if not isinstance(layer.op, IntConv) or layer.op.group != 1 or layer.residual is not None:
        return None
    result = layer.result
    if result.use_count != 1 or result.is_output:
        return None
    node = result.users[0]
    match node.op:
        case DepthToSpace(blocks=blocks, mode="DCR", layout="nhwc") if transposition_of(node) is None:
            channels = static_dim(result.type.shape[-1], "the channel axis") // math.prod(blocks)
            return node if channels >= primitive_named(isa).lanes else None
        case _:
            return None


def layer_before(blocks: Node, isa: str) -> IntegerLayer | None:
    """The layer whose kernel does the DepthToSpace `blocks` as well, on the primitive `isa`."""
    layer = integer_layer(blocks.operands[0].producer)
    return layer if layer is not None and blocks_of(layer, isa) is blocks else None
