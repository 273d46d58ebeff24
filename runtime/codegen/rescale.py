"""The epilogue of the tiles: accumulators to results, exactly `clamp(zp + ((acc*M + 2^(s-1)) >> s), lo, hi)`.

With s >= 33 the shift of the 64-bit product splits: with h = (acc*M) >> 32, which is the high half of a 32-bit
multiplication, the result is (h + 2^(s-33)) >> (s-32). That never overflows 32 bits, so only one 32-bit add and one
shift follow the product (`high_products`). A shift s < 33 becomes 33 by shifting the accumulator left by 33 - s,
after clamping it to where it still fits: a channel that clamps there is far outside of any 8-bit or 16-bit range
anyway.

Parameters of a vector of channels are one *record*: eight vectors of s32, see `FIELDS`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir

from qcompiler.runtime.codegen.primitives import Primitive
from qcompiler.runtime.codegen.vectors import (
    I8,
    I16,
    I32,
    I64,
    call,
    clamp,
    constant,
    load,
    offset,
    shuffle,
    splat,
    splat_constant,
    store,
    vector,
)

FIELDS = ("bias", "multiplier", "odd_multiplier", "half", "shift", "limit", "left_shift", "factor")
"""`shift` is s - 32. `half` is 2^(shift-1), and zp << shift as well where that fits and bytes are stored.
`odd_multiplier` has the odd lanes' multipliers in the even lanes. `factor` is a residual's, in the low 16 bits."""

FORM_U8, FORM_S16, FORM_S32, FORM_TABLE = range(4)
"""What is stored. s8 is stored as u8 with 128 added to zero point and bounds, and the top bit flipped. `FORM_TABLE`:
the results saturate to u8, and what is stored are their entries in a table."""

PARAMETERS = ("zp_out", "lo", "hi", "flip", "form", "large", "plain", "table")
"""Consecutive operand words of every kernel with this epilogue. For `FORM_U8` the first four hold their 16 or 8 bits
again and again. `large`: some shift was below 33. `plain`: saturation to u8 is all that is left to do.
`table`: address of 256 bytes, for `FORM_TABLE`."""

RESIDUAL_PARAMETERS = ("adds_residual", "residual_flip")
"""The words that follow in kernels that can add a residual. `residual_flip` repeats 8 bits: the top one turns s8 to
u8, which the bias takes into account."""


def field(builder: ir.IRBuilder, p: Primitive, record: ir.Value, name: str) -> ir.Value:
    """One vector of a record."""
    return load(builder, offset(builder, record, FIELDS.index(name) * p.vector_bytes), p.s32, 4)


def parameter(builder: ir.IRBuilder, parameters: ir.Value, name: str) -> ir.Value:
    """One operand word, i64."""
    return load(builder, offset(builder, parameters, 8 * PARAMETERS.index(name)), I64, 8)


def record_bytes(p: Primitive) -> int:
    """Size of the record of one vector of channels."""
    return len(FIELDS) * p.vector_bytes


def emit_rescale(
    builder: ir.IRBuilder, p: Primitive, accs: Sequence[ir.Value], records: Sequence[ir.Value], large: ir.Value
) -> list[ir.Value]:
    """s32 accumulators to s32 results, without the zero point unless `half` has it.

    `records` holds the address of each accumulator's record.
    """
    accs = _shift_left_if_large(builder, p, accs, records, large)
    results = []
    for acc, record in zip(accs, records, strict=True):
        multipliers = (field(builder, p, record, name) for name in ("multiplier", "odd_multiplier"))
        high = p.high_product(builder, acc, *multipliers)
        rounded = builder.add(high, field(builder, p, record, "half"))
        results.append(builder.ashr(rounded, field(builder, p, record, "shift")))
    return results


def _shift_left_if_large(
    builder: ir.IRBuilder, p: Primitive, accs: Sequence[ir.Value], records: Sequence[ir.Value], large: ir.Value
) -> Sequence[ir.Value]:
    before = builder.block
    shifting, after = builder.append_basic_block("large"), builder.append_basic_block("rescale")
    builder.cbranch(builder.icmp_signed("!=", large, constant(0)), shifting, after)
    builder.position_at_end(shifting)
    shifted = []
    for acc, record in zip(accs, records, strict=True):
        limit = field(builder, p, record, "limit")
        shifted.append(
            builder.shl(clamp(builder, acc, builder.not_(limit), limit), field(builder, p, record, "left_shift"))
        )
    builder.branch(after)
    builder.position_at_end(after)
    merged = []
    for plain, moved in zip(accs, shifted, strict=True):
        phi = builder.phi(p.s32)
        phi.add_incoming(plain, before)
        phi.add_incoming(moved, shifting)
        merged.append(phi)
    return merged


@dataclass(frozen=True)
class ByteRange:
    """What `emit_u8` needs of the parameters, in every lane; loaded before a store hides that they are constant."""

    zp_out: ir.Value
    lo: ir.Value
    hi: ir.Value
    flip: ir.Value


def emit_byte_range(builder: ir.IRBuilder, p: Primitive, parameters: ir.Value) -> ByteRange:
    """Load the parameters of `emit_u8`."""
    words, bytes_ = vector(I16, 2 * p.lanes), vector(I8, 4 * p.lanes)
    repeated = vector(I64, p.lanes // 2)
    kinds = {"zp_out": words, "lo": bytes_, "hi": bytes_, "flip": bytes_}
    return ByteRange(
        **{
            name: builder.bitcast(splat(builder, parameter(builder, parameters, name), repeated), kind)
            for name, kind in kinds.items()
        }
    )


def emit_u8(builder: ir.IRBuilder, p: Primitive, values: Sequence[ir.Value], limits: ByteRange | None) -> ir.Value:
    """Four vectors of results to one of bytes: in each 16-byte lane 4 of the first, 4 of the second, and so on.

    Without `limits` the values have their zero point already, and saturation is their range.
    """
    pairs = [p.pack_s16(builder, values[i], values[i + 1]) for i in (0, 2)]
    if limits is None:
        return p.pack_u8(builder, *pairs)
    name = f"llvm.sadd.sat.v{2 * p.lanes}i16"
    packed = p.pack_u8(builder, *(call(builder, name, x.type, x, limits.zp_out) for x in pairs))
    packed = builder.select(builder.icmp_unsigned("<", packed, limits.lo), limits.lo, packed)
    packed = builder.select(builder.icmp_unsigned(">", packed, limits.hi), limits.hi, packed)
    return builder.xor(packed, limits.flip)


def emit_residuals(
    builder: ir.IRBuilder,
    p: Primitive,
    accs: Sequence[ir.Value],
    records: Sequence[ir.Value],
    residuals: ir.Value,
    flip: ir.Value,
) -> list[ir.Value]:
    """Add residuals, one vector of bytes in the order of `emit_u8`, to four vectors of accumulators."""
    residuals = builder.xor(residuals, flip)
    zero = splat_constant(residuals.type, 0)
    pairs = vector(I16, 2 * p.lanes)
    result = []
    for index, (acc, record) in enumerate(zip(accs, records, strict=True)):
        own = [16 * (lane // 4) + 4 * index + lane % 4 for lane in range(p.lanes)]
        order = [byte for at in own for byte in (at, *[p.vector_bytes] * 3)]  # to the low byte of each lane
        widened = builder.bitcast(shuffle(builder, residuals, zero, order), pairs)
        factor = builder.bitcast(field(builder, p, record, "factor"), pairs)
        result.append(p.dot_s16(builder, acc, widened, factor))
    return result


def emit_s16(builder: ir.IRBuilder, p: Primitive, values: Sequence[ir.Value], parameters: ir.Value) -> list[ir.Value]:
    """One pixel's 1, 2 or 4 vectors of results, clamped, as vectors of s16 with its channels in order."""
    zp, lo, hi = (
        splat(builder, builder.trunc(parameter(builder, parameters, name), I32), p.s32) for name in PARAMETERS[:3]
    )
    values = [clamp(builder, builder.add(value, zp), lo, hi) for value in values]
    if len(values) == 1:
        return [builder.trunc(values[0], vector(I16, p.lanes))]
    packed = [p.pack_s16(builder, x, y) for x, y in zip(values[::2], values[1::2], strict=True)]
    if len(packed) == 1:
        return packed
    # Each has 8 channels in a 16-byte lane, and they alternate.
    groups = [
        list(range(start, start + 8)) for lane in range(0, 2 * p.lanes, 8) for start in (lane, 2 * p.lanes + lane)
    ]
    order = [index for group in groups for index in group]
    first, second = packed
    return [shuffle(builder, first, second, order[start : start + 2 * p.lanes]) for start in (0, 2 * p.lanes)]


def emit_s32_stores(builder: ir.IRBuilder, value: ir.Value, addresses: Sequence[ir.Value]) -> None:
    """Store each four lanes of an accumulator at its own address."""
    for start, address in zip(range(0, value.type.count, 4), addresses, strict=True):
        store(builder, shuffle(builder, value, value, range(start, start + 4)), address)
