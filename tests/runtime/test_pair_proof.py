"""Dot products that add two products of bytes in 16 bits: exact where the weights prove it, and used nowhere else."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numba import types

from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.primitives import primitive_named
from qcompiler.runtime.codegen.tile import matrix_tiles
from qcompiler.runtime.kernels.convolution import TILE_WORDS
from qcompiler.runtime.kernels.convolution_packing import ConvLayer, pack_conv
from qcompiler.runtime.kernels.packing import S8, S32
from qcompiler.runtime.kernels.pair_proof import largest_pair_sum
from tests.runtime.assembly import ARM, X86, assembly_of
from tests.runtime.primitives_under_test import PRIMITIVES
from tests.runtime.random_layers import Layer, execute, expected, facts_of, layers, random_operands

NARROW = [name for name in PRIMITIVES if primitive_named(name).narrow is not None]


def fully_connected(weight: S8, bias: S32) -> ConvLayer:
    """On u8 without a zero point; weight s8[out, in]."""
    return ConvLayer(weight[:, :, None, None], bias, None, zp_in=0, x_dtype=DType.U8)


@given(
    pairs=arrays.arrays(np.int8, (3, 2)),
    bounds=st.tuples(st.integers(-128, 255), st.integers(-128, 255)).map(sorted),
)
def test_bound_is_the_largest_sum_that_activations_reach(pairs, bounds):
    low, high = bounds
    sums = [int(w0) * x0 + int(w1) * x1 for w0, w1 in pairs for x0 in (low, high) for x1 in (low, high)]
    assert largest_pair_sum(pairs, low, high) == max(0, *sums, -1 - min(sums))


@pytest.mark.parametrize("isa_name", NARROW)
@settings(max_examples=60)
@given(layer=layers(), limit=st.sampled_from([1, 31, 64]))
def test_small_weights(isa_name: str, layer: Layer, limit: int):
    x, weight, bias, requantization = random_operands(layer)
    weight = np.clip(weight, -limit, limit)
    packed = pack_conv(facts_of(layer, weight, bias, requantization), isa_name)
    assert packed.is_narrow
    plan = packed.plan(layer.batch, *layer.size, strides=layer.strides, pads=layer.pads)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


@pytest.mark.parametrize("isa_name", NARROW)
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_weights_at_the_border_of_the_proof(isa_name: str, order: tuple[int, int]):
    """The largest pairs that are proven, and one more, with all activations at their extremes."""
    x = np.array([[0] * 8, [255] * 8, [0, 255] * 4, [255, 0] * 4], np.uint8)
    bias = np.zeros(1, np.int32)
    border = [((-127, -128), True), ((-128, -128), False)]  # s8 activations: 128 · 128 · 2 = 32768
    if not isa_name.startswith("neon"):  # u8 activations: 128 · 255 = 32640
        border = [((127, 1), True), ((127, 2), False), ((64, 64), True), ((65, 64), False)]
        border += [((-128, 0), True), ((-128, -1), False), ((-64, -64), True), ((-64, -65), False)]
    for pair, is_narrow in border:
        weight = np.array([[0, 0, pair[order[0]], pair[order[1]], 0, 0, 0, 0]], np.int8)
        packed = pack_conv(fully_connected(weight, bias), isa_name)
        assert packed.is_narrow == is_narrow
        result = execute(packed.plan(1, 1, len(x)), isa_name, x, DType.S32, shares=1)
        assert result.ravel().tolist() == (x.astype(np.int64) @ weight[0].astype(np.int64)).tolist()


@pytest.mark.parametrize("isa_name", [name for name in NARROW if not name.startswith("neon")])
def test_weights_of_both_signs_and_short_ranges_are_proven_by_what_they_reach(isa_name: str):
    def is_narrow(weight: list[int], zp_in: int = 0, **options) -> bool:
        layer = fully_connected(np.array([weight], np.int8), np.zeros(1, np.int32))
        return pack_conv(replace(layer, zp_in=zp_in, **options), isa_name).is_narrow

    assert is_narrow([127, -128])
    assert is_narrow([127, 0, 127, 0])
    assert not is_narrow([0, 127, 127, 0, 2, 127, 0, 0])
    assert is_narrow([127, 127], x_range=(0, 128))  # 127 · 128 · 2 = 32512
    assert not is_narrow([127, 127], x_range=(0, 130))
    assert not is_narrow([127, 127], zp_in=130, x_range=(0, 128))  # borders hold the zero point
    assert is_narrow([127, 127], x_dtype=DType.S8, x_range=(-128, 0))  # read as u8 in [0, 128]
    assert not is_narrow([127, 127], x_dtype=DType.S8, x_range=(-128, 127))


@pytest.mark.parametrize("isa_name", NARROW)
def test_neighbours_are_those_of_the_packed_order(isa_name: str):
    """A large pair in one input channel's rows meets no neighbour; in two neighbouring channels it does."""
    layer = Layer(
        batch=1,
        size=(6, 6),
        kernel=(3, 3),
        strides=(1, 1),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
        group=1,
        per_group=2,
        cout=9,
        x_dtype=DType.U8,
        zp_in=255,
        dtype=DType.S32,
        zp_out=0,
        lo=0,
        hi=0,
        shares=2,
        seed=3,
    )
    x, weight, bias, _ = random_operands(layer)
    apart, together = np.zeros_like(weight), np.zeros_like(weight)
    apart[:, 0] = -128
    together[:] = -128
    for chosen, is_narrow in ((apart, True), (together, False)):
        packed = pack_conv(facts_of(layer, chosen, bias, None), isa_name)
        assert packed.is_narrow == is_narrow
        result = execute(packed.plan(1, 6, 6, pads=layer.pads), isa_name, x, DType.S32, shares=2)
        assert np.array_equal(result, expected(layer, x, chosen, bias, None))


@pytest.mark.parametrize(
    ("isa_name", "triple", "cpu", "dot", "pairs"),
    [
        ("avx2", X86, "haswell", "vpmaddwd", "vpmaddubsw"),
        ("avx512", X86, "cannonlake", "vpmaddwd", "vpmaddubsw"),  # it has what a host that looks up by `vpermi2b` has
        ("neon", ARM, "cortex-a72", "smull", "sadalp"),
    ],
)
def test_only_proven_weights_meet_instructions_that_add_in_16_bits(isa_name, triple, cpu, dot, pairs):
    """The assembly of the very variants that a layer's plan asks for."""
    bias = np.zeros(72, np.int32)
    for weight, is_proven in ((64, True), (-128, False)):
        weights = np.full((72, 16), weight, np.int8)
        packed = pack_conv(fully_connected(weights, bias), isa_name)
        assert packed.is_narrow == is_proven
        for variant in np.unique(packed.plan(1, 1, 7).constants["tiles"].view(np.int64).reshape(-1, TILE_WORDS)[:, 0]):
            for single in (0, 1):
                code = assembly_of(
                    matrix_tiles, [types.int64] * 16, isa_name, triple=triple, cpu=cpu, first=int(variant) + single
                )
                assert dot in code
                assert (pairs in code) == is_proven
