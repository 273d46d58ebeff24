"""Structural equality of graphs: everything but object identity and the order in which constants were added."""

from collections.abc import Iterator
from itertools import zip_longest

from qcompiler.ir.graph import Graph, Node, Value
from qcompiler.ir.printer import format_attribute, format_node, format_type


def graphs_equal(a: Graph, b: Graph) -> bool:
    """Whether two graphs agree in names, stage, types, ops, operands, constants' bits, inputs and outputs."""
    return first_difference(a, b) is None


def first_difference(a: Graph, b: Graph) -> str | None:
    """What `graphs_equal` stumbles over first, for a message; None if the graphs are equal."""
    return next(_differences(a, b), None)


def _differences(a: Graph, b: Graph) -> Iterator[str]:
    for what in ("name", "stage", "allow_float", "output_names"):
        if getattr(a, what) != getattr(b, what):
            yield f"{what}: {getattr(a, what)!r} and {getattr(b, what)!r}"
    for kind, ours, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        for x, y in zip_longest(ours, theirs):
            if x is None or y is None or not _same_value(x, y):
                yield f"{kind}: {_describe(x)} and {_describe(y)}"
    constants, others = ({v.name: v for v in graph.constants()} for graph in (a, b))
    for name in dict.fromkeys((*constants, *others)):
        x, y = constants.get(name), others.get(name)
        if x is None or y is None or not _same_value(x, y) or x.digest != y.digest:
            yield f"constant: {_describe(x)} and {_describe(y)}"
    for m, n in zip_longest(a.nodes(), b.nodes()):
        if m is None or n is None or not _same_node(m, n):
            yield f"node: {m and format_node(m)} and {n and format_node(n)}"


def _same_value(x: Value, y: Value) -> bool:
    return x.name == y.name and x.type == y.type


def _same_node(m: Node, n: Node) -> bool:
    # Attributes are compared as text: 1, 1.0 and True are different there, NaN equals itself and 0.0 is not -0.0.
    return (
        m.name == n.name
        and type(m.op) is type(n.op)
        and all(
            format_attribute(value) == format_attribute(n.op.attributes()[name])
            for name, value in m.op.attributes().items()
        )
        and [v.name for v in m.operands] == [v.name for v in n.operands]
        and len(m.results) == len(n.results)
        and all(map(_same_value, m.results, n.results))
    )


def _describe(value: Value | None) -> str:
    return "nothing" if value is None else f"{value}: {format_type(value.type, abbreviate=True)}"
