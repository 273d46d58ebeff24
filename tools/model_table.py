"""The table of models: verdict, proofs, exactness in every configuration, accuracy, sizes, time and memory.

    python tools/model_table.py                              the shipped models
    python tools/model_table.py --assets DIR [--peer]        with the models of DIR (default: $QCOMPILER_ASSETS)

Each model is compiled in a process of its own (so that peak memory is its own), then run in one process per
instruction set and JIT target, where every combination of threads and batch sizes must equal the reference bit for
bit. ``--peer`` adds the SQNR of onnxruntime's own QDQ model (`quantize_static`: int8, per channel, MinMax), calibrated
and evaluated on the same samples, with graph optimizations off so that no kernel of its own saturates.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import peers

Array = npt.NDArray[Any]
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Samples:
    """Calibration and test samples of a model by input name; `labels` of the test samples if there are any."""

    calibration: dict[str, Array]
    test: dict[str, Array]
    labels: Array | None
    metric: str


@dataclass(frozen=True)
class Entry:
    """A model of the table: path below the assets (or the repository) and how to make its samples."""

    name: str
    path: str
    samples: Callable[[Path], Samples]
    shipped: bool = False

    def model_path(self, assets: Path) -> Path:
        """Where the model is."""
        return (REPOSITORY if self.shipped else assets) / self.path


def digits(_assets: Path) -> Samples:
    """The shipped digits: calibration images and the labelled test images."""
    folder = REPOSITORY / "tests" / "assets"
    with (
        np.load(folder / "digits_calibration.npz") as calibration,
        np.load(folder / "digits_test.npz") as test,
    ):
        inputs = [name for name in test.files if name != "labels"]
        return Samples({n: calibration[n] for n in inputs}, {n: test[n] for n in inputs}, test["labels"], "top-1")


def fashion_mnist(assets: Path) -> Samples:
    """1,000 training images for calibration, 5,000 labelled test images."""

    def prepare(images: Array) -> Array:
        return ((images.astype(np.float32)[:, None] / 255 - 0.2860) / 0.3530).astype(np.float32)

    with np.load(assets / "data" / "fmnist_dev.npz") as data:
        return Samples({"input": prepare(data["x_calib"])}, {"input": prepare(data["x_test"])}, data["y_test"], "top-1")


def photos(size: tuple[int, int], normalize: Callable[[Array], Array]) -> Callable[[Path], Samples]:
    """64 photograph crops resized to (height, width): the first 48 calibrate, the last 16 test."""

    def make(assets: Path) -> Samples:
        with np.load(assets / "data" / "photos_crops224.npz") as data:
            crops = data[data.files[0]].astype(np.float32)
        images = normalize(resize(crops, *size)).transpose(0, 3, 1, 2)
        images = np.ascontiguousarray(images, np.float32)
        return Samples({"input": images[:48]}, {"input": images[48:]}, None, "SQNR")

    return make


def synthetic(shape: tuple[int, ...], mean: float, deviation: float) -> Callable[[Path], Samples]:
    """Smooth seeded noise (a running mean along the first feature axis), 128 calibration and 64 test samples."""

    def make(_assets: Path) -> Samples:
        rng = np.random.default_rng(0)
        white = rng.normal(size=(192, *shape))
        axis = white.ndim - 1 if white.ndim == 2 else 2
        smooth = (white + np.roll(white, 1, axis) + np.roll(white, 2, axis)) / np.sqrt(3)
        values = (mean + deviation * smooth).astype(np.float32)
        return Samples({"input": values[:128]}, {"input": values[128:]}, None, "SQNR")

    return make


def resize(images: Array, height: int, width: int) -> Array:
    """Bilinear resize of [n, h, w, c], pixel centres aligned (half-pixel)."""

    def axis_weights(size: int, wanted: int) -> tuple[Array, Array, Array]:
        position = np.clip((np.arange(wanted) + 0.5) * size / wanted - 0.5, 0, size - 1)
        low = np.floor(position).astype(int)
        return low, np.minimum(low + 1, size - 1), (position - low).astype(np.float32)

    top, bottom, wy = axis_weights(images.shape[1], height)
    left, right, wx = axis_weights(images.shape[2], width)
    rows = images[:, top] * (1 - wy)[:, None, None] + images[:, bottom] * wy[:, None, None]
    result: Array = rows[:, :, left] * (1 - wx)[:, None] + rows[:, :, right] * wx[:, None]
    return result


MODELS = [
    Entry("digits_cnn", "tests/assets/digits_cnn.onnx", digits, shipped=True),
    Entry("digits_dsnet", "tests/assets/digits_dsnet.onnx", digits, shipped=True),
    Entry("fm_lenet", "models/fm_lenet.onnx", fashion_mnist),
    Entry("fm_resnet", "models/fm_resnet.onnx", fashion_mnist),
    Entry("fm_dsnet", "models/fm_dsnet.onnx", fashion_mnist),
    Entry(
        "mobilenetv1_0.25_128",
        "models/mobilenetv1_0.25_128_qat_deq.onnx",
        photos((128, 128), lambda x: x / 127.5 - 1),
    ),
    Entry("mobilenetv2_1.0", "models/mobilenetv2_1.0_tf2_deq.onnx", photos((224, 224), lambda x: x / 127.5 - 1)),
    Entry("resnet8_cifar10", "models/resnet8_cifar10.onnx", photos((32, 32), lambda x: x)),
    Entry("kws_dscnn", "models/kws_dscnn.onnx", synthetic((1, 49, 10), 0.0, 10.0)),
    Entry("vww96", "models/vww96.onnx", photos((96, 96), lambda x: x / 255)),
    Entry("ad01", "models/ad01.onnx", synthetic((640,), -25.0, 12.0)),
    Entry("ultraface_slim-320", "models/ultraface_slim-320.onnx", photos((240, 320), lambda x: (x - 127) / 128)),
    Entry(
        "orig_version-slim-320",
        "models/orig_version-slim-320.onnx",
        photos((240, 320), lambda x: (x - 127) / 128),
    ),
    Entry("espcn_x3_128", "models/espcn_x3_128.onnx", photos((128, 128), lambda x: x / 255)),
]

JIT_TARGETS = {"generic": "generic", "haswell": "avx2", "cascadelake": "vnni512"}
"""CPU names that LLVM generates for, with the instruction set that the machine needs to run them."""
THREADS = (1, 2, 3)
BATCHES = (1, 2, 7)


# ---- in a process of its own --------------------------------------------------------------------------------


def compile_model(entry: Entry, assets: Path, artifact: Path) -> dict[str, Any]:
    """Compile one model and say what came of it."""
    import qcompiler

    samples = entry.samples(assets)
    validation = samples.test if samples.labels is None else samples.test | {"labels": samples.labels}
    started = time.perf_counter()
    model = qcompiler.compile(entry.model_path(assets), calibration=[samples.calibration], validation=[validation])
    seconds = time.perf_counter() - started
    model.save(artifact)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    summary = dict(model.summary) | {"compile_seconds": seconds, "peak_bytes": peak, "metric": samples.metric}
    summary["weight_share"] = weight_share(entry.model_path(assets))
    return summary


def weight_share(model: Path) -> float:
    """Bytes of the initializers as a share of the file."""
    import onnx

    proto = onnx.load(str(model))
    size: int = sum(onnx.numpy_helper.to_array(t).nbytes for t in proto.graph.initializer)
    return size / int(proto.ByteSize())


def make_reference(entry: Entry, assets: Path, artifact: Path, path: Path) -> None:
    """Save inputs and reference outputs of every batch size."""
    import qcompiler

    graph = qcompiler.load(artifact).graph
    test = entry.samples(assets).test
    arrays: dict[str, Array] = {}
    for batch in batch_sizes(graph):
        feeds = {name: array[:batch] for name, array in test.items()}
        arrays |= {f"in/{batch}/{n}": a for n, a in feeds.items()}
        arrays |= {f"out/{batch}/{n}": a for n, a in qcompiler.reference.run(graph, feeds).items()}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes the names for options


def batch_sizes(graph: Any) -> tuple[int, ...]:  # noqa: ANN401  # a qcompiler graph, imported only in the workers
    """The batch sizes that a model admits."""
    return BATCHES if all(isinstance(v.type.shape[0], str) for v in graph.inputs) else (1,)


def check_bits(artifact: Path, path: Path) -> dict[str, Any]:
    """Run under the instruction set of this process; says which combinations differ from the reference."""
    import qcompiler

    differing = []
    model = qcompiler.load(artifact)
    with np.load(path) as arrays:
        for threads in THREADS:
            session = model.session(threads)
            for batch in batch_sizes(model.graph):
                names = [n for n in arrays.files if n.startswith(f"in/{batch}/")]
                got = session.run({n.split("/", 2)[2]: arrays[n] for n in names})
                if not all(np.array_equal(a, arrays[f"out/{batch}/{n}"]) for n, a in got.items()):
                    differing.append(f"{threads} threads, batch {batch}")
    return {"differing": differing}


def measure_peer(entry: Entry, assets: Path) -> dict[str, Any]:
    """SQNR and top-1 of onnxruntime's QDQ model on the same samples."""
    from qcompiler.metrics import SignalToNoise

    model = entry.model_path(assets)
    samples = entry.samples(assets)
    with tempfile.TemporaryDirectory() as folder:
        quantized = Path(folder, "qdq.onnx")
        peers.quantize_with_onnxruntime(model, samples.calibration, quantized)
        integer = peers.onnxruntime_runner(quantized, 1, optimize=False)
        exact = peers.onnxruntime_runner(model, 1)
        noise: list[SignalToNoise] = []
        correct = 0
        for i in range(len(next(iter(samples.test.values())))):
            feeds = {n: a[i : i + 1] for n, a in samples.test.items()}
            expected, got = exact(feeds), integer(feeds)
            noise = noise or [SignalToNoise() for _ in expected]
            for sums, a, b in zip(noise, expected, got, strict=True):
                sums.add(a, b)
            if samples.labels is not None:
                correct += int(np.argmax(got[0]) == samples.labels[i])
        total = None if samples.labels is None else len(samples.labels)
        return {
            "sqnr_db": [sums.decibels for sums in noise],
            "top1": None if total is None else correct / total,
            "bytes": quantized.stat().st_size,
        }


# ---- the table ----------------------------------------------------------------------------------------------


class WorkerError(Exception):
    """A task failed in its own process."""


def worker(task: str, entry: Entry, assets: Path, *paths: Path, **environment: str) -> dict[str, Any]:
    """Run one task in a process of its own.

    Raises:
        WorkerError: the task failed; the message holds what it printed.
    """
    command = [
        sys.executable,
        __file__,
        "--worker",
        task,
        entry.name,
        "--assets",
        str(assets),
        *map(str, paths),
    ]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("QCOMPILER_ISA", "NUMBA_CPU_"))}
    done = subprocess.run(command, env=environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WorkerError(f"{task} {entry.name} {environment or ''} failed:\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def run_worker(task: str, entry: Entry, assets: Path, paths: list[Path]) -> dict[str, Any]:
    """The worker's side of `worker`."""
    match task:
        case "compile":
            return compile_model(entry, assets, paths[0])
        case "reference":
            make_reference(entry, assets, paths[0], paths[1])
            return {}
        case "bits":
            return check_bits(paths[0], paths[1])
        case _:
            return measure_peer(entry, assets)


def configurations() -> Iterator[tuple[str, dict[str, str]]]:
    """Name and environment of every instruction set and JIT target that this machine can run."""
    from qcompiler.runtime import isa

    for name in isa.available():
        yield name, {"QCOMPILER_ISA": name}
    for cpu, needed in JIT_TARGETS.items():
        if needed in isa.available():
            yield f"cpu={cpu}", {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""}


def row(entry: Entry, assets: Path, folder: Path, *, peer: bool) -> dict[str, Any]:
    """All facts about one model."""
    artifact, reference = folder / f"{entry.name}.qc", folder / f"{entry.name}.npz"
    facts = worker("compile", entry, assets, artifact)
    worker("reference", entry, assets, artifact, reference)
    facts["configurations"] = {
        name: worker("bits", entry, assets, artifact, reference, **environment)["differing"]
        for name, environment in configurations()
    }
    if peer:
        try:
            facts["peer"] = worker("peer", entry, assets)
        except WorkerError as error:  # a model that the peer cannot do is no reason to lose the table
            facts["peer_error"] = str(error).strip().splitlines()[-1]
    return facts


def cells(name: str, facts: dict[str, Any]) -> list[str]:
    """One line of the table."""
    ratio = facts["model_bytes"] / facts["artifact_bytes"]
    wrong = {c: d for c, d in facts["configurations"].items() if d}
    if facts["top1_float"] is not None:
        quality = f"{100 * facts['top1_float']:.2f} → {100 * facts['top1_int']:.2f} %"
    else:
        quality = ", ".join(f"{v:.1f} dB" for v in facts["sqnr_db"].values())
    peer = facts.get("peer")
    theirs = (
        "fails" if "peer_error" in facts else "-" if peer is None else ", ".join(f"{v:.1f} dB" for v in peer["sqnr_db"])
    )
    ours = ", ".join(f"{v:.1f} dB" for v in facts["sqnr_db"].values())
    if peer and peer["top1"] is not None:
        theirs += f", {100 * peer['top1']:.2f} %"
    return [
        name,
        "yes" if facts["integer_only"] else "NO",
        f"{facts['accumulators_proven']}/{facts['accumulators_total']}",
        f"{len(facts['configurations'])} × equal" if not wrong else f"DIFFERS {wrong}",
        quality,
        ours,
        theirs,
        f"{facts['model_bytes'] / 1000:.0f} → {facts['artifact_bytes'] / 1000:.0f} kB ({ratio:.2f}×)",
        f"{facts['compile_seconds']:.1f}",
        f"{facts['peak_bytes'] / 1e6:.0f} MB",
        f"{facts['arena_bytes'] / max(1, facts['arena_lower_bound_bytes']):.3f}",
    ]


HEADINGS = [
    "model", "integer-only", "proven", "bits", "float → int8", "SQNR", "onnxruntime QDQ", "size", "compile s",
    "peak memory", "arena / bound",
]  # fmt: skip


def main() -> None:
    """Make the table, or do one worker's task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=Path, default=Path(os.environ.get("QCOMPILER_ASSETS", "no-assets")))
    parser.add_argument("--models", help="comma-separated names; default: all there are")
    parser.add_argument("--peer", action="store_true", help="measure onnxruntime's QDQ model too")
    parser.add_argument("--json", type=Path, help="save all facts")
    parser.add_argument("--worker", nargs=2, metavar=("TASK", "MODEL"), help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    by_name = {entry.name: entry for entry in MODELS}
    if options.worker:
        task, name = options.worker
        print(json.dumps(run_worker(task, by_name[name], options.assets, options.paths)))
        return
    wanted = options.models.split(",") if options.models else list(by_name)
    if unknown := sorted(set(wanted) - set(by_name)):
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(by_name)}")
    table: dict[str, Any] = {}
    print("| " + " | ".join(HEADINGS) + " |\n|" + "---|" * len(HEADINGS), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in wanted:
            path = by_name[name].model_path(options.assets)
            if not path.exists():
                continue
            try:
                table[name] = row(by_name[name], options.assets, Path(folder), peer=options.peer)
            except WorkerError as error:
                sys.exit(str(error))
            print("| " + " | ".join(cells(name, table[name])) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
