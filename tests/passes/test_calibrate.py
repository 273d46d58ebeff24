from collections.abc import Iterable

import numpy as np
import pytest

from qcompiler.calibration.data import open_source
from qcompiler.calibration.outputs import FloatOutputs
from qcompiler.calibration.run import ObservedGraph
from qcompiler.errors import CalibrationDataError, UnsupportedOpError, UsageError
from qcompiler.ir import Graph, ops, parse_graph, print_graph
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline

NETWORK = """qir 1
graph test float {
  input %x: f32[N,3]
  const %w: f32[2,3] = [1, -2, 0.5, 0.25, 1, -1]
  %y = gemm(%x, %w) @fc
  %s = sigmoid(%y)
  output s = %s
}
"""
SAMPLES = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)


def calibrated(
    data: object,
    *,
    text: str = NETWORK,
    spec: str = "calibrate",
    method: str = "minmax",
    threads: int | None = None,
) -> tuple[Graph, PassContext]:
    graph = parse_graph(text)
    source = None if data is None else open_source(data, graph)  # type: ignore[arg-type]  # any form
    context = PassContext(calibration=source, calibration_method=method, threads=threads)
    PassManager(parse_pipeline(f"insert-observers,{spec}"), check_claims=True).run(graph, context)
    return graph, context


def ranges(graph: Graph) -> dict[str, tuple[float | None, float | None]]:
    return {n.op.key: (n.op.low, n.op.high) for n in graph.nodes() if isinstance(n.op, ops.Observe)}


def pieces(cuts: Iterable[int]) -> list[dict[str, np.ndarray]]:
    return [{"x": part} for part in np.split(SAMPLES, list(cuts)) if len(part)]


def test_ranges_are_those_of_the_data():
    graph, context = calibrated(SAMPLES)
    y = SAMPLES.astype(np.float64) @ np.array([[1, 0.25], [-2, 1], [0.5, -1]])
    found = ranges(graph)
    assert found["x"] == (float(SAMPLES.min()), float(SAMPLES.max()))
    assert found["y"] == pytest.approx((y.min(), y.max()), rel=1e-6)
    assert found["s"] == (None, None)  # sigmoid is bounded: propagate-ranges knows
    assert context.warnings == []


@pytest.mark.parametrize("cuts", [[], [1], [7, 8, 30], range(1, 50)])
def test_any_split_of_the_data_gives_the_same_statistics(cuts):
    graph, context = calibrated(pieces(cuts))
    whole, expected = calibrated(SAMPLES)
    assert context.calibration_digest == expected.calibration_digest
    assert context.calibration_digest is not None
    assert print_graph(graph) == print_graph(whole)


def test_any_order_of_the_data_gives_the_same_statistics():
    assert calibrated(SAMPLES[::-1])[1].calibration_digest == calibrated(SAMPLES)[1].calibration_digest


@pytest.mark.parametrize("count", [1, 2, 5, 50])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_do_not_change_the_result(count, threads):
    data = [{"x": row[np.newaxis]} for row in SAMPLES[:count]]
    results = []
    for each in (1, threads):
        graph = parse_graph(NETWORK.replace("N,3", "1,3"))  # a batch for each sample
        kept = FloatOutputs(graph, 100)
        source = open_source(data, graph)
        context = PassContext(calibration=source, calibration_method="mse", threads=each, float_outputs=kept)
        PassManager(parse_pipeline("insert-observers,calibrate")).run(graph, context)
        outputs = kept.take(0, count)
        assert outputs is not None
        assert len(outputs["s"]) == count
        results.append((print_graph(graph), context.calibration_digest, outputs["s"].tolist()))
    assert results[0] == results[1]


def test_the_option_of_the_pass_goes_before_the_method_of_the_compilation():
    data = np.concatenate([SAMPLES, np.full((1, 3), 100, np.float32)] + [SAMPLES] * 400)
    chosen = ranges(calibrated(data, spec="calibrate{method=percentile}")[0])
    assert chosen["x"] == ranges(calibrated(data, method="percentile")[0])["x"]
    assert chosen["x"][1] == pytest.approx(float(SAMPLES.max()), rel=0.01)
    assert ranges(calibrated(data)[0])["x"][1] == 100.0


def test_wide_values_keep_their_extremes():
    text = NETWORK.replace("output s = %s", "output s = %s\n  %z = add(%x, %x)\n  output z = %z")
    data = np.concatenate([SAMPLES, np.full((1, 3), 100, np.float32)] + [SAMPLES] * 400)
    graph, _ = calibrated(data, text=text, method="percentile")
    assert ranges(graph)["z"][1] == 200.0


def test_a_second_calibration_has_nothing_to_do():
    graph, context = calibrated(SAMPLES)
    (second,) = PassManager(parse_pipeline("calibrate"), check_claims=True).run(graph, context)
    assert not second.changed


def test_without_data_the_graph_runs_on_made_up_samples_and_says_so():
    graph, context = calibrated(None)
    low, high = ranges(graph)["x"]
    assert low is not None
    assert high is not None
    assert -6 < low < -1 < 1 < high < 6
    assert print_graph(graph) == print_graph(calibrated(None)[0])
    (warning,) = context.warnings
    assert "made-up" in warning
    assert "--calibrate DATA" in warning


def test_nan_names_the_tensor_and_the_sample():
    text = NETWORK.replace("sigmoid(%y)", "sqrt(%y)")
    data = np.abs(SAMPLES)
    data[:, 1] = 0
    data[:, 2] = 0
    data[33] = [0, 1, 0]
    with pytest.raises(CalibrationDataError, match=r"sample 33 .* NaN or Inf in %s \(computed by node 's'\)"):
        calibrated(data, text=text)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1, 6])
def test_the_first_of_several_bad_samples_is_named(threads, first):
    text = NETWORK.replace("N,3", "1,3").replace("sigmoid(%y)", "exp(%y)")
    data = SAMPLES[:9].copy()
    data[[first, first + 1, 8]] = [1000, 0, 0]
    with pytest.raises(CalibrationDataError, match=f"sample {first} of the calibration data"):
        calibrated([{"x": row[np.newaxis]} for row in data], text=text, threads=threads)


@pytest.mark.parametrize("threads", [1, 3])
def test_what_comes_first_is_told_first(threads):
    text = NETWORK.replace("N,3", "1,3").replace("sigmoid(%y)", "exp(%y)")
    overflow, damaged = np.full((1, 3), 0, np.float32), np.zeros((1, 4), np.float32)
    overflow[0, 0] = 1000
    good = [{"x": SAMPLES[:1]}] * 2
    with pytest.raises(CalibrationDataError, match="sample 2 of the calibration data"):
        calibrated([*good, {"x": overflow}, {"x": damaged}], text=text, threads=threads)
    with pytest.raises(CalibrationDataError, match=r"item 2 of the data: .*shape"):
        calibrated([*good, {"x": damaged}, {"x": overflow}], text=text, threads=threads)


def test_infinity_in_the_float_model_is_found_in_a_small_batch():
    text = NETWORK.replace("sigmoid(%y)", "exp(%y)")
    data = SAMPLES.copy()
    data[2] = [1000, 0, 0]
    with pytest.raises(CalibrationDataError, match=r"sample 2 of the calibration data .* %s"):
        calibrated([{"x": row[np.newaxis]} for row in data], text=text)


def test_an_outlier_is_a_warning():
    data = np.concatenate([SAMPLES] * 400)
    data[77, 0] = 1e6
    _, context = calibrated(data)
    assert any("%x reaches 1e+06" in w and "percentile" in w for w in context.warnings)


def test_a_constant_input_is_a_remark():
    _, context = calibrated(np.full((4, 3), 2, np.float32))
    assert "calibrate: observe_x: it is 2 everywhere on the calibration data" in map(str, context.remarks)


@pytest.mark.parametrize("threads", [1, 3])
def test_progress_is_reported(threads):
    graph = parse_graph(NETWORK)
    calls: list[tuple[str, int, int]] = []
    context = PassContext(
        calibration=open_source([{"x": SAMPLES}] * 3, graph),
        progress=lambda what, done, total: calls.append((what, done, total)),
        threads=threads,
    )
    PassManager(parse_pipeline("insert-observers,calibrate")).run(graph, context)
    done = [(done, total) for what, done, total in calls if what == "calibrating"]
    assert done == [(32, 150), (64, 150), (96, 150), (128, 150), (150, 150)]


def test_data_is_read_once(tmp_path):
    (tmp_path / "samples.py").write_text(
        "import numpy as np\nfrom pathlib import Path\n"
        "def some():\n"
        "    with Path(__file__).with_name('reads').open('a') as log:\n"
        "        log.write('x')\n"
        "    yield {'x': np.ones((2, 3), np.float32)}\n"
    )
    graph = parse_graph(NETWORK)
    context = PassContext(calibration=open_source(f"{tmp_path}/samples.py:some", graph))
    PassManager(parse_pipeline("insert-observers,calibrate")).run(graph, context)
    assert context.calibration is not None
    assert len(context.calibration) == 2
    assert (tmp_path / "reads").read_text() == "x"


def test_an_observed_graph_counts_the_wanted_values_only_and_gives_the_outputs():
    graph = parse_graph(NETWORK)
    PassManager(parse_pipeline("insert-observers")).run(graph)
    observed = ObservedGraph(graph, ["y"])
    outputs = [observed.add({"x": part})["s"] for part in np.split(SAMPLES, [5, 20])]
    assert observed.statistics("y").count == SAMPLES.shape[0] * 2
    with pytest.raises(KeyError):
        observed.statistics("x")
    y = SAMPLES.astype(np.float64) @ np.array([[1, 0.25], [-2, 1], [0.5, -1]])
    np.testing.assert_allclose(np.concatenate(outputs), 1 / (1 + np.exp(-y)), rtol=1e-5)


def test_the_reference_counts_where_an_op_has_no_kernel(monkeypatch):
    statistics = []
    for refuses in (False, True):
        graph = parse_graph(NETWORK)
        PassManager(parse_pipeline("insert-observers")).run(graph)
        observed = ObservedGraph(graph, ["x", "y"])
        if refuses:
            monkeypatch.setattr("qcompiler.runtime.lowering.lower", _refuse)
        observed.add({"x": SAMPLES})
        observed.add({"x": SAMPLES[:7]})
        statistics.append({key: observed.statistics(key) for key in ("x", "y")})
    by_kernel, by_reference = statistics
    assert by_reference["x"] == by_kernel["x"]
    assert by_reference["y"].count == by_kernel["y"].count


def _refuse(*_: object) -> None:
    raise UnsupportedOpError("no kernel")


@pytest.mark.parametrize(("spec", "method"), [("calibrate", "percentil"), ("calibrate{method=percentil}", "minmax")])
def test_an_unknown_method_is_refused_before_the_data_is_read(spec, method):
    with pytest.raises(UsageError, match=r"no calibration method 'percentil'; .*did you mean 'percentile'"):
        calibrated(np.full((1, 3), np.nan, np.float32), spec=spec, method=method)


def test_what_the_reference_counts_is_added_to_the_counters(monkeypatch):
    observed = []
    for refuses in (False, True):
        graph = parse_graph(NETWORK)
        PassManager(parse_pipeline("insert-observers")).run(graph)
        observed.append(ObservedGraph(graph, ["x"]))
        observed[-1].add({"x": SAMPLES[:20]})
        with monkeypatch.context() as patched:
            if refuses:  # another batch size wants another plan
                patched.setattr("qcompiler.runtime.lowering.lower", _refuse)
            observed[-1].add({"x": SAMPLES[20:]})
    assert observed[0].statistics("x") == observed[1].statistics("x")
    assert observed[1].statistics("x").count == SAMPLES.size
