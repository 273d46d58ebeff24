"""Tables of 256 entries: the kernel on every primitive, and which of them run in the epilogue of the layer before."""

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler import reference
from qcompiler.ir import DType, Graph, Stage, TensorType
from qcompiler.ir.ops import IntConv, IntGemm, IntLut, IntRescale
from qcompiler.runtime import isa
from qcompiler.runtime.kernels.registry import kernel_named
from qcompiler.runtime.lowering import PackedModel, lower
from qcompiler.runtime.lowering.tables import looks_up_in_layers
from tests.runtime.primitives_under_test import EMULATED

PRIMITIVES = (*isa.available(), *(name for name in EMULATED if name.startswith("vnni")))
GUARD = 64
CONV = IntConv((1, 1), (1, 1, 1, 1), (1, 1), 1, 3, DType.U8, 9, 2, 250, "nhwc")
GEMM = IntGemm(3, DType.S8, -7, -128, 99)
FUSED_CONV, FUSED_DEPTHWISE = ["int_conv"], ["int_depthwise"]
in_layers = pytest.mark.skipif(
    not looks_up_in_layers(isa.current()), reason="tables follow the layers of this primitive"
)


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@given(
    count=st.integers(1, 700),
    shares=st.integers(1, 4),
    seed=st.integers(0, 2**32 - 1),
    in_place=st.booleans(),
)
def test_the_kernel_looks_every_byte_up_once(isa_name: str, count: int, shares: int, seed: int, in_place: bool):
    rng = np.random.default_rng(seed)
    table, x = rng.integers(0, 256, 256, dtype=np.uint8), rng.integers(0, 256, count, dtype=np.uint8)
    source, target = (np.full(count + 2 * GUARD, 77, np.uint8) for _ in range(2))
    source[GUARD:-GUARD] = x
    if in_place:
        target = source
    addresses = source.ctypes.data + GUARD, table.ctypes.data, target.ctypes.data + GUARD
    words = np.array([*addresses, count, count, count, count], np.int64)
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel_named("int_lut8").address_for(isa_name))
    for share in range(shares):
        call(words.ctypes.data, share, shares)
    assert np.array_equal(target[GUARD:-GUARD], table[x])
    assert (target[:GUARD] == 77).all()
    assert (target[-GUARD:] == 77).all()


def network(
    layer=CONV, *, channels: int = 24, entries: DType = DType.U8, shift: int = 38, depthwise: bool = False
) -> Graph:
    """x, a layer, and a table of its result."""
    rng = np.random.default_rng(channels)
    graph = Graph("network", Stage.INTEGER)
    is_gemm = isinstance(layer, IntGemm)
    x = graph.add_input("x", TensorType(DType.U8, ("N", *(() if is_gemm else (5, 6)), channels)))
    per_group = 1 if depthwise else channels
    constants: list[npt.NDArray[Any]] = [
        rng.integers(-127, 128, (channels, per_group, *(() if is_gemm else (3, 3))), dtype=np.int8),
        rng.integers(-9999, 9999, channels, dtype=np.int32),
        rng.integers(2**30, 2**31, channels, dtype=np.int32),
        np.full(channels, shift, np.int32),
    ]
    op = replace(layer, group=channels) if depthwise else layer
    y = graph.add_node(op, [x, *(graph.add_constant(c) for c in constants)], name="layer").result
    low, high = entries.limits
    table = graph.add_constant(rng.integers(low, high + 1, 256).astype(entries.numpy))
    graph.add_output(graph.add_node(IntLut(), [y, table], name="table").result, "z")
    return graph


def kernels(graph: Graph, batch: int = 1) -> list[str]:
    return [i.kernel for i in lower(PackedModel(graph), {"N": batch}).instructions]


def check(run_in_shares, graph: Graph, batch: int) -> None:
    shape = (batch, *(int(d) for d in graph.inputs[0].type.shape[1:]))
    feeds = {"x": np.random.default_rng(batch).integers(0, 256, shape, dtype=np.uint8)}
    expected = reference.run(graph, feeds)
    for shares in (1, 2):
        got = run_in_shares(graph, feeds, shares)
        assert all(np.array_equal(got[name], array) for name, array in expected.items())


@in_layers
@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        (network(), FUSED_CONV),
        (network(replace(CONV, dtype=DType.S8, zp_out=-3, lo=-100, hi=127)), FUSED_CONV),
        (network(channels=7, entries=DType.S8), FUSED_CONV),
        (network(GEMM, channels=100, shift=36), FUSED_CONV),
        (network(channels=40, depthwise=True, shift=35), FUSED_DEPTHWISE),
        (network(channels=6, depthwise=True, shift=35, entries=DType.S8), FUSED_DEPTHWISE),
        # entries of 16 bits, a result of 16 bits, a shift without room for the zero point
        (network(entries=DType.S16), ["int_conv", "int_lut16"]),
        (network(shift=53), ["int_conv", "int_lut8"]),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_tables_after_layers_equal_the_reference(run_in_shares, graph: Graph, expected: list[str], batch: int):
    assert kernels(graph, batch) == expected
    check(run_in_shares, graph, batch)


def test_a_layer_with_other_users_stores_its_result(run_in_shares):
    graph = network()
    graph.add_output(next(node for node in graph.nodes() if node.name == "layer").result, "y")
    assert kernels(graph) == ["int_conv", "int_lut8"]
    check(run_in_shares, graph, 2)


@pytest.mark.parametrize("isa_name", [name for name in isa.available() if not looks_up_in_layers(name)])
def test_on_some_primitives_the_table_follows(run_in_shares, monkeypatch, isa_name: str):
    monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, isa_name)
    assert kernels(network()) == ["int_conv", "int_lut8"]
    check(run_in_shares, network(), 2)


@pytest.mark.parametrize("dtypes", [(a, b) for a in (DType.U8, DType.S8) for b in (DType.U8, DType.S8)])
def test_a_rescale_from_8_bits_to_8_bits_is_a_table(run_in_shares, dtypes: tuple[DType, DType]):
    given, wanted = dtypes
    graph = Graph("rescale", Stage.INTEGER)
    x = graph.add_input("x", TensorType(given, ("N", 300)))
    low, high = wanted.limits
    op = IntRescale(wanted, given.limits[0] + 11, 3 * 2**29, 31, low + 5, low + 2, high - 3)
    graph.add_output(graph.add_node(op, [x]).result, "z")
    assert kernels(graph) == ["int_lut8"]
    feeds = {"x": np.random.default_rng(0).integers(0, 256, (2, 300), dtype=np.uint8).view(given.numpy)}
    expected = reference.run(graph, feeds)["z"]
    assert len(np.unique(expected)) > 100
    for shares in (1, 3):
        assert np.array_equal(run_in_shares(graph, feeds, shares)["z"], expected)
