"""Numba intrinsics below the language: atomic words, a spin hint, a clock, a call through an address.

Addresses are int64 and name 8-byte aligned signed 64-bit words. What depends on the processor or on the C
library of the operating system is in this file, with a fall-back; the rest of the run time is portable.
"""

import time
from typing import Any

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted

I32 = ir.IntType(32)
I64 = ir.IntType(64)


def _word(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    return builder.inttoptr(address, I64.as_pointer())


def _external(builder: ir.IRBuilder, name: str, function: ir.FunctionType) -> ir.Value:
    """A function of the C library, declared once in the module."""
    return builder.module.globals.get(name) or ir.Function(builder.module, function, name)


def _make_load(ordering: str) -> Any:  # noqa: ANN401 - a Numba intrinsic
    @emitted(types.int64, types.int64)
    def load(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
        return builder.load_atomic(_word(builder, address), ordering, 8)

    return load


def _make_store(ordering: str) -> Any:  # noqa: ANN401 - a Numba intrinsic
    @emitted(types.void, types.int64, types.int64)
    def store(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> None:
        builder.store_atomic(value, _word(builder, address), ordering, 8)

    return store


def _make_add(ordering: str) -> Any:  # noqa: ANN401 - a Numba intrinsic
    @emitted(types.int64, types.int64, types.int64)
    def add(builder: ir.IRBuilder, address: ir.Value, value: ir.Value) -> ir.Value:
        return builder.atomic_rmw("add", _word(builder, address), value, ordering)

    return add


# Relaxed: no ordering, LLVM's `monotonic`. A load with acquire that reads what a release wrote makes visible
# all that the writing thread did before. Adding returns the former value.
load_relaxed, load_acquire = _make_load("monotonic"), _make_load("acquire")
store_relaxed, store_release = _make_store("monotonic"), _make_store("release")
add_relaxed, add_release = _make_add("monotonic"), _make_add("release")


@emitted(types.boolean, types.int64, types.int64, types.int64)
def claim_relaxed(builder: ir.IRBuilder, address: ir.Value, expected: ir.Value, new: ir.Value) -> ir.Value:
    """Compare and swap, relaxed: whether this thread took the word from `expected` to `new`."""
    pair = builder.cmpxchg(_word(builder, address), expected, new, "monotonic", "monotonic")
    return builder.extract_value(pair, 1)


@emitted(types.int64, types.int64)
def load_word(builder: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """The word, by a plain load: for tables that nobody writes meanwhile."""
    return builder.load(_word(builder, address))


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def call_kernel(builder: ir.IRBuilder, kernel: ir.Value, operands: ir.Value, share: ir.Value, shares: ir.Value) -> None:
    """Call the kernel, `void (int64, int64, int64)`, at the address `kernel`."""
    function = ir.FunctionType(ir.VoidType(), [I64] * 3)
    builder.call(builder.inttoptr(kernel, function.as_pointer()), [operands, share, shares])


@emitted(types.void)
def spin_hint(builder: ir.IRBuilder) -> None:
    """Tell the core that this is a spin loop: `pause` on x86, `yield` on Arm, elsewhere nothing."""
    from llvmlite import binding

    machine = binding.get_process_triple().split("-")[0]
    if machine in {"x86_64", "i686", "i386"}:
        pause = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), pause), [])
    elif machine in {"aarch64", "arm64"}:
        hint = ir.FunctionType(ir.VoidType(), [I32])
        builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", (), hint), [I32(1)])


@emitted(types.int64)
def now(builder: ir.IRBuilder) -> ir.Value:
    """Nanoseconds of POSIX's monotonic clock: `time.clock_gettime_ns(time.CLOCK_MONOTONIC)`.

    A cycle counter would be cheaper than the 25 ns of this, but it has another rate on each machine, is not
    readable by programs on Arm, and jumps when a virtual machine moves.
    """
    with builder.goto_entry_block():
        timespec = builder.alloca(ir.LiteralStructType([I64, I64]))  # seconds, nanoseconds
    gettime = _external(builder, "clock_gettime", ir.FunctionType(I32, [I32, timespec.type]))
    builder.call(gettime, [I32(time.CLOCK_MONOTONIC), timespec])
    seconds, nanoseconds = (builder.load(builder.gep(timespec, [I32(0), I32(i)])) for i in (0, 1))
    return builder.add(builder.mul(seconds, I64(10**9)), nanoseconds)


@emitted(types.int64)
def current_processor(builder: ir.IRBuilder) -> ir.Value:
    """Number of the processor that this thread runs on, or -1 where the C library cannot say (macOS)."""
    from llvmlite import binding

    if binding.address_of_symbol("sched_getcpu") is None:
        return I64(-1)
    getcpu = _external(builder, "sched_getcpu", ir.FunctionType(I32, []))
    return builder.sext(builder.call(getcpu, []), I64)


@emitted(types.void)
def yield_processor(builder: ir.IRBuilder) -> None:
    """POSIX's sched_yield: let another thread that is ready have this core."""
    builder.call(_external(builder, "sched_yield", ir.FunctionType(I32, [])), [])
