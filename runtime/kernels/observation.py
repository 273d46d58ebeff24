"""Counting the elements of an observed float32 value.

A counter is an array s64[rows, `ROW`], rows starting at multiples of a cache line, that starts as zeros. Each share
of a call adds to a row of its own:

- words 0 and 1: the largest of 2^31 + key and of 2^31 - 1 - key, the key being the integer that orders float32 numbers
  as their values are ordered (0 where nothing has been counted: the lowest key is that of a NaN);
- from `BINS_AT` on: elements by the upper 16 bits of their bit pattern.

A negative zero counts as zero. NaN and infinities are counted like numbers; their keys are beyond those of all numbers.
"""

from llvmlite import ir
from numba import types

from qcompiler.runtime.codegen.float_tile import prefetch_line
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.kernels.arithmetic import inlined
from qcompiler.runtime.kernels.memory import load_s64, store_s64
from qcompiler.runtime.kernels.registry import kernel

BINS_AT = 8
ROW = BINS_AT + (1 << 16)
CHUNK = 2048
"""Elements whose bins are staged at a time, 16 bits each."""

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))


@emitted(types.int32, types.int64, types.int64)
def load_bits(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    """The bit pattern of a float32, that of 0 for a negative zero."""
    bits = builder.load(_element(builder, base, index, _I32), typ=_I32, align=4)
    return builder.select(builder.icmp_signed("==", bits, _I32(-(1 << 31))), _I32(0), bits)


@emitted(types.int32, types.int32)
def order_key(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The key of a bit pattern: negative numbers are ordered by their complement."""
    return builder.xor(bits, builder.and_(builder.ashr(bits, _I32(31)), _I32((1 << 31) - 1)))


@emitted(types.void, types.int64, types.int64, types.int32)
def store_bin(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, bits: ir.Value) -> None:
    """Store the upper 16 bits of a bit pattern."""
    upper = builder.trunc(builder.lshr(bits, _I32(16)), _I16)
    builder.store(upper, _element(builder, base, index, _I16), align=2)


@emitted(types.void, types.int64, types.int64, types.int64)
def count_bin(builder: ir.IRBuilder, bins: ir.Value, base: ir.Value, index: ir.Value) -> None:
    """Add 1 to the s64 of `bins` that the u16 says."""
    number = builder.zext(builder.load(_element(builder, base, index, _I16), typ=_I16, align=2), _I64)
    place = _element(builder, bins, number, _I64)
    builder.store(builder.add(builder.load(place, typ=_I64, align=8), _I64(1)), place, align=8)


@emitted(types.void, types.int64)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for a cache line that is read soon; the address may lie outside of all memory."""
    prefetch_line(builder, address)


def _element(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, element: ir.Type) -> ir.Value:
    return builder.gep(builder.inttoptr(base, element.as_pointer()), [index], source_etype=element)


@kernel("observe", words=("x", "counts", "scratch", "size"))
def observe(operands: int, share: int, shares: int) -> None:
    """Count x f32[size] in `counts`, a counter of at least `shares` rows; `scratch` has 2 · CHUNK bytes for each."""
    x, size = load_s64(operands, 0), load_s64(operands, 3)
    row = load_s64(operands, 1) + 8 * ROW * share
    stage = load_s64(operands, 2) + 2 * CHUNK * share
    bins = row + 8 * BINS_AT
    chunks = (size + CHUNK - 1) // CHUNK
    for chunk in range(chunks * share // shares, chunks * (share + 1) // shares):
        first = chunk * CHUNK
        count = min(CHUNK, size - first)
        stage_bins(stage, x + 4 * first, count, row)
        i = 0
        zeros = 0
        ahead = x + 4 * (first + count)
        while i + 4 <= count:
            prefetch(ahead + 4 * i)
            if load_s64(stage + 2 * i, 0) == 0:  # activations clamped at 0 have runs of zeros, and counting one
                zeros += 4  # after the other in the same place is slow
            else:
                for j in range(4):
                    count_bin(bins, stage, i + j)
            i += 4
        while i < count:
            count_bin(bins, stage, i)
            i += 1
        store_s64(bins, 0, load_s64(bins, 0) + zeros)


@inlined
def stage_bins(stage: int, x: int, count: int, row: int) -> None:
    """``stage[i]`` = the bin of ``x[i]``, and the extremes into `row`."""
    first = order_key(load_bits(x, 0))
    lowest, highest = first, first
    for i in range(count):
        bits = load_bits(x, i)
        key = order_key(bits)
        lowest, highest = min(lowest, key), max(highest, key)
        store_bin(stage, i, bits)
    store_s64(row, 0, max(load_s64(row, 0), 2**31 + int(highest)))
    store_s64(row, 1, max(load_s64(row, 1), 2**31 - 1 - int(lowest)))
