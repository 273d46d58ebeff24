"""Speed against other runtimes, as ratios measured in one process.

    python tools/bench.py MODEL.onnx --calibrate DATA [--threads 1,2] [--batch 1,8] [--peers onnxruntime,openvino]
                          [--rounds 20] [--per-node] [--json F]

Every runtime gets its own int8 model, made from the same samples (onnxruntime: `quantize_static` with signed and with
unsigned activations, the faster one counts; OpenVINO: from the signed QDQ model), plus fp32. They run in alternating
blocks of at least 20 inferences or 50 ms, the first inference of a block discarded. The table gives the minimum and
the median over all blocks, and each peer's time over ours: above 1 we are faster. Run it three times before quoting.

Our line ends with the billions of operations a second that the convolutions and fully connected layers take, as a
share of what the machine's cores can do (tools/ceiling.py). ``--per-node`` adds our time of each instruction, one by
one on one thread, with its billions of operations (or bytes moved, where it does no products) a second.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ceiling
import numpy as np
import peers

import qcompiler
from qcompiler.calibration.data import open_source
from qcompiler.importer import import_model
from qcompiler.ir import Node, ops
from qcompiler.ir.types import split_dim
from qcompiler.runtime.reference import bind_feeds

BLOCK_SECONDS = 0.05
BLOCK_RUNS = 20


class Contender:
    """A runtime with its model, and the seconds of each timed inference."""

    def __init__(self, name: str, run: peers.Runner) -> None:
        self.name = name
        self.run = run
        self.seconds: list[float] = []

    def time_block(self, feeds: Mapping[str, peers.Array]) -> None:
        """One block: an untimed inference, then timed ones."""
        self.run(feeds)
        end = time.perf_counter() + BLOCK_SECONDS
        for count in range(10 * BLOCK_RUNS):
            before = time.perf_counter()
            self.run(feeds)
            after = time.perf_counter()
            self.seconds.append(after - before)
            if after > end and (count + 1 >= BLOCK_RUNS or after > end + 10 * BLOCK_SECONDS):
                break

    @property
    def figures(self) -> dict[str, float]:
        """Minimum and median in milliseconds."""
        return {"min_ms": min(self.seconds) * 1e3, "median_ms": statistics.median(self.seconds) * 1e3}


def contenders(
    options: argparse.Namespace,
    compiled: qcompiler.CompiledModel,
    folder: Path,
    feeds: Mapping[str, peers.Array],
    threads: int,
) -> list[Contender]:
    """Ours first, then the peers' int8 and fp32."""
    session = compiled.session(threads)
    entries = [Contender("qcompiler int8", lambda f: list(session.run(dict(f)).values()))]
    wanted = options.peers.split(",") if options.peers else []
    if "onnxruntime" in wanted:
        for kind in ("s8", "u8"):
            path = folder / f"{kind}.onnx"
            entries.append(Contender(f"onnxruntime int8 ({kind})", peers.onnxruntime_runner(path, threads)))
        entries.append(Contender("onnxruntime fp32", peers.onnxruntime_runner(options.model, threads)))
    if "openvino" in wanted:
        entries.append(Contender("openvino int8", peers.openvino_runner(folder / "s8.onnx", threads, feeds)))
        entries.append(Contender("openvino fp32", peers.openvino_runner(options.model, threads, feeds)))
    return entries


def measure(entries: list[Contender], feeds: Mapping[str, peers.Array], rounds: int) -> dict[str, dict[str, float]]:
    """Alternating blocks; figures by contender, with the ratio to the first."""
    for _ in range(rounds):
        for entry in entries:
            entry.time_block(feeds)
    ours = entries[0].figures
    return {
        entry.name: entry.figures
        | {
            "ratio_min": entry.figures["min_ms"] / ours["min_ms"],
            "ratio_median": entry.figures["median_ms"] / ours["median_ms"],
        }
        for entry in entries
    }


def show(title: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Print one table."""
    print(f"\n{title}\n{'':24} {'min ms':>9} {'median ms':>10} {'× min':>7} {'× median':>9}")
    for name, row in figures.items():
        times = f"{row['min_ms']:9.3f} {row['median_ms']:10.3f}"
        print(f"{name:24} {times} {row['ratio_min']:7.2f} {row['ratio_median']:9.2f}")


def show_instructions(compiled: qcompiler.CompiledModel, feeds: Mapping[str, peers.Array]) -> None:
    """Print the instructions, slowest first, with what they achieve."""
    session = compiled.session(1)
    plan = session.plan_for(bind_feeds(compiled.graph, feeds))
    nanoseconds = plan.time_instructions([feeds[value.name] for value in compiled.graph.inputs], rounds=20)
    products = {node.name: multiply_adds(node) for node in compiled.graph.nodes()}
    batch = len(next(iter(feeds.values())))
    print(f"\n{len(nanoseconds)} instructions, {sum(nanoseconds) / 1e3:.1f} us in all")
    rows = sorted(zip(nanoseconds, plan.program.instructions, strict=True), key=lambda row: -row[0])
    for spent, instruction in rows:
        operations = 2 * batch * products.get(instruction.label, 0)
        moved = sum(b.nbytes for b in (*instruction.reads_of.values(), *instruction.writes_of.values()))
        rate = f"{operations / spent:6.1f} GOPS" if operations else f"{moved / spent:6.1f} GB/s"
        print(f"{spent / 1e3:9.1f} us {rate}  {instruction.kernel:20} {instruction.label}")


def multiply_adds(node: Node) -> int:
    """Products that a convolution or fully connected layer sums for one sample."""
    if not isinstance(node.op, ops.IntConv | ops.IntGemm):
        return 0
    per_output = math.prod(int(d) for d in node.operands[1].type.shape[1:])
    return per_output * math.prod(split_dim(d)[0] for d in node.result.type.shape)


def main() -> None:
    """Compile for everyone, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibrate", required=True, metavar="DATA")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--batch", default="1")
    parser.add_argument("--peers", default="onnxruntime")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--per-node", action="store_true", help="time each instruction")
    parser.add_argument("--json", type=Path, help="save the figures")
    options = parser.parse_args()

    started = time.perf_counter()
    compiled = qcompiler.compile(options.model, calibration=options.calibrate)
    print(f"compiled in {time.perf_counter() - started:.1f} s, integer-only: {compiled.summary['integer_only']}")
    samples = next(open_source(options.calibrate, import_model(options.model)).batches(64)).feeds
    ceiling_gops = ceiling.measure()
    print(f"ceiling: {ceiling_gops:.0f} GOPS a core")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.peers:
            for kind in ("s8", "u8"):
                started = time.perf_counter()
                peers.quantize_with_onnxruntime(
                    options.model, samples, folder / f"{kind}.onnx", unsigned_activations=kind == "u8"
                )
                print(f"onnxruntime quantize_static ({kind}) took {time.perf_counter() - started:.1f} s")
        for batch in map(int, options.batch.split(",")):
            feeds = {key: np.ascontiguousarray(array[:batch]) for key, array in samples.items()}
            for threads in map(int, options.threads.split(",")):
                title = f"{options.model.stem}, batch {batch}, {threads} threads"
                entries = contenders(options, compiled, folder, feeds, threads)
                results[title] = measure(entries, feeds, options.rounds)
                show(title, results[title])
                products = 2 * batch * sum(multiply_adds(node) for node in compiled.graph.nodes())
                achieved = products / results[title]["qcompiler int8"]["min_ms"] / 1e6
                print(f"qcompiler: {achieved:.0f} GOPS, {achieved / (ceiling_gops * threads):.0%} of the ceiling")
            if options.per_node:
                show_instructions(compiled, feeds)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
