"""Does time on graphs grow linearly? Builds graphs of growing size and times what every compilation does to them.

    python tools/bench_ir.py [--nodes 1000 10000 100000]

The graph is a residual network of sorts: chains, branches, additions, constants, many outputs. Shown are seconds, and
microseconds per node. The exit code is 1 if some step takes more than three times as long per node on the largest graph
as on the smallest.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from qcompiler.ir import DType, Graph, TensorType, graphs_equal, ops, parse_graph, print_graph, verify
from qcompiler.ir.graph import Value

TOLERATED_GROWTH = 3.0
Result = TypeVar("Result")


def build(nodes: int) -> Graph:
    """A float graph of `nodes` nodes, a tenth of them dead, every hundredth an output."""
    graph = Graph("bench")
    value = graph.add_input("x", TensorType(DType.F32, ("N", 8)))
    skip = value
    while len(graph) < nodes:
        constant = graph.add_constant(np.full(8, len(graph), np.float32), "c")
        value = graph.add_node(ops.Add(), [value, constant], name="/block/Add").result
        for op in (ops.Relu(), ops.LeakyRelu(0.25), ops.HardSwish(), ops.Clip(0.0, 6.0), ops.Tanh(), ops.Sigmoid()):
            value = graph.add_node(op, [value], name=f"/block/{op.name}").result
        graph.add_node(ops.Exp(), [value], name="/block/dead")
        skip = value = graph.add_node(ops.Mul(), [value, skip], name="/block/Mul").result
        if len(graph) % 100 < 10:
            graph.add_output(value, f"y{len(graph)}")
    graph.add_output(value, "y")
    return graph


def replace_every_value(graph: Graph) -> None:
    """Put a new node behind each node and let all users take it, outputs too."""
    for node in list(graph.nodes()):
        for result in node.results:
            twin = graph.add_node(ops.Neg(), [result])
            graph.replace_uses(result, twin.result, except_by=twin)
    undo: list[tuple[Value, Value]] = [(n.result, n.operands[0]) for n in graph.nodes() if isinstance(n.op, ops.Neg)]
    for new, old in undo:
        graph.replace_uses(new, old)


def measure(nodes: int) -> dict[str, float]:
    """Seconds of each step by name."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        result = step()
        seconds[name] = time.perf_counter() - started
        return result

    graph = timed("build", lambda: build(nodes))
    timed("verify", lambda: verify(graph))
    text = timed("print", lambda: print_graph(graph))
    parsed = timed("parse", lambda: parse_graph(text))
    timed("compare", lambda: graphs_equal(graph, parsed))
    copy = timed("clone", graph.clone)
    timed("replace uses", lambda: replace_every_value(copy))
    timed("erase dead code", lambda: (graph.erase_unused_nodes(), graph.erase_unused_constants()))
    return seconds


def main() -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1_000, 10_000, 100_000], help="sizes, ascending")
    sizes = parser.parse_args().nodes
    measure(min(sizes))  # the first run pays for imports and caches
    table = {size: measure(size) for size in sizes}
    print(f"{'':16}" + "".join(f"{f'{size:,} nodes':>24}" for size in sizes) + f"{'growth':>10}")
    worst = 0.0
    for step in table[sizes[0]]:
        cells = "".join(f"{table[n][step]:12.3f} s {table[n][step] / n * 1e6:6.1f} us" for n in sizes)
        growth = (table[sizes[-1]][step] / sizes[-1]) / (table[sizes[0]][step] / sizes[0])
        worst = max(worst, growth)
        print(f"{step:16}{cells}{growth:9.2f}x")
    return int(worst > TOLERATED_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
