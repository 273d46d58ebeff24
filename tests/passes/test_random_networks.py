"""Random small networks of all that CNNs are made of, through the whole pipeline."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from qcompiler import reference
from qcompiler.calibration.data import open_source
from qcompiler.integer_proofs import float_nodes, prove
from qcompiler.ir import DType, Graph, Op, Stage, TensorType, Value, ops, verify
from qcompiler.pass_manager import PassContext, PassManager
from qcompiler.pipeline import pipeline_for

STEPS = ("conv", "depthwise", "add", "mul", "concat", "relu", "hard_swish", "leaky", "max_pool", "average_pool", "gate")
CHANNELS = 4


class Network:
    """Grows a graph on activations of 4 channels whose magnitude stays near 1."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph()
        self.values = [self.graph.add_input("x", TensorType(DType.F32, ("N", CHANNELS, 8, 8)))]

    def step(self, kind: str) -> None:
        x = self.values[-1]
        others = [v for v in self.values if v.type.shape == x.type.shape]
        other = others[int(self.random.integers(len(others)))]
        match kind:
            case "conv":
                x = self._conv(x, CHANNELS, group=1)
            case "depthwise":
                x = self._conv(x, CHANNELS, group=CHANNELS)
            case "add" | "mul":
                x = self._node(ops.Add() if kind == "add" else ops.Mul(), x, other)
            case "concat":
                x = self._conv(self._node(ops.Concat(axis=1), x, other), CHANNELS, group=1)
            case "gate":
                x = self._node(ops.Mul(), x, self._node(ops.HardSigmoid(), self._node(ops.ReduceMean((2, 3)), x)))
            case "max_pool" | "average_pool":
                if x.type.shape[2] == 1:
                    return
                window = ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1))
                x = self._node(ops.MaxPool(*window) if kind == "max_pool" else ops.AveragePool(*window), x)
            case _:
                x = self._node(
                    {"relu": ops.Relu(), "hard_swish": ops.HardSwish(), "leaky": ops.LeakyRelu(0.1)}[kind], x
                )
        self.values.append(x)

    def finish(self, *, flatten: bool) -> Graph:
        x = self.values[-1]
        if flatten:
            size = int(np.prod([d for d in x.type.shape if isinstance(d, int)]))
            flat = self._node(ops.Reshape(("N", size)), x)
            weight = self.graph.add_constant(self.random.normal(0, size**-0.5, (5, size)).astype(np.float32))
            x = self._node(ops.Gemm(), flat, weight)
        self.graph.add_output(x, "y")
        return self.graph

    def _conv(self, x: Value, channels: int, *, group: int) -> Value:
        fan_in = int(x.type.shape[1]) // group
        weight = self.random.normal(0, (9 * fan_in) ** -0.5, (channels, fan_in, 3, 3)).astype(np.float32)
        bias = self.random.normal(0, 0.2, channels).astype(np.float32)
        operands = [x, self.graph.add_constant(weight), self.graph.add_constant(bias)]
        return self._node(ops.Conv((1, 1), (1, 1, 1, 1), (1, 1), group), *operands)

    def _node(self, op: Op, *operands: Value) -> Value:
        return self.graph.add_node(op, operands).result


@pytest.mark.parametrize("level", [1, 2, 3])
@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**20), steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=7), flatten=st.booleans()
)
def test_the_integer_program_follows_the_float_network(level: int, seed: int, steps: list[str], flatten: bool) -> None:
    network = Network(seed)
    for kind in steps:
        network.step(kind)
    graph = network.finish(flatten=flatten)
    compiled, context = graph.clone(), PassContext(calibration_method="minmax")
    data = network.random.normal(size=(16, CHANNELS, 8, 8)).astype(np.float32)
    context.calibration = open_source(data, graph)
    PassManager(pipeline_for("int8", level), check_claims=True).run(compiled, context)

    assert compiled.stage is Stage.INTEGER
    assert float_nodes(compiled) == []
    verify(compiled)
    assert all(proof.is_proven for proof in prove(compiled))
    exact, got = (reference.run(g, {"x": data})["y"].astype(np.float64) for g in (graph, compiled))
    assert np.mean((got - exact) ** 2) <= 0.01 * np.mean(exact**2) + 1e-6  # 20 dB
