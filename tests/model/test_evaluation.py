"""The comparison with the float model, and when it may use the outputs of the calibration run."""

import numpy as np
import pytest

from qcompiler.calibration.data import Batch, open_source
from qcompiler.calibration.outputs import FloatOutputs
from qcompiler.evaluation import Evaluation, evaluate
from qcompiler.ir import Graph, parse_graph
from qcompiler.runtime.session import Session

NETWORK = """qir 1
graph test float {{
  input %x: f32[{rows},3]
  const %w: f32[2,3] = [{weight}, -2, 0.5, 0.25, 1, -1]
  %y = gemm(%x, %w) @fc
  output y = %y
}}
"""
SAMPLES = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)


def network(weight: float = 1.0, rows: str = "N") -> Graph:
    return parse_graph(NETWORK.format(weight=weight, rows=rows))


def kept(graph: Graph, sizes: list[int], limit: int = 1000) -> FloatOutputs:
    outputs, session, first = FloatOutputs(graph, limit), Session(graph), 0
    for size in sizes:
        feeds = {"x": SAMPLES[first : first + size]}
        outputs.add(Batch(feeds, None, first, size), session.run(feeds))
        first += size
    return outputs


def compared(known: FloatOutputs | None, graph: Graph | None = None) -> Evaluation:
    """Of the network with a model whose outputs differ a little."""
    exact = graph or network()
    return evaluate(exact, Session(network(1.01)), open_source(SAMPLES, exact), known=known)


def test_outputs_are_kept_by_sample_whatever_the_batches():
    outputs = kept(network(), [1, 20, 29])
    (exact,) = Session(network()).run({"x": SAMPLES}).values()
    for first, count in ((0, 1), (0, 16), (16, 16), (49, 1), (0, 50)):
        taken = outputs.take(first, count)
        assert taken is not None
        np.testing.assert_array_equal(taken["y"], exact[first : first + count])
    assert outputs.take(40, 11) is None


@pytest.mark.parametrize("sizes", [[1, 4], [5]])
def test_the_first_sample_is_told_once(sizes):
    told: list[np.ndarray] = []
    outputs = FloatOutputs(network(), 100, lambda feeds: told.append(feeds["x"]))
    for first, size in zip([0, sizes[0]], sizes, strict=False):
        feeds = {"x": SAMPLES[first : first + size]}
        outputs.add(Batch(feeds, None, first, size), {"y": feeds["x"][:, :2]})
    (first_sample,) = told
    np.testing.assert_array_equal(first_sample, SAMPLES[:1])


def test_no_more_outputs_are_kept_than_wanted():
    outputs = kept(network(), [10] * 5, limit=15)
    assert outputs.take(0, 20) is not None
    assert outputs.take(20, 1) is None


def test_nothing_is_kept_of_outputs_without_an_axis_of_samples():
    graph = parse_graph(NETWORK.format(weight=1, rows="N").replace("y = %y", "y = %w"))
    assert kept(graph, [4]).take(0, 1) is None


def test_a_fixed_batch_is_one_sample():
    graph = network(rows="1")
    outputs = kept(graph, [1] * 50)
    assert compared(outputs, graph).sqnr == compared(None, graph).sqnr


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 43], [30]], ids=["one", "each", "two", "some missing"])
def test_known_outputs_give_the_same_comparison(sizes):
    assert compared(kept(network(), sizes)) == compared(None)


def test_known_outputs_of_another_model_are_not_used():
    expected = compared(None)
    assert expected.sqnr["y"].decibels is not None
    assert expected.sqnr["y"].decibels < 60
    assert compared(kept(network(1.01), [50])) == expected
    assert compared(kept(network(1.001), [50])) == expected


def test_the_session_of_the_float_model_may_be_there_already(monkeypatch):
    exact, other = network(), Session(network(1.01))
    reference, expected = Session(exact), compared(None)
    monkeypatch.setattr("qcompiler.runtime.session.Session", None)
    assert evaluate(exact, other, open_source(SAMPLES, exact), reference=reference) == expected
