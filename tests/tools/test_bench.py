"""tools/bench.py and its parts: what is measured, and what is said about it. The figures are for people."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

TOOLS = Path(__file__).parents[2] / "tools"
OPERATIONS = {"/features/0/Conv": 64, "/features/3/Conv": 64, "/features/7/Conv": 16}
"""Convolutions of digits_cnn.onnx, and at how many positions of an image each is computed."""


def run(script: str, *arguments: str | Path, returncode: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(TOOLS / script), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == returncode, done.stderr
    return done.stdout if returncode == 0 else done.stderr


@pytest.fixture
def contenders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("contenders")


@pytest.fixture
def bench_process(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("bench_process")


@pytest.fixture(scope="module")
def figures(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    saved = tmp_path_factory.mktemp("bench") / "figures.json"
    options = ["--threads", "1,2", "--batch", "3", "--samples", "8", "--rounds", "1", "--starts", "1", "--per-node"]
    data = assets / "digits_calibration.npz"
    printed = run("bench.py", assets / "digits_cnn.onnx", "--calibrate", data, *options, "--json", saved)
    found: dict[str, Any] = json.loads(saved.read_text())
    assert "digits_cnn, batch 3, 2 threads" in printed
    return found


NAMES = {
    "qcompiler int8",
    "onnxruntime int8 (s8)",
    "onnxruntime int8 (u8)",
    "qcompiler f32",
    "onnxruntime fp32",
}


def test_each_contender_is_timed_for_each_number_of_threads(figures: dict[str, Any]):
    assert [(each["batch"], each["threads"]) for each in figures["latency"].values()] == [(3, 1), (3, 2)]
    for each in figures["latency"].values():
        assert set(each["contenders"]) == NAMES
        ours = each["contenders"]["qcompiler int8"]
        assert ours["ratio_min"] == ours["ratio_median"] == 1
        for row in each["contenders"].values():
            assert row["ratio_min"] == row["min_ms"] / ours["min_ms"]
            assert 0 < row["min_ms"] <= row["median_ms"]
        rows = each["contenders"]
        best = min(rows[f"onnxruntime int8 ({kind})"]["ratio_min"] for kind in ("s8", "u8"))
        assert each["against"]["onnxruntime int8"] == best
        assert set(each["against"]) == {"onnxruntime int8", "qcompiler f32", "onnxruntime fp32"}


def test_each_contender_is_started_in_a_process_of_its_own(figures: dict[str, Any]):
    assert set(figures["start"]) == NAMES
    for row in figures["start"].values():
        parts = [row[f"{part}_ms"] for part in ("interpreter", "inputs", "import", "load", "first")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row["total_ms"])
        assert 0 < row["imported_mb"] <= row["peak_mb"]


def test_each_quantizer_is_timed_on_the_same_samples(figures: dict[str, Any]):
    assert figures["samples"] == 8
    assert set(figures["quantize"]) == {"qcompiler", "onnxruntime (s8)", "onnxruntime (u8)"}
    for row in figures["quantize"].values():
        assert 0 < row["seconds"] < row["process_seconds"]
        assert row["kernels_compiled"] == 0  # they were in the time before, which does not count


def test_facts_of_the_compiled_model(figures: dict[str, Any]):
    assert figures["integer_only"] is True
    assert figures["arena"]["arena_bytes"] >= figures["arena"]["arena_lower_bound_bytes"] > 0
    assert {"processor", "isa", "restrictions", "versions"} <= set(figures["machine"])


def test_instructions_have_their_own_limits(figures: dict[str, Any], assets: Path):
    rows = figures["instructions"]["3"]
    operations = {row["node"]: row["operations"] for row in rows if row["operations"]}
    assert operations == expected_operations(assets / "digits_cnn.onnx", batch=3)
    assert [row["spent_us"] for row in rows] == sorted((row["spent_us"] for row in rows), reverse=True)
    for row in rows:
        assert row["share"] == row["limit_us"] / row["spent_us"]
        products_us = row["operations"] / figures["ceiling_gops"]["1"] / 1e3
        assert row["limit_us"] >= products_us
        assert (row["limited_by"] == "products") == (row["limit_us"] == products_us)


def expected_operations(model: Path, batch: int) -> dict[str, int]:
    """Two for each product, from the weights' shapes in the ONNX file."""
    graph = onnx.load(str(model)).graph
    shapes = {tensor.name: tensor.dims for tensor in graph.initializer}
    return {
        node.name: 2 * batch * int(np.prod(shapes[node.input[1]])) * OPERATIONS.get(node.name, 1)
        for node in graph.node
        if node.op_type in ("Conv", "Gemm")
    }


def test_a_block_does_not_count_its_first_inference(contenders: ModuleType):
    calls: list[object] = []
    timed = contenders.Timed("counter", calls.append)
    timed.time_block({})
    assert len(calls) == len(timed.seconds) + 1
    assert len(timed.seconds) >= contenders.BLOCK_RUNS


class Clock:
    """Time that passes only in `sleep`; other threads of the process compute until `busy_until`."""

    def __init__(self, busy_until: float) -> None:
        self.now = 0.0
        self.busy_until = busy_until

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return min(self.now, self.busy_until)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(("busy_until", "is_idle"), [(0.0, True), (0.0301, True), (5.0, False)])
def test_waiting_ends_when_no_thread_computes_or_patience_does(
    contenders: ModuleType, monkeypatch: pytest.MonkeyPatch, busy_until: float, is_idle: bool
):
    clock = Clock(busy_until)
    monkeypatch.setattr(contenders, "time", clock)
    assert contenders.wait_until_idle() is is_idle
    if is_idle:
        assert busy_until < clock.now <= busy_until + 2 * contenders.IDLE_POLL_SECONDS
    else:
        assert clock.now == pytest.approx(contenders.IDLE_PATIENCE_SECONDS, abs=contenders.IDLE_POLL_SECONDS)


def test_a_contender_that_cannot_start_says_why(
    bench_process: ModuleType, contenders: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    np.savez(tmp_path / "feeds.npz", x=np.zeros(1, np.float32))
    nothing = contenders.Contender("qcompiler int8", "qcompiler", tmp_path / "nothing.qc")
    with pytest.raises(bench_process.WorkerError, match=r"^qcompiler\.errors\.ArtifactError: .*nothing\.qc"):
        bench_process.start_contender(nothing, 1, tmp_path / "feeds.npz")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers", "tflite"], "there is no peer 'tflite'; there are onnxruntime, openvino"),
        (["--threads", "1,two"], "--threads takes integers, separated by commas"),
        (["--batch", "0"], "must be positive"),
    ],
)
def test_options_are_checked(options: list[str], message: str):
    assert message in run("bench.py", "model.onnx", "--calibrate", "data.npz", *options, returncode=2)


def test_more_samples_are_needed_for_a_larger_batch(assets: Path):
    model, data = assets / "digits_cnn.onnx", assets / "digits_calibration.npz"
    message = run("bench.py", model, "--calibrate", data, "--batch", "9", "--samples", "8", returncode=1)
    assert message == "there are 8 samples, too few for a batch of 9\n"


def test_what_cannot_be_read_is_said_in_one_line(assets: Path, tmp_path: Path):
    message = run("bench.py", assets / "digits_cnn.onnx", "--calibrate", tmp_path / "nothing.npz", returncode=1)
    assert message.startswith("error: ")
    assert "nothing.npz" in message
    assert message.count("\n") == 1


def test_the_interpreter_is_measured_alone_and_with_helpers(tmp_path: Path):
    run("bench_interpreter.py", "--instructions", "30", "--threads", "2", "--json", tmp_path / "figures.json")
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["instructions"] == 30
    assert list(found["cases"]) == ["1 thread", "2 threads, none woken", "2 threads, all walking"]
    assert all(0 < case["min_us"] <= case["median_us"] for case in found["cases"].values())


def test_samples_of_the_shipped_models_are_written(assets: Path, tmp_path: Path):
    printed = run("write_samples.py", tmp_path, "--models", "digits_cnn", "--most", "5")
    assert printed == f"{assets / 'digits_cnn.onnx'} --calibrate {tmp_path / 'digits_cnn.npz'}\n"
    with np.load(tmp_path / "digits_cnn.npz") as written, np.load(assets / "digits_calibration.npz") as whole:
        assert np.array_equal(written["image"], whole["image"][:5])
