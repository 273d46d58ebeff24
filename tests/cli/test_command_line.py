import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qcompiler
from qcompiler.cli.main import run
from qcompiler.runtime.lowering.integer_linear import dot_products

SUMMARY_KEYS = {
    "integer_only",
    "float_nodes",
    "accumulators_proven",
    "accumulators_total",
    "min_headroom_bits",
    "model_bytes",
    "artifact_bytes",
    "arena_bytes",
    "sqnr_db",
    "top1_float",
    "top1_int",
    "agreement",
    "calibration",
    "passes",
    "warnings",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def artifact(assets, tmp_path_factory):
    """The digits CNN, compiled with its calibration images."""
    path = tmp_path_factory.mktemp("artifact") / "cnn.qc"
    code = run(
        [str(assets / "digits_cnn.onnx"), "--calibrate", str(assets / "digits_calibration.npz"), "-o", str(path)]
    )
    assert code == 0
    return path


def test_compile_says_what_it_made(assets, here, capsys):
    options = ["--calibrate", str(assets / "digits_calibration.npz"), "--validate", str(assets / "digits_test.npz")]
    assert run([str(assets / "digits_cnn.onnx"), *options, "--summary-json", "facts.json"]) == 0
    shown = capsys.readouterr()
    assert "integer-only" in shown.out
    assert "yes, machine-checked" in shown.out
    assert shown.err == ""
    assert sorted(p.name for p in here.iterdir()) == ["digits_cnn.qc", "facts.json"]
    facts = json.loads(Path("facts.json").read_text())
    assert set(facts) >= SUMMARY_KEYS
    assert facts["integer_only"] is True
    assert facts["float_nodes"] == []
    assert facts["accumulators_proven"] == facts["accumulators_total"] > 0
    assert facts["artifact_bytes"] == Path("digits_cnn.qc").stat().st_size
    assert facts["model_bytes"] == (assets / "digits_cnn.onnx").stat().st_size
    assert abs(facts["top1_float"] - facts["top1_int"]) < 0.01
    assert facts["sqnr_db"]["logits"] > 25
    assert {entry["changed"] for entry in facts["passes"]} == {True, False}


def test_the_artifact_is_the_same_every_time(assets, artifact):
    again = ["--calibrate", str(assets / "digits_calibration.npz"), "-o", "again.qc", "-q", "--threads", "1"]
    assert run(["compile", str(assets / "digits_cnn.onnx"), *again]) == 0
    assert Path("again.qc").read_bytes() == artifact.read_bytes()


def test_summary_on_standard_output_is_only_json(assets, capsys):
    calibrate = ["--calibrate", str(assets / "digits_calibration.npz")]
    assert run([str(assets / "digits_cnn.onnx"), *calibrate, "--summary-json", "-"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["integer_only"] is True
    assert "integer-only" in shown.err


def test_without_calibration_data_it_works_and_warns(assets, capsys):
    assert run([str(assets / "digits_cnn.onnx")]) == 0
    assert "--calibrate" in capsys.readouterr().err
    assert Path("digits_cnn.qc").exists()


def test_run_equals_the_reference(assets, artifact, capsys):
    import qcompiler

    images = np.load(assets / "digits_test.npz")["image"][:7]
    np.savez("in.npz", image=images)
    assert run(["run", str(artifact), "--input", "in.npz", "--output", "out.npz"]) == 0
    assert "logits" in capsys.readouterr().out
    expected = qcompiler.reference.run(qcompiler.load(artifact).graph, {"image": images})
    with np.load("out.npz") as got:
        assert np.array_equal(got["logits"], expected["logits"])


def test_dot_products_beside_a_matrix_unit(assets):
    """Layers that widen 16 channels, and depthwise ones, are left to vectors."""
    data = assets / "digits_calibration.npz"
    graph = qcompiler.compile(assets / "digits_dsnet.onnx", calibration=data, calibration_method="minmax").graph
    stem, widening, depthwise, narrowing, *_ = ((p.instruction, p.reason) for p in dot_products(graph, "amx"))
    assert stem == narrowing == ("tdpbusd", "exact for all weights")
    assert widening == ("vpdpbusd", "few products for each result")
    assert depthwise == ("vpdpbusd", "depthwise")


def test_dot_products_of_a_reduced_range_are_those_of_pairs(assets, artifact, capsys):
    options = ["--calibrate", str(assets / "digits_calibration.npz"), "-o", "reduced.qc", "-q"]
    assert run([str(assets / "digits_cnn.onnx"), *options, "--reduce-range"]) == 0
    assert "quantize{reduce-range=true}" in qcompiler.load("reduced.qc").provenance["pipeline"]
    capsys.readouterr()
    for path, instruction in ((artifact, "vpmaddwd"), ("reduced.qc", "vpmaddubsw")):
        found = dot_products(qcompiler.load(path).graph, "avx2")
        assert len(found) > 3
        assert {each.instruction for each in found[1:]} == {instruction}
    assert run(["inspect", str(artifact), "--dot-products"]) == 0
    (first, *_) = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{found[0].layer}: ")


def test_inspect_shows_the_verdict_and_the_interface(artifact, capsys):
    assert run(["inspect", str(artifact)]) == 0
    shown = capsys.readouterr().out
    assert "yes, machine-checked" in shown
    assert "logits" in shown
    assert run(["inspect", str(artifact), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["integer_only"] is True
    assert run(["inspect", str(artifact), "--ir"]) == 0
    assert "int.conv(" in capsys.readouterr().out


def test_passes_are_listed(capsys):
    assert run(["passes"]) == 0
    shown = capsys.readouterr().out
    assert "fold-batch-norm" in shown
    assert "lower-to-integer" in shown


def test_print_pipeline_can_be_given_back(assets, here, capsys):
    assert run([str(assets / "digits_cnn.onnx"), "-O1", "--print-pipeline"]) == 0
    pipeline = capsys.readouterr().out.strip()
    assert "quantize" in pipeline
    assert run([str(assets / "digits_cnn.onnx"), "--passes", pipeline, "--print-pipeline"]) == 0
    assert capsys.readouterr().out.strip() == pipeline
    assert list(here.iterdir()) == []


def test_print_after_goes_to_standard_error(assets, capsys):
    calibrate = ["--calibrate", str(assets / "digits_calibration.npz"), "-q"]
    assert run([str(assets / "digits_cnn.onnx"), *calibrate, "--print-after", "fold-batch-norm"]) == 0
    shown = capsys.readouterr()
    assert "after fold-batch-norm" in shown.err
    assert "batch_normalization(" not in shown.err
    assert shown.out == ""


def test_remarks_say_why_something_did_not_fire(capsys):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 13]> shared (float[N,2] x) => (float[N,2] y, float[N,2] z)
        <float[2,2] w = {1.0, 2.0, 3.0, 4.0}> { z = MatMul(x, w) y = Relu(z) }"""
    )
    onnx.save(model, "shared.onnx")
    assert run(["shared.onnx", "--remarks", "-q"]) == 0
    expected = "remark: fuse-activation: y: its input 'z' is also used by an output of the graph\n"
    assert expected in capsys.readouterr().err


def test_a_missed_goal_exits_with_1_and_saves_the_model(assets, capsys):
    calibrate = ["--calibrate", str(assets / "digits_calibration.npz")]
    assert run([str(assets / "digits_cnn.onnx"), *calibrate, "--min-sqnr", "200"]) == 1
    assert "goal missed: output logits has an SQNR of" in capsys.readouterr().err
    assert Path("digits_cnn.qc").exists()


def test_a_goal_that_cannot_be_checked_is_missed(assets, capsys):
    arguments = ["--calibrate", str(assets / "digits_calibration.npz"), "--max-top1-drop", "1"]
    assert run([str(assets / "digits_cnn.onnx"), *arguments]) == 1
    assert "could not be checked: it takes labels and a single output of class scores" in capsys.readouterr().err


def test_the_name_of_a_subcommand_wins_and_a_path_is_a_file(capsys):
    assert run(["run"]) == 2
    assert "Missing argument 'OUT.qc'" in capsys.readouterr().err
    assert run(["./run"]) == 2
    assert "no such file" in capsys.readouterr().err.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no-such-model.onnx"], "no-such-model.onnx"),
        (["MODEL", "--calibrat", "x.npz"], "--calibrate"),
        (["MODEL", "-O7"], "'7' is not one of"),
        (["MODEL", "--target", "int3"], "int3"),
        (["MODEL", "--passes", "fold-constant"], "fold-constants"),
        (["MODEL", "--passes", "quantize{colour=1}"], "colour"),
        (["MODEL", "--print-after", "quantise"], "quantise"),
        (["MODEL", "--threads", "0"], "threads"),
        (["MODEL", "--dim", "N=zero"], "NAME=SIZE"),
        (["MODEL", "-o", "no/such/directory/out.qc"], "no/such/directory"),
        (["MODEL", "-o", "."], "is a directory"),
        (["MODEL", "--calibrate", "missing.npz"], "missing.npz"),
        (["MODEL", "--calibrate", ""], "is empty"),
        (["MODEL", "--max-top1-drop", "1"], "labels"),
        (["inspect", "MODEL"], "is not a compiled model"),
        (["run", "MODEL", "--input", "x.npz"], "is not a compiled model"),
    ],
)
def test_a_user_fault_is_one_message_and_exit_code_2(assets, here, capsys, arguments, message):
    model = str(assets / "digits_cnn.onnx")
    assert run([model if a == "MODEL" else a for a in arguments]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert list(here.iterdir()) == []


def test_an_old_output_survives_a_failed_compilation(assets):
    Path("digits_cnn.qc").write_bytes(b"old")
    assert run([str(assets / "digits_cnn.onnx"), "--calibrate", "missing.npz"]) == 2
    assert Path("digits_cnn.qc").read_bytes() == b"old"


def test_an_unexpected_error_leaves_a_report_and_exits_with_70(assets, here, capsys, monkeypatch):
    import qcompiler.compiler

    def fail(*_arguments, **_options):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(qcompiler.compiler, "import_model", fail)
    monkeypatch.setenv("TMPDIR", str(here))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert run([str(assets / "digits_cnn.onnx")]) == 70
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: a fault of ours" in shown
    (report,) = here.glob("qcompile-report-*.txt")
    assert str(report) in shown
    assert "Traceback" in report.read_text()


def test_interrupt_exits_with_130_and_leaves_nothing(assets, here):
    slow = here / "slow.py"
    slow.write_text(
        "import sys, time, numpy\n"
        "def samples():\n"
        "    print('reading', file=sys.stderr, flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.01)\n"
        "        yield {'image': numpy.zeros((1, 1, 8, 8), numpy.float32)}\n"
    )
    # A background job of a shell without job control ignores Ctrl-C, and so would this process below it.
    listening = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"import runpy, signal; {listening}; runpy.run_module('qcompiler', run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(assets / "digits_cnn.onnx"), "--calibrate", f"{slow}:samples"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert process.stderr is not None
    assert "reading" in process.stderr.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    try:
        _, rest = process.communicate(timeout=60)
    finally:
        process.kill()
    # Python ends itself by the signal, 130 to a shell, if it met source that `exec` runs.
    assert process.returncode in (130, -signal.SIGINT)
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert [p.name for p in here.iterdir() if p.suffix != ".py" and p.name != "__pycache__"] == []


def test_help_groups_the_options(capsys):
    assert run(["compile", "--help"]) == 0
    shown = capsys.readouterr().out
    headings = ["Data:", "Compilation:", "Goals:", "Output:", "Looking inside:", "Other options:"]
    positions = [shown.index(f"\n{heading}\n") for heading in headings]
    assert positions == sorted(positions)
    assert shown.index("--calibrate ") < positions[1]


def test_a_mistyped_subcommand_is_not_taken_for_a_model(here, capsys):
    assert run(["inspekt", "some.qc"]) == 2
    assert "did you mean 'inspect'?" in capsys.readouterr().err
    (here / "inspekt").write_bytes(b"no model")
    assert run(["inspekt"]) == 2
    assert "not an ONNX model" in capsys.readouterr().err


def test_the_pipeline_of_a_level_needs_no_model(capsys):
    assert run(["-O0", "--print-pipeline"]) == 0
    assert "quantize" in capsys.readouterr().out
    assert run(["-O0"]) == 2
    assert "Missing argument 'MODEL.onnx'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["-o", "model.onnx"],
        ["-o", "./sub/../model.onnx"],
        ["--calibrate", "data.npz", "-o", "data.npz"],
        ["--validate", "data.npz", "-o", "data.npz"],
        ["--summary-json", "model.onnx"],
        ["-o", "out", "--summary-json", "out"],
    ],
)
def test_an_output_never_replaces_an_input_or_another_output(assets, here, capsys, options):
    (here / "sub").mkdir()
    for name, source in (("model.onnx", "digits_cnn.onnx"), ("data.npz", "digits_calibration.npz")):
        Path(name).write_bytes((assets / source).read_bytes())
    assert run(["model.onnx", *options]) == 2
    assert "would replace" in capsys.readouterr().err
    assert Path("model.onnx").read_bytes() == (assets / "digits_cnn.onnx").read_bytes()
    assert Path("data.npz").read_bytes() == (assets / "digits_calibration.npz").read_bytes()
    assert not Path("out").exists()


def test_an_integer_interface_is_explained(assets, capsys):
    import qcompiler

    images = np.load(assets / "digits_test.npz")["image"][:7]
    np.savez("in.npz", image=images)
    model = str(assets / "digits_cnn.onnx")
    calibration = ["--calibrate", str(assets / "digits_calibration.npz"), "-q"]
    assert run([model, *calibration, "-o", "float.qc"]) == 0
    assert run([model, *calibration, "--io", "integer", "-o", "integer.qc"]) == 0
    assert run(["run", "integer.qc", "--input", "in.npz"]) == 2
    message = capsys.readouterr().err
    found = re.search(r"numpy\.rint\(x / numpy\.float32\((.+?)\)\) \+ (\d+), 0, 255\)\.astype\(numpy\.uint8\)", message)
    assert found is not None
    quantized = np.clip(np.rint(images / np.float32(found[1])) + int(found[2]), 0, 255).astype(np.uint8)
    np.savez("quantized.npz", image=quantized)
    assert run(["run", "integer.qc", "--input", "quantized.npz", "--output", "out.npz"]) == 0
    capsys.readouterr()
    assert run(["inspect", "integer.qc"]) == 0
    shown = capsys.readouterr().out
    assert f"real = {float(found[1]):.9g} · (q − {found[2]})" in shown
    assert "10 scales along axis 1: see --json" in shown
    assert run(["inspect", "integer.qc", "--json"]) == 0
    quant = json.loads(capsys.readouterr().out)["interface"]["logits"]
    logits = np.load("out.npz")["logits"]
    real = (logits - np.array(quant["zero_point"])).astype(np.float32) * np.array(quant["scale"], np.float32)
    assert np.array_equal(real, qcompiler.load("float.qc").session().run({"image": images})["logits"])


def test_outputs_are_saved_under_a_name_that_says_what_they_are(assets, artifact, capsys):
    assert run(["run", str(artifact), "--input", str(assets / "digits_test.npz"), "--output", "out.npy"]) == 2
    assert "name it out.npz" in capsys.readouterr().err
    assert not Path("out.npy").exists()


def test_run_never_replaces_its_input(assets, artifact, capsys):
    Path("in.npz").write_bytes((assets / "digits_test.npz").read_bytes())
    assert run(["run", str(artifact), "--input", "in.npz", "--output", "in.npz"]) == 2
    assert "would replace" in capsys.readouterr().err
    assert Path("in.npz").read_bytes() == (assets / "digits_test.npz").read_bytes()


def in_a_process(arguments: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """The command in a process of its own, with a standard output and error of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)} | options.pop("env", {})
    return subprocess.Popen([sys.executable, "-m", "qcompiler", *arguments], env=environment, **options)


def test_a_reader_that_leaves_early_loses_nothing(assets):
    arguments = [str(assets / "digits_cnn.onnx"), "--print-after", "all", "--summary-json", "facts.json"]
    reading, writing = os.pipe()
    with in_a_process(arguments, stdout=writing, stderr=writing) as process:
        os.close(writing)
        assert os.read(reading, 5) == b"# aft"
        os.close(reading)
        assert process.wait(timeout=120) == 0
    assert Path("digits_cnn.qc").exists()
    assert json.loads(Path("facts.json").read_text())["integer_only"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no device that is always full")
def test_a_full_disk_under_standard_output_is_no_fault_of_ours():
    with Path("/dev/full").open("wb") as full:
        process = in_a_process(["passes"], stdout=full, stderr=subprocess.PIPE)
        _, shown = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"No space left on device" in shown
    assert b"report" not in shown


def test_an_encoding_without_our_signs_is_no_obstacle(assets):
    arguments = [str(assets / "digits_cnn.onnx"), "--calibrate", str(assets / "digits_calibration.npz")]
    with in_a_process(arguments, stdout=subprocess.PIPE, env={"PYTHONIOENCODING": "ascii"}) as process:
        shown, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert b"95.8 kB ?" in shown


@pytest.mark.parametrize("wait", [0.0, 0.1, 0.2])
def test_an_interrupt_while_the_command_starts_leaves_no_traceback(wait):
    with in_a_process(["passes"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(0.1 + wait)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=60)
    # Python's own start may be hit as well, in which case the signal ends the process.
    assert process.returncode in (0, 130, -signal.SIGINT)
    if process.returncode != -signal.SIGINT:
        assert b"Traceback" not in shown
