"""The layers of an integer graph, `int.conv` and `int.gemm`, with their operands by name."""

import math
from dataclasses import dataclass

from qcompiler.ir.graph import Node, Value
from qcompiler.ir.ops import IntConv, IntGemm
from qcompiler.ir.ops.shapes import static_dim


@dataclass(frozen=True, slots=True)
class IntegerLayer:
    """A node whose op is `int.conv` or `int.gemm`; the operands are those of the op's signature, in its order.

    `multiplier` and `shift` are there together, and so are `residual` and `factor`, which need the former.
    """

    node: Node
    op: IntConv | IntGemm
    x: Value
    weight: Value
    bias: Value
    multiplier: Value | None = None
    shift: Value | None = None
    residual: Value | None = None
    factor: Value | None = None

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def result(self) -> Value:
        return self.node.result

    @property
    def channels(self) -> int:
        """Of the result."""
        return static_dim(self.weight.type.shape[0], "a weight axis")

    @property
    def has_window(self) -> bool:
        """Whether a result is computed from several pixels."""
        return math.prod(static_dim(d, "a weight axis") for d in self.weight.type.shape[2:]) > 1

    @property
    def is_depthwise(self) -> bool:
        """Whether it is a convolution with one filter, of one channel, for each channel of several."""
        return isinstance(self.op, IntConv) and self.op.group == self.channels > 1 == self.weight.type.shape[1]


def integer_layer(node: Node | None) -> IntegerLayer | None:
    """The node as a layer; None if it is none."""
    if node is None or not isinstance(node.op, IntConv | IntGemm):
        return None
    return IntegerLayer(node, node.op, *node.operands)
