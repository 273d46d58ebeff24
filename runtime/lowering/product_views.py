"""Which transpositions a product of two activations does itself: it reads and writes through their strides.

Splitting into heads and merging them again transposes every operand and the result of attention. Kernels take rows and
matrices at any distance, so those transpositions need no pass over memory.
"""

from qcompiler.ir import Node, Value
from qcompiler.ir.ops import DepthToSpace, IntMatMul, Transpose


def read_through(value: Value) -> Node | None:
    """The transposition that computes `value` and is left to the products that are all that use it."""
    node = value.producer
    if node is None or not isinstance(node.op, Transpose) or value.is_output or not value.users:
        return None
    above = node.operands[0].producer
    if above is not None and isinstance(above.op, DepthToSpace):  # the two are one walk already
        return None
    return node if all(_can_read(user, value, node.op.perm) for user in value.users) else None


def _can_read(user: Node, value: Value, perm: tuple[int, ...]) -> bool:
    """Whether neighbours in memory stay neighbours along an axis where the kernels need them."""
    if not isinstance(user.op, IntMatMul):
        return False
    innermost, (a, b) = len(perm) - 1, user.operands
    return (a is not value or perm[-1] == innermost) and (b is not value or innermost in perm[-2:])


def written_through(value: Value) -> Node | None:
    """The transposition of the product `value` that the product's kernel does: it writes the transposed result."""
    if value.producer is None or not isinstance(value.producer.op, IntMatMul):
        return None
    if value.is_output or value.use_count != 1:
        return None
    user = value.users[0]
    if not isinstance(user.op, Transpose) or read_through(user.result) is not None:
        return None
    return user if user.op.perm[-1] == len(user.op.perm) - 1 else None
