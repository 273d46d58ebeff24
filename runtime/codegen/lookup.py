"""Table look-up of vectors of bytes: `table[index]` in every lane, from 256 entries of 8 bits.

- AVX512-VBMI: two permutations of 128 entries each (`vpermi2b`), and the top bit chooses.
- AVX2 and AVX512: the low four bits look up in sixteen slices of 16 entries (`vpshufb`), the others choose by halving.
- Any target: one byte after the other, by way of the stack.
"""

from collections.abc import Callable

from llvmlite import ir

from qcompiler.runtime import isa
from qcompiler.runtime.codegen.vectors import (
    I8,
    I16,
    I64,
    call,
    emit_loop,
    load,
    offset,
    shuffle,
    splat_constant,
    stack_bytes,
    store,
    vector,
)

Lookup = Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
"""Of the table's address and <n x i8> indices."""

ENTRIES = 256
_SLICE = 16


def look_up_512(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    """In vectors of 64 bytes."""
    if "avx512vbmi" not in isa.target().features:
        return _shuffled(builder, "llvm.x86.avx512.pshuf.b.512", table, indices)
    quarters = [load(builder, offset(builder, table, i), indices.type, 1) for i in range(0, ENTRIES, 64)]
    low, high = (
        call(builder, "llvm.x86.avx512.vpermi2var.qi.512", indices.type, quarters[i], indices, quarters[i + 1])
        for i in (0, 2)
    )
    negative = builder.icmp_signed("<", indices, splat_constant(indices.type, 0))
    return builder.select(negative, high, low)


def look_up_256(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    """In vectors of 32 bytes."""
    return _shuffled(builder, "llvm.x86.avx2.pshuf.b", table, indices)


def look_up_plainly(builder: ir.IRBuilder, table: ir.Value, indices: ir.Value) -> ir.Value:
    """In vectors of any length."""
    count = indices.type.count
    memory = stack_bytes(builder, count, f"looked_up_{count}")
    store(builder, indices, memory, align=count)

    def replace(at: ir.Value) -> None:
        address = builder.add(memory, at)
        index = builder.zext(load(builder, address, I8, 1), I64)
        store(builder, load(builder, builder.add(table, index), I8, 1), address)

    emit_loop(builder, ir.Constant(I64, count), 1, replace)
    return load(builder, memory, indices.type, count)


def _shuffled(builder: ir.IRBuilder, instruction: str, table: ir.Value, indices: ir.Value) -> ir.Value:
    kind = indices.type
    low_bits = builder.and_(indices, splat_constant(kind, _SLICE - 1))
    found = []
    for start in range(0, ENTRIES, _SLICE):
        entries = load(builder, offset(builder, table, start), vector(I8, _SLICE), 1)
        every_lane = shuffle(builder, entries, entries, [*range(_SLICE)] * (kind.count // _SLICE))
        found.append(call(builder, instruction, kind, every_lane, low_bits))
    words = vector(I16, kind.count // 2)
    for bit in (4, 5, 6, 7):
        # Shifting words moves the wanted bit of each byte to its top: what comes from the neighbour is below.
        moved = builder.shl(builder.bitcast(indices, words), splat_constant(words, 7 - bit))
        chosen = builder.icmp_signed("<", builder.bitcast(moved, kind), splat_constant(kind, 0))
        found = [builder.select(chosen, high, low) for low, high in zip(found[::2], found[1::2], strict=True)]
    return found[0]
