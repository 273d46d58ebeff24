"""What the interpreter itself costs: a program of many instructions whose kernels do nothing.

    python tools/bench_interpreter.py [--instructions 100] [--threads 2] [--json F]

Each instruction takes the result of the one before. Three cases: one thread; several threads and instructions that are
predicted to take no time, so that nobody is woken, as for any small program; several threads that all walk the
program, because each instruction is predicted to be worth sharing. Microseconds of a whole call from Python, with
binding its input and making its output, over calls in blocks.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from qcompiler.ir.types import DType
from qcompiler.runtime.interpreter import Plan
from qcompiler.runtime.kernels.registry import kernel
from qcompiler.runtime.program import Program
from qcompiler.runtime.program_builder import ProgramBuilder

BYTES = 64
WORTH_SHARING_NS = 10_000.0
"""Predicted time of an instruction from which on some dozens of them are worth waking helpers for."""
BLOCKS, CALLS = 20, 500


@kernel("bench_nothing", words=("x", "out"))
def nothing(_operands: int, _share: int, _shares: int) -> None:
    """The empty kernel."""


def empty_program(instructions: int, cost: float, shares: int) -> Program:
    """`instructions` empty kernels in a chain, on u8[64], each with this predicted cost in nanoseconds."""
    build = ProgramBuilder()
    value = build.input("x", DType.U8, (BYTES,))
    for index in range(instructions):
        out = build.tensor(f"t{index}", DType.U8, (BYTES,))
        build.emit("bench_nothing", {"x": value, "out": out}, writes=("out",), shares=shares, cost=cost)
        value = out
    build.output("y", value)
    return build.finish()


def measure(plan: Plan) -> dict[str, float]:
    """Microseconds of a call; the first of each block does not count, helpers may have parked."""
    x = np.zeros(BYTES, np.uint8)
    seconds: list[float] = []
    for _ in range(BLOCKS):
        plan.run([x])
        for _ in range(CALLS):
            before = time.perf_counter()
            plan.run([x])
            seconds.append(time.perf_counter() - before)
    return {"min_us": min(seconds) * 1e6, "median_us": statistics.median(seconds) * 1e6}


def main() -> None:
    """Measure the three cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="save the figures")
    options = parser.parse_args()
    if options.instructions < 1 or options.threads < 1:
        parser.error("--instructions and --threads must be positive")
    cases = {
        "1 thread": (1, 0.0),
        f"{options.threads} threads, none woken": (options.threads, 0.0),
        f"{options.threads} threads, all walking": (options.threads, WORTH_SHARING_NS),
    }
    found: dict[str, dict[str, float]] = {}
    print(f"{options.instructions} empty instructions\n{'':26} {'min us':>8} {'median us':>10}")
    for name, (threads, cost) in cases.items():
        plan = Plan(empty_program(options.instructions, cost, threads), threads)
        found[name] = measure(plan)
        print(f"{name:26} {found[name]['min_us']:8.1f} {found[name]['median_us']:10.1f}", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"instructions": options.instructions, "cases": found}, indent=2))


if __name__ == "__main__":
    main()
