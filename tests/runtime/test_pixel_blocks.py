"""Layers that write blocks of pixels: which do, and that the bits are those of the two ops."""

from dataclasses import replace

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.ir import DType, Graph, Stage, TensorType
from qcompiler.ir.ops import DepthToSpace, IntConv, Slice, Transpose
from qcompiler.runtime.lowering import PackedModel, integer_linear, lower

CONV = IntConv((1, 1), (1, 1, 1, 1), (1, 1), 1, 3, DType.U8, 9, 0, 250, "nhwc")
BLOCKS = DepthToSpace((2, 2), "DCR", "nhwc")
TOGETHER, APART = ["int_conv"], ["int_conv", "copy"]


def upsampling(
    layer=CONV, blocks=BLOCKS, *, channels: int = 32, kernel: int = 3, size: tuple[int, int] = (5, 6), then=None
) -> Graph:
    """x, its layer, and the layer's result in blocks."""
    rng = np.random.default_rng(channels)
    graph = Graph("up", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, ("N", *size, 8)))
    cout = channels * blocks.blocks[0] * blocks.blocks[1]
    constants = [
        rng.integers(-127, 128, (cout, 8 // layer.group, kernel, kernel), dtype=np.int8),
        rng.integers(-9999, 9999, cout, dtype=np.int32),
        rng.integers(2**30, 2**31, cout, dtype=np.int32),
        rng.integers(38, 42, cout, dtype=np.int32),
    ]
    if layer.dtype is DType.S32:
        del constants[2:]
    y = graph.add_node(layer, [x, *(graph.add_constant(c) for c in constants)], name="layer").result
    y = graph.add_node(blocks, [y], name="blocks").result
    graph.add_output(y if then is None else graph.add_node(then, [y]).result, "y")
    return graph


@pytest.mark.parametrize(
    ("graph", "kernels"),
    [
        (upsampling(), TOGETHER),
        (upsampling(channels=72), TOGETHER),
        (upsampling(channels=17, blocks=replace(BLOCKS, blocks=(1, 3))), TOGETHER),
        (upsampling(replace(CONV, pads=(0, 0, 0, 0)), kernel=1), TOGETHER),
        (upsampling(replace(CONV, pads=(0, 0, 0, 0), strides=(2, 2)), kernel=1), TOGETHER),
        (upsampling(replace(CONV, dtype=DType.S16, zp_out=0, lo=-999, hi=999)), TOGETHER),
        (upsampling(replace(CONV, dtype=DType.S32, zp_out=0, lo=0, hi=0)), TOGETHER),
        (upsampling(then=Slice((1,), (0,), (9,), (1,))), ["int_conv", "copy"]),  # the copy is the slice
        (upsampling(channels=3), APART),
        (upsampling(replace(CONV, group=2)), APART),
        (upsampling(blocks=replace(BLOCKS, mode="CRD")), APART),
        (upsampling(then=Transpose((0, 3, 1, 2))), APART),
    ],
)
@pytest.mark.parametrize("batch", [1, 3])
def test_blocks_equal_the_reference(monkeypatch, run_in_shares, graph: Graph, kernels: list[str], batch: int):
    monkeypatch.setattr(integer_linear, "_WALK_NS", 1e9)  # else a layer as small as this is faster alone
    program = lower(PackedModel(graph), {"N": batch})
    assert [instruction.kernel for instruction in program.instructions] == kernels
    feeds = {"x": np.random.default_rng(batch).integers(0, 256, (batch, 5, 6, 8), dtype=np.uint8)}
    expected = reference.run(graph, feeds)["y"]
    assert len(np.unique(expected)) > 20
    for shares in (1, 2):
        assert np.array_equal(run_in_shares(graph, feeds, shares)["y"], expected)


@pytest.mark.parametrize(("width", "kernels"), [(2, APART), (192, TOGETHER)])
def test_rows_that_fill_no_tile_are_left_to_a_walk(run_in_shares, width: int, kernels: list[str]):
    graph = upsampling(size=(3, width), channels=64)
    assert [i.kernel for i in lower(PackedModel(graph), {"N": 2}).instructions] == kernels
    feeds = {"x": np.random.default_rng(0).integers(0, 256, (2, 3, width, 8), dtype=np.uint8)}
    assert np.array_equal(run_in_shares(graph, feeds, 3)["y"], reference.run(graph, feeds)["y"])


def test_an_empty_batch(run_in_shares):
    graph = upsampling()
    assert run_in_shares(graph, {"x": np.zeros((0, 5, 6, 8), np.uint8)}, 1)["y"].shape == (0, 10, 12, 32)


def test_a_layer_with_other_users_stores_its_result(run_in_shares):
    graph = upsampling()
    graph.add_output(graph.node("layer").result, "z")
    assert [i.kernel for i in lower(PackedModel(graph), {"N": 1}).instructions] == APART
    feeds = {"x": np.random.default_rng(0).integers(0, 256, (1, 5, 6, 8), dtype=np.uint8)}
    expected, got = reference.run(graph, feeds), run_in_shares(graph, feeds, 2)
    assert all(np.array_equal(got[name], array) for name, array in expected.items())
