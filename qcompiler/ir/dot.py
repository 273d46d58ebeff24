"""A graph as Graphviz DOT: ops as boxes with their attributes, values as edges with their types."""

from collections.abc import Iterator

from qcompiler.ir.graph import Graph, Value
from qcompiler.ir.printer import format_attributes, format_type

_INPUT_STYLE = "shape=ellipse, style=filled, fillcolor=lightgrey"
_MAX_LABEL = 60


def to_dot(graph: Graph) -> str:
    """DOT text of a graph of any stage. Constants are listed in the box of the op that takes them."""
    return "\n".join([f"digraph {dot_string(graph.name)} {{", *(f"  {line}" for line in _statements(graph)), "}\n"])


def _statements(graph: Graph) -> Iterator[str]:
    yield f"label={dot_string(f'{graph.name} ({graph.stage} stage)')};"
    yield 'node [shape=box, fontname="Helvetica"]; edge [fontname="Helvetica", fontsize=10];'
    vertices: dict[int, str] = {}
    for index, value in enumerate(graph.inputs):
        vertices[id(value)] = f"input{index}"
        yield f"input{index} [label={dot_string(value.name)}, {_INPUT_STYLE}];"
    for index, node in enumerate(graph.nodes()):
        vertices.update((id(result), f"node{index}") for result in node.results)
        lines = [node.op.name, node.name, _shorten(format_attributes(node.op, abbreviate=True).strip())]
        constants = [f"{value}: {_type(value)}" for value in node.operands if value.is_constant]
        yield f"node{index} [label={dot_string(*filter(None, [*lines, *constants]))}];"
        for operand in node.operands:
            if not operand.is_constant:
                yield f"{vertices[id(operand)]} -> node{index} [label={dot_string(_type(operand))}];"
    for index, (name, value) in enumerate(zip(graph.output_names, graph.outputs, strict=True)):
        yield f"output{index} [label={dot_string(name)}, {_INPUT_STYLE}];"
        if id(value) in vertices:
            yield f"{vertices[id(value)]} -> output{index} [label={dot_string(_type(value))}];"


def _type(value: Value) -> str:
    return format_type(value.type, abbreviate=True)


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 3]}..."


def dot_string(*lines: str) -> str:
    """A DOT string of several lines; backslashes, quotes and control characters of a name stay visible."""
    escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
    return '"' + "\\n".join("".join(c if c.isprintable() else "?" for c in line) for line in escaped) + '"'
