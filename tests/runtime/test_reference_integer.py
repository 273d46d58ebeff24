"""Every integer op of the reference executor against a twin in Python integers, written from `numerics`."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import numerics, reference
from qcompiler.ir import DType, Graph, Op, Stage, TensorType
from qcompiler.ir.ops import (
    IntAdd,
    IntAveragePool,
    IntConv,
    IntDiv,
    IntGemm,
    IntLut,
    IntMatMul,
    IntMean,
    IntMul,
    IntPad,
    IntPRelu,
    IntRescale,
    IntSoftmax,
)
from qcompiler.ir.ops.shapes import window_output
from qcompiler.runtime.reference.integer_linear import exact_sums

Array = npt.NDArray[Any]
few = settings(max_examples=60)


def evaluate(op: Op, *arrays: Array) -> Array:
    """The only result of `op` on these operands."""
    graph = Graph("single", Stage.INTEGER)
    inputs = (
        len(arrays) if isinstance(op, IntAdd | IntMul | IntDiv | IntMatMul) else 1
    )  # the others' parameters are constants
    feeds = {f"x{i}": array for i, array in enumerate(arrays[:inputs])}
    operands = [graph.add_input(n, TensorType(DType.from_numpy(a.dtype), a.shape)) for n, a in feeds.items()]
    operands += [graph.add_constant(array) for array in arrays[inputs:]]
    graph.add_output(graph.add_node(op, operands).result, "y")
    return reference.run(graph, feeds)["y"]


@st.composite
def tensors(
    draw: st.DrawFn,
    shape: Sequence[int],
    dtype: DType,
    least: int | None = None,
    most: int | None = None,
) -> Array:
    """Elements over the whole range of `dtype`, its ends often."""
    lo, hi = dtype.limits
    lo, hi = lo if least is None else least, hi if most is None else most
    element = st.one_of(st.sampled_from([lo, hi]), st.integers(lo, hi))
    size = int(np.prod(shape))
    return np.array(draw(st.lists(element, min_size=size, max_size=size)), dtype.numpy).reshape(shape)


@st.composite
def results(draw: st.DrawFn) -> tuple[DType, int, int, int]:
    """(dtype, zp_out, lo, hi): the whole dtype or a clamp inside it, as a fused activation leaves."""
    dtype = draw(st.sampled_from([DType.U8, DType.S8, DType.S16]))
    least, most = dtype.limits
    lo, hi = sorted((draw(st.integers(least, most)), draw(st.integers(least, most))))
    lo, hi = draw(st.sampled_from([(least, most), (lo, hi)]))
    return dtype, draw(st.integers(least, most)), lo, hi


@st.composite
def multipliers(draw: st.DrawFn) -> tuple[int, int]:
    """Usual ones, ones above 1, the ends of the range, negative ones and flushed ones."""
    M = draw(st.sampled_from([2**30, 2**31 - 1]) | st.integers(2**30, 2**31 - 1))
    shift = draw(st.sampled_from([2, 30, 31, 62]) | st.integers(2, 62) | st.integers(32, 42))
    return draw(st.sampled_from([(M, shift), (M, shift), (-M, shift), numerics.FLUSH]))


def zero_points(dtype: DType) -> st.SearchStrategy[int]:
    lo, hi = dtype.limits
    return st.sampled_from([lo, hi]) | st.integers(lo, hi) if dtype is not DType.S16 else st.just(0)


SMALL = st.sampled_from([DType.U8, DType.S8, DType.S16])
BYTES = st.sampled_from([DType.U8, DType.S8])
SHAPES = st.sampled_from([((), ()), ((3,), (3,)), ((2, 3), (3,)), ((2, 1), (1, 3)), ((1,), (2, 2))])


@few
@given(st.data())
def test_conv(data: st.DataObject):
    dtype, layout = data.draw(BYTES), data.draw(st.sampled_from(["nchw", "nhwc"]))
    group, per_group, per_out = data.draw(st.sampled_from([(1, 1, 1), (1, 3, 2), (2, 2, 1), (3, 1, 2)]))
    h, w, kh, kw = (data.draw(st.integers(1, most)) for most in (4, 4, 3, 3))
    strides = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    dilations = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    # At the ends wide enough for the kernel to fit.
    pads = (data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2)), kh * 2, kw * 2)
    zp_in = data.draw(zero_points(dtype))
    cin, cout = group * per_group, group * per_out
    x = data.draw(tensors((2, cin, h, w), dtype))
    weight = data.draw(tensors((cout, per_group, kh, kw), DType.S8))
    bias = data.draw(tensors((cout,), DType.S32))
    rescale = [data.draw(multipliers()) for _ in range(cout)] if data.draw(st.booleans()) else None
    result = data.draw(results()) if rescale else (DType.S32, 0, 0, 0)
    op = IntConv(strides, pads, dilations, group, zp_in, *result, layout=layout)

    oh = window_output(h, kh, strides[0], dilations[0], pads[0], pads[2])
    ow = window_output(w, kw, strides[1], dilations[1], pads[1], pads[3])
    expected = np.empty((2, cout, oh, ow), result[0].numpy)
    for n, m, i, j in np.ndindex(*expected.shape):
        xs, ws = [], []
        for c, ki, kj in itertools.product(range(per_group), range(kh), range(kw)):
            row = i * strides[0] + ki * dilations[0] - pads[0]
            column = j * strides[1] + kj * dilations[1] - pads[1]
            inside = 0 <= row < h and 0 <= column < w
            xs.append(int(x[n, m // per_out * per_group + c, row, column]) if inside else zp_in)
            ws.append(int(weight[m, c, ki, kj]))
        acc = numerics.accumulate(xs, ws, int(bias[m]))
        expected[n, m, i, j] = numerics.requantize(acc, *rescale[m], *result[1:]) if rescale else acc
    if layout == "nhwc":
        x, expected = x.transpose(0, 2, 3, 1), expected.transpose(0, 2, 3, 1)
    vectors = np.array(rescale, np.int32).T if rescale else ()
    np.testing.assert_array_equal(evaluate(op, x, weight, bias, *vectors), expected)


@few
@given(st.data())
def test_gemm(data: st.DataObject):
    dtype, k, m = data.draw(BYTES), data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    batch = data.draw(st.sampled_from([(), (2,), (2, 2)]))
    x = data.draw(tensors((*batch, k), dtype))
    weight = data.draw(tensors((m, k), DType.S8))
    bias = data.draw(tensors((m,), DType.S32))
    rescale = [data.draw(multipliers()) for _ in range(m)] if data.draw(st.booleans()) else None
    result = data.draw(results()) if rescale else (DType.S32, 0, 0, 0)
    op = IntGemm(data.draw(zero_points(dtype)), *result)
    expected = np.empty((*batch, m), result[0].numpy)
    for *n, row in np.ndindex(*expected.shape):
        acc = numerics.accumulate(x[tuple(n)].tolist(), weight[row].tolist(), int(bias[row]))
        expected[(*n, row)] = numerics.requantize(acc, *rescale[row], *result[1:]) if rescale else acc
    vectors = np.array(rescale, np.int32).T if rescale else ()
    np.testing.assert_array_equal(evaluate(op, x, weight, bias, *vectors), expected)


@few
@given(st.data())
def test_matmul(data: st.DataObject):
    (a_dtype, b_dtype), k = data.draw(st.tuples(BYTES, BYTES)), data.draw(st.integers(1, 5))
    m, n = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    batches = [((), ()), ((2,), ()), ((), (2,)), ((2, 1), (3,))]
    a_batch, b_batch = data.draw(st.sampled_from(batches))
    a, b = data.draw(tensors((*a_batch, m, k), a_dtype)), data.draw(tensors((*b_batch, k, n), b_dtype))
    dtype, *result = data.draw(results())
    zps = data.draw(zero_points(a_dtype)), data.draw(zero_points(b_dtype))
    op = IntMatMul(dtype, *zps, *data.draw(multipliers()), *result)
    batch = np.broadcast_shapes(a_batch, b_batch)
    rows, columns = np.broadcast_to(a, (*batch, m, k)), np.broadcast_to(b, (*batch, k, n)).swapaxes(-1, -2)
    expected = np.empty((*batch, m, n), dtype.numpy)
    for *i, row, column in np.ndindex(*expected.shape):
        pair = rows[(*i, row)].tolist(), columns[(*i, column)].tolist()
        expected[(*i, row, column)] = numerics.matmul(op, *pair)
    np.testing.assert_array_equal(evaluate(op, a, b), expected)


def test_sums_of_products_wrap_modulo_2_to_the_32():
    a, b = np.full((1, 40_000), 255, np.uint8), np.full((40_000, 1), 255, np.uint8)
    op = IntMatMul(DType.S16, 0, 0, 2**30, 46, 0, -(2**15), 2**15 - 1)
    assert numerics.matmul(op, a[0].tolist(), b[:, 0].tolist()) < 0
    assert evaluate(op, a, b).tolist() == [[numerics.matmul(op, a[0].tolist(), b[:, 0].tolist())]]


def test_sums_that_float64_cannot_hold_are_taken_in_64_bits():
    carriers = []

    def multiply(x: Array, weight: Array) -> Array:
        carriers.append(x.dtype)
        return weight @ x

    x, weight = np.full(3, 2**31 - 1, np.int32), np.full((1, 3), 127, np.int8)
    assert exact_sums(multiply, x, weight, 3).tolist() == [3 * 127 * (2**31 - 1)]
    # The bound by the dtypes' limits, 2^31 · 2^7 · terms, reaches 2^53 at 2^15 terms.
    exact_sums(multiply, x, weight, 2**15)
    exact_sums(multiply, x, weight, 2**15 + 1)
    assert carriers == [np.float64, np.float64, np.int64]


@few
@given(st.data())
def test_add(data: st.DataObject):
    dtype, (shape_a, shape_b) = data.draw(SMALL), data.draw(SHAPES)
    reals = data.draw(st.tuples(st.floats(-100, 100), st.floats(-100, 100)))
    ma, mb, shift = numerics.quantize_add_multipliers(*reals, dtype, dtype)
    out, zp_out, lo, hi = data.draw(results())
    op = IntAdd(out, data.draw(zero_points(dtype)), data.draw(zero_points(dtype)), ma, mb, shift, zp_out, lo, hi)
    check_binary(op, numerics.add, data.draw(tensors(shape_a, dtype)), data.draw(tensors(shape_b, dtype)))


@few
@given(st.data())
def test_mul(data: st.DataObject):
    dtype, (shape_a, shape_b) = data.draw(SMALL), data.draw(SHAPES)
    out, zp_out, lo, hi = data.draw(results())
    zps = data.draw(zero_points(dtype)), data.draw(zero_points(dtype))
    op = IntMul(out, *zps, *data.draw(multipliers()), zp_out, lo, hi)
    check_binary(op, numerics.mul, data.draw(tensors(shape_a, dtype)), data.draw(tensors(shape_b, dtype)))


@few
@given(st.data())
def test_div(data: st.DataObject):
    dtype, (shape_a, shape_b) = data.draw(SMALL), data.draw(SHAPES)
    real = data.draw(st.sampled_from([0.0, 2.0**-70, 2.0**28]) | st.floats(2.0**-40, 2.0**20))
    out, zp_out, lo, hi = data.draw(results())
    zps = data.draw(zero_points(dtype)), data.draw(zero_points(dtype))
    rescale = numerics.quantize_div_multiplier(real, dtype, dtype)
    op = IntDiv(out, *zps, *rescale, zp_out, lo, hi)
    b = data.draw(tensors(shape_b, dtype))
    if data.draw(st.booleans()):
        b.flat[0] = op.zp_b
    check_binary(op, numerics.div, data.draw(tensors(shape_a, dtype)), b)


def check_binary(op: Op, twin: Callable[..., int], a: Array, b: Array) -> None:
    wide_a, wide_b = np.broadcast_arrays(a, b)
    expected = [twin(op, int(p), int(q)) for p, q in zip(wide_a.flat, wide_b.flat, strict=True)]
    got = evaluate(op, a, b)
    assert got.shape == wide_a.shape
    assert got.ravel().tolist() == expected


@pytest.mark.parametrize(("a", "expected"), [(0, -3), (7, 5), (14, 90)])
def test_division_by_zero(a: int, expected: int):
    op = IntDiv(DType.S8, zp_a=7, zp_b=9, multiplier=2**30, shift=30, zp_out=5, lo=-3, hi=90)
    assert evaluate(op, np.array([a], np.uint8), np.array([9], np.uint8)).tolist() == [expected]


@few
@given(st.data())
def test_rescale(data: st.DataObject):
    dtype = data.draw(st.sampled_from([DType.U8, DType.S8, DType.S16, DType.S32]))
    zp_in = 0 if dtype is DType.S32 else data.draw(zero_points(dtype))
    out, zp_out, lo, hi = data.draw(results())
    op = IntRescale(out, zp_in, *data.draw(multipliers()), zp_out, lo, hi)
    x = data.draw(tensors((5,), dtype))
    expected = [numerics.requantize(q - zp_in, op.multiplier, op.shift, zp_out, lo, hi) for q in x.tolist()]
    assert evaluate(op, x).tolist() == expected


@pytest.mark.parametrize("dtype", [DType.U8, DType.S8])
@pytest.mark.parametrize("result", [DType.U8, DType.S8, DType.S16])
def test_lut(dtype: DType, result: DType):
    lo, hi = dtype.limits
    x = np.arange(lo, hi + 1, dtype=dtype.numpy).reshape(16, 16)
    table = np.random.default_rng(0).integers(*result.limits, 256).astype(result.numpy)
    got = evaluate(IntLut(), x, table)
    assert got.dtype == result.numpy
    assert got.ravel().tolist() == [numerics.look_up(q, table.tolist(), dtype) for q in range(lo, hi + 1)]


@few
@given(st.data())
def test_prelu(data: st.DataObject):
    dtype, axis = data.draw(SMALL), data.draw(st.sampled_from([1, 3, -1]))
    zp_in = data.draw(zero_points(dtype))
    x = data.draw(tensors((2, 3, 2, 3), dtype))
    rescale = [data.draw(multipliers()) for _ in range(3)]
    positive = data.draw(multipliers())
    out, zp_out, lo, hi = data.draw(results())
    op = IntPRelu(out, axis, zp_in, *positive, zp_out, lo, hi)
    got = evaluate(op, x, *np.array(rescale, np.int32).T)
    for index in np.ndindex(*x.shape):
        assert got[index] == numerics.prelu(op, int(x[index]), *rescale[index[axis]])


@few
@given(st.data())
def test_average_pool(data: st.DataObject):
    dtype, layout = data.draw(BYTES), data.draw(st.sampled_from(["nchw", "nhwc"]))
    size, kernel = ([data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))], (2, 3))
    strides = data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilations = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    pads = (data.draw(st.integers(0, 1)), data.draw(st.integers(0, 2)), 2, 4)
    ceil_mode, include_pad = data.draw(st.booleans()), data.draw(st.booleans())
    zp_in = data.draw(zero_points(dtype))
    out, zp_out, lo, hi = data.draw(results())
    rescale = [data.draw(multipliers()) for _ in range(7)]
    x = data.draw(tensors((1, 2, *size), dtype))
    op = IntAveragePool(
        kernel, strides, pads, dilations, ceil_mode, include_pad, out, zp_in, zp_out, lo, hi, layout=layout
    )
    oh, ow = (
        window_output(
            size[a], kernel[a], strides[a], dilations[a], pads[a], pads[2 + a], ceil_mode=ceil_mode
        )
        for a in (0, 1)
    )  # fmt: skip
    expected = np.empty((1, 2, oh, ow), out.numpy)
    for n, c, i, j in np.ndindex(*expected.shape):
        xs = [
            int(x[n, c, row, column])
            for row in range(i * strides[0] - pads[0], size[0], dilations[0])[: kernel[0]]
            for column in range(j * strides[1] - pads[1], size[1], dilations[1])[: kernel[1]]
            if row >= 0 and column >= 0
        ]
        counts = [
            numerics.window_count(
                p, size[a], kernel[a], strides[a], dilations[a], pads[a], pads[2 + a], include_pad=include_pad
            )
            for a, p in ((0, i), (1, j))
        ]
        if not include_pad:
            assert counts[0] * counts[1] == len(xs)
        expected[n, c, i, j] = numerics.mean(op, xs, *rescale[counts[0] * counts[1]])
    if layout == "nhwc":
        x, expected = x.transpose(0, 2, 3, 1), expected.transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(evaluate(op, x, *np.array(rescale, np.int32).T), expected)


@few
@given(st.data())
def test_mean(data: st.DataObject):
    dtype, keepdims = data.draw(SMALL), data.draw(st.booleans())
    axes = data.draw(st.sampled_from([(0,), (2,), (1, 2), (0, 1, 2)]))
    x = data.draw(tensors((2, 3, 2), dtype))
    out, zp_out, lo, hi = data.draw(results())
    rescale = data.draw(multipliers())
    op = IntMean(axes, keepdims, out, data.draw(zero_points(dtype)), *rescale, zp_out, lo, hi)
    kept = [a for a in range(3) if a not in axes]
    rows = x.transpose(*kept, *axes).reshape(*(x.shape[a] for a in kept), -1)
    got = evaluate(op, x)
    assert got.shape == x.mean(axes, keepdims=keepdims).shape
    expected = [numerics.mean(op, row, *rescale) for row in rows.reshape(-1, rows.shape[-1]).tolist()]
    assert got.ravel().tolist() == expected


@few
@given(st.data())
def test_softmax(data: st.DataObject):
    dtype, axis = data.draw(SMALL), data.draw(st.sampled_from([0, 1, -1]))
    one, hi, out = data.draw(st.sampled_from([(256, 255, DType.U8), (32768, 32767, DType.S16)]))
    high, low = numerics.softmax_tables(2.0 ** data.draw(st.floats(-20, 1)), dtype)
    x = data.draw(tensors((2, 3, 4), dtype))
    op = IntSoftmax(axis, out, one, hi)
    tables = [np.array(table, np.int32) for table in (high, low) if table is not None]
    got = np.moveaxis(evaluate(op, x, *tables), axis, -1).reshape(-1, x.shape[axis])
    rows = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])
    assert got.tolist() == [numerics.softmax(op, row, high, low) for row in rows.tolist()]


def test_pad():
    got = evaluate(IntPad((0, 1, 0, 2), value=128), np.array([[1, 2]], np.uint8))
    assert got.tolist() == [[128, 1, 2, 128, 128]]
