"""Broken models, wrong data and damaged artifacts, as a user meets them: one message, exit code 2, nothing lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompiler.cli.main import run

Arrays = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def save_model(path: Path, nodes: list[onnx.NodeProto], constants: Arrays, opset: int = 17) -> None:
    """A model from `x` f32[N, 2, 4, 4] to `y`."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "H", "W"])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def conv(weight_channels: int = 2, **attributes: Any) -> tuple[list[onnx.NodeProto], Arrays]:
    weight = np.random.default_rng(0).normal(size=(3, weight_channels, 3, 3)).astype(np.float32)
    return [helper.make_node("Conv", ["x", "w"], ["y"], name="conv_1", **attributes)], {"w": weight}


def broken_models() -> dict[str, tuple[Callable[[Path, Path], object], list[str]]]:
    """What is written to the model's path, given a good model, and what the message must say."""

    def truncated(path: Path, good: Path) -> None:
        path.write_bytes(good.read_bytes()[:-100])

    def unsupported_ops(path: Path, _good: Path) -> None:
        nodes = [
            helper.make_node("NonZero", ["x"], ["a"], name="first"),
            helper.make_node("Det", ["x"], ["b"], name="second"),
            helper.make_node("Relu", ["x"], ["y"], name="third"),
        ]
        save_model(path, nodes, {})

    def contradictory(path: Path, _good: Path) -> None:
        nodes, constants = conv(weight_channels=5)
        save_model(path, nodes, constants)

    def strings(path: Path, _good: Path) -> None:
        graph = helper.make_graph(
            [helper.make_node("StringNormalizer", ["x"], ["y"], name="strings")],
            "test",
            [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
            [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
        )
        path.write_bytes(helper.make_model(graph, ir_version=8).SerializeToString())

    def missing_attribute(path: Path, _good: Path) -> None:
        save_model(path, [helper.make_node("Concat", ["x", "x"], ["y"], name="joined")], {})

    def old_opset(path: Path, _good: Path) -> None:
        nodes, constants = conv()
        save_model(path, nodes, constants, opset=5)

    return {
        "missing": (lambda _path, _good: None, ["model.onnx"]),
        "empty": (lambda path, _good: path.write_bytes(b""), ["model.onnx"]),
        "text": (lambda path, _good: path.write_text("hello, this is no model"), ["model.onnx"]),
        "directory": (lambda path, _good: path.mkdir(), ["model.onnx"]),
        "truncated": (truncated, ["model.onnx"]),
        "unsupported ops": (unsupported_ops, ["NonZero", "first", "Det", "second", "17"]),
        "contradictory shapes": (contradictory, ["conv_1"]),
        "strings": (strings, ["string"]),
        "checker": (missing_attribute, ["joined", "axis"]),
        "old opset": (old_opset, ["5", "7"]),
    }


@pytest.mark.parametrize("case", broken_models())
def test_a_broken_model_is_refused(assets, capsys, case):
    make, words = broken_models()[case]
    make(Path("model.onnx"), assets / "digits_cnn.onnx")
    assert run(["model.onnx", "-o", "out.qc"]) == 2
    shown = capsys.readouterr()
    for word in words:
        assert word.lower() in shown.err.lower()
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert not Path("out.qc").exists()


IMAGES = np.random.default_rng(0).normal(size=(8, 1, 8, 8)).astype(np.float32)


def with_nan(value: float) -> np.ndarray:
    images = IMAGES.copy()
    images[5, 0, 2, 2] = value
    return images


BAD_DATA: dict[str, tuple[Arrays, list[str]]] = {
    "wrong name": ({"picture": IMAGES, "other": IMAGES}, ["picture", "'image'"]),
    "wrong shape": ({"image": IMAGES[:, :, :, :7]}, ["[8,1,8,7]", "image"]),
    "wrong rank": ({"image": IMAGES[:, 0]}, ["[8,8,8]", "image"]),
    "wrong dtype": ({"image": IMAGES.astype(np.uint8)}, ["uint8", "float32"]),
    "empty": ({"image": IMAGES[:0]}, ["empty", "image"]),
    "NaN": ({"image": with_nan(np.nan)}, ["sample 5", "image"]),
    "Inf": ({"image": with_nan(np.inf)}, ["sample 5", "image"]),
    "labels of the wrong length": ({"image": IMAGES, "labels": np.zeros(7, np.int64)}, ["labels", "7", "8"]),
    "labels of no class": ({"image": IMAGES, "labels": np.arange(3, 11)}, ["labels", "10", "'logits'", "0 to 9"]),
    "labels below the classes": ({"image": IMAGES, "labels": np.arange(-1, 7)}, ["labels", "-1", "0 to 9"]),
    "labels of the wrong dtype": ({"image": IMAGES, "labels": np.zeros(8)}, ["labels", "float64"]),
}


@pytest.mark.parametrize("option", ["--calibrate", "--validate"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_wrong_data_is_refused(assets, capsys, case, option):
    arrays, words = BAD_DATA[case]
    np.savez("data.npz", **arrays)  # type: ignore[arg-type]  # the stub takes the names for options
    assert run([str(assets / "digits_cnn.onnx"), option, "data.npz"]) == 2
    shown = capsys.readouterr()
    for word in ["data.npz", *words]:
        assert word in shown.err
    assert "Traceback" not in shown.err
    assert not Path("digits_cnn.qc").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [("data.npz", b"no zip"), ("data.npy", b"no array"), ("data.txt", b"text"), ("data.py", b"def samples(:")],
)
def test_data_that_cannot_be_read_is_refused(assets, capsys, name, content):
    Path(name).write_bytes(content)
    source = f"{name}:samples" if name.endswith(".py") else name
    assert run([str(assets / "digits_cnn.onnx"), "--calibrate", source]) == 2
    shown = capsys.readouterr().err
    assert name in shown
    assert "Traceback" not in shown


def test_pickled_data_is_never_loaded(assets, capsys):
    np.save("data.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert run([str(assets / "digits_cnn.onnx"), "--calibrate", "data.npy"]) == 2
    assert "data.npy" in capsys.readouterr().err


def compile_with_weights(weight: np.ndarray, images: np.ndarray) -> int:
    """Compile a convolution and Relu with these weights, calibrated on these images."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv_1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="relu_1"),
        helper.make_node("Conv", ["b", "v"], ["y"], name="conv_2"),
    ]
    rng = np.random.default_rng(1)
    save_model(Path("model.onnx"), nodes, {"w": weight, "v": rng.normal(size=(2, 3, 1, 1)).astype(np.float32)})
    np.savez("data.npz", x=images)
    return run(["model.onnx", "--calibrate", "data.npz", "-q"])


def exact_everywhere(images: np.ndarray) -> bool:
    import qcompiler

    model = qcompiler.load("model.qc")
    expected = qcompiler.reference.run(model.graph, {"x": images})["y"]
    got = model.session().run({"x": images})["y"]
    return bool(np.isfinite(got).all()) and np.array_equal(got, expected)


PIXELS = np.random.default_rng(2).normal(size=(6, 2, 4, 4)).astype(np.float32)
WEIGHT = np.random.default_rng(3).normal(size=(3, 2, 3, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("weight", "images"),
    [
        pytest.param(WEIGHT, np.zeros_like(PIXELS), id="constant input"),
        pytest.param(WEIGHT, np.full_like(PIXELS, -3.5), id="constant non-zero input"),
        pytest.param(WEIGHT * np.array([1, 0, 1], np.float32).reshape(3, 1, 1, 1), PIXELS, id="dead channel"),
        pytest.param(np.zeros_like(WEIGHT), PIXELS, id="all weights zero"),
        pytest.param(WEIGHT * np.array([1, 1e-9, 1], np.float32).reshape(3, 1, 1, 1), PIXELS, id="nearly dead channel"),
        pytest.param(
            WEIGHT * np.array([1, 1e6, 1], np.float32).reshape(3, 1, 1, 1), PIXELS, id="channel a million times larger"
        ),
        pytest.param(WEIGHT, np.where(PIXELS > 2, np.float32(1e6), PIXELS), id="outliers of 1e6"),
        pytest.param(WEIGHT, PIXELS * np.float32(1e-30), id="tiny input"),
        pytest.param(WEIGHT * np.float32(1e-30), PIXELS, id="tiny weights"),
        pytest.param(WEIGHT * np.float32(1e15), PIXELS * np.float32(1e15), id="huge values"),
    ],
)
def test_degenerate_values_still_make_an_exact_integer_program(weight, images):
    assert compile_with_weights(weight, images) == 0
    assert exact_everywhere(images)


@pytest.mark.parametrize("keep", [0, 7, 40, 200, -1])
def test_a_truncated_artifact_is_never_run(assets, capsys, keep):
    assert run([str(assets / "digits_cnn.onnx"), "-q", "-o", "good.qc"]) == 0
    capsys.readouterr()
    Path("bad.qc").write_bytes(Path("good.qc").read_bytes()[:keep])
    np.savez("in.npz", image=IMAGES)
    for arguments in (["inspect", "bad.qc"], ["run", "bad.qc", "--input", "in.npz"]):
        assert run(arguments) == 2
        shown = capsys.readouterr()
        assert "bad.qc" in shown.err
        assert shown.out == ""


def test_a_read_only_directory_is_refused_before_the_work(assets, here, capsys, monkeypatch):
    import os

    folder = here / "locked"
    folder.mkdir()
    monkeypatch.setattr(os, "access", lambda path, _mode, **_options: Path(path) != folder)
    assert run([str(assets / "digits_cnn.onnx"), "-o", str(folder / "out.qc")]) == 2
    assert "locked" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"image": IMAGES[:, :, :7]}, ["image", "[8,1,7,8]"]),
        ({"image": IMAGES.astype(np.float64)}, ["image", "float64"]),
        ({"a": IMAGES, "b": IMAGES}, ["image"]),
    ],
)
def test_run_names_wrong_inputs(assets, capsys, arrays, words):
    assert run([str(assets / "digits_cnn.onnx"), "-q", "-o", "good.qc"]) == 0
    capsys.readouterr()
    np.savez("in.npz", **arrays)
    assert run(["run", "good.qc", "--input", "in.npz"]) == 2
    shown = capsys.readouterr().err
    for word in words:
        assert word in shown
