"""Float functions, windows, means and softmax against the reference, in any number of shares."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from qcompiler import reference
from qcompiler.errors import UnsupportedOpError
from qcompiler.ir import DType, Graph, Op, TensorType
from qcompiler.ir.ops import (
    Abs,
    Add,
    AveragePool,
    BatchNormalization,
    Clip,
    Div,
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    MaxPool,
    Mul,
    Neg,
    Pad,
    Power,
    PRelu,
    Reciprocal,
    ReduceMean,
    Relu,
    Sigmoid,
    Silu,
    Softmax,
    Sqrt,
    Sub,
    Tanh,
)
from qcompiler.runtime.session import Session

Floats = npt.NDArray[np.float32]
few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**32 - 1)
INFINITY = float("inf")
FUNCTIONS = [
    Abs(), Clip(-1.0, 0.5), Erf(), Exp(), HardSigmoid(0.3, 0.4), HardSwish(), LeakyRelu(0.1), Log(), Neg(), Power(2.0),
    Power(-1.5), Reciprocal(), Relu(), Sigmoid(), Silu(), Sqrt(), Tanh(),
]  # fmt: skip


def single(op: Op, operands: Sequence[Floats]) -> Graph:
    graph = Graph("single")
    values = [graph.add_input(f"x{i}", TensorType(DType.F32, array.shape)) for i, array in enumerate(operands)]
    graph.add_output(graph.add_node(op, values).result, "y")
    return graph


def results(run_in_shares, op: Op, *operands: Floats) -> tuple[Floats, Floats]:
    """What the kernels give, the same in 1, 2 and 5 shares, and what the reference gives."""
    graph, feeds = single(op, operands), {f"x{i}": array for i, array in enumerate(operands)}
    first, *others = (run_in_shares(graph, feeds, shares)["y"] for shares in (1, 2, 5))
    for other in others:
        assert np.array_equal(first.view(np.int32), other.view(np.int32))
    with np.errstate(all="ignore"):
        return first, reference.run(graph, feeds)["y"].view(np.float32)


def assert_nearly_rounded(y: Floats, exact: Floats) -> None:
    """Each element is the nearest float32 or its neighbour; infinities and NaN are where they should be."""
    assert y.shape == exact.shape
    finite = np.isfinite(exact)
    assert np.array_equal(y[~finite], exact[~finite], equal_nan=True)
    distance = np.abs(y[finite].astype(np.float64) - exact[finite])
    assert (distance <= np.spacing(np.abs(exact[finite]))).all()


def normal(seed: int, *shapes: Sequence[int], scale: float = 1.0) -> list[Floats]:
    rng = np.random.default_rng(seed)
    return [(scale * rng.standard_normal(shape)).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("op", FUNCTIONS, ids=str)
def test_function(run_in_shares, op):
    powers = np.geomspace(1e-44, 3e38, 2000)
    special = [0.0, -0.0, np.nan, INFINITY, *([] if op == Silu() else [-INFINITY])]  # −inf · sigmoid(−inf) is −inf · 0
    x = np.concatenate([np.linspace(-20, 20, 4001), powers, -powers, special]).astype(np.float32)
    y, exact = results(run_in_shares, op, x)
    assert_nearly_rounded(y, exact)


@few
@given(
    x=arrays.arrays(np.float32, st.integers(1, 200), elements=st.floats(-100, 100, width=32)),
    op=st.sampled_from(FUNCTIONS),
)
def test_element_has_the_same_bits_alone(run_in_shares, x, op):
    together, _ = results(run_in_shares, op, x)
    for i in range(0, len(x), 7):
        alone = Session(single(op, [x[:1]])).run({"x0": x[i : i + 1]})["y"]
        assert np.array_equal(alone.view(np.int32), together[i : i + 1].view(np.int32))


@few
@given(
    shapes=arrays.mutually_broadcastable_shapes(num_shapes=2, max_dims=5, max_side=4),
    seed=seeds,
    wide=st.integers(1, 40),
)
def test_two_operands(run_in_shares, shapes, seed, wide):
    a, b = normal(seed, *((*shape, wide) for shape in shapes.input_shapes))
    plain = {Add: a + b, Sub: a - b, Mul: a * b, Div: a / b}
    for op in (Add(), Sub(), Mul(), Div()):
        assert np.array_equal(results(run_in_shares, op, a, b)[0], plain[type(op)])
    for clamp in ((-0.5, 1.0), (0.0, INFINITY), (-INFINITY, 0.1)):
        low, high = map(np.float32, clamp)
        for op in (Add(clamp), Sub(clamp), Mul(clamp)):
            assert np.array_equal(results(run_in_shares, op, a, b)[0], np.clip(plain[type(op)], low, high))


@few
@given(seed=seeds, shape=st.tuples(*[st.integers(1, 6)] * 4), data=st.data())
def test_prelu(run_in_shares, seed, shape, data):
    broadcast = data.draw(st.tuples(*[st.booleans()] * 4))
    x, slope = normal(seed, shape, [1 if b else size for size, b in zip(shape, broadcast, strict=True)])
    y, _ = results(run_in_shares, PRelu(), x, slope)
    assert np.array_equal(y, np.where(x >= 0, x, slope * x))


@few
@given(seed=seeds, shape=st.lists(st.integers(1, 9), min_size=2, max_size=4))
def test_batch_normalization(run_in_shares, seed, shape):
    x, scale, bias, mean, variance = normal(seed, shape, *[[shape[1]]] * 4)
    variance = np.abs(variance) + np.float32(0.01)
    y, exact = results(run_in_shares, BatchNormalization(), x, scale, bias, mean, variance)
    column = (-1, *[1] * (x.ndim - 2))
    gain = (np.abs(scale) / np.sqrt(variance)).reshape(column)
    size = (np.abs(x) + np.abs(mean.reshape(column))) * gain + np.abs(bias.reshape(column))
    assert (np.abs(y.astype(np.float64) - exact) <= 8 * 2.0**-24 * size).all()  # eight roundings


@st.composite
def windows(draw) -> tuple[Floats, dict[str, tuple[int, ...]]]:
    """x [n, c, spatial] and the geometry of a window that fits it, padding less than the window."""
    rank = draw(st.integers(1, 2))
    kernel, strides, dilations = ([draw(st.integers(1, 3)) for _ in range(rank)] for _ in range(3))
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    size = [(k - 1) * d + draw(st.integers(1, 20)) for k, d in zip(kernel, dilations, strict=True)]
    (x,) = normal(draw(seeds), (2, 3, *size))
    geometry = {"kernel": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    return x, {name: tuple(values) for name, values in geometry.items()}


@few
@given(window=windows(), ceil_mode=st.booleans())
def test_max_pool(run_in_shares, window, ceil_mode):
    x, geometry = window
    y, exact = results(run_in_shares, MaxPool(**geometry, ceil_mode=ceil_mode), x)
    assert np.array_equal(y, exact)


def test_max_pool_shows_each_nan(run_in_shares):
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    x[0, 0, 1, 1] = np.nan
    y, _ = results(run_in_shares, MaxPool((2, 2), (1, 1), (0,) * 4, (1, 1)), x)
    assert np.isnan(y[0, 0]).tolist() == [[True, True, False]] * 2


@few
@given(window=windows(), ceil_mode=st.booleans(), count_include_pad=st.booleans())
def test_average_pool(run_in_shares, window, ceil_mode, count_include_pad):
    x, geometry = window
    op = AveragePool(**geometry, ceil_mode=ceil_mode, count_include_pad=count_include_pad)
    assert_nearly_rounded(*results(run_in_shares, op, x))


@few
@given(seed=seeds, shape=st.lists(st.integers(1, 9), min_size=1, max_size=4), data=st.data())
def test_mean(run_in_shares, seed, shape, data):
    axes = data.draw(st.sets(st.integers(0, len(shape) - 1)))
    (x,) = normal(seed, shape)
    op = ReduceMean(tuple(sorted(axes)), keepdims=data.draw(st.booleans()))
    assert_nearly_rounded(*results(run_in_shares, op, x))


@few
@given(
    seed=seeds,
    shape=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    data=st.data(),
    scale=st.sampled_from([0.1, 5.0, 90.0]),
)
def test_softmax(run_in_shares, seed, shape, data, scale):
    (x,) = normal(seed, shape, scale=scale)
    y, exact = results(run_in_shares, Softmax(data.draw(st.integers(-len(shape), len(shape) - 1))), x)
    # Two roundings of each element, one more in the denominator; below the normal range float32 has fewer bits.
    assert (np.abs(y.astype(np.float64) - exact) <= 2.0**-22 * exact + 2.0**-149).all()


@few
@given(seed=seeds, shape=st.tuples(*[st.integers(1, 5)] * 4), data=st.data())
def test_pad(run_in_shares, seed, shape, data):
    pads = tuple(data.draw(st.integers(0, 2)) for _ in range(8))
    (x,) = normal(seed, shape)
    y, _ = results(run_in_shares, Pad(pads, -1.5), x)
    assert np.array_equal(y, np.pad(x, list(zip(pads[:4], pads[4:], strict=True)), constant_values=-1.5))


@pytest.mark.parametrize("op", [Softmax(1), ReduceMean((1, 3)), MaxPool((3, 2), (2, 1), (1,) * 4, (1, 1))], ids=str)
def test_sample_has_the_same_bits_in_any_batch(op):
    (x,) = normal(9, (5, 7, 6, 11))
    whole = Session(single(op, [x]), threads=3).run({"x0": x})["y"]
    for i in range(5):
        alone = Session(single(op, [x[:1]]), threads=1).run({"x0": x[i : i + 1]})["y"]
        assert np.array_equal(alone[0], whole[i])


def test_other_floats_have_no_kernel():
    graph = Graph("half")
    x = graph.add_input("x", TensorType(DType.F16, (4,)))
    graph.add_output(graph.add_node(Exp(), [x], name="e").result)
    with pytest.raises(UnsupportedOpError, match=r"'e' \(exp\).*%x is f16, not f32"):
        Session(graph).run({"x": np.zeros(4, np.float16)})
