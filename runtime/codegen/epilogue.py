"""What follows the sums of a tile: rescale them and store each pixel's channels, in order, as u8, s16 or s32.

Within a tile the channel of lane l of vector v is `channel_of(...)`, such that the saturating packs, which work in
16-byte lanes, put the channels in order. Weights and records are packed in that order.
"""

from collections.abc import Iterator, Mapping, Sequence

from llvmlite import ir

from qcompiler.runtime.codegen.primitives import Primitive
from qcompiler.runtime.codegen.rescale import (
    FORM_S32,
    FORM_TABLE,
    FORM_U8,
    PARAMETERS,
    ByteRange,
    emit_byte_range,
    emit_rescale,
    emit_residuals,
    emit_s16,
    emit_s32_stores,
    emit_u8,
    parameter,
)
from qcompiler.runtime.codegen.vectors import I8, I32, I64, constant, load, offset, shuffle, splat, store, vector


def channel_of(vectors: int, vector: int, lane: int) -> int:
    """Channel, within a tile of `vectors` vectors of channels, of one lane of one vector."""
    return 4 * vectors * (lane // 4) + 4 * vector + lane % 4


def emit_epilogue(
    builder: ir.IRBuilder,
    p: Primitive,
    accs: list[list[ir.Value]],
    records: Sequence[ir.Value],
    outs: list[list[ir.Value]],
    parameters: ir.Value,
    done: ir.Block,
    residual_distance: ir.Value | None = None,
) -> None:
    """Rescale and store pixels in the form that the parameters ask for, and branch to `done`.

    Args:
        builder: after the sums.
        p: the primitive.
        accs: [pixel][vector], s32; 1, 2 or 4 vectors.
        records: address of each vector's record, see `rescale`.
        outs: for each pixel the addresses of 1, 2 or 4 equal parts of its channels.
        parameters: address of the words `rescale.PARAMETERS`, and with residuals `rescale.RESIDUAL_PARAMETERS`.
        done: where to go on.
        residual_distance: from the address of a result to that of its residual, both of 8 bits; None in a kernel that
            adds none.
    """
    vectors, pixels = len(records), len(outs)
    raw, rescaled, as_bytes, plain, ranged, as_s16 = (
        builder.append_basic_block(name) for name in ("s32", "rescaled", "u8", "plain", "ranged", "s16")
    )
    form = parameter(builder, parameters, "form")
    builder.cbranch(builder.icmp_signed("==", form, constant(FORM_S32)), raw, rescaled)
    each = [(m, v) for v in range(vectors) for m in range(pixels)]

    def quarters(m: int, v: int, itemsize: int) -> list[ir.Value]:
        """Where each four lanes of a vector go: they are neighbouring channels."""
        part_channels = vectors * p.lanes // len(outs[m])
        at = [divmod(channel_of(vectors, v, lane), part_channels) for lane in range(0, p.lanes, 4)]
        return [offset(builder, outs[m][part], itemsize * channel) for part, channel in at]

    builder.position_at_end(raw)
    for m, v in each:
        emit_s32_stores(builder, accs[m][v], quarters(m, v, 4))
    builder.branch(done)

    builder.position_at_end(rescaled)
    if residual_distance is not None:
        accs = _emit_residual_branch(builder, p, accs, records, outs, parameters, residual_distance)
    large = parameter(builder, parameters, "large")
    flat = emit_rescale(builder, p, [accs[m][v] for m, v in each], [records[v] for _, v in each], large)
    values = dict(zip(each, flat, strict=True))
    forms = builder.switch(form, as_s16)
    forms.add_case(constant(FORM_U8), as_bytes)

    builder.position_at_end(as_bytes)
    is_plain = builder.icmp_signed("!=", parameter(builder, parameters, "plain"), constant(0))
    builder.cbranch(is_plain, plain, ranged)
    for block in (plain, ranged):
        builder.position_at_end(block)
        limits = emit_byte_range(builder, p, parameters) if block is ranged else None
        _emit_bytes(builder, p, values, outs, vectors, limits)
        builder.branch(done)

    as_entries = builder.append_basic_block("table")
    forms.add_case(constant(FORM_TABLE), as_entries)
    builder.position_at_end(as_entries)
    _emit_bytes(builder, p, values, outs, vectors, None, table=parameter(builder, parameters, "table"))
    builder.branch(done)

    builder.position_at_end(as_s16)
    for m, parts in enumerate(outs):
        words = emit_s16(builder, p, [values[m, v] for v in range(vectors)], parameters)
        _store_parts(builder, words, parts)
    builder.branch(done)


def _store_parts(builder: ir.IRBuilder, words: list[ir.Value], addresses: list[ir.Value]) -> None:
    """Store vectors of s16 that follow each other, an equal part of them at each address."""
    count = words[0].type.count
    part = len(words) * count // len(addresses)
    for i, address in enumerate(addresses):
        for start in range(i * part, (i + 1) * part, min(part, count)):
            word, first = divmod(start, count)
            own = shuffle(builder, words[word], words[word], range(first, first + min(part, count)))
            store(builder, own, offset(builder, address, 2 * (start - i * part)))


def _emit_bytes(
    builder: ir.IRBuilder,
    p: Primitive,
    values: Mapping[tuple[int, int], ir.Value],
    outs: list[list[ir.Value]],
    vectors: int,
    limits: ByteRange | None,
    table: ir.Value | None = None,
) -> None:
    """Store results, by (pixel, vector), as bytes; with a table, their entries."""
    lanes = range(0, p.vector_bytes, 16)
    width = 4 * vectors  # bytes of one pixel in each of these

    for pixels, chosen in _filling_a_vector(len(outs), vectors):
        own = [values[m, v] for m in chosen for v in range(vectors)]
        packed = emit_u8(builder, p, own, limits)
        if table is not None:
            packed = p.look_up(builder, table, packed)
        for i, m in enumerate(pixels):
            bytes_of_pixel = [lane + width * i + byte for lane in lanes for byte in range(width)]
            size = len(bytes_of_pixel) // len(outs[m])
            for part, out in enumerate(outs[m]):
                store(builder, _chosen(builder, packed, bytes_of_pixel[part * size : (part + 1) * size]), out)


def _chosen(builder: ir.IRBuilder, packed: ir.Value, indices: list[int]) -> ir.Value:
    """Bytes of a vector; if they are four neighbours as one number: Arm has no vectors that short."""
    if len(indices) > 4:
        return shuffle(builder, packed, packed, indices)
    words = builder.bitcast(packed, vector(I32, packed.type.count // 4))
    return builder.extract_element(words, ir.Constant(I32, indices[0] // 4))


def _filling_a_vector(pixels: int, vectors: int) -> Iterator[tuple[list[int], list[int]]]:
    """Pixels whose results fill one vector of bytes: those there are, and with the last one repeated."""
    together = 4 // vectors
    for start in range(0, pixels, together):
        own = [*range(start, min(start + together, pixels))]
        yield own, own + [own[-1]] * (together - len(own))


def _emit_residual_branch(
    builder: ir.IRBuilder,
    p: Primitive,
    accs: list[list[ir.Value]],
    records: Sequence[ir.Value],
    outs: list[list[ir.Value]],
    parameters: ir.Value,
    distance: ir.Value,
) -> list[list[ir.Value]]:
    """The accumulators with their residuals, if the parameters say that there are any."""
    words = [load(builder, offset(builder, parameters, 8 * (len(PARAMETERS) + i)), I64, 8) for i in range(2)]
    vectors, before = len(records), builder.block
    adding, after = builder.append_basic_block("residual"), builder.append_basic_block("complete")
    builder.cbranch(builder.icmp_signed("!=", words[0], constant(0)), adding, after)
    builder.position_at_end(adding)
    flip = builder.bitcast(splat(builder, words[1], vector(I64, p.lanes // 2)), vector(I8, p.vector_bytes))
    sums = dict[tuple[int, int], ir.Value]()
    for _, chosen in _filling_a_vector(len(outs), vectors):
        added = _load_bytes(builder, p, [builder.add(outs[m][0], distance) for m in chosen], 4 * vectors)
        each = [(m, v) for m in chosen for v in range(vectors)]
        total = emit_residuals(builder, p, [accs[m][v] for m, v in each], [records[v] for _, v in each], added, flip)
        sums |= zip(each, total, strict=True)
    builder.branch(after)
    builder.position_at_end(after)
    merged = []
    for m, own in enumerate(accs):
        merged.append([builder.phi(p.s32) for _ in own])
        for v, (phi, acc) in enumerate(zip(merged[m], own, strict=True)):
            phi.add_incoming(acc, before)
            phi.add_incoming(sums[m, v], adding)
    return merged


def _load_bytes(builder: ir.IRBuilder, p: Primitive, addresses: list[ir.Value], width: int) -> ir.Value:
    """One vector of bytes in the order in which `_emit_bytes` packs those of pixels; the inverse of its stores."""
    count = p.vector_bytes // len(addresses)
    parts = [load(builder, address, vector(I8, count), 1) for address in addresses]
    while len(parts) > 1:
        parts = [shuffle(builder, x, y, range(2 * x.type.count)) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    lanes = range(p.vector_bytes // 16)
    order = [i * count + lane * width + byte for lane in lanes for i in range(len(addresses)) for byte in range(width)]
    return shuffle(builder, parts[0], parts[0], order)
