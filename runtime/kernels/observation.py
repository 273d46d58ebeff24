"""Counting the elements of an observed float32 value.

A counter is an array s64[rows, `ROW`], rows starting at multiples of a cache line, that starts as zeros. Each share
of a call adds to a row of its own:

- words 0 and 1: the largest of 2^31 + key and of 2^31 - 1 - key, the key being the integer that orders float32 numbers
  as their values are ordered (0 where nothing has been counted: the lowest key is that of a NaN);
- word 2: 2^32 less the least bit pattern of a magnitude other than zero (0 where there is none): no bins below it are
  in use but that of zeros, and reading the pages of those for the first time would take long;
- from `BINS_AT` on, after four words that are zeros between calls: elements, those that
  `qcompiler.runtime.sampled_elements` chooses, by the upper 16 bits of their bit pattern.

A negative zero counts as zero in the bins. NaN and infinities are counted like numbers; their keys are beyond those of
all numbers.
"""

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import inlined, types
from qcompiler.runtime.codegen.float_tile import prefetch_line
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.kernels.memory import load_s64, store_s64
from qcompiler.runtime.kernels.registry import kernel
from qcompiler.runtime.sampled_elements import GROUP, PHASE_BITS, PHASE_FACTOR

BINS_AT = 8
ROW = BINS_AT + (1 << 16)
CHUNK = 2048
"""Most elements whose bins are staged at a time, 16 bits each."""

LIKELY_BINS = 16 << 7
"""Bins of the sixteen upper powers of two, in which nearly all elements are."""

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))


@emitted(types.int32, types.int64, types.int64)
def load_pattern(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    """The bit pattern of a float32."""
    return builder.load(_element(builder, base, index, _I32), typ=_I32, align=4)


@emitted(types.int32, types.int64, types.int64)
def load_bits(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
    """The bit pattern of a float32, that of 0 for a negative zero."""
    bits = builder.load(_element(builder, base, index, _I32), typ=_I32, align=4)
    return builder.select(builder.icmp_signed("==", bits, _I32(-(1 << 31))), _I32(0), bits)


@emitted(types.int32, types.int32)
def order_key(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """The key of a bit pattern: negative numbers are ordered by their complement."""
    return builder.xor(bits, builder.and_(builder.ashr(bits, _I32(31)), _I32((1 << 31) - 1)))


@emitted(types.int32, types.int32)
def magnitude_key(builder: ir.IRBuilder, bits: ir.Value) -> ir.Value:
    """What orders magnitudes by size as signed integers from -2^31 on, but has zero as the largest."""
    magnitude = builder.and_(bits, _I32((1 << 31) - 1))
    return builder.xor(builder.sub(magnitude, _I32(1)), _I32(-(1 << 31)))


@emitted(types.void, types.int64, types.int64, types.int32)
def store_bin(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, bits: ir.Value) -> None:
    """Store the upper 16 bits of a bit pattern."""
    upper = builder.trunc(builder.lshr(bits, _I32(16)), _I16)
    builder.store(upper, _element(builder, base, index, _I16), align=2)


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def count_bin(builder: ir.IRBuilder, bins: ir.Value, base: ir.Value, index: ir.Value, zeros: ir.Value) -> None:
    """Add 1 to the s64 of `bins` that the u16 says; to number `zeros` of them for the bin 0."""
    number = builder.zext(builder.load(_element(builder, base, index, _I16), typ=_I16, align=2), _I64)
    number = builder.select(builder.icmp_unsigned("==", number, _I64(0)), zeros, number)
    place = _element(builder, bins, number, _I64)
    builder.store(builder.add(builder.load(place, typ=_I64, align=8), _I64(1)), place, align=8)


@emitted(types.void, types.int64)
def prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    """Ask for a cache line that is read soon; the address may lie outside of all memory."""
    prefetch_line(builder, address)


def _element(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, element: ir.Type) -> ir.Value:
    return builder.gep(builder.inttoptr(base, element.as_pointer()), [index], source_etype=element)


@kernel("observe", words=("x", "counts", "scratch", "samples", "size", "step"))
def observe(operands: int, share: int, shares: int) -> None:
    """Count x f32[samples, size] in `counts`, a counter of at least `shares` rows; of `step` groups one is counted.

    `scratch` has 2 · CHUNK bytes for each share.
    """
    x, samples, size, step = load_s64(operands, 0), load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    row = load_s64(operands, 1) + 8 * ROW * share
    stage = load_s64(operands, 2) + 2 * CHUNK * share
    blocks = max(CHUNK // (GROUP * step), 1)
    chunk_size = GROUP * step * blocks
    chunks = (size + chunk_size - 1) // chunk_size
    prefetch_bins(row)
    units = samples * chunks
    for unit in range(units * share // shares, units * (share + 1) // shares):
        sample = unit // chunks
        chunk = unit - sample * chunks
        first = chunk * chunk_size
        count = min(chunk_size, size - first)
        here = x + 4 * (sample * size + first)
        find_extremes(here, count, row)
        if step == 1:
            stage_bins(stage, here, count)
        else:
            count = stage_chosen(stage, here, count, step, chunk * blocks)
        count_staged(row + 8 * BINS_AT, stage, count, here + 4 * CHUNK)


@inlined
def prefetch_bins(row: int) -> None:
    """Ask for the bins of the largest numbers counted so far: one after the other they would come late.

    Those of negative numbers as well are no gain.
    """
    highest = load_s64(row, 0) - 2**31  # the key
    if highest >= 0:
        top = row + 8 * (BINS_AT + (highest >> 16))
        for line in range(0, 8 * LIKELY_BINS, 64):
            prefetch(top - line)


@inlined
def find_extremes(x: int, count: int, row: int) -> None:
    """The extremes and the least magnitude of x f32[count], at least one element, into `row`."""
    lowest = order_key(load_pattern(x, 0))
    highest, least = lowest, magnitude_key(load_pattern(x, 0))
    for i in range(count):
        bits = load_pattern(x, i)
        key = order_key(bits)
        lowest, highest, least = min(lowest, key), max(highest, key), min(least, magnitude_key(bits))
    store_s64(row, 0, max(load_s64(row, 0), 2**31 + int(highest)))
    store_s64(row, 1, max(load_s64(row, 1), 2**31 - 1 - int(lowest)))
    store_s64(row, 2, max(load_s64(row, 2), 2**31 - 1 - int(least)))


@inlined
def stage_bins(stage: int, x: int, count: int) -> None:
    """``stage[i]`` = the bin of ``x[i]``."""
    for i in range(count):
        store_bin(stage, i, load_bits(x, i))


@inlined
def stage_chosen(stage: int, x: int, count: int, step: int, block: int) -> int:
    """The bins of the chosen groups of x f32[count], where block number `block` begins; returns how many."""
    staged = 0
    first = 0
    while first < count:
        start = first + GROUP * (((block * PHASE_FACTOR & ((1 << PHASE_BITS) - 1)) * step) >> PHASE_BITS)
        if start + GROUP <= count:
            for i in range(GROUP):
                store_bin(stage, staged + i, load_bits(x, start + i))
            staged += GROUP
        elif start < count:
            stage_bins(stage + 2 * staged, x + 4 * start, count - start)
            staged += count - start
        first += GROUP * step
        block += 1
    return staged


@inlined
def count_staged(bins: int, stage: int, count: int, following: int) -> None:
    """Count staged bins; what is read next begins at `following`.

    Half of all activations may be zeros, and adding to one place again and again is slow: they are counted in the four
    words before the bins, in turn.
    """
    whole = count // 4 * 4
    for i in range(0, whole, 4):
        prefetch(following + 4 * i)
        for j in range(4):
            count_bin(bins, stage, i + j, j - 4)
    for i in range(whole, count):
        count_bin(bins, stage, i, -4)
    zeros = 0
    for j in range(4):
        zeros += load_s64(bins, j - 4)
        store_s64(bins, j - 4, 0)
    store_s64(bins, 0, load_s64(bins, 0) + zeros)
