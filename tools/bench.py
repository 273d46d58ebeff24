"""Speed, start-up, memory and compilation time against other runtimes, on one machine in one run.

    python tools/bench.py MODEL.onnx --calibrate DATA [--threads 1,2] [--batch 1,8] [--peers onnxruntime,openvino]
                          [--samples 64] [--rounds 20] [--starts 3] [--per-node] [--json F]

Every runtime gets its own int8 model, made from the same samples: onnxruntime by `quantize_static` (MinMax, per
channel) with signed and with unsigned activations, OpenVINO from these QDQ models and by NNCF where it is installed.
The best variant of a runtime counts. They run next to their fp32 models and our own f32 on the interpreter.

- Latency: all in one process, in alternating blocks of at least 20 inferences or 50 ms, the first inference of a block
  discarded; between blocks it waits until no thread computes. Minimum and median over all blocks, and each one's time
  over ours: above 1 we are faster. Then the operations a second of our convolutions and fully connected layers, as a
  share of what the cores in use can do (tools/ceiling.py, measured in the same run).
- Start-up and memory: each in fresh processes, in turn, the median of several after a first that is not counted. From
  the start of the process to the first result, and of that the imports, loading the model (ours: artifact, packing,
  kernels from the cache), and the first inference. Resident memory after the imports and at its peak.
- Quantizing: the time to make an int8 file, without and with the process and its imports, each in a fresh process,
  the second of two times; ours compares the result with the float model, too. No kernels are compiled then.

Peers keep their defaults, so on a machine with AMX they may use it. QCOMPILER_ISA (or NUMBA_CPU_NAME with
NUMBA_CPU_FEATURES='') restricts our kernels, ONEDNN_MAX_CPU_ISA=AVX2 or AVX512_CORE_VNNI those of OpenVINO, which then
computes float layers in f32 and not in bf16; onnxruntime has no such switch. The header prints which are set. Run it
three times before quoting.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import bench_process
import ceiling
import numpy as np
import peers
from bench_instructions import Ceilings, batch_factor, instruction_rows, multiply_adds, show_instructions
from bench_tables import show_latency, show_machine, show_quantizing, show_starts
from contenders import Contender, Timed, best_of_families, has_nncf, time_alternately

import qcompiler
from qcompiler.calibration.data import open_source
from qcompiler.errors import QCompilerError
from qcompiler.importer import import_model
from qcompiler.ir import Graph, Stage
from qcompiler.ir.qir_file import save_qir
from qcompiler.pass_manager import PassManager
from qcompiler.pipeline import pipeline_for
from qcompiler.runtime import isa
from qcompiler.runtime.reference import bind_feeds
from qcompiler.version import __version__

PEERS = ("onnxruntime", "openvino")
RESTRICTIONS = ("QCOMPILER_ISA", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "ONEDNN_MAX_CPU_ISA", "OMP_NUM_THREADS")
Facts = dict[str, Any]
Feeds = Mapping[str, peers.Array]


def machine_facts() -> Facts:
    """Processor, versions, and which instructions are allowed."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    versions = {"qcompiler": __version__}
    for package in ("numpy", "numba", *PEERS, "nncf"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "processor": found.get("model name", platform.processor()),
        "processors": os.cpu_count(),
        "amx": "amx_int8" in found.get("flags", "").split(),
        "isa": isa.current(),
        "openvino_settings": peers.openvino_precision(),
        "restrictions": {name: os.environ[name] for name in RESTRICTIONS if name in os.environ},
        "versions": versions,
    }


def take_samples(data: str, graph: Graph, most: int) -> tuple[dict[str, peers.Array], bool]:
    """The first samples, one after another along the first axis, and whether the model takes several at once."""
    source = open_source(data, graph)
    batches = []
    for batch in source.batches(most):
        batches.append(batch.feeds)
        if batch.first + batch.size >= most:
            break
    return {name: np.concatenate([feeds[name] for feeds in batches]) for name in batches[0]}, source.is_batched


def save_float_graph(model: Path, path: Path) -> None:
    """Write the float graph as calibration runs it: cleaned up and fused, before observers go in."""
    graph = import_model(model)
    passes = []
    for each in pipeline_for("int8", 2):
        if each.result_stage not in (None, Stage.FLOAT):
            break
        passes.append(each)
    PassManager(passes).run(graph)
    save_qir(graph, path)


def quantize_all(options: argparse.Namespace, folder: Path) -> tuple[list[Contender], dict[str, Facts]]:
    """An int8 model from each runtime, ours first, and the float models; with what each quantizer took.

    A peer that cannot do the model is left out, and the table says so.
    """
    wanted = [Contender("qcompiler int8", "qcompiler", folder / "ours.qc")]
    tools = {"qcompiler": folder / "ours.qc"}
    if options.reduce_range:
        tools["qcompiler (reduced range)"] = reduced = folder / "reduced.qc"
        wanted.append(Contender("qcompiler reduced range", "qcompiler", reduced))
    if options.peers:
        tools |= {f"onnxruntime ({kind})": folder / f"{kind}.onnx" for kind in ("s8", "u8")}
    if "onnxruntime" in options.peers:
        wanted += [Contender(f"onnxruntime int8 ({k})", "onnxruntime", folder / f"{k}.onnx") for k in ("s8", "u8")]
    if "openvino" in options.peers:
        wanted += [Contender(f"openvino int8 (qdq {k})", "openvino", folder / f"{k}.onnx") for k in ("s8", "u8")]
        if has_nncf():
            tools["nncf"] = folder / "nncf.xml"
            wanted.append(Contender("openvino int8 (nncf)", "openvino", folder / "nncf.xml"))
    wanted.append(Contender("qcompiler f32", "qcompiler-float", folder / "float.qir"))
    wanted += [Contender(f"{name} fp32", name, options.model) for name in options.peers]
    save_float_graph(options.model, folder / "float.qir")
    took: dict[str, Facts] = {}
    for tool, output in tools.items():
        took[tool] = _quantize(tool, options.model, folder / "samples.npz", output)
    return [c for c in wanted if c.model.exists()], took


def _quantize(tool: str, model: Path, samples: Path, output: Path) -> Facts:
    """Of the second of two times; the first fills the caches of files, byte code and kernels."""
    try:
        bench_process.quantize(tool, model, samples, output)
        figures = bench_process.quantize(tool, model, samples, output)
    except bench_process.WorkerError as error:
        if tool == "qcompiler":
            sys.exit(str(error))
        return {"error": str(error)}
    return figures


def start_all(contenders: list[Contender], threads: int, feeds: Path, starts: int) -> dict[str, Facts]:
    """Medians of several starts of each contender, in turn; the first fills the caches of files and kernels."""
    figures: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, Facts] = {}
    for start in range(starts + 1):
        for contender in contenders:
            if contender.name in failed:
                continue
            try:
                found = bench_process.start_contender(contender, threads, feeds)
            except bench_process.WorkerError as error:
                failed[contender.name] = {"error": str(error)}
                continue
            if start:
                figures.setdefault(contender.name, []).append(found)
    return {
        name: {part: statistics.median(each[part] for each in found) for part in found[0]}
        for name, found in figures.items()
        if name not in failed
    } | failed


def measure(contenders: list[Contender], feeds: Feeds, threads: int, rounds: int) -> Facts:
    """Latency of all in this process, and our ratio to the best variant of each family."""
    entries = [Timed(each.name, each.load(threads, feeds)) for each in contenders]
    figures = time_alternately(entries, feeds, rounds)
    return {"contenders": figures, "against": best_of_families(contenders, figures)}


def parse_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line, with lists in place of comma-separated options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", required=True, metavar="DATA")
    parser.add_argument("--threads", default="1", help="comma-separated; start-up is measured with the first")
    parser.add_argument("--batch", default="1", help="comma-separated; ignored where the model fixes it")
    parser.add_argument("--peers", default="onnxruntime", help="comma-separated, of onnxruntime and openvino, or ''")
    parser.add_argument("--samples", type=int, default=64, help="most samples to quantize with (default: 64)")
    parser.add_argument("--rounds", type=int, default=20, help="blocks of each contender (default: 20)")
    parser.add_argument("--starts", type=int, default=3, help="processes of each contender (default: 3; 0: none)")
    parser.add_argument("--reduce-range", action="store_true", help="time ours with a reduced range of weights too")
    parser.add_argument("--per-node", action="store_true", help="time each instruction")
    parser.add_argument("--json", type=Path, help="save the figures")
    options = parser.parse_args(arguments)
    options.peers = [name for name in options.peers.split(",") if name]
    if unknown := sorted(set(options.peers) - set(PEERS)):
        parser.error(f"there is no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    for name in ("threads", "batch"):
        try:
            setattr(options, name, [int(part) for part in getattr(options, name).split(",")])
        except ValueError:
            parser.error(f"--{name} takes integers, separated by commas")
    if min(*options.threads, *options.batch, options.samples, options.rounds) < 1 or options.starts < 0:
        parser.error("--threads, --batch, --samples and --rounds must be positive, --starts at least 0")
    return options


def run(options: argparse.Namespace, folder: Path) -> Facts:
    """Measure everything, print it as it comes, return it."""
    facts: Facts = {"model": options.model.name, "machine": machine_facts()}
    show_machine(facts["machine"])
    samples, is_batched = take_samples(options.calibrate, import_model(options.model), options.samples)
    np.savez(folder / "samples.npz", **samples)  # type: ignore[arg-type]  # the stub takes the names for options
    batches = options.batch if is_batched else [1]
    if (most := len(next(iter(samples.values())))) < max(batches):
        sys.exit(f"there are {most} samples, too few for a batch of {max(batches)}")
    contenders, facts["quantize"] = quantize_all(options, folder)
    compiled = qcompiler.load(folder / "ours.qc")
    facts["integer_only"] = compiled.summary["integer_only"]
    facts["samples"] = most
    print(f"integer-only: {facts['integer_only']}")
    show_quantizing(facts["quantize"], most)

    threads, one = options.threads[0], feeds_of(compiled.graph, samples, batches[0])
    np.savez(folder / "feeds.npz", **one)  # type: ignore[arg-type]
    placement = compiled.session(1).plan_for(bind_feeds(compiled.graph, one)).placement
    facts["arena"] = {"arena_bytes": placement.peak_bytes, "arena_lower_bound_bytes": placement.lower_bound_bytes}
    facts["start"] = start_all(contenders, threads, folder / "feeds.npz", options.starts)
    show_starts(facts["start"], threads, facts["arena"])
    contenders = [c for c in contenders if "error" not in facts["start"].get(c.name, {})]
    if contenders[0].runtime != "qcompiler":
        sys.exit("our own model does not run: there is nothing to compare")

    facts["ceiling_gops"] = {str(count): ceiling.measure(threads=count) for count in {1, *options.threads}}
    facts["copy_gbps"] = ceiling.measure_copy()
    facts["latency"], facts["instructions"] = {}, {}
    for batch in batches:
        feeds = feeds_of(compiled.graph, samples, batch)
        operations = 2 * batch_factor(compiled.graph, feeds) * sum(map(multiply_adds, compiled.graph.nodes()))
        for count in options.threads:
            title = f"{options.model.stem}, batch {batch}, {count} threads"
            found = measure(contenders, feeds, count, options.rounds)
            # Measured again: another process may have had a core the first time.
            best = max(facts["ceiling_gops"][str(count)], ceiling.measure(threads=count))
            facts["ceiling_gops"][str(count)] = best
            found["gops"] = operations / found["contenders"]["qcompiler int8"]["min_ms"] / 1e6
            found |= {"batch": batch, "threads": count, "ceiling_gops": best, "ceiling_share": found["gops"] / best}
            facts["latency"][title] = found
            show_latency(title, found)
            if best < 0.9 * count * facts["ceiling_gops"]["1"]:
                print(f"{count} threads did not have {count} cores to themselves: this run says little about them")
        if options.per_node:
            rows = instruction_rows(compiled, feeds, Ceilings(facts["ceiling_gops"]["1"], facts["copy_gbps"]))
            facts["instructions"][str(batch)] = [row.facts() for row in rows]
            print(f"\n{options.model.stem}, batch {batch}, 1 thread")
            show_instructions(rows)
    return facts


def feeds_of(graph: Graph, samples: Feeds, batch: int) -> dict[str, peers.Array]:
    """The first `batch` samples; where the model fixes the first dimension, as many rows as it wants."""
    fixed = {value.name: value.type.shape[0] for value in graph.inputs}
    return {
        name: np.ascontiguousarray(array[: rows if isinstance(rows := fixed[name], int) else batch])
        for name, array in samples.items()
    }


def main() -> None:
    """Measure, save."""
    options = parse_options()
    with tempfile.TemporaryDirectory() as name:
        try:
            facts = run(options, Path(name))
        except QCompilerError as error:
            sys.exit(f"error: {error}")
    if options.json:
        options.json.write_text(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
