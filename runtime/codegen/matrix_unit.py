"""Matrix units: registers that hold matrices, and one instruction that multiplies two of them.

`dot` adds to s32[rows, 16 channels] the product of u8[rows, bytes] and s8[bytes / 4, 16 channels, 4]: row k of the
latter has the weights of activations 4k to 4k + 3, as they lie in memory for the vectors' dot product too. A row is
a pixel; `rows` is at most 16, and `bytes`, the activations of one step, at most 64. Sums are modulo 2^32: AMX does
not saturate (Intel SDM, TDPBUSD).

The emulation keeps the tiles in memory and works in plain IR: whatever CPU runs the tests executes the tile around
it bit for bit.
"""

from typing import Protocol

from llvmlite import ir

from qcompiler.runtime.codegen.dot_products import plain_dot
from qcompiler.runtime.codegen.vectors import (
    I8,
    I32,
    I64,
    call,
    constant,
    emit_loop,
    load,
    offset,
    splat,
    splat_constant,
    stack_bytes,
    store,
    vector,
)

ROWS = 16
ROW_BYTES = 64
REGISTER_BYTES = ROWS * ROW_BYTES

SUMS, ACTIVATIONS, WEIGHTS = range(4), range(4, 6), range(6, 8)
"""What each register holds."""


class MatrixUnit(Protocol):
    """Emits what a matrix unit does. Addresses, strides and sizes are i64."""

    def begin(self, builder: ir.IRBuilder, rows: ir.Value, row_bytes: ir.Value) -> None:
        """Before the first use in a kernel: what the registers of activations are to hold."""

    def end(self, builder: ir.IRBuilder) -> None:
        """After the last: the registers then cost nothing when the operating system switches threads."""

    def load(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Fill a register with rows that are `stride` bytes apart."""

    def store(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Store a register of sums, its rows `stride` bytes apart."""

    def dot(self, builder: ir.IRBuilder, sums: int, activations: int, weights: int) -> None:
        """Add to the register `sums` the product of the other two."""


class Amx:
    """Intel AMX-INT8."""

    def begin(self, builder: ir.IRBuilder, rows: ir.Value, row_bytes: ir.Value) -> None:
        """Write palette 1 and each register's bytes of a row and rows; see LDTILECFG in the Intel SDM."""
        at = stack_bytes(builder, 64, "configuration")
        store(builder, splat_constant(vector(I8, 64), 0), at)
        store(builder, ir.Constant(I8, 1), at)
        groups = builder.lshr(row_bytes, constant(2))
        for registers, width, height in (
            (SUMS, constant(ROW_BYTES), rows),
            (ACTIVATIONS, row_bytes, rows),
            (WEIGHTS, constant(ROW_BYTES), groups),
        ):
            for register in registers:
                store(builder, builder.trunc(width, I8), offset(builder, at, 16 + 2 * register))
                store(builder, builder.trunc(height, I8), offset(builder, at, 48 + register))
        call(builder, "llvm.x86.ldtilecfg", ir.VoidType(), builder.inttoptr(at, I8.as_pointer()))

    def end(self, builder: ir.IRBuilder) -> None:
        """Release the registers."""
        call(builder, "llvm.x86.tilerelease", ir.VoidType())

    def load(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """`tileloadd`."""
        self._move(builder, "llvm.x86.tileloadd64", register, address, stride)

    def store(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """`tilestored`."""
        self._move(builder, "llvm.x86.tilestored64", register, address, stride)

    def dot(self, builder: ir.IRBuilder, sums: int, activations: int, weights: int) -> None:
        """`tdpbusd`: u8 by s8."""
        registers = [ir.Constant(I8, register) for register in (sums, activations, weights)]
        call(builder, "llvm.x86.tdpbusd", ir.VoidType(), *registers)

    @staticmethod
    def _move(builder: ir.IRBuilder, name: str, register: int, address: ir.Value, stride: ir.Value) -> None:
        pointer = builder.inttoptr(address, I8.as_pointer())
        call(builder, name, ir.VoidType(), ir.Constant(I8, register), pointer, stride)


class EmulatedMatrixUnit:
    """The same in plain IR, on registers in memory."""

    def begin(self, builder: ir.IRBuilder, rows: ir.Value, row_bytes: ir.Value) -> None:
        """Note the sizes."""
        store(builder, rows, self._size(builder, "rows"), align=8)
        store(builder, row_bytes, self._size(builder, "bytes"), align=8)

    def end(self, builder: ir.IRBuilder) -> None:
        """Nothing."""

    def load(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Copy rows to the register's memory."""
        rows, row_bytes = (load(builder, self._size(builder, name), I64, 8) for name in ("rows", "bytes"))
        if register in WEIGHTS:
            rows = builder.lshr(row_bytes, constant(2))
        if register not in ACTIVATIONS:
            row_bytes = constant(ROW_BYTES)
        self._copy(builder, rows, row_bytes, self._register(builder, register), constant(ROW_BYTES), address, stride)

    def store(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Copy rows from the register's memory."""
        rows, row_bytes = load(builder, self._size(builder, "rows"), I64, 8), constant(ROW_BYTES)
        self._copy(builder, rows, row_bytes, address, stride, self._register(builder, register), constant(ROW_BYTES))

    def dot(self, builder: ir.IRBuilder, sums: int, activations: int, weights: int) -> None:
        """Row by row, four activations by one row of weights at a time."""
        sums_at, activations_at, weights_at = (self._register(builder, r) for r in (sums, activations, weights))
        rows, row_bytes = (load(builder, self._size(builder, name), I64, 8) for name in ("rows", "bytes"))
        weights_kind = vector(I8, ROW_BYTES)

        def add_row(start: ir.Value) -> None:
            target = builder.add(sums_at, start)

            def add_four(k: ir.Value) -> None:
                acc = load(builder, target, vector(I32, ROW_BYTES // 4), 4)
                four = load(builder, builder.add(activations_at, builder.add(start, k)), I32, 4)
                row_of_weights = builder.add(weights_at, builder.mul(k, constant(ROW_BYTES // 4)))
                operands = builder.bitcast(splat(builder, four, acc.type), weights_kind)
                acc = plain_dot(builder, acc, operands, load(builder, row_of_weights, weights_kind, 4))
                store(builder, acc, target)

            emit_loop(builder, row_bytes, 4, add_four)

        emit_loop(builder, builder.mul(rows, constant(ROW_BYTES)), ROW_BYTES, add_row)

    @staticmethod
    def _size(builder: ir.IRBuilder, name: str) -> ir.Value:
        return stack_bytes(builder, 8, f"register_{name}")

    @staticmethod
    def _register(builder: ir.IRBuilder, register: int) -> ir.Value:
        return stack_bytes(builder, REGISTER_BYTES, f"register_{register}")

    @staticmethod
    def _copy(
        builder: ir.IRBuilder,
        rows: ir.Value,
        row_bytes: ir.Value,
        target: ir.Value,
        target_stride: ir.Value,
        source: ir.Value,
        source_stride: ir.Value,
    ) -> None:
        def copy_row(m: ir.Value) -> None:
            row_target = builder.add(target, builder.mul(m, target_stride))
            row_source = builder.add(source, builder.mul(m, source_stride))

            def copy_four(at: ir.Value) -> None:
                store(builder, load(builder, builder.add(row_source, at), I32, 1), builder.add(row_target, at))

            emit_loop(builder, row_bytes, 4, copy_four)

        emit_loop(builder, rows, 1, copy_row)
