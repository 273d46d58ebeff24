"""Interval arithmetic holds every result of the reference."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from qcompiler import reference
from qcompiler.ir import DType, Graph, Op, TensorType, ops
from qcompiler.passes.intervals import result_interval, useful_interval

BOUNDS = st.floats(-8, 8, width=16).map(float)  # no quotient of two leaves float32


def ordered(a: float, b: float) -> tuple[float, float]:
    return min(a, b), max(a, b)


@pytest.mark.parametrize(
    "op",
    [
        ops.Add(),
        ops.Sub(clamp=(-1.0, 2.0)),
        ops.Mul(),
        ops.Div(),
        ops.Concat(axis=1),
        ops.PRelu(),
    ],
)
@settings(max_examples=25)
@given(a=st.tuples(BOUNDS, BOUNDS), b=st.tuples(BOUNDS, BOUNDS), seed=st.integers(0, 99))
def test_binary(op: Op, a: tuple[float, float], b: tuple[float, float], seed: int) -> None:
    random = np.random.default_rng(seed)
    (al, ah), (bl, bh) = ordered(*a), ordered(*b)
    interval = result_interval(op, [(al, ah), (bl, bh)], [None, None])
    if interval is None:
        assert isinstance(op, ops.Div)
        assert bl <= 0 <= bh
        return
    graph = Graph()
    values = [graph.add_input(name, TensorType(DType.F32, (1, 50))) for name in "ab"]
    graph.add_output(graph.add_node(op, values).result, "y")
    feeds = {
        "a": random.uniform(al, ah, (1, 50)).astype(np.float32),
        "b": random.uniform(bl, bh, (1, 50)).astype(np.float32),
    }
    y = reference.run(graph, feeds)["y"]
    slack = 1e-5 * max(1.0, abs(interval[0]), abs(interval[1]))
    assert interval[0] - slack <= y.min()
    assert y.max() <= interval[1] + slack


@settings(max_examples=25)
@given(x=st.tuples(BOUNDS, BOUNDS), seed=st.integers(0, 99))
def test_convolution_with_padding(x: tuple[float, float], seed: int) -> None:
    random = np.random.default_rng(seed)
    low, high = ordered(*x)
    weight, bias = random.normal(size=(3, 2, 3, 3)).astype(np.float32), random.normal(size=3).astype(np.float32)
    op = ops.Conv(strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    interval = result_interval(op, [(low, high), (0, 0), (0, 0)], [None, weight, bias])
    assert interval is not None
    graph = Graph()
    operands = [graph.add_input("x", TensorType(DType.F32, (1, 2, 4, 4))), graph.add_constant(weight)]
    graph.add_output(graph.add_node(op, [*operands, graph.add_constant(bias)]).result, "y")
    y = reference.run(graph, {"x": random.uniform(low, high, (1, 2, 4, 4)).astype(np.float32)})["y"]
    assert interval[0] - 1e-4 <= y.min()
    assert y.max() <= interval[1] + 1e-4


def test_pools_widen_to_padding_and_unknown_operands_give_nothing():
    op = ops.AveragePool((2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
    assert result_interval(op, [(2.0, 3.0)], [None]) == (0.0, 3.0)
    assert result_interval(op, [None], [None]) is None
    assert result_interval(ops.Sigmoid(), [None], [None]) == (0.0, 1.0)
    assert result_interval(ops.MatMul(), [(0.0, 1.0)] * 2, [None, None]) is None
    assert result_interval(ops.Gemm(), [(0.0, 1.0)] * 2, [None, None]) is None


def test_unary_functions_are_sampled():
    assert result_interval(ops.Exp(), [(0.0, 1.0)], [None]) == pytest.approx((1.0, np.e))
    low, high = result_interval(ops.HardSwish(), [(-4.0, 1.0)], [None]) or (0, 0)
    assert low == pytest.approx(-0.375, abs=1e-4)
    assert high == pytest.approx(2 / 3)
    assert result_interval(ops.Log(), [(0.0, 1.0)], [None]) is None


@pytest.mark.parametrize(
    ("op", "operand", "result", "low", "high"),
    [
        (ops.HardSwish(), (-9.0, 4.0), (-0.375, 4.0), -3.0, 4.0),
        (ops.HardSigmoid(alpha=1 / 6, beta=0.5), (-9.0, 9.0), (0.0, 1.0), -3.0, 3.0),
        (ops.Sigmoid(), (-30.0, 30.0), (0.0, 1.0), -6.93, 6.93),
        (ops.Relu(), (-4.0, 4.0), (0.0, 4.0), 0.0, 4.0),
        (ops.Tanh(), (-20000.0, 10000.0), (-1.0, 1.0), -3.46, 3.46),
    ],
)
def test_flat_ends_are_not_useful(op, operand, result, low, high):
    found = useful_interval(op, operand, result)
    assert found == pytest.approx((low, high), abs=0.08)


@pytest.mark.parametrize("op", [ops.LeakyRelu(), ops.Neg(), ops.Sqrt(), ops.Reciprocal()])
def test_functions_without_flat_ends_keep_their_operand(op):
    assert useful_interval(op, (-4.0, 4.0), (-4.0, 50.0)) == (-4.0, 4.0)
