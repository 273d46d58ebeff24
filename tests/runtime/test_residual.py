"""Layers that add a residual to their accumulators: the kernels' bits are the reference's, whatever the shape."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompiler import reference
from qcompiler.errors import VerifyError
from qcompiler.ir import DType, Graph, Stage, TensorType, graphs_equal, parse_graph, print_graph, verify
from qcompiler.ir.ops import IntConv, IntGemm
from qcompiler.ir.ops.integer_linear import RESIDUAL

CONV = IntConv((1, 1), (1, 1, 1, 1), (1, 1), 1, 3, DType.U8, 128, 5, 250, "nhwc", 7)
GEMM = IntGemm(3, DType.U8, 128, 5, 250, 7)


def block(
    layer=CONV, *, channels: int = 40, inputs: int = 0, residual: TensorType | None = None, largest: int = 20000
) -> Graph:
    """x's layer plus r."""
    rng = np.random.default_rng(channels)
    graph = Graph("block", Stage.INTEGER)
    pixels = () if isinstance(layer, IntGemm) else (5, 6)
    x = graph.add_input("x", TensorType(DType.U8, ("N", *pixels, inputs or channels)))
    r = graph.add_input("r", residual or TensorType(DType.U8, ("N", *pixels, channels)))
    kernel = () if isinstance(layer, IntGemm) else (3, 3)
    constants: list[npt.NDArray[Any]] = [
        rng.integers(-127, 128, (channels, (inputs or channels) // getattr(layer, "group", 1), *kernel), dtype=np.int8),
        rng.integers(-9999, 9999, channels, dtype=np.int32),
        rng.integers(2**30, 2**31, channels, dtype=np.int32),
        rng.integers(45, 48, channels, dtype=np.int32),
    ]
    operands = [x, *(graph.add_constant(c) for c in constants), r]
    factor = graph.add_constant(rng.integers(-largest, largest + 1, channels, dtype=np.int32))
    graph.add_output(graph.add_node(layer, [*operands, factor], name="layer").result, "z")
    return graph


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "graph",
    [
        block(),
        block(channels=3),
        block(replace(CONV, dtype=DType.S8, zp_out=-9, lo=-128, hi=127)),
        block(replace(CONV, zp_residual=-7), residual=TensorType(DType.S8, ("N", 5, 6, 40))),
        block(replace(CONV, group=2), channels=64),
        block(replace(CONV, group=4), channels=12),
        block(replace(CONV, group=40)),
        block(replace(CONV, group=40), inputs=80),
        block(GEMM, channels=100),
        block(GEMM, channels=5),
    ],
)
def test_bits_are_those_of_the_reference(run_in_shares, graph: Graph, batch: int):
    rng = np.random.default_rng(batch)
    feeds = {}
    for value in graph.inputs:
        low, high = value.type.dtype.limits
        shape = (batch, *(int(d) for d in value.type.shape[1:]))
        feeds[value.name] = rng.integers(low, high + 1, shape).astype(value.type.dtype.numpy)
    expected = reference.run(graph, feeds)["z"]
    assert len(np.unique(expected)) >= min(10, expected.size)
    for shares in (1, 2):
        assert np.array_equal(run_in_shares(graph, feeds, shares)["z"], expected)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"layer": replace(CONV, dtype=DType.S16, lo=-999)}, "both have 8 bits"),
        ({"layer": replace(CONV, zp_residual=256)}, "zero point 256 lies outside"),
        ({"residual": TensorType(DType.U8, ("N", 5, 6, 1))}, r"u8\[N,5,6,1\] does not go with result u8\[N,5,6,40\]"),
        ({"largest": 2**17}, "a factor of the residual lies outside"),
    ],
)
def test_residuals_that_do_not_fit_are_refused(change: dict[str, Any], complaint: str):
    with pytest.raises(VerifyError, match=complaint):
        block(**change)


@pytest.mark.parametrize("layer", [CONV, GEMM])
def test_a_zero_point_without_a_residual_is_refused(layer: IntConv | IntGemm):
    graph = block(layer)
    node = graph.node("layer")
    graph.set_operands(node, node.operands[:RESIDUAL])
    constants = {value.digest: value.data for value in graph.constants() if value.data is not None}
    parsed = parse_graph(print_graph(graph), constants)
    assert graphs_equal(graph, parsed)
    for refused in (graph, parsed):
        with pytest.raises(VerifyError, match="zp_residual=7 is the zero point of a residual that is not there"):
            verify(refused)
    node.op = replace(layer, zp_residual=0)
    verify(graph)
