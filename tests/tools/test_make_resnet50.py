"""tools/make_resnet50.py writes the network of the paper, with sane activations, from a seed."""

import importlib
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest

import qcompiler

TOOLS = Path(__file__).parents[2] / "tools"
SMALL = ("--width", "8", "--size", "64", "--images", "4")


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    return importlib.import_module("make_resnet50")


def make(folder: Path, *options: str) -> tuple[Path, Path]:
    model, calibration = folder / "resnet50.onnx", folder / "resnet50.npz"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(TOOLS / "make_resnet50.py"), str(model), "--calibration", str(calibration)]
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return model, calibration


def test_it_is_resnet50(tool: ModuleType):
    rng = np.random.default_rng(0)
    model, logits = tool.resnet50(tool.smooth_images(rng, 2, 32), rng)
    # He et al. 2015 have 25,557,032 weights; to each of 26,560 channels BatchNormalization adds mean and variance.
    assert sum(np.prod(t.dims, dtype=int) for t in model.graph.initializer) == 25_557_032 + 2 * 26_560
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 53,
        "BatchNormalization": 53,
        "Relu": 49,
        "Add": 16,
        "MaxPool": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    assert logits.shape == (2, 1000)


def test_the_files_follow_from_the_seed(tmp_path: Path):
    files = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).mkdir()
        files.append([path.read_bytes() for path in make(tmp_path / name, *SMALL, "--seed", seed)])
    assert files[0] == files[1]
    assert files[0][0] != files[2][0]
    assert files[0][1] != files[2][1]


def test_its_own_arithmetic_is_onnx_s(tool: ModuleType):
    rng = np.random.default_rng(3)
    images = tool.smooth_images(rng, 2, 64)
    model, logits = tool.resnet50(images, rng, 8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"image": images})
    assert np.allclose(logits, expected, rtol=1e-3, atol=1e-3)
    assert 0.05 < expected.std() < 20


def test_it_compiles_to_integers_and_keeps_its_batch_dynamic(tmp_path: Path):
    model, calibration = make(tmp_path, *SMALL)
    (value,) = onnx.load(str(model)).graph.input
    assert [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] == ["N", 3, 64, 64]
    with np.load(calibration) as data:
        assert data["image"].shape == (4, 3, 64, 64)
        compiled = qcompiler.compile(model, calibration=data["image"])
        assert compiled.summary["integer_only"]
        assert compiled.session(1).run({"image": data["image"][:3]})["logits"].shape == (3, 1000)


def test_what_explodes_or_vanishes_is_refused(tool: ModuleType):
    for scale in (1e-3, 1e3, np.inf):
        values = (scale * np.array([[-1.0, 1.0]])).astype(np.float32)
        with pytest.raises(ValueError, match=r"layer has a standard deviation of"), np.errstate(invalid="ignore"):
            tool.check_sane(tool.Tensor("layer", values))
