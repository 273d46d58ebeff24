"""Tasks of `tools/bench.py` that want a process of their own, so that peak memory and start-up are one contender's.

As a script it does one task and prints its figures as one line of JSON; the functions below start it.
"""

import sys
import time

_BEGUN = time.monotonic()

import argparse  # noqa: E402  # the time until here is the interpreter's own
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable  # noqa: E402
from functools import cache, partial  # noqa: E402
from itertools import dropwhile  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import peers  # noqa: E402
from contenders import Contender  # noqa: E402

RUNS_FOR_PEAK = 5
"""Inferences after the first, before the peak is read."""


class WorkerError(Exception):
    """A task failed in its own process; the message is that of its exception, which may have several lines."""


def start_contender(contender: Contender, threads: int, feeds: Path) -> dict[str, float]:
    """Milliseconds from the start of a process to the first result, in parts; MB after the imports and at the peak."""
    return _in_own_process("start", contender.name, contender.runtime, contender.model, feeds, "--threads", threads)


def quantize(tool: str, model: Path, samples: Path, output: Path) -> dict[str, float]:
    """Seconds and peak MB of making an int8 model with one of `QUANTIZERS`.

    `seconds` are without, `process_seconds` with the start of the process, its imports and reading the samples.
    """
    return _in_own_process("quantize", tool, tool, model, samples, "--output", output)


def _in_own_process(*arguments: object) -> dict[str, float]:
    command = [sys.executable, __file__, *map(str, arguments), "--spawned", str(time.monotonic())]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        last = done.stderr.rpartition("Traceback (most recent call last):\n")[2].splitlines()
        message = "\n".join(dropwhile(lambda line: line.startswith(" "), last))
        raise WorkerError(message or f"exit code {done.returncode}")  # a crash leaves no traceback
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


@cache
def _environment() -> dict[str, str]:
    """This process's environment, but with byte code kept: parsing its modules is no part of a runtime's start."""
    variables = dict(os.environ)
    if variables.pop("PYTHONDONTWRITEBYTECODE", None):
        _folders.append(tempfile.TemporaryDirectory())
        variables["PYTHONPYCACHEPREFIX"] = _folders[0].name
    return variables


_folders: list[tempfile.TemporaryDirectory[str]] = []  # each lasts as long as this process


def memory_mb(field: str) -> float:
    """Resident memory of this process: `VmHWM` the most there was, `VmRSS` what there is now."""
    status = Path("/proc/self/status")
    if status.exists():
        (kilobytes,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith(field))
        return int(kilobytes) * 1024 / 1e6
    # Only the most there was; and where the parent was larger when it started this process, the parent's.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


# ---- in the process of its own ------------------------------------------------------------------------------


def run_start(contender: Contender, threads: int, feeds: dict[str, peers.Array], spawned: float) -> dict[str, float]:
    """Load and run, with the clock read between the parts."""
    imported = time.monotonic()
    contender.import_modules()
    loading, imported_mb = time.monotonic(), memory_mb("VmRSS")
    run = contender.load(threads, feeds)
    loaded = time.monotonic()
    run(feeds)
    done = time.monotonic()
    for _ in range(RUNS_FOR_PEAK):
        run(feeds)
    seconds = {
        "interpreter": _BEGUN - spawned,
        "inputs": imported - _BEGUN,
        "import": loading - imported,
        "load": loaded - loading,
        "first": done - loaded,
        "total": done - spawned,
    }
    figures = {f"{part}_ms": value * 1e3 for part, value in seconds.items()}
    return figures | {"imported_mb": imported_mb, "peak_mb": memory_mb("VmHWM")}


def run_quantize(
    tool: str, model: Path, samples: dict[str, peers.Array], output: Path, spawned: float
) -> dict[str, float]:
    """Make an int8 model and save it; loading the model afterwards does not count, the imports are told apart."""
    quantizer, import_modules = QUANTIZERS[tool]
    import_modules()
    started = time.monotonic()
    kernels = quantizer(model, samples, output)
    done = time.monotonic()
    seconds = {"seconds": done - started, "process_seconds": done - spawned}
    return seconds | {"kernels_compiled": kernels, "peak_mb": memory_mb("VmHWM")}


def compile_ours(model: Path, samples: dict[str, peers.Array], output: Path, *, reduce_range: bool = False) -> int:
    """Compile, compare with the float model, save; returns how many kernels had to be compiled first."""
    import qcompiler
    from qcompiler.compiler import Hooks

    kernels = 0

    def progress(what: str, _done: int, _total: int) -> None:
        nonlocal kernels
        kernels += what.startswith("preparing kernels")

    hooks = Hooks(progress=progress)
    qcompiler.compile(model, calibration=[samples], reduce_range=reduce_range, hooks=hooks).save(output)
    return kernels


def quantize_with_onnxruntime(model: Path, samples: dict[str, peers.Array], output: Path, *, unsigned: bool) -> int:
    """Onnxruntime's QDQ model; compiles no kernels of ours."""
    peers.quantize_with_onnxruntime(model, samples, output, unsigned_activations=unsigned)
    return 0


def quantize_with_nncf(model: Path, samples: dict[str, peers.Array], output: Path) -> int:
    """OpenVINO's int8 model by NNCF; compiles no kernels of ours."""
    peers.quantize_with_nncf(model, samples, output)
    return 0


def _import_ours() -> None:
    """All that compiling needs: the peers' packages import theirs at once, ours most of it when it is first needed."""
    for module in ("qcompiler.compiler", "qcompiler.runtime.lowering", "qcompiler.runtime.walk_loops"):
        importlib.import_module(module)
    importlib.import_module("qcompiler.pass_manager").load_passes()


def _import_onnxruntime() -> None:
    importlib.import_module("onnxruntime.quantization")


def _import_nncf() -> None:
    importlib.import_module("openvino")
    importlib.import_module("nncf")


Quantizer = Callable[[Path, dict[str, peers.Array], Path], int]
QUANTIZERS: dict[str, tuple[Quantizer, Callable[[], None]]] = {
    "qcompiler": (compile_ours, _import_ours),
    "qcompiler (reduced range)": (partial(compile_ours, reduce_range=True), _import_ours),
    "onnxruntime (s8)": (partial(quantize_with_onnxruntime, unsigned=False), _import_onnxruntime),
    "onnxruntime (u8)": (partial(quantize_with_onnxruntime, unsigned=True), _import_onnxruntime),
    "nncf": (quantize_with_nncf, _import_nncf),
}


def main() -> None:
    """Do the task that the parent asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["start", "quantize"])
    parser.add_argument("name")
    parser.add_argument("runtime")
    parser.add_argument("model", type=Path)
    parser.add_argument("arrays", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--spawned", type=float, default=_BEGUN)
    options = parser.parse_args()
    with np.load(options.arrays) as data:
        arrays = {name: data[name] for name in data.files}
    if options.task == "start":
        contender = Contender(options.name, options.runtime, options.model)
        figures = run_start(contender, options.threads, arrays, options.spawned)
    else:
        figures = run_quantize(options.runtime, options.model, arrays, options.output, options.spawned)
    print(f"\n{json.dumps(figures)}")


if __name__ == "__main__":
    main()
