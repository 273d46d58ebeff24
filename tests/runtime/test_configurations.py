"""Whole models give the reference's bits under every instruction set, JIT target, thread count and batch size.

Each configuration runs in a process of its own, because the JIT's target is fixed when it first compiles.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import qcompiler
from qcompiler.runtime import isa
from tests.runtime.processes import Done, started_ahead

THREADS = (1, 2, 3)
BATCHES = (1, 2, 7)
MODELS = ("digits_cnn", "digits_dsnet", "digits_cnn reduced")
"""With and without a reduced range of weights, for the dot products that need one."""

SCRIPT = """
import json, sys
import numpy as np
import qcompiler
from qcompiler.runtime import isa

folder, models, threads, batches = json.loads(sys.argv[1])
wrong = []
for name in models:
    data = np.load(f"{folder}/{name}.npz")
    artifact = open(f"{folder}/{name}.qc", "rb").read()
    for count in threads:
        session = qcompiler.InferenceSession(artifact, threads=count)
        for batch in batches:
            (got,) = session.run(None, {"image": data["images"][:batch]})
            if not np.array_equal(got, data[f"logits{batch}"]):
                wrong.append((name, count, batch))
print(json.dumps({"isa": isa.current(), "cpu": isa.target().cpu, "wrong": wrong}))
"""

CONFIGURATIONS = {
    **{name: {"QCOMPILER_ISA": name} for name in isa.REQUIREMENTS},
    **{
        f"cpu={cpu}": {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""} for cpu in ("generic", "haswell", "cascadelake")
    },
}
BEST_ISA = {"cpu=generic": "generic", "cpu=haswell": "avx2", "cpu=cascadelake": "vnni512"}
"""The instruction set that a JIT target has, and this machine needs for it."""


@pytest.fixture(scope="module")
def models(assets, calibration_images, heldout_images, tmp_path_factory):
    """A folder with each shipped model compiled, inputs, and the reference's outputs for each batch size."""
    folder = tmp_path_factory.mktemp("models")
    images = heldout_images[: max(BATCHES)]
    for name in MODELS:
        source, *options = name.split()
        onnx = assets / f"{source}.onnx"
        model = qcompiler.compile(onnx, calibration=calibration_images, reduce_range="reduced" in options)
        model.save(folder / f"{name}.qc")
        expected = {
            f"logits{batch}": qcompiler.reference.run(model.graph, {"image": images[:batch]})["logits"]
            for batch in BATCHES
        }
        np.savez(folder / f"{name}.npz", images=images, **expected)  # type: ignore[arg-type]  # the stub takes the names for options
    return folder


@pytest.fixture(scope="module")
def run_configuration(request: pytest.FixtureRequest, models: Path):
    """Runs `SCRIPT` in a configuration."""

    def start(configuration: str) -> Done:
        environment = {k: v for k, v in os.environ.items() if k not in ("QCOMPILER_ISA", "NUMBA_CPU_NAME")}
        environment |= CONFIGURATIONS[configuration] | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        command = [sys.executable, "-c", SCRIPT, json.dumps([str(models), MODELS, THREADS, BATCHES])]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    with started_ahead(request, start) as run:
        yield run


def _needs(configuration: str) -> str:
    return BEST_ISA.get(configuration, configuration)


@pytest.mark.parametrize(
    "configuration",
    [
        pytest.param(name, marks=[] if _needs(name) in isa.available() else pytest.mark.skip(f"no {_needs(name)} here"))
        for name in CONFIGURATIONS
    ],
)
def test_every_configuration_equals_the_reference(run_configuration, configuration):
    needed = _needs(configuration)
    done = run_configuration(configuration)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["isa"] == needed
    assert result["cpu"] == configuration.removeprefix("cpu=") or configuration == needed
    assert result["wrong"] == []
