"""Our time of each instruction, and how close it comes to its own limit; `tools/bench.py --per-node` prints it.

An instruction takes at least as long as its products at the arithmetic ceiling, and about as long as a copy of
as many bytes as it reads and writes (constants too), in whichever cache holds them. The longer of the two is its
limit: it leaves out the epilogue, and where the data really was.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import peers

import qcompiler
from qcompiler.ir import Graph, Node, ops
from qcompiler.ir.types import split_dim
from qcompiler.runtime.program import Instruction, dense_bytes
from qcompiler.runtime.reference import bind_feeds


@dataclass(frozen=True)
class Ceilings:
    """What one core can do, in billions a second: operations (a product and a sum are two); bytes, by bytes touched."""

    gops: float
    copy_gbps: Mapping[int, float]

    def bandwidth(self, nbytes: int) -> float:
        """GB/s of a copy that touches as much, or as near to it as was measured."""
        return self.copy_gbps[next((size for size in sorted(self.copy_gbps) if size >= nbytes), max(self.copy_gbps))]


@dataclass(frozen=True)
class Row:
    """One instruction: times in microseconds, operations and bytes of one call."""

    kernel: str
    node: str
    spent_us: float
    operations: int
    moved_bytes: int
    limit_us: float
    limited_by: str

    @property
    def rate(self) -> str:
        """What it achieves, in the unit of its limit."""
        if self.limited_by == "products":
            return f"{self.operations / self.spent_us / 1e3:7.1f} GOPS"
        return f"{self.moved_bytes / self.spent_us / 1e3:7.1f} GB/s"

    @property
    def share(self) -> float:
        """Of the limit."""
        return self.limit_us / self.spent_us

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"share": self.share}


def multiply_adds(node: Node) -> int:
    """Products that a layer or a product of activations sums, for symbolic dimensions of 1.

    Taps that are zero for all input channels do not count: those of a transposed convolution that a phase has not.
    """
    if isinstance(node.op, ops.IntMatMul):
        terms = split_dim(node.operands[0].type.shape[-1])[0]
        return terms * math.prod(split_dim(d)[0] for d in node.result.type.shape)
    if not isinstance(node.op, ops.IntConv | ops.IntGemm):
        return 0
    weight = np.asarray(node.operands[1].data)
    products = int(np.count_nonzero(np.any(weight, axis=1))) * int(weight.shape[1])
    return products * math.prod(split_dim(d)[0] for d in node.result.type.shape) // len(weight)


def batch_factor(graph: Graph, feeds: Mapping[str, peers.Array]) -> int:
    """How many times the work of symbolic dimensions of 1 these inputs are."""
    value = graph.inputs[0]
    return len(feeds[value.name]) // split_dim(value.type.shape[0])[0]


def instruction_rows(
    compiled: qcompiler.CompiledModel, feeds: Mapping[str, peers.Array], ceilings: Ceilings, rounds: int = 20
) -> list[Row]:
    """The instructions of a call on one thread, slowest first; the least time of several rounds."""
    graph = compiled.graph
    plan = compiled.session(1).plan_for(bind_feeds(graph, feeds))
    nanoseconds = plan.time_instructions([feeds[value.name] for value in graph.inputs], rounds=rounds)
    factor = 2 * batch_factor(graph, feeds)
    operations = {node.name: factor * multiply_adds(node) for node in graph.nodes()}
    rows: list[Row] = []
    for spent, instruction in sorted(zip(nanoseconds, plan.program.instructions, strict=True), key=lambda p: -p[0]):
        # Of the instructions of one node, the slowest computes the products, others prepare their operands.
        rows.append(_row(spent / 1e3, instruction, operations.pop(instruction.label, 0), ceilings))
    return rows


def _row(spent_us: float, instruction: Instruction, operations: int, ceilings: Ceilings) -> Row:
    buffers = (*instruction.reads_of.values(), *instruction.writes_of.values())
    moved = sum(dense_bytes(b.dtype, b.shape) if b.pitch else b.nbytes for b in buffers)
    limits = {
        "products": operations / ceilings.gops / 1e3,
        "bytes": moved / ceilings.bandwidth(moved) / 1e3,
    }
    limited_by = max(limits, key=lambda name: limits[name])
    limit = limits[limited_by]
    return Row(instruction.kernel, instruction.label, spent_us, operations, moved, limit, limited_by)


def show_instructions(rows: list[Row]) -> None:
    """Print the table."""
    spent, limits = sum(row.spent_us for row in rows), sum(row.limit_us for row in rows)
    print(f"{len(rows)} instructions, {spent:.1f} us on one thread, {limits / spent:.0%} of it their limits")
    print(f"{'us':>9} {'achieved':>12} {'of limit':>9}")
    for row in rows:
        print(f"{row.spent_us:9.1f} {row.rate} {row.share:9.0%}  {row.kernel:20} {row.node}")
