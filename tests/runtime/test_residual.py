"""Additions in the epilogue of the layer before them: which run there, and that the bits are those of the two ops."""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompiler import reference
from qcompiler.ir import DType, Graph, Stage, TensorType
from qcompiler.ir.ops import IntAdd, IntConv, IntGemm
from qcompiler.runtime.lowering import PackedModel, lower

CONV = IntConv((1, 1), (1, 1, 1, 1), (1, 1), 1, 3, DType.S16, 0, -(2**15), 2**15 - 1, "nhwc")
GEMM = IntGemm(3, DType.S16, 0, -(2**15), 2**15 - 1)
ADD = IntAdd(DType.U8, 7, 0, 256 * 8000, -14000, 21, 128, 5, 250)
FUSED, APART = ["int_conv"], ["int_conv", "int_add16"]


def block(layer=CONV, add=ADD, *, channels: int = 40, swapped: bool = False) -> Graph:
    """x, and its layer, added."""
    rng = np.random.default_rng(channels)
    graph = Graph("block", Stage.INTEGER)
    pixels = () if isinstance(layer, IntGemm) else (5, 6)
    x = graph.add_input("x", TensorType(DType.U8, ("N", *pixels, channels)))
    kernel = () if isinstance(layer, IntGemm) else (3, 3)
    per_group = channels // getattr(layer, "group", 1)
    constants: list[npt.NDArray[Any]] = [
        rng.integers(-127, 128, (channels, per_group, *kernel), dtype=np.int8),
        rng.integers(-9999, 9999, channels, dtype=np.int32),
        rng.integers(2**30, 2**31, channels, dtype=np.int32),
        rng.integers(33, 37, channels, dtype=np.int32),
    ]
    y = graph.add_node(layer, [x, *(graph.add_constant(c) for c in constants)], name="layer").result
    graph.add_output(graph.add_node(add, [y, x] if swapped else [x, y], name="sum").result, "z")
    return graph


def exchanged(add: IntAdd) -> IntAdd:
    return replace(add, zp_a=add.zp_b, zp_b=add.zp_a, multiplier_a=add.multiplier_b, multiplier_b=add.multiplier_a)


@pytest.mark.parametrize(
    ("graph", "kernels"),
    [
        (block(), FUSED),
        (block(add=exchanged(ADD), swapped=True), FUSED),
        (block(add=replace(ADD, dtype=DType.S8, zp_out=-9, lo=-128, hi=127)), FUSED),
        (block(replace(CONV, group=2), channels=64), FUSED),
        (block(GEMM, channels=100), FUSED),
        # the epilogue has no room for these: a multiplier with low bits, a wide one, a sum of more than 32 bits
        (block(add=replace(ADD, multiplier_a=256 * 8000 + 1)), APART),
        (block(add=replace(ADD, multiplier_b=2**15)), APART),
        (block(add=replace(ADD, multiplier_a=256 * 32000, shift=23)), APART),
        # the layer does more than saturate
        (block(replace(CONV, zp_out=1)), APART),
        (block(replace(CONV, lo=0)), APART),
        # other kernels
        (block(replace(CONV, group=40)), ["int_depthwise", "int_add16"]),
        (block(channels=3), APART),
        (block(add=replace(ADD, dtype=DType.S16, lo=-999, hi=999)), ["int_conv", "int_add"]),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_blocks_equal_the_reference(run_in_shares, graph: Graph, kernels: list[str], batch: int):
    program = lower(PackedModel(graph), {"N": batch})
    assert [instruction.kernel for instruction in program.instructions] == kernels
    shape = (batch, *(int(d) for d in graph.inputs[0].type.shape[1:]))
    feeds = {"x": np.random.default_rng(batch).integers(0, 256, shape, dtype=np.uint8)}
    expected = reference.run(graph, feeds)["z"]
    assert len(np.unique(expected)) > 20
    for shares in (1, 2):
        assert np.array_equal(run_in_shares(graph, feeds, shares)["z"], expected)


def test_a_layer_with_other_users_stores_its_result(run_in_shares):
    graph = block()
    graph.add_output(_layer_result(graph), "y")
    assert [i.kernel for i in lower(PackedModel(graph), {"N": 1}).instructions] == APART
    feeds = {"x": np.random.default_rng(0).integers(0, 256, (1, 5, 6, 40), dtype=np.uint8)}
    expected, got = reference.run(graph, feeds), run_in_shares(graph, feeds, 2)
    assert all(np.array_equal(got[name], array) for name, array in expected.items())


def _layer_result(graph: Graph):
    return next(node for node in graph.nodes() if node.name == "layer").result


def test_no_memory_holds_the_layers_own_result():
    program = lower(PackedModel(block()), {"N": 1})
    assert DType.S16 not in {buffer.dtype for i in program.instructions for buffer in i.writes_of.values()}
