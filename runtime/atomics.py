"""Numba intrinsics below the language: atomic words, a spin hint, a clock, a call through an address.

Addresses are int64 and name 8-byte aligned signed 64-bit words. Everything that depends on the processor or
the operating system's C library is in this file, each with a fall-back; the rest of the run time is portable.
"""
# ruff: noqa: ARG001 - an intrinsic's arguments are matched by name, and all of them are int64 here

import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

Value = Any
"""An LLVM value."""
Context = Any
"""Numba's target or typing context."""
Type = Any
"""The Numba type of an argument."""
Codegen = Callable[[Context, ir.IRBuilder, Any, list[Value]], Value]
Rule = tuple[Any, Codegen]
"""What an intrinsic returns: its signature and what emits it."""

I32 = ir.IntType(32)
I64 = ir.IntType(64)


def _word(builder: ir.IRBuilder, address: Value) -> Value:
    return builder.inttoptr(address, I64.as_pointer())


def _external(builder: ir.IRBuilder, name: str, function: ir.FunctionType) -> Value:
    """A function of the C library, declared once in the module."""
    return builder.module.globals.get(name) or ir.Function(builder.module, function, name)


def _load(ordering: str) -> Codegen:
    def codegen(_context: Context, builder: ir.IRBuilder, _signature: object, args: list[Value]) -> Value:
        return builder.load_atomic(_word(builder, args[0]), ordering, 8)

    return codegen


def _store(ordering: str) -> Codegen:
    def codegen(context: Context, builder: ir.IRBuilder, _signature: object, args: list[Value]) -> Value:
        builder.store_atomic(args[1], _word(builder, args[0]), ordering, 8)
        return context.get_dummy_value()

    return codegen


def _add(ordering: str) -> Codegen:
    def codegen(_context: Context, builder: ir.IRBuilder, _signature: object, args: list[Value]) -> Value:
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], ordering)

    return codegen


@intrinsic
def load_acquire(_typing: Context, address: Type) -> Rule:
    """The word; everything that its writer did before a release is visible afterwards."""
    return types.int64(types.int64), _load("acquire")


@intrinsic
def load_relaxed(_typing: Context, address: Type) -> Rule:
    """The word, with no ordering."""
    return types.int64(types.int64), _load("monotonic")


@intrinsic
def store_release(_typing: Context, address: Type, value: Type) -> Rule:
    """Publish: whoever reads `value` with acquire sees all that this thread did before."""
    return types.void(types.int64, types.int64), _store("release")


@intrinsic
def store_relaxed(_typing: Context, address: Type, value: Type) -> Rule:
    """Set the word, with no ordering."""
    return types.void(types.int64, types.int64), _store("monotonic")


@intrinsic
def add_release(_typing: Context, address: Type, value: Type) -> Rule:
    """Add and publish as `store_release` does; returns the former value."""
    return types.int64(types.int64, types.int64), _add("release")


@intrinsic
def add_relaxed(_typing: Context, address: Type, value: Type) -> Rule:
    """Add, with no ordering; returns the former value."""
    return types.int64(types.int64, types.int64), _add("monotonic")


@intrinsic
def claim_relaxed(_typing: Context, address: Type, expected: Type, new: Type) -> Rule:
    """Compare and swap, with no ordering: whether this thread took the word from `expected` to `new`."""

    def codegen(_context: Context, builder: ir.IRBuilder, _signature: object, args: list[Value]) -> Value:
        pair = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "monotonic", "monotonic")
        return builder.extract_value(pair, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def load_word(_typing: Context, address: Type) -> Rule:
    """The word, by a plain load: for tables that nobody writes meanwhile."""

    def codegen(_context: Context, builder: ir.IRBuilder, _signature: object, args: list[Value]) -> Value:
        return builder.load(_word(builder, args[0]))

    return types.int64(types.int64), codegen


@intrinsic
def call_kernel(_typing: Context, kernel: Type, operands: Type, share: Type, shares: Type) -> Rule:
    """Call the kernel, void(int64, int64, int64), at the address `kernel`."""

    def codegen(context: Context, builder: ir.IRBuilder, _signature: object, args: list[Value]) -> Value:
        function = ir.FunctionType(ir.VoidType(), [I64] * 3)
        builder.call(builder.inttoptr(args[0], function.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def spin_hint(_typing: Context) -> Rule:
    """Tell the core that this is a spin loop: `pause` on x86, `yield` on Arm, elsewhere nothing."""

    def codegen(context: Context, builder: ir.IRBuilder, _signature: object, _args: list[Value]) -> Value:
        machine = llvmlite.binding.get_process_triple().split("-")[0]
        if machine in {"x86_64", "i686", "i386"}:
            function = ir.FunctionType(ir.VoidType(), [])
            builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), function), [])
        elif machine in {"aarch64", "arm64"}:
            function = ir.FunctionType(ir.VoidType(), [I32])
            builder.call(builder.module.declare_intrinsic("llvm.aarch64.hint", (), function), [I32(1)])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def now(_typing: Context) -> Rule:
    """Nanoseconds of POSIX's monotonic clock: `time.clock_gettime_ns(time.CLOCK_MONOTONIC)`.

    A cycle counter would be cheaper than the 25 ns of this, but it has another rate on each machine, is not
    readable by programs on Arm, and jumps when a virtual machine moves.
    """

    def codegen(_context: Context, builder: ir.IRBuilder, _signature: object, _args: list[Value]) -> Value:
        with builder.goto_entry_block():
            timespec = builder.alloca(ir.LiteralStructType([I64, I64]))  # seconds, nanoseconds
        gettime = _external(builder, "clock_gettime", ir.FunctionType(I32, [I32, timespec.type]))
        builder.call(gettime, [I32(time.CLOCK_MONOTONIC), timespec])
        seconds, nanoseconds = (builder.load(builder.gep(timespec, [I32(0), I32(i)])) for i in (0, 1))
        return builder.add(builder.mul(seconds, I64(10**9)), nanoseconds)

    return types.int64(), codegen


@intrinsic
def current_cpu(_typing: Context) -> Rule:
    """Number of the processor that this thread runs on, or -1 where the C library cannot say (macOS)."""

    def codegen(_context: Context, builder: ir.IRBuilder, _signature: object, _args: list[Value]) -> Value:
        if llvmlite.binding.address_of_symbol("sched_getcpu") is None:
            return I64(-1)
        getcpu = _external(builder, "sched_getcpu", ir.FunctionType(I32, []))
        return builder.sext(builder.call(getcpu, []), I64)

    return types.int64(), codegen


sched_yield = types.ExternalFunction("sched_yield", types.int32())
"""POSIX: let another thread that is ready have this core."""
