"""A graph as a networkx graph, for what that is good at: dominators, connected regions, paths.

Nodes of the view are the `Node` objects and, for inputs and outputs of the graph, `Port`s; each edge is one use,
with the value's name as `value` and the operand's index as `index`. Constants are no part of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import networkx as nx

from qcompiler.ir.graph import Graph, Node


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of the graph in a view; `direction` is "input" or "output"."""

    direction: str
    name: str


Vertex = Node | Port


def view(graph: Graph) -> "nx.MultiDiGraph[Vertex]":
    """The dataflow of a graph; it does not follow later edits."""
    result: nx.MultiDiGraph[Vertex] = nx.MultiDiGraph(name=graph.name)
    sources: dict[int, Vertex] = {}
    for value in graph.inputs:
        sources[id(value)] = Port("input", value.name)
        result.add_node(sources[id(value)])
    for node in graph.nodes():
        result.add_node(node)
        for index, operand in enumerate(node.operands):
            if not operand.is_constant:
                result.add_edge(sources[id(operand)], node, value=operand.name, index=index)
        sources.update((id(value), node) for value in node.results)
    for index, (name, value) in enumerate(zip(graph.output_names, graph.outputs, strict=True)):
        port = Port("output", name)
        result.add_node(port)
        if not value.is_constant:
            result.add_edge(sources[id(value)], port, value=value.name, index=index)
    return result


def post_dominators(graph: Graph) -> dict[Node, Vertex]:
    """For each node the nearest vertex through which every path from it to an output of the graph leads.

    Nodes whose paths have no vertex in common, and those that lead to no output, are left out.
    """
    flow = view(graph).reverse()
    sink = Port("sink", "")
    flow.add_node(sink)
    flow.add_edges_from(
        (sink, vertex) for vertex in list(flow) if isinstance(vertex, Port) and vertex.direction == "output"
    )
    return {
        vertex: dominator
        for vertex, dominator in nx.immediate_dominators(flow, sink).items()
        if isinstance(vertex, Node) and dominator != sink
    }


def regions(graph: Graph, nodes: Iterable[Node]) -> list[list[Node]]:
    """The connected regions that some nodes form among each other, each in execution order, first region first."""
    order = {node: position for position, node in enumerate(graph.nodes())}
    flow = view(graph).subgraph(set(nodes))
    members = (sorted(region, key=order.__getitem__) for region in nx.weakly_connected_components(flow))
    return sorted(members, key=lambda region: order[region[0]])


def lies_between(graph: Graph, start: Node, end: Node) -> list[Node]:
    """The nodes on any path from `start` to `end`, both included, in execution order; empty if there is none."""
    flow = view(graph)
    between = (nx.descendants(flow, start) | {start}) & (nx.ancestors(flow, end) | {end})
    return [node for node in graph.nodes() if node in between]
