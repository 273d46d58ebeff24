"""Every integer kernel against the reference executor, bit for bit, in one to three shares."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompiler import reference
from qcompiler.ir import AnyArray, DType, Graph, Op, Stage, TensorType
from qcompiler.ir.ops import (
    Concat,
    DepthToSpace,
    IntAdd,
    IntAveragePool,
    IntDequantize,
    IntDiv,
    IntLut,
    IntMean,
    IntMul,
    IntPad,
    IntPRelu,
    IntQuantize,
    IntRescale,
    IntSoftmax,
    MaxPool,
    Slice,
    Split,
    Transpose,
)
from qcompiler.numerics import quantize_add_multipliers, quantize_mean_multipliers, softmax_tables

EIGHT, NARROW = (DType.U8, DType.S8), (DType.U8, DType.S8, DType.S16)
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)
multipliers = st.one_of(st.just(2**30), st.just(2**31 - 1), st.integers(2**30, 2**31 - 1))


def array_of(seed: int, dtype: DType, shape: Sequence[int]) -> AnyArray:
    """Elements over the whole range, one in five at an end of it."""
    rng = np.random.default_rng(seed)
    lo, hi = dtype.limits
    values = rng.integers(lo, hi, shape, endpoint=True)
    ends = rng.choice([lo, hi], shape)
    return np.where(rng.random(shape) < 0.2, ends, values).astype(dtype.numpy)


def check(
    run_in_shares, op: Op, arrays: Sequence[AnyArray], constants: Sequence[AnyArray] = (), *, then: Op | None = None
) -> None:
    """`op` on these operands and constants, its results as they are or what `then` makes of the only one.

    The same bits as the reference, whatever the shares.
    """
    graph = Graph("single", Stage.INTEGER)
    operands = [
        graph.add_input(f"x{i}", TensorType(DType.from_numpy(array.dtype), array.shape))
        for i, array in enumerate(arrays)
    ]
    operands += [graph.add_constant(array) for array in constants]
    node = graph.add_node(op, operands)
    for i, value in enumerate(node.results if then is None else graph.add_node(then, [node.result]).results):
        graph.add_output(value, f"y{i}")
    feeds = {f"x{i}": array for i, array in enumerate(arrays)}
    expected = reference.run(graph, feeds)
    for shares in (1, 2, 3):
        got = run_in_shares(graph, feeds, shares)
        for name, array in expected.items():
            assert got[name].dtype == array.dtype
            assert np.array_equal(got[name], array), (name, shares)


@st.composite
def bounds(draw: st.DrawFn, dtype: DType) -> dict[str, int]:
    """Zero point and clamp of a result."""
    lo, hi = dtype.limits
    low = draw(st.integers(lo, hi))
    return {"zp_out": draw(st.integers(lo, hi)), "lo": low, "hi": draw(st.integers(low, hi))}


def zero_points(dtype: DType) -> st.SearchStrategy[int]:
    return st.just(0) if dtype is DType.S16 else st.integers(*dtype.limits)


SHAPES = [
    ((5, 40), (5, 40)),
    ((3, 7, 16), (16,)),
    ((16,), (3, 7, 16)),
    ((300,), (1,)),
    ((2, 3, 4, 30), (2, 1, 1, 30)),
    ((2, 30, 5, 1), (2, 1, 5, 3)),
    ((2, 1, 3, 1, 4), (1, 5, 1, 6, 1)),
    ((), (130,)),
    ((4, 0), (4, 1)),
]
pairs = st.sampled_from(SHAPES)


@pytest.mark.parametrize(
    "dtypes",
    [
        *itertools.product(EIGHT, EIGHT, EIGHT),
        (DType.S16,) * 3,
        (DType.U8, DType.S16, DType.S8),
        (DType.S16, DType.S16, DType.U8),
        (DType.U8, DType.S16, DType.S16),
        (DType.S16, DType.S8, DType.U8),
    ],
)
@few
@given(data=st.data(), shapes=pairs, seed=seeds)
def test_addition(run_in_shares, dtypes, data, shapes, seed):
    a, b, out = dtypes
    factors = st.floats(2**-9, 4)
    multiplier_a, multiplier_b, shift = quantize_add_multipliers(
        data.draw(factors), data.draw(st.sampled_from([1, -1])) * data.draw(factors), a, b
    )
    op = IntAdd(
        out,
        data.draw(zero_points(a)),
        data.draw(zero_points(b)),
        multiplier_a,
        multiplier_b,
        shift,
        **data.draw(bounds(out)),
    )
    check(run_in_shares, op, [array_of(seed + i, t, s) for i, (t, s) in enumerate(zip((a, b), shapes, strict=True))])


@pytest.mark.parametrize("op", [IntMul, IntDiv])
@pytest.mark.parametrize("dtypes", [(DType.U8,) * 3, (DType.S8, DType.U8, DType.S8), (DType.S16,) * 3])
@few
@given(data=st.data(), shapes=pairs, multiplier=multipliers, shift=st.integers(20, 45), seed=seeds)
def test_multiplication_and_division(run_in_shares, op, dtypes, data, shapes, multiplier, shift, seed):
    a, b, out = dtypes
    made = op(out, data.draw(zero_points(a)), data.draw(zero_points(b)), multiplier, shift, **data.draw(bounds(out)))
    check(run_in_shares, made, [array_of(seed + i, t, s) for i, (t, s) in enumerate(zip((a, b), shapes, strict=True))])


@pytest.mark.parametrize("source", [*NARROW, DType.S32])
@pytest.mark.parametrize("target", NARROW)
@few
@given(data=st.data(), multiplier=multipliers, shift=st.integers(2, 62), seed=seeds)
def test_rescaling(run_in_shares, source, target, data, multiplier, shift, seed):
    zp_in = 0 if source is DType.S32 else data.draw(zero_points(source))
    op = IntRescale(target, zp_in, multiplier, shift, **data.draw(bounds(target)))
    check(run_in_shares, op, [array_of(seed, source, (3, 50))])


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("axis", [1, -1])
@few
@given(data=st.data(), multiplier=multipliers, shift=st.integers(17, 50), seed=seeds)
def test_prelu(run_in_shares, dtype, axis, data, multiplier, shift, seed):
    rng = np.random.default_rng(seed)
    slopes = (rng.integers(2**30, 2**31, 6) * rng.choice([-1, 1], 6)).astype(np.int32)
    op = IntPRelu(dtype, axis, data.draw(zero_points(dtype)), multiplier, shift, **data.draw(bounds(dtype)))
    check(run_in_shares, op, [array_of(seed, dtype, (2, 6, 5, 6))], [slopes, rng.integers(18, 50, 6).astype(np.int32)])


@pytest.mark.parametrize("source", EIGHT)
@pytest.mark.parametrize("target", NARROW)
def test_table(run_in_shares, source, target):
    table = array_of(1, target, (256,))
    everything = np.arange(256, dtype=np.uint8).view(source.numpy)
    check(run_in_shares, IntLut(), [np.concatenate([everything, everything[::-1]])], [table])


@pytest.mark.parametrize("dtype", NARROW)
@few
@given(scale=st.floats(2**-20, 2**10, width=32), data=st.data(), seed=seeds)
def test_quantize(run_in_shares, dtype, scale, data, seed):
    rng = np.random.default_rng(seed)
    lo, hi = dtype.limits
    ties = (rng.integers(lo - 2, hi + 2, 400) + rng.choice([0, 0.5, 0.25], 400)) * np.float32(scale)
    special = [np.inf, -np.inf, np.nan, 0.0, -0.0, 3e38, -3e38, 1e-45]
    x = np.concatenate([ties, special]).astype(np.float32).reshape(4, -1)
    check(run_in_shares, IntQuantize(dtype, (scale,), (data.draw(zero_points(dtype)),)), [x])
    per_row = tuple(scale * (i + 1) for i in range(4)), tuple(data.draw(zero_points(dtype)) for _ in range(4))
    check(run_in_shares, IntQuantize(dtype, *per_row, axis=0), [x])


@pytest.mark.parametrize("dtype", EIGHT)
@pytest.mark.parametrize("size", [(3, 5), (8, 8), (37, 60)])
@pytest.mark.parametrize("per_plane", [False, True])
def test_quantize_an_image_plane_by_plane(run_in_shares, dtype, size, per_plane):
    """Of three planes, with the transposition after it, in one kernel; of four in two."""
    rng = np.random.default_rng(5)
    for planes in (3, 4):
        x = (rng.normal(size=(2, planes, *size)) * 100).astype(np.float32)
        scales = tuple(float(s) for s in rng.uniform(0.5, 2, planes if per_plane else 1).astype(np.float32))
        lo, hi = dtype.limits
        zero_points = tuple(int(z) for z in rng.integers(lo, hi, len(scales)))
        quantize = IntQuantize(dtype, scales, zero_points, axis=1 if per_plane else None)
        check(run_in_shares, quantize, [x], then=Transpose((0, 2, 3, 1)))


@pytest.mark.parametrize("dtype", EIGHT)
@settings(max_examples=60)
@given(mantissa=st.floats(1, 2, width=32), exponent=st.integers(-126, 115), data=st.data(), seed=seeds)
def test_quantize_few_elements_near_a_tie(run_in_shares, dtype, mantissa, exponent, data, seed):
    """Blocks without such an element are multiplied by the inverse, the others divided, and all those of odd scales."""
    rng = np.random.default_rng(seed)
    scale = np.float32(np.ldexp(mantissa, exponent))
    x = (rng.uniform(-300, 300, 3000) * float(scale)).astype(np.float32)
    ties = ((rng.integers(-256, 256, 9) + 0.5) * float(scale)).astype(np.float32)
    for _ in range(int(rng.integers(0, 3))):
        ties = np.nextafter(ties, rng.choice(np.array([-np.inf, np.inf], np.float32), 9))
    x[rng.integers(0, len(x), 9)] = ties
    check(run_in_shares, IntQuantize(dtype, (float(scale),), (data.draw(zero_points(dtype)),)), [x])


@pytest.mark.parametrize("dtype", [*NARROW, DType.S32])
@few
@given(scale=st.floats(2**-20, 2**10, width=32), data=st.data(), seed=seeds)
def test_dequantize(run_in_shares, dtype, scale, data, seed):
    x = array_of(seed, dtype, (4, 3, 50))
    zero_point = st.integers(*dtype.limits)
    check(run_in_shares, IntDequantize((scale,), (data.draw(zero_point),)), [x])
    scales, points = tuple(scale / (i + 1) for i in range(3)), tuple(data.draw(zero_point) for _ in range(3))
    check(run_in_shares, IntDequantize(scales, points, axis=1), [x])


@st.composite
def windows(draw: st.DrawFn) -> dict[str, object]:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    return {
        "kernel": kernel,
        "strides": draw(st.tuples(st.integers(1, 3), st.integers(1, 2))),
        "pads": tuple(draw(st.integers(0, kernel[i % 2])) for i in range(4)),
        "dilations": draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        "ceil_mode": draw(st.booleans()),
        "layout": draw(st.sampled_from(["nchw", "nhwc"])),
    }


@pytest.mark.parametrize("dtype", [*NARROW, DType.S32])
@few
@given(window=windows(), channels=st.sampled_from([1, 3, 40]), seed=seeds)
def test_max_pool(run_in_shares, dtype, window, channels, seed):
    shape = (2, channels, 8, 7) if window["layout"] == "nchw" else (2, 8, 7, channels)
    check(run_in_shares, MaxPool(**window), [array_of(seed, dtype, shape)])


@pytest.mark.parametrize(
    "dtypes", [(DType.U8, DType.U8), (DType.S8, DType.U8), (DType.S16, DType.S16), (DType.U8, DType.S8)]
)
@few
@given(window=windows(), include=st.booleans(), channels=st.sampled_from([1, 3, 300]), data=st.data(), seed=seeds)
def test_average_pool(run_in_shares, dtypes, window, include, channels, data, seed):
    source, target = dtypes
    shape = (2, channels, 8, 7) if window["layout"] == "nchw" else (2, 8, 7, channels)
    taps = window["kernel"][0] * window["kernel"][1]
    factors = quantize_mean_multipliers(data.draw(st.floats(0.3, 3)), taps)
    M, shift = (np.array(column, np.int32) for column in zip(*factors, strict=True))
    op = IntAveragePool(
        count_include_pad=include,
        dtype=target,
        zp_in=data.draw(zero_points(source)),
        **window,
        **data.draw(bounds(target)),
    )
    check(run_in_shares, op, [array_of(seed, source, shape)], [M, shift])


@pytest.mark.parametrize("dtypes", [(DType.U8, DType.U8), (DType.S8, DType.U8), (DType.S16, DType.S8)])
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 5, 4, 6), (1, 2)),
        ((2, 3, 3, 600), (1, 2)),
        ((2, 7, 9), (2,)),
        ((2, 7, 9), (0, 1, 2)),
        ((4, 1, 5), (0, 1)),
        ((3, 4, 5, 6), (0, 2)),
    ],
)
@few
@given(multiplier=multipliers, shift=st.integers(31, 38), data=st.data(), keepdims=st.booleans(), seed=seeds)
def test_mean(run_in_shares, dtypes, shape, axes, multiplier, shift, data, keepdims, seed):
    source, target = dtypes
    zp_in = data.draw(zero_points(source))
    op = IntMean(axes, keepdims, target, zp_in, multiplier, shift, **data.draw(bounds(target)))
    check(run_in_shares, op, [array_of(seed, source, shape)])


def test_sums_of_elements_may_wrap_where_sums_of_differences_fit(run_in_shares):
    x = np.full((1, 8_450_000, 2), 255, np.uint8)  # sums above 2^31
    x[0, 1000:5000, 1] = 7
    op = IntMean((1,), keepdims=False, dtype=DType.U8, zp_in=128, multiplier=2**30, shift=53, zp_out=3, lo=0, hi=255)
    check(run_in_shares, op, [x])


@pytest.mark.parametrize(("dtype", "result"), [(DType.U8, DType.U8), (DType.S8, DType.U8), (DType.S16, DType.S16)])
@pytest.mark.parametrize("axis", [-1, 1])
@few
@given(scale=st.floats(1e-3, 1), seed=seeds)
def test_softmax(run_in_shares, dtype, result, axis, scale, seed):
    one = 2**15 if result is DType.S16 else 256
    tables = [np.array(t, np.int32) for t in softmax_tables(scale, dtype) if t is not None]
    op = IntSoftmax(axis, result, one, result.limits[1])
    check(run_in_shares, op, [array_of(seed, dtype, (5, 11, 6))], tables)


@pytest.mark.parametrize(("dtype", "result"), [*itertools.product([DType.U8, DType.S8], repeat=2)])
@few
@given(
    scale=st.floats(1e-4, 1) | st.sampled_from([1e-9, 30.0]),
    bits=st.integers(0, 8),
    length=st.sampled_from([48, 64, 100, 197, 3000]),
    spread=st.sampled_from([0, 3, 40, 255]),
    seed=seeds,
)
def test_softmax_of_long_rows(run_in_shares, dtype, result, scale, bits, length, spread, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, rng.integers(0, spread + 1, (9, 1)) + 1, (9, length)) + dtype.limits[0]
    table = np.array(softmax_tables(scale, dtype)[0], np.int32)
    op = IntSoftmax(-1, result, 2**bits, int(rng.integers(1, result.limits[1] + 1)))
    check(run_in_shares, op, [x.astype(dtype.numpy)], [table])


def test_softmax_of_long_rows_with_exponentials_that_do_not_descend(run_in_shares):
    rng = np.random.default_rng(0)
    table = np.array([2**30, *rng.integers(0, 2**30, 255)], np.int32)
    x = rng.integers(0, 256, (3, 200), dtype=np.uint8)
    check(run_in_shares, IntSoftmax(-1, DType.U8, 256, 255), [x], [table])


@pytest.mark.parametrize("dtype", [DType.U8, DType.S16, DType.S32, DType.S64])
@pytest.mark.parametrize(
    ("op", "shape"),
    [
        *((Transpose(perm), (2, 3, 4, 5)) for perm in itertools.permutations(range(4))),
        (Transpose((0, 2, 3, 1)), (2, 3, 20, 30)),
        (Transpose((0, 3, 1, 2)), (2, 20, 30, 3)),
        (Transpose((1, 0)), (40, 70)),
        (Transpose((5, 0, 4, 1, 3, 2)), (2, 3, 2, 4, 2, 3)),
        *((DepthToSpace((3, 2), mode, "nchw"), (2, 18, 4, 5)) for mode in ("DCR", "CRD")),
        *((DepthToSpace((2, 2), mode, "nhwc"), (2, 4, 5, 12)) for mode in ("DCR", "CRD")),
        (Slice((0,), (1,), (2,), (1,)), (4, 50)),
        (Slice((0, 2), (3, 1), (4, 3), (-1, 2)), (4, 3, 8)),
        (Slice((1,), (49,), (50,), (-1,)), (4, 50)),
        (Slice((1,), (0,), (0,), (1,)), (4, 50)),
        (Split(1, (3, 1, 4)), (5, 8, 6)),
        (Split(0, (2, 3)), (5, 8)),
    ],
    ids=str,
)
def test_movement(run_in_shares, op, shape, dtype):
    check(run_in_shares, op, [array_of(3, dtype, shape)])


@pytest.mark.parametrize(
    ("dtype", "value"), [(DType.U8, 255), (DType.S8, -128), (DType.S16, -3), (DType.S32, -(2**31))]
)
@pytest.mark.parametrize(
    ("pads", "shape"),
    [
        ((0, 1, 2, 0, 0, 3, 0, 0), (2, 4, 3, 5)),
        ((1, 0, 2, 1, 0, 3), (2, 3, 4)),
        ((0, 0, 2, 2), (3, 0)),
        ((1,) * 10, (1, 2, 2, 3, 2)),
    ],
)
def test_pad(run_in_shares, dtype, value, pads, shape):
    check(run_in_shares, IntPad(pads, value), [array_of(3, dtype, shape)])


@pytest.mark.parametrize("count", [2, 8, 9, 17])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concat(run_in_shares, count, axis):
    shapes = [[3, 4, 5] for _ in range(count)]
    for i, shape in enumerate(shapes):
        shape[axis] = 1 + i % 4
    check(run_in_shares, Concat(axis), [array_of(i, DType.S8, shape) for i, shape in enumerate(shapes)])
