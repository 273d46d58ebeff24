"""The arithmetic ceiling of this machine: dot products per second, no data but a few weights in the first-level cache.

Run as a script it prints the ceiling of the primitive in use (`QCOMPILER_ISA`); `tools/bench.py` states what the
kernels reach as a share of it.
"""

import time

import numba
from llvmlite import ir
from numba import types

from qcompiler.runtime import isa
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


def measure(rounds: int = 10) -> float:
    """Billions of operations (a product and a sum are two) per second of one core: the best of several rounds."""
    with isa.emitting(isa.current()):
        p = emitted_primitive()
        _ = run_steps.compile("int64(int64)")
    seconds = []
    for _ in range(rounds):
        before = time.perf_counter()
        run_steps(STEPS)
        seconds.append(time.perf_counter() - before)
    return 2 * STEPS * ACCUMULATORS * p.lanes * p.group / min(seconds) / 1e9


if __name__ == "__main__":
    print(f"{isa.current()}: {measure():.0f} GOPS")
