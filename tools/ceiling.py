"""The ceilings of this machine: dot products a second from registers alone, and bytes a second through each cache.

Run as a script it prints those of the primitive in use (`QCOMPILER_ISA`); `tools/bench.py` states what the kernels
reach as a share of them.
"""

import time
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir

from qcompiler.runtime import isa
from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.primitives import emitted_primitive
from qcompiler.runtime.codegen.vectors import I32, I64, branch_back, constant, splat_constant

STEPS = 4_000_000
ACCUMULATORS = 12
"""Enough to hide the latency of one dot product, few enough for 16 registers."""


@emitted(types.int64, types.int64)
def dot_products(builder: ir.IRBuilder, steps: ir.Value) -> ir.Value:
    """`steps` times independent dot products with different weights; the activations change with each step."""
    p = emitted_primitive()
    entry, loop = builder.block, builder.append_basic_block("loop")
    builder.branch(loop)
    builder.position_at_end(loop)
    step, activations = builder.phi(I64), builder.phi(p.operand_type)
    accumulators = [builder.phi(p.s32) for _ in range(ACCUMULATORS)]
    weights = [splat_constant(p.operand_type, 3 + i) for i in range(ACCUMULATORS)]
    sums = [p.dot(builder, acc, activations, w) for acc, w in zip(accumulators, weights, strict=True)]
    changed = builder.add(activations, splat_constant(p.operand_type, 1))
    following = builder.add(step, constant(1))
    step.add_incoming(constant(0), entry)
    activations.add_incoming(splat_constant(p.operand_type, 1), entry)
    for acc in accumulators:
        acc.add_incoming(splat_constant(p.s32, 0), entry)
    done = builder.append_basic_block("done")
    branch_back(builder, builder.icmp_signed("<", following, steps), loop, done)
    for phi, value in zip((step, activations, *accumulators), (following, changed, *sums), strict=True):
        phi.add_incoming(value, loop)
    builder.position_at_end(done)
    total = sums[0]
    for value in sums[1:]:
        total = builder.xor(total, value)
    return builder.sext(builder.extract_element(total, ir.Constant(I32, 0)), I64)


@numba.njit(nogil=True)
def run_steps(steps: int) -> int:
    """`dot_products`, callable from Python."""
    return int(dot_products(steps))


def measure(rounds: int = 40, threads: int = 1) -> float:
    """Billions of operations (a product and a sum are two) a second of all threads: the best of several rounds."""
    with isa.emitting(isa.current()):
        p = emitted_primitive()
        _ = run_steps.compile("int64(int64)")
    seconds = []
    with ThreadPoolExecutor(threads) as executor:
        for _ in range(rounds):
            before = time.perf_counter()
            list(executor.map(run_steps, [STEPS] * threads))
            seconds.append(time.perf_counter() - before)
    return 2 * STEPS * threads * ACCUMULATORS * p.lanes * p.group / min(seconds) / 1e9


COPY_SIZES = tuple(8192 << shift for shift in range(0, 14, 2))
"""Bytes read and written together: from a quarter of a first-level cache to more than most last-level ones."""
COPY_SECONDS = 0.002


@numba.njit(nogil=True)
def copy_repeatedly(source: npt.NDArray[np.int64], target: npt.NDArray[np.int64], times: int) -> None:
    """Read `source` and write `target`, both s64[n]; the sum keeps the compiler from doing it only once."""
    for time_ in range(times):
        for i in range(len(source)):
            target[i] = source[i] + time_


def measure_copy(rounds: int = 5) -> dict[int, float]:
    """Billions of bytes a second (read and written) of one core, by bytes touched: the best of several rounds."""
    found: dict[int, float] = {}
    for size in COPY_SIZES:
        source = np.ones(size // 16, np.int64)
        target = np.ones_like(source)
        copy_repeatedly(source, target, 1)
        before = time.perf_counter()
        copy_repeatedly(source, target, 1)
        times = max(1, int(COPY_SECONDS / (time.perf_counter() - before)))
        seconds = []
        for _ in range(rounds):
            before = time.perf_counter()
            copy_repeatedly(source, target, times)
            seconds.append(time.perf_counter() - before)
        found[size] = size * times / min(seconds) / 1e9
    return found


if __name__ == "__main__":
    print(f"{isa.current()}: {measure():.0f} GOPS a core")
    for size, rate in measure_copy().items():
        print(f"copying {size / 1024:8.0f} KiB: {rate:6.1f} GB/s")
