"""Float convolutions and products: close to the reference, and the same bits wherever an element is computed."""

from collections.abc import Sequence
from contextlib import ExitStack
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompiler import reference
from qcompiler.errors import UnsupportedOpError
from qcompiler.ir import DType, Graph, Op, TensorType
from qcompiler.ir.ops import Conv, Gemm, MatMul
from qcompiler.runtime import isa
from qcompiler.runtime.codegen import float_tile
from qcompiler.runtime.codegen.float_tile import FloatTile
from qcompiler.runtime.kernels.registry import kernel_named
from qcompiler.runtime.session import Session

Floats = npt.NDArray[np.float32]
few = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)
INFINITY = float("inf")


def single(op: Op, arrays: Sequence[Floats], constants: Sequence[Floats] = ()) -> Graph:
    graph = Graph("single")
    operands = [graph.add_input(f"x{i}", TensorType(DType.F32, array.shape)) for i, array in enumerate(arrays)]
    operands += [graph.add_constant(array) for array in constants]
    graph.add_output(graph.add_node(op, operands).result, "y")
    return graph


def compute(op: Op, arrays: Sequence[Floats], constants: Sequence[Floats] = (), threads: int = 1) -> Floats:
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    return Session(single(op, arrays, constants), threads=threads).run(feeds)["y"].view(np.float32)


def check(run_in_shares, op: Op, bare: Op, arrays: Sequence[Floats], constants: Sequence[Floats], terms: int) -> None:
    """The same bits in any number of shares, and no further from the reference than a chain of `terms` roundings.

    `bare` is `op` without its clamp, which moves no two results apart.
    """
    graph, feeds = single(op, arrays, constants), {f"x{i}": array for i, array in enumerate(arrays)}
    first, *others = (run_in_shares(graph, feeds, shares)["y"] for shares in (1, 2, 5))
    for other in others:
        assert np.array_equal(first, other)
    sizes = {name: np.abs(array) for name, array in feeds.items()}
    sums = reference.run(single(bare, list(sizes.values()), [np.abs(c) for c in constants]), sizes)["y"]
    exact = reference.run(graph, feeds)["y"]
    assert (np.abs(np.subtract(first, exact, dtype=np.float64)) <= (terms + 3) * 2.0**-24 * sums.view(np.float32)).all()


def normal(seed: int, *shapes: Sequence[int]) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@few
@given(data=st.data())
def test_convolution(run_in_shares, data):
    def draw(low: int, high: int) -> int:
        return int(data.draw(st.integers(low, high)))

    rank, group, batch = draw(1, 2), draw(1, 3), draw(1, 2)
    per_group, cout = draw(1, 5), group * draw(1, 9)
    kernel, strides, dilations = ([draw(1, 3) for _ in range(rank)] for _ in range(3))
    pads = [draw(0, 3) for _ in range(2 * rank)]
    size = [(k - 1) * d + draw(1, 30) for k, d in zip(kernel, dilations, strict=True)]
    clamp = data.draw(st.sampled_from([None, (0.0, 1.0), (-INFINITY, 0.5)]))
    bias = [[cout]] if data.draw(st.booleans()) else []
    x, *constants = normal(data.draw(seeds), (batch, group * per_group, *size), (cout, per_group, *kernel), *bias)
    op, bare = (Conv(tuple(strides), tuple(pads), tuple(dilations), group, c) for c in (clamp, None))
    check(run_in_shares, op, bare, [x], constants, per_group * int(np.prod(kernel)))


@few
@given(
    seed=seeds, channels=st.integers(2, 4), multiplier=st.integers(1, 2), width=st.integers(3, 80),
    stride=st.integers(1, 3),
)  # fmt: skip
def test_depthwise_convolution(run_in_shares, seed, channels, multiplier, width, stride):
    x, weight, bias = normal(seed, (2, channels, 9, width), (channels * multiplier, 1, 3, 3), [channels * multiplier])
    op = Conv((stride, stride), (1, 1, 0, 2), (2, 1), channels)
    check(run_in_shares, op, op, [x], [weight, bias], 9)


@few
@given(
    seed=seeds, channels=st.integers(2, 4), multiplier=st.integers(1, 2), size=st.tuples(*[st.integers(3, 70)] * 2),
    stride=st.integers(1, 2), pads=st.tuples(*[st.integers(0, 2)] * 4), clamped=st.booleans(),
)  # fmt: skip
def test_depthwise_convolution_3x3(run_in_shares, seed, channels, multiplier, size, stride, pads, clamped):
    shapes = (2, channels, *size), (channels * multiplier, 1, 3, 3), [channels * multiplier]
    x, weight, bias = normal(seed, *shapes)
    op = Conv((stride, stride), pads, (1, 1), channels, (-0.5, 0.5) if clamped else None)
    check(run_in_shares, op, Conv((stride, stride), pads, (1, 1), channels), [x], [weight, bias], 9)


def test_depthwise_plane_of_many_strips(run_in_shares):
    x, weight = normal(0, (1, 2, 90, 300), (2, 1, 3, 3))
    op = Conv((1, 1), (1, 2, 1, 2), (1, 2), 2)
    check(run_in_shares, op, op, [x], [weight], 9)


@few
@given(
    seed=seeds, lead=st.lists(st.integers(1, 5), max_size=2), depth=st.integers(1, 70), features=st.integers(1, 70),
    clamped=st.booleans(), biased=st.booleans(),
)  # fmt: skip
def test_fully_connected(run_in_shares, seed, lead, depth, features, clamped, biased):
    x, *constants = normal(seed, (*lead, depth), (features, depth), *([[features]] if biased else []))
    op = Gemm((-1.0, INFINITY) if clamped else None)
    check(run_in_shares, op, Gemm(), [x], constants, depth)


@few
@given(seed=seeds, sizes=st.tuples(*[st.integers(1, 40)] * 3), data=st.data())
def test_matrix_product(run_in_shares, seed, sizes, data):
    batch = data.draw(st.lists(st.integers(1, 3), max_size=2))
    left, right = (
        [1 if data.draw(st.booleans()) else size for size in batch[data.draw(st.integers(0, len(batch))) :]]
        for _ in range(2)
    )
    rows, depth, columns = sizes
    a, b = normal(seed, (*left, rows, depth), (*right, depth, columns))
    check(run_in_shares, MatMul(), MatMul(), [a, b], [], depth)


@pytest.mark.parametrize("group", [1, 2, 6])
def test_sample_has_the_same_bits_in_any_batch(group):
    x, weight, bias = normal(1, (5, 6, 11, 13), (12, 6 // group, 3, 3), [12])
    op = Conv((2, 1), (1, 1, 1, 1), (1, 1), group)
    whole = compute(op, [x], [weight, bias])
    assert np.array_equal(compute(op, [x], [weight, bias], threads=3), whole)
    for i in range(5):
        assert np.array_equal(compute(op, [x[i : i + 1]], [weight, bias])[0], whole[i])


@pytest.mark.parametrize("group", [1, 4])
def test_pixel_has_the_same_bits_in_any_lane(group):
    """Each output pixel once more from an image that holds its window alone."""
    x, weight, bias = normal(2, (1, 4, 5, 37), (8, 4 // group, 3, 3), [8])
    op = Conv((1, 1), (0, 0, 0, 0), (1, 1), group)
    whole = compute(op, [x], [weight, bias])
    for row in range(whole.shape[2]):
        for column in range(0, whole.shape[3], 5):
            window = x[:, :, row : row + 3, column : column + 3]
            assert np.array_equal(compute(op, [window], [weight, bias])[0, :, 0, 0], whole[0, :, row, column])


@pytest.mark.parametrize("biased", [False, True])
def test_images_of_one_pixel_have_the_same_bits_as_larger_ones(biased: bool):
    x, weight, bias = normal(8, (11, 70, 1, 1), (53, 70, 1, 1), (53,))
    op = Conv(strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1), clamp=(-9.0, 9.0))
    constants = [weight, bias] if biased else [weight]
    session = Session(single(op, [x], constants))
    (alone,) = session.run({"x0": x}).values()
    assert [i.kernel for i in session.plan_for({}).program.instructions] == ["float_gemm"]
    beside = compute(op, [np.repeat(x, 3, axis=3)], constants)
    assert np.array_equal(alone.view(np.float32), beside[..., 1:2])


def test_row_and_feature_have_the_same_bits_in_any_tile():
    x, weight, bias = normal(3, (7, 50), (61, 50), [61])
    whole = compute(Gemm(), [x], [weight, bias])
    for row in range(7):
        assert np.array_equal(compute(Gemm(), [x[row : row + 1]], [weight, bias])[0], whole[row])
    for start in (1, 17, 60):
        assert np.array_equal(compute(Gemm(), [x], [weight[start:], bias[start:]]), whole[:, start:])


def test_every_product_is_added_with_one_rounding_or_every_one_with_two():
    """1 + e has a square that float32 rounds; a fused multiply-add after the sum −1 keeps what was cut off."""
    e = np.float32(2.0**-12)
    x, weight = np.full((1, 1, 1, 40), 1 + e, np.float32), np.full((5, 1, 1, 1), 1 + e, np.float32)
    square = np.float32(1 + e) * np.float32(1 + e)
    y = compute(Conv((1, 1), (0,) * 4, (1, 1)), [x], [weight, np.full(5, -square, np.float32)])
    assert len(np.unique(y)) == 1
    assert y.flat[0] in (0.0, np.float64(1 + e) ** 2 - square)


@pytest.mark.parametrize("tile", [FloatTile(16, 8), FloatTile(4, 4)])
def test_tiles_of_other_primitives(tile, tmp_path, monkeypatch, run_in_shares):
    """Wider vectors than the target's are the same code, in more instructions."""
    monkeypatch.setitem(float_tile._TILES, isa.current(), tile)
    monkeypatch.setenv("QCOMPILER_CACHE_DIR", str(tmp_path))
    x, weight, bias = normal(4, (1, 6, 3, 50), (12, 6, 3, 3), [12])
    rows, matrix = normal(5, (5, 33), (50, 33))
    with ExitStack() as stack:
        for name in ("float_conv", "float_depthwise", "float_depthwise_3x3", "float_gemm"):
            for known in (kernel_named(name)._compiled, kernel_named(name)._addresses):
                stack.enter_context(mock.patch.dict(known, clear=True))
        for group in (1, 6):
            op = Conv((1, 1), (1, 1, 1, 1), (1, 1), group)
            check(run_in_shares, op, op, [x], [weight[:, : 6 // group], bias], 54)
        check(run_in_shares, Gemm(), Gemm(), [rows], [matrix], 33)


def test_nan_passes_a_clamp():
    x = np.array([[1.0, np.nan], [2.0, 3.0]], np.float32)
    y = compute(Gemm((0.0, 1.0)), [x], [np.eye(2, dtype=np.float32)])
    assert np.isnan(y[0]).all()
    assert y[1].tolist() == [1.0, 1.0]


def test_empty_batch():
    x, weight = normal(6, (0, 3, 5, 5), (4, 3, 3, 3))
    assert compute(Conv((1, 1), (0,) * 4, (1, 1)), [x], [weight]).shape == (0, 4, 3, 3)
    assert compute(Gemm(), [x[:, 0]], [weight[:, :, 0, 0].repeat(2, 1)[:, :5]]).shape == (0, 5, 4)


def test_what_has_no_kernel_is_refused():
    x, weight = normal(7, (1, 1, 4, 4, 4), (1, 1, 3, 3, 3))
    with pytest.raises(UnsupportedOpError, match=r"'conv' .*3 spatial axes"):
        compute(Conv((1,) * 3, (0,) * 6, (1,) * 3), [x], [weight])
    x, weight = normal(8, (2, 4), (3, 4))
    with pytest.raises(UnsupportedOpError, match=r"'gemm' .*constants; use matmul"):
        compute(Gemm(), [x, weight])
    with pytest.raises(UnsupportedOpError, match=r"'gemm' .*no terms"):
        compute(Gemm(), [x[:, :0]], [weight[:, :0]])
