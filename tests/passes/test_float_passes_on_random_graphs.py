"""Every float pass, alone and in any order, keeps the numbers of random graphs."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import reference
from qcompiler.ir import DType, Graph, TensorType, Value, ops, print_graph
from qcompiler.pass_manager import PassManager, parse_pipeline

SHAPE = (3, 3, 3, 3)  # all axes alike, so that every transpose fits everywhere
WINDOW = (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)  # kernel, strides, pads, dilations
PASSES = [
    "remove-identities", "fold-constants", "common-subexpressions", "dead-code", "recognize-activations",
    "replace-division", "matmul-to-gemm", "fold-product-scale", "fold-batch-norm", "fold-pad", "fuse-activation",
    "sink-transposes", "decompose-transposed-convolution",
]  # fmt: skip
PERMS = [(0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 2, 3), (1, 0, 2, 3)]
UNARY = [
    ops.Identity(), ops.Clip(), ops.Sigmoid(), ops.Tanh(),
    ops.HardSigmoid(1 / 6, 0.5), ops.Softmax(1), ops.Softmax(3), ops.Power(1.0),
    ops.Slice((1, 2), (2, 0), (3, 3), (-1, 1)), ops.Slice((0,), (0,), (3,), (1,)), ops.Split(2, (3,)),
    ops.AveragePool(*WINDOW), ops.MaxPool(*WINDOW),
]  # fmt: skip
BOUNDS = [ops.Relu(), ops.Clip(0.0, 6.0), ops.Clip(-1.0, 0.5)]


@st.composite
def float_graphs(draw: st.DrawFn) -> Graph:
    graph = Graph()
    values = [graph.add_input("x", TensorType(DType.F32, SHAPE)), graph.add_input("z", TensorType(DType.F32, SHAPE))]
    for _ in range(draw(st.integers(3, 12))):
        x = draw(st.sampled_from([values[-1], *values]))
        values.append(draw(st.sampled_from(STEPS))(draw, graph, x, values))
    outputs = dict.fromkeys([values[-1], *draw(st.lists(st.sampled_from(values), max_size=4))])
    for index, value in enumerate(outputs):
        graph.add_output(value, str(index))
    return graph


def _unary(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    return graph.add_node(draw(st.sampled_from(UNARY)), [x]).results[0]


def _bound(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    return graph.add_node(draw(st.sampled_from(BOUNDS)), [x]).result


def _transpose(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    return graph.add_node(ops.Transpose(draw(st.sampled_from(PERMS))), [x]).result


def _constant(draw: st.DrawFn, graph: Graph, shape: tuple[int, ...]) -> Value:
    numbers = st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0, 6.0])
    size = int(np.prod(shape))
    elements = draw(st.lists(numbers, min_size=size, max_size=size) | numbers.map(lambda n: [n] * size))
    return graph.add_constant(np.array(elements, np.float32).reshape(shape), "c")


def _arithmetic(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    shape = draw(st.sampled_from([(), (1,), (3,), (3, 1, 1), (1, 3, 1, 1), (3, 3)]))
    op = draw(st.sampled_from([ops.Add(), ops.Sub(), ops.Mul(), ops.Div(), ops.Add((0.0, 6.0))]))
    operands = [x, _constant(draw, graph, shape)]
    if not isinstance(op, ops.Div) and draw(st.booleans()):
        operands.reverse()
    return graph.add_node(op, operands).result


def _binary(draw: st.DrawFn, graph: Graph, x: Value, values: list[Value]) -> Value:
    op = draw(st.sampled_from([ops.Add(), ops.Sub()]))
    return graph.add_node(op, [x, draw(st.sampled_from(values))]).result


def _gate(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    gate = graph.add_node(draw(st.sampled_from([ops.Sigmoid(), ops.HardSigmoid(1 / 6, 0.5), ops.HardSigmoid()])), [x])
    return graph.add_node(ops.Mul(), [x, gate.result]).result


def _swish(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    three = graph.add_constant(np.array(draw(st.sampled_from([3.0, 2.0])), np.float32), "three")
    six = graph.add_constant(np.array([6.0], np.float32), "six")
    clipped = graph.add_node(ops.Clip(0.0, 6.0), [graph.add_node(ops.Add(), [x, three]).result]).result
    if draw(st.booleans()):
        clipped = graph.add_node(ops.Div(), [clipped, six]).result
        return graph.add_node(ops.Mul(), [x, clipped]).result
    return graph.add_node(ops.Div(), [graph.add_node(ops.Mul(), [x, clipped]).result, six]).result


def _conv(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    kernel = draw(st.sampled_from([1, 3]))
    group = draw(st.sampled_from([1, 3]))
    border = kernel // 2
    if border and draw(st.booleans()):
        x = graph.add_node(ops.Pad((0, 0, 1, 1, 0, 0, 1, 1), draw(st.sampled_from([0.0, 0.0, 1.0]))), [x]).result
        border = 0
    weight = _constant(draw, graph, (3, 3 // group, kernel, kernel))
    scale = graph.add_node(ops.Mul(), [weight, graph.add_constant(np.array(1 / 16, np.float32), "scale")])
    op = ops.Conv((1, 1), (border,) * 4, (1, 1), group, clamp=draw(st.sampled_from([None, None, (0.0, 6.0)])))
    bias = [_constant(draw, graph, (3,))] if draw(st.booleans()) else []
    return graph.add_node(op, [x, scale.result, *bias]).result


def _conv_transpose(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    group, (stride, pads, padding) = draw(st.sampled_from([1, 3])), draw(st.sampled_from([(1, 1, 0), (2, 3, 1)]))
    weight = _constant(draw, graph, (3, 3 // group, 3, 3))
    scale = graph.add_node(ops.Mul(), [weight, graph.add_constant(np.array(1 / 16, np.float32), "scale")])
    constant = draw(st.booleans())
    if constant:
        scaled = graph.add_constant(np.asarray(weight.data) / np.float32(16), "filters")
    op = ops.ConvTranspose((stride, stride), (pads,) * 2 + (stride,) * 2, (1, 1), (padding, padding), group)
    bias = [_constant(draw, graph, (3,))] if draw(st.booleans()) else []
    return graph.add_node(op, [x, scaled if constant else scale.result, *bias]).result


def _matmul(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    return graph.add_node(ops.MatMul(), [x, _constant(draw, graph, (3, 3))]).result


def _batch_norm(draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    return graph.add_node(ops.BatchNormalization(), [x, *(_constant(draw, graph, (3,)) for _ in range(4))]).result


def _reshape_and_back(_draw: st.DrawFn, graph: Graph, x: Value, _: list[Value]) -> Value:
    flat = graph.add_node(ops.Reshape((9, 9)), [x]).result
    return graph.add_node(ops.Reshape(SHAPE), [flat]).result


def _concat(draw: st.DrawFn, graph: Graph, x: Value, values: list[Value]) -> Value:
    axis = draw(st.integers(0, 3))
    both = graph.add_node(ops.Concat(axis), [x, draw(st.sampled_from(values))]).result
    return graph.add_node(ops.Slice((axis,), (draw(st.integers(0, 3)),), (3,), (1,)), [both]).result


STEPS: list[Callable[[st.DrawFn, Graph, Value, list[Value]], Value]] = [
    _unary, _unary, _bound, _bound, _transpose, _transpose, _transpose, _arithmetic, _arithmetic, _binary, _gate,
    _swish, _conv, _conv, _conv_transpose, _matmul, _batch_norm, _reshape_and_back, _concat,
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("reproducers")


@settings(max_examples=150)
@given(graph=float_graphs(), names=st.lists(st.sampled_from(PASSES), min_size=1, max_size=6) | st.just(PASSES))
def test_numbers_stay_and_claims_hold(folder, graph, names):
    generator = np.random.default_rng(2)
    feeds = {name: generator.uniform(-4, 4, SHAPE).astype(np.float32) for name in ("x", "z")}
    before = reference.run(graph, feeds)
    for name in names:
        pipeline = parse_pipeline(name)
        PassManager(pipeline, check_claims=True, reproducer_dir=folder).run(graph)
        (again,) = PassManager(pipeline, reproducer_dir=folder).run(graph)
        assert not again.changed, f"{name} changes its own result:\n{print_graph(graph)}"
    after = reference.run(graph, feeds)
    for name, expected in before.items():
        # Weights are rounded once more where something was folded into them.
        scale = max(1.0, float(np.abs(expected).max()))
        np.testing.assert_allclose(after[name], expected, rtol=0, atol=1e-5 * scale)
