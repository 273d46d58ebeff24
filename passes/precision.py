"""Which values deserve 16 bits, and which outputs stay accumulators.

A model's last values are read by people and by code that compares scores or decodes boxes; rounding them to
8 bits makes ties and coarse coordinates, and there is no further layer whose speed depends on it.
"""

from qcompiler.ir import Graph, Node, Quantization, Value, ops

_TAKE_S16 = (ops.Add, ops.Sub, ops.Mul, ops.Div, ops.Neg, ops.Softmax, ops.Observe, ops.Requantize)
_CLAMPS = (ops.Relu, ops.Clip)


def wide_values(graph: Graph) -> set[Value]:
    """The values of an observed or quantized graph that may have 16 bits without a loss of speed.

    Those are computed values that reach the graph's outputs only, through ops whose integer forms take 16-bit operands:
    element by element arithmetic, softmax, data movement and concatenation.
    """
    wide: set[Value] = set()
    for node in graph.nodes_reversed():
        if any(_all_uses_allow(value, wide) for value in node.results):
            wide.update(value for value in node.results if _all_uses_allow(value, wide))
    return wide


def accumulator_outputs(graph: Graph) -> set[Value]:
    """Results of convolutions and fully connected layers that are an output and nothing else: they stay s32.

    In an observed graph the result of the `observe` after such a node counts as the node's.
    """
    found: set[Value] = set()
    for output in graph.outputs:
        if output.use_count or output.producer is None:
            continue
        observed = output.producer.operands[0] if isinstance(output.producer.op, ops.Observe) else output
        match observed.producer:
            case Node(op=ops.Conv(clamp=None) | ops.Gemm(clamp=None)):
                if observed is output or observed.use_count == 1:
                    found.update({observed, output})
            case _:
                pass
    return found


def _all_uses_allow(value: Value, wide: set[Value]) -> bool:
    return value.is_used and all(
        takes_s16(user) and all(result in wide for result in user.results) for user in value.users
    )


def takes_s16(node: Node) -> bool:
    """Whether the integer form of the node takes 16-bit operands."""
    return isinstance(node.op, _TAKE_S16 + _CLAMPS) or (
        node.op.quantization in (Quantization.PASSTHROUGH, Quantization.UNIFIED) and not isinstance(node.op, ops.Pad)
    )
