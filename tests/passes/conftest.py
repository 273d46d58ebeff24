"""Running one pass on a graph in text form, with everything that holds for every pass checked on the way."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompiler import reference
from qcompiler.ir import Graph, parse_graph, print_graph
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline


@dataclass(frozen=True)
class Outcome:
    """What a pass did: the graph afterwards, whether it changed, and the remarks as ``node: reason``."""

    graph: Graph
    changed: bool
    remarks: list[str]

    @property
    def ops(self) -> list[str]:
        return [node.op.name for node in self.graph.nodes()]

    def equals(self, body: str) -> bool:
        """Whether the graph is the one with this body, names included."""
        assert print_graph(self.graph) == print_graph(parse_graph(_text(body, self.graph.stage)))
        return True


def _text(body: str, stage: str) -> str:
    return f"qir 1\ngraph test {stage} {{\n{body}\n}}\n"


def _feeds(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    generator = np.random.default_rng(11)
    feeds = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else 3 for d in value.type.shape]
        if value.type.dtype.is_float:
            feeds[value.name] = generator.uniform(-4, 4, shape).astype(value.type.dtype.numpy)
        else:
            low, high = value.type.dtype.limits
            feeds[value.name] = generator.integers(low, high, shape, endpoint=True, dtype=value.type.dtype.numpy)
    return feeds


@pytest.fixture
def apply(tmp_path: Path) -> Callable[..., Outcome]:
    """``apply(spec, body)``: run the pass twice on the graph with that body.

    The manager verifies the graph and the claim to have changed it; the second run must change nothing; the reference
    gives the same numbers before and after, all bits of them for integers. The tolerance is for float32 results near 1
    that were rounded at other places.
    """

    def run(
        spec: str, body: str, *, stage: str = "float", constants: Mapping[str, npt.NDArray[Any]] | None = None
    ) -> Outcome:
        graph = parse_graph(_text(body, stage), dict(constants or {}))
        feeds = _feeds(graph)
        before = reference.run(graph, feeds)
        context = PassContext()
        manager = PassManager(parse_pipeline(spec), check_claims=True, reproducer_dir=tmp_path)
        (first,) = manager.run(graph, context)
        (second,) = manager.run(graph)
        assert not second.changed
        after = reference.run(graph, feeds)
        assert list(after) == list(before)
        for name, expected in before.items():
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(after[name], expected, rtol=4e-6, atol=4e-6)
            else:
                assert after[name].tolist() == expected.tolist()
        return Outcome(graph, first.changed, [f"{remark.node}: {remark.reason}" for remark in context.remarks])

    return run
