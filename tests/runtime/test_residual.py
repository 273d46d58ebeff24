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
from qcompiler.runtime.session import Session

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
    filters = channels, (inputs or channels) // getattr(layer, "group", 1), *kernel
    operands = [x, *(graph.add_constant(c) for c in parameters(rng, filters)), r]
    factor = graph.add_constant(rng.integers(-largest, largest + 1, channels, dtype=np.int32))
    graph.add_output(graph.add_node(layer, [*operands, factor], name="layer").result, "z")
    return graph


def parameters(rng: np.random.Generator, filters: tuple[int, ...]) -> list[npt.NDArray[Any]]:
    """Weights, biases, multipliers and shifts."""
    return [
        rng.integers(-127, 128, filters, dtype=np.int8),
        rng.integers(-9999, 9999, filters[0], dtype=np.int32),
        rng.integers(2**30, 2**31, filters[0], dtype=np.int32),
        rng.integers(45, 48, filters[0], dtype=np.int32),
    ]


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


def projections(channels: int, *, of_residual: bool) -> Graph:
    """r, a projection of x, is added to a projection of r itself or of x."""
    rng = np.random.default_rng(channels)
    graph = Graph("projections", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, ("N", 5, 7, 24)))
    plain, adding = (replace(CONV, pads=(0, 0, 0, 0), zp_residual=zero_point) for zero_point in (0, 7))
    r = graph.add_node(plain, [x, *map(graph.add_constant, parameters(rng, (channels, 24, 1, 1)))], name="r").result
    source = r if of_residual else x
    filters = channels, int(source.type.shape[-1]), 1, 1
    factor = graph.add_constant(rng.integers(-20000, 20000, channels, dtype=np.int32))
    operands = [source, *map(graph.add_constant, parameters(rng, filters)), r, factor]
    summed = graph.add_node(adding, operands, name="summed").result
    last = parameters(rng, (8, channels, 1, 1))
    graph.add_output(graph.add_node(plain, [summed, *map(graph.add_constant, last)], name="last").result, "z")
    return graph


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [16, 40, 64])
@pytest.mark.parametrize("of_residual", [False, True])
def test_a_sum_takes_the_place_of_its_residual(channels: int, of_residual: bool, batch: int):
    graph = projections(channels, of_residual=of_residual)
    x = np.random.default_rng(batch).integers(0, 256, (batch, 5, 7, 24), dtype=np.uint8)
    session = Session(graph)
    (result,) = session.run({"x": x}).values()
    assert np.array_equal(result, reference.run(graph, {"x": x})["z"])
    plan = session.plan_for({"N": batch})
    (adding,) = (i for i in plan.program.instructions if i.label == "summed")
    places = [plan.placement.offsets[adding.buffer(word).root.id] for word in ("residual", "out")]
    if of_residual:  # which other tiles still read
        assert places[0] != places[1]
    elif channels != 40:  # else tiles may have channels in common, as primitives have it
        assert places[0] == places[1]
