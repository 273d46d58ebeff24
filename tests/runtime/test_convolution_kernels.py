"""The generated convolution kernels against Python integers, for each primitive, real or emulated."""

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.primitives import primitive_named
from qcompiler.runtime.kernels import convolution_packing, tile_choice
from qcompiler.runtime.kernels.convolution_packing import ConvLayer, pack_conv
from qcompiler.runtime.kernels.depthwise_plan import pack_depthwise
from qcompiler.runtime.kernels.packing import MOST_SHIFT_LOOKED_UP, Requantization, Residual, aligned, saturated_table
from qcompiler.runtime.kernels.tile_choice import TileChoice, choose_tiles
from tests.runtime.primitives_under_test import PRIMITIVES
from tests.runtime.random_layers import (
    Layer,
    conv_plan,
    execute,
    expected,
    facts_of,
    layers,
    pack,
    random_operands,
    requantized,
    spread,
)


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=60)
@given(layer=layers())
def test_convolution(isa_name: str, layer: Layer):
    x, weight, bias, requantization = random_operands(layer)
    plan = conv_plan(layer, isa_name, weight, bias, requantization)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


@pytest.mark.parametrize("isa_name", [name for name in PRIMITIVES if name.startswith("amx")])
@settings(max_examples=60)
@given(layer=layers(), widest=st.integers(0, 2), collected_bytes=st.sampled_from([0, 1, 4096, 30_000]))
def test_convolution_with_each_choice_of_tiles(isa_name: str, layer: Layer, widest: int, collected_bytes: int):
    layer = replace(layer, batch=layer.batch + layer.seed % 4)
    x, weight, bias, requantization = random_operands(layer)
    with chosen_tiles(layer, widest, collected_bytes):
        plan = conv_plan(layer, isa_name, weight, bias, requantization)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


@contextmanager
def chosen_tiles(layer: Layer, widest: int, collected_bytes: int) -> Iterator[None]:
    """On a matrix unit tiles no wider than the shape `widest`, and where possible blocks of collected activations."""
    choice = TileChoice(widest, collected=collected_bytes > 0 and widest == 2 and layer.group == 1)
    with (
        patch.object(convolution_packing, "choose_tiles", return_value=choice),
        patch.object(convolution_packing, "prefers_vectors", return_value=False),
        patch.object(tile_choice, "COLLECTED_BYTES", collected_bytes),
    ):
        yield


def test_choice_of_tiles():
    unit = primitive_named("amx")

    def vectors(**sizes: int) -> int:
        return unit.tiles[choose_tiles(unit, **sizes).widest].vectors

    assert vectors(channels=256, activations=64, pixels=56 * 56) == 4  # the epilogue decides
    assert vectors(channels=256, activations=2304, pixels=14 * 14) == 2  # the weights' way from the L2 cache
    assert choose_tiles(unit, channels=512, activations=4608, pixels=7 * 7) == TileChoice(2, collected=True)
    assert not choose_tiles(unit, channels=512, activations=4608, pixels=7 * 7, sections=2).collected
    assert choose_tiles(primitive_named("vnni512"), channels=512, activations=4608, pixels=49) == TileChoice(
        0, collected=False
    )


@pytest.mark.parametrize(("channels", "products", "form"), [(96, 16, 1), (96, 32, 0), (16, 16, 0)])
def test_few_products_are_left_to_vectors(channels: int, products: int, form: int):
    """A matrix unit's sums go through memory, which takes longer than a few dot products."""
    layer = replace(large_layer(6, group=1, per_group=products, cout=channels), kernel=(1, 1), pads=(0, 0, 0, 0))
    x, weight, bias, requantization = random_operands(layer)
    (isa_name,) = (name for name in PRIMITIVES if name.startswith("amx"))
    packed = pack_conv(facts_of(layer, weight, bias, requantization), isa_name)
    assert packed.form == form
    result = execute(packed.plan(1, 6, 6), isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@pytest.mark.parametrize("depthwise", [False, True])
@settings(max_examples=40)
@given(data=st.data(), gaps=st.tuples(st.integers(0, 70), st.integers(0, 70)))
def test_pixels_that_are_apart(isa_name: str, depthwise: bool, data, gaps: tuple[int, int]):
    """A slice of a tensor's channels read, and another one written."""
    layer = data.draw(layers(depthwise=depthwise))
    x, weight, bias, requantization = random_operands(layer)
    packed = pack(facts_of(layer, weight, bias, requantization), isa_name, depthwise=depthwise)
    item = layer.dtype.itemsize
    pitches = x.shape[-1] + gaps[0], (layer.cout + gaps[1]) * item
    plan = packed.plan(layer.batch, *layer.size, strides=layer.strides, pads=layer.pads, pitches=pitches)
    elements = len(spread(np.empty(plan.out_shape, layer.dtype.numpy), pitches[1], 0)) // item
    dense = replace(plan, out_shape=(1, 1, 1, elements))
    result = execute(dense, isa_name, spread(x, pitches[0], 0xA5), layer.dtype, layer.shares).ravel().view(np.uint8)
    wanted = spread(expected(layer, x, weight, bias, requantization), pitches[1], 77)
    assert np.array_equal(result, wanted)


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=40)
@given(
    layer=layers(),
    blocks=st.sampled_from([(2, 2), (1, 2), (2, 1), (3, 3)]),
    channels=st.sampled_from([1, 3, 16, 17, 32, 72]),
    kept=st.integers(0, 2),
)
def test_convolution_into_blocks_of_pixels(isa_name: str, layer: Layer, blocks, channels: int, kept: int):
    """Filters of one place in the block have weights in some taps only, as those of a transposed convolution do."""
    places = math.prod(blocks)
    layer = replace(layer, group=1, cout=places * channels)
    x, weight, bias, requantization = random_operands(layer)
    rng = np.random.default_rng(layer.seed)
    own = weight.reshape(places, channels, *weight.shape[1:])
    for place in range(places):
        for axis, size in enumerate(layer.kernel, 3):
            used = np.sort(rng.integers(0, size, kept))  # some taps between the first and the last stay zero, too
            np.moveaxis(own[place], axis - 1, 0)[[tap for tap in range(size) if tap not in used]] = 0
    plan = conv_plan(layer, isa_name, weight, bias, requantization, blocks)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    y = expected(layer, x, weight, bias, requantization)
    batch, height, width, _ = y.shape
    y = y.reshape(batch, height, width, *blocks, channels).transpose(0, 1, 3, 2, 4, 5)
    assert np.array_equal(result, y.reshape(batch, height * blocks[0], width * blocks[1], channels))


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@pytest.mark.parametrize(("kernel", "dilations"), [((3, 1), (1, 1)), ((2, 3), (1, 2))])
def test_convolution_to_one_channel(isa_name: str, kernel: tuple[int, int], dilations: tuple[int, int]):
    """NumPy takes its weights, transposed, for an array in Fortran's order."""
    layer = Layer(
        1, (5, 6), kernel, (1, 1), (0, 0, 0, 0), dilations, 1, 5, 1, DType.U8, 3, DType.S32, 0, 0, 0, shares=1, seed=1
    )
    x, weight, bias, requantization = random_operands(layer)
    plan = conv_plan(layer, isa_name, weight, bias, requantization)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


def test_no_time_is_spent_on_taps_that_are_zero():
    """The filters of a 4x4 kernel with stride 2 have 2x2 of 3x3 taps each, those of a kernel of zeros none."""
    weight = np.zeros((4, 32, 8, 3, 3), np.int8)
    for place, row, column in ((0, 0, 0), (1, 0, 1), (2, 1, 0)):
        weight[place, :, :, row : row + 2, column : column + 2] = 1
    facts = ConvLayer(weight.reshape(128, 8, 3, 3), np.zeros(128, np.int32), None, zp_in=0, x_dtype=DType.U8)
    packed = pack_conv(facts, "generic", blocks=(2, 2))
    bytes_of = packed.primitive.activation_bytes
    of_place = [packed.tiles[packed.places == place] for place in range(4)]
    for place, first_run, first_tap in ((0, 0, 0), (1, 0, 1), (2, 1, 0)):
        assert (of_place[place][:, [9, 10, 11]] == [first_run, 2, 2 * 8 * bytes_of]).all()
        assert (of_place[place][:, 6] == first_tap * 8 * bytes_of).all()
    assert (of_place[3][:, [9, 10, 11]] == [0, 1, 4]).all()
    assert packed.density == pytest.approx((3 * 4 * 8 + packed.primitive.group) / (4 * 9 * 8))


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=60)
@given(
    layer=layers(),
    residual_dtype=st.sampled_from([DType.U8, DType.S8]),
    widest=st.integers(0, 2),
    collected_bytes=st.sampled_from([0, 4096]),
)
def test_convolution_plus_residual(
    isa_name: str, layer: Layer, residual_dtype: DType, widest: int, collected_bytes: int
):
    x, weight, bias, requantization = random_operands(replace(layer, dtype=layer.x_dtype, zp_out=layer.zp_in))
    assert requantization is not None
    rng = np.random.default_rng(layer.seed)
    lo, hi = sorted(rng.integers(*layer.x_dtype.limits, 2).tolist())
    least, most = residual_dtype.limits
    zero_point = int(rng.integers(least, most + 1))
    factor = rng.choice([-(2**15), 2**15 - 1, *rng.integers(-(2**15), 2**15, 4)], layer.cout).astype(np.int32)
    requantization = replace(requantization, lo=lo, hi=hi, residual=Residual(factor, zero_point, residual_dtype))
    with chosen_tiles(layer, widest, collected_bytes) if "amx" in isa_name else nullcontext():
        plan = conv_plan(layer, isa_name, weight, bias, requantization)
    residual = rng.integers(least, most + 1, plan.out_shape).astype(residual_dtype.numpy)
    added = (residual.astype(np.int64) - zero_point) * factor
    wanted = expected(layer, x, weight, bias, requantization, added)
    for in_place in {False, plan.replaces_residual}:
        result = execute(plan, isa_name, x, layer.x_dtype, layer.shares, residual, in_place=in_place)
        assert np.array_equal(result, wanted)


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@pytest.mark.parametrize("depthwise", [False, True])
@settings(max_examples=30)
@given(data=st.data())
def test_convolution_and_its_table(isa_name: str, depthwise: bool, data):
    """The result of a layer, then `int.lut`, in one kernel."""
    dtype, entry_dtype = (data.draw(st.sampled_from([DType.U8, DType.S8])) for _ in range(2))
    drawn = data.draw(layers(depthwise=depthwise))
    zp_out, lo = (data.draw(st.integers(*dtype.limits)) for _ in range(2))
    hi = data.draw(st.integers(lo, dtype.limits[1]))
    layer = replace(drawn, dtype=dtype, zp_out=zp_out, lo=lo, hi=hi)
    x, weight, bias, requantization = random_operands(layer)
    assert requantization is not None
    shift = np.minimum(requantization.shift, MOST_SHIFT_LOOKED_UP)
    requantization = replace(requantization, shift=shift, looked_up=True)
    entries = np.random.default_rng(layer.seed).integers(0, 256, 256, dtype=np.uint8).view(entry_dtype.numpy)
    packed = pack(facts_of(layer, weight, bias, requantization), isa_name, depthwise=depthwise)
    plan = packed.plan(layer.batch, *layer.size, strides=layer.strides, pads=layer.pads)
    table = aligned(saturated_table(entries, requantization))
    result = execute(plan, isa_name, x, entry_dtype, layer.shares, table=table)
    values = expected(layer, x, weight, bias, requantization).astype(np.int64)
    assert np.array_equal(result, entries[values - dtype.limits[0]])


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=40)
@given(layer=layers(depthwise=True))
def test_depthwise_convolution(isa_name: str, layer: Layer):
    x, weight, bias, requantization = random_operands(layer)
    packed = pack(facts_of(layer, weight, bias, requantization), isa_name, depthwise=True)
    plan = packed.plan(layer.batch, *layer.size, strides=layer.strides, pads=layer.pads)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=60)
@given(
    drawn=layers(depthwise=True),
    strides=st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 1), (1, 2)]),
    x_dtype=st.sampled_from([DType.U8, DType.U8, DType.S8]),
)
def test_depthwise_convolution_by_columns(isa_name: str, drawn: Layer, strides: tuple[int, int], x_dtype: DType):
    """3x3 in place: pixels of several channel blocks, pads of any width, the last pixel at the end of memory."""
    pads = drawn.pads
    size = max(drawn.size[0], 3 - pads[0] - pads[2]), max(drawn.size[1], 3 - pads[1] - pads[3])
    zp_in = min(max(drawn.zp_in, x_dtype.limits[0]), x_dtype.limits[1])
    layer = replace(drawn, kernel=(3, 3), dilations=(1, 1), strides=strides, size=size, x_dtype=x_dtype, zp_in=zp_in)
    x, weight, bias, requantization = random_operands(layer)
    packed = pack_depthwise(facts_of(layer, weight, bias, requantization), isa_name)
    plan = packed.plan(layer.batch, *layer.size, strides=strides, pads=pads)
    result = execute(plan, isa_name, x, layer.dtype, layer.shares)
    assert np.array_equal(result, expected(layer, x, weight, bias, requantization))


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=15)
@given(rows=st.integers(1, 40), k=st.integers(1, 70), m=st.sampled_from([1, 10, 16, 70]), seed=st.integers(0, 999))
def test_fully_connected(isa_name: str, rows: int, k: int, m: int, seed: int):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (rows, k), dtype=np.uint8)
    weight = rng.integers(-127, 128, (m, k), dtype=np.int8)
    bias = rng.integers(-(2**20), 2**20, m, dtype=np.int32)
    packed = pack_conv(ConvLayer(weight[:, :, None, None], bias, None, zp_in=9, x_dtype=DType.U8), isa_name)
    result = execute(packed.plan(1, 1, rows), isa_name, x, DType.S32, shares=2)
    assert np.array_equal(result.reshape(rows, m), x.astype(np.int64) @ weight.T.astype(np.int64) + bias)


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=40)
@given(
    accs=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=40),
    shift=st.integers(2, 62),
    multiplier=st.sampled_from([0, 2**30, 2**30 + 1, 3 * 2**29, 2**31 - 1, -(2**30), 1 - 2**31]),
    dtype=st.sampled_from([DType.U8, DType.S8, DType.S16]),
    data=st.data(),
)
def test_rescale_of_any_accumulator(isa_name: str, accs, shift: int, multiplier: int, dtype: DType, data):
    lowest, highest = dtype.limits
    lo = data.draw(st.integers(lowest, highest))
    hi, zp_out = data.draw(st.integers(lo, highest)), data.draw(st.integers(lowest, highest))
    near_zero = [acc >> 26 for acc in accs]
    bias = np.array([*accs, *near_zero, 0, 1, -1, -(2**31), 2**31 - 1], np.int32)  # weights are zero
    channels = len(bias)
    scale = np.full(channels, multiplier, np.int32), np.full(channels, shift, np.int32)
    requantization = Requantization(*scale, zp_out, lo, hi, dtype)
    weight = np.zeros((channels, 1, 1, 1), np.int8)
    wanted = requantized(bias.astype(np.int64)[None, None, None], requantization)
    facts = ConvLayer(weight, bias, requantization, zp_in=0, x_dtype=DType.U8)
    for depthwise in (False, True):
        plan = pack(facts, isa_name, depthwise=depthwise).plan(1, 1, 1)
        x = np.zeros((1, 1, 1, channels), np.uint8)
        assert np.array_equal(execute(plan, isa_name, x, dtype, shares=1), wanted)


def large_layer(size: int, *, group: int, per_group: int, cout: int) -> Layer:
    """3x3 with borders, u8 to u8."""
    return Layer(
        batch=1,
        size=(size, size),
        kernel=(3, 3),
        strides=(1, 1),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
        group=group,
        per_group=per_group,
        cout=cout,
        x_dtype=DType.U8,
        zp_in=7,
        dtype=DType.U8,
        zp_out=3,
        lo=0,
        hi=255,
        shares=3,
        seed=1,
    )


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@pytest.mark.parametrize(("size", "cout"), [(40, 32), (5, 640)], ids=["by rows", "by channels"])
def test_work_is_divided_among_shares(isa_name: str, size: int, cout: int):
    layer = large_layer(size, group=1, per_group=48, cout=cout)
    x, weight, bias, requantization = random_operands(layer)
    packed = pack_conv(facts_of(layer, weight, bias, requantization), isa_name)
    plan = packed.plan(1, size, size, pads=layer.pads)
    assert plan.shares > 1
    assert plan.integers["by_tiles"] == (size == 5)
    wanted = expected(layer, x, weight, bias, requantization)
    for shares in (1, plan.shares, plan.shares + 3):
        assert np.array_equal(execute(plan, isa_name, x, DType.U8, shares), wanted)


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@pytest.mark.parametrize(("size", "channels"), [(48, 80), (7, 4096)], ids=["by rows", "by channels"])
def test_depthwise_work_is_divided_among_shares(isa_name: str, size: int, channels: int):
    layer = large_layer(size, group=channels, per_group=1, cout=channels)
    x, weight, bias, requantization = random_operands(layer)
    packed = pack(facts_of(layer, weight, bias, requantization), isa_name, depthwise=True)
    plan = packed.plan(1, size, size, pads=layer.pads)
    assert plan.shares > 1
    assert plan.integers["by_tiles"] == (size == 7)
    wanted = expected(layer, x, weight, bias, requantization)
    for shares in (1, 2, plan.shares + 3):
        assert np.array_equal(execute(plan, isa_name, x, DType.U8, shares), wanted)
