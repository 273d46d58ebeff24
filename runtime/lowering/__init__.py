"""From a graph to a program: one small rule for each op, by family.

`lower` runs the rules in execution order for given values of the symbolic dimensions. What does not depend on them, the
packing of weights and tables, is kept in a `PackedModel`, so that another batch size costs a new plan only.
Rules for float32 are in `float_*.py`, as their kernels are.
"""

from collections.abc import Mapping

from qcompiler.errors import UnsupportedOpError
from qcompiler.ir import Graph
from qcompiler.runtime.lowering import (  # noqa: F401  # registers the rules
    boundary,
    elementwise,
    float_elementwise,
    float_linear,
    float_pooling,
    float_transposed,
    integer_linear,
    observation,
    pooling,
    products,
)
from qcompiler.runtime.lowering.concatenation import place_concats
from qcompiler.runtime.lowering.context import Lowering, PackedModel, lowers, rule_for
from qcompiler.runtime.program import Program
from qcompiler.runtime.program_builder import ProgramBuilder

__all__ = ["Lowering", "PackedModel", "check_lowerable", "lower", "lowers"]


def check_lowerable(graph: Graph) -> None:
    """Check that every op of a graph has a lowering rule.

    Raises:
        UnsupportedOpError: some have none; all such nodes are named.
    """
    missing = [node for node in graph.nodes() if rule_for(type(node.op)) is None]
    if missing:
        names = ", ".join(f"'{node.name}' ({node.op.name})" for node in missing)
        raise UnsupportedOpError(f"graph '{graph.name}' has nodes that no kernel can run: {names}")


def lower(model: PackedModel, symbols: Mapping[str, int]) -> Program:
    """The program of a graph in the float, observed or integer stage.

    Args:
        model: the graph with its packed constants.
        symbols: sizes of its symbolic dimensions.

    Raises:
        UnsupportedOpError: no kernel can run a node.
    """
    graph = model.graph
    check_lowerable(graph)
    build = ProgramBuilder()
    lowering = Lowering(model, symbols, build)
    for value in graph.inputs:
        lowering.alias(value, build.input(value.name, value.type.dtype, lowering.shape(value)))
    place_concats(lowering, graph)
    for node in graph.nodes():
        rule = rule_for(type(node.op))
        if rule is not None:
            rule(lowering, node, node.op)
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        build.output(name, lowering.buffer(value))
    return build.finish()
