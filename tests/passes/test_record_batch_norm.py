import numpy as np
import pytest

from qcompiler.ir import Graph, ops, parse_graph
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline

CONV = "strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]"
NETWORK = f"""qir 1
graph test float {{
  input %x: f32[N,1,4,4]
  const %w: f32[2,1,1,1] = [1, -1]
  const %gamma: f32[2] = [-2, 0.5]
  const %beta: f32[2] = [1, 3]
  const %mean: f32[2] = [0, 0]
  const %var: f32[2] = [1, 4]
  %c = conv(%x, %w) {{{CONV}}} @layer
  %n = batch_normalization(%c, %gamma, %beta, %mean, %var)
  %r = relu(%n)
  output r = %r
}}
"""


def run(spec: str, text: str = NETWORK) -> tuple[Graph, PassContext]:
    graph, context = parse_graph(text), PassContext()
    PassManager(parse_pipeline(spec), check_claims=True).run(graph, context)
    return graph, context


def observed(graph: Graph, producer: str) -> tuple[float | None, float | None]:
    (op,) = [user.op for user in graph.node(producer).result.users if isinstance(user.op, ops.Observe)]
    return op.low, op.high


def test_the_union_of_four_deviations_around_each_mean_is_kept():
    graph, context = run("record-batch-norm")
    assert context.batch_norm_ranges == {"layer": (-7.0, 9.0)}
    assert "n" in {node.name for node in graph.nodes()}


def test_without_data_the_recorded_range_is_the_conv_s():
    graph, _ = run("record-batch-norm,fold-batch-norm,insert-observers,calibrate")
    assert observed(graph, "layer") == (-7.0, 9.0)
    assert observed(graph, "r") != (-7.0, 9.0)


def test_a_clamp_cuts_it():
    graph, _ = run("record-batch-norm,fold-batch-norm,fuse-activation,insert-observers,calibrate")
    assert observed(graph, "layer") == (0.0, 9.0)


def test_data_goes_before_it():
    from qcompiler.calibration.data import open_source

    graph, context = parse_graph(NETWORK), PassContext()
    context.calibration = open_source(np.zeros((2, 1, 4, 4), np.float32), graph)
    PassManager(parse_pipeline("record-batch-norm,fold-batch-norm,insert-observers,calibrate")).run(graph, context)
    assert observed(graph, "layer") == pytest.approx((0.0, 3.0))


def test_a_normalization_after_something_else_says_nothing():
    _, context = run("record-batch-norm", NETWORK.replace(f"conv(%x, %w) {{{CONV}}}", "concat(%x, %x) {axis=1}"))
    assert context.batch_norm_ranges == {}
