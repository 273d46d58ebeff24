"""Matrix units: registers that hold tiles, and one instruction that multiplies two of them.

A tile has 16 rows of 64 bytes. `dot` adds to a tile of s32[16 pixels, 16 channels] the product of a tile of
u8[16 pixels, 64 activations] and one of s8[16, 16 channels, 4]: row k of the latter has the weights of activations
4k to 4k + 3, as they lie in memory for the vectors' dot product too. Sums are modulo 2^32: AMX does not saturate
(Intel SDM, TDPBUSD).

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
    splat,
    stack_bytes,
    store,
    vector,
)

ROWS = 16
ROW_BYTES = 64
TILE_BYTES = ROWS * ROW_BYTES
_REGISTERS = 8


class MatrixUnit(Protocol):
    """Emits what a matrix unit does. Registers are numbers below 8, addresses and strides i64."""

    def begin(self, builder: ir.IRBuilder) -> None:
        """Before the first use in a kernel."""

    def end(self, builder: ir.IRBuilder) -> None:
        """After the last: the registers then cost nothing when the operating system switches threads."""

    def load(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Fill a register with 16 rows that are `stride` bytes apart."""

    def store(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Store 16 rows, `stride` bytes apart."""

    def dot(self, builder: ir.IRBuilder, sums: int, activations: int, weights: int) -> None:
        """Add to the register `sums` the product of the other two."""


class Amx:
    """Intel AMX-INT8."""

    def begin(self, builder: ir.IRBuilder) -> None:
        """Configure all registers as whole tiles; palette 1, see LDTILECFG in the Intel SDM."""
        content = bytearray(64)
        content[0] = 1
        for register in range(_REGISTERS):
            content[16 + 2 * register] = ROW_BYTES
            content[48 + register] = ROWS
        at = stack_bytes(builder, len(content), "tile_configuration")
        store(builder, ir.Constant(vector(I8, len(content)), list(content)), at)
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
    """The same in plain IR."""

    def begin(self, builder: ir.IRBuilder) -> None:
        """Nothing."""

    def end(self, builder: ir.IRBuilder) -> None:
        """Nothing."""

    def load(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Copy rows to the register's memory."""
        target = self._register(builder, register)
        self._copy(builder, target, constant(ROW_BYTES), address, stride)

    def store(self, builder: ir.IRBuilder, register: int, address: ir.Value, stride: ir.Value) -> None:
        """Copy rows from the register's memory."""
        source = self._register(builder, register)
        self._copy(builder, address, stride, source, constant(ROW_BYTES))

    def dot(self, builder: ir.IRBuilder, sums: int, activations: int, weights: int) -> None:
        """Row by row, four activations by one row of weights at a time."""
        sums_at, activations_at, weights_at = (self._register(builder, r) for r in (sums, activations, weights))
        weights_kind = vector(I8, ROW_BYTES)

        def add_fours(start: ir.Value) -> None:
            target = builder.add(sums_at, start)

            def add_four(k: ir.Value) -> None:
                acc = load(builder, target, vector(I32, ROW_BYTES // 4), 4)
                four = load(builder, builder.add(activations_at, builder.add(start, k)), I32, 4)
                row_of_weights = builder.add(weights_at, builder.mul(k, constant(ROW_BYTES // 4)))
                operands = builder.bitcast(splat(builder, four, acc.type), weights_kind)
                acc = plain_dot(builder, acc, operands, load(builder, row_of_weights, weights_kind, 4))
                store(builder, acc, target)

            emit_loop(builder, constant(ROW_BYTES), 4, add_four)

        emit_loop(builder, constant(TILE_BYTES), ROW_BYTES, add_fours)

    @staticmethod
    def _register(builder: ir.IRBuilder, register: int) -> ir.Value:
        return stack_bytes(builder, TILE_BYTES, f"tile_register_{register}")

    @staticmethod
    def _copy(
        builder: ir.IRBuilder, target: ir.Value, target_stride: ir.Value, source: ir.Value, source_stride: ir.Value
    ) -> None:
        def copy_row(m: ir.Value) -> None:
            content = load(builder, builder.add(source, builder.mul(m, source_stride)), vector(I8, ROW_BYTES), 1)
            store(builder, content, builder.add(target, builder.mul(m, target_stride)))

        emit_loop(builder, constant(ROWS), 1, copy_row)
