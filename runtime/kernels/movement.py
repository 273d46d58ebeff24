"""Kernels that move elements without looking at them; `itemsize` is 1, 2, 4 or 8 bytes."""

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.arithmetic import share_range
from qcompiler.runtime.kernels.memory import (
    copy_bytes,
    fill_bytes,
    load_s16,
    load_s32,
    load_s64,
    load_u8,
    store_s16,
    store_s32,
    store_s64,
    store_u8,
)
from qcompiler.runtime.kernels.registry import kernel

OUTER_AXES = 5
CONCAT_OPERANDS = 8
PAD_OUTER_AXES = 4
_STEPS, _TARGET_STEPS = 13, 18  # words s1 and t1
_TILE = 16  # elements: a tile of bytes reads 16 cache lines and writes 16


@inlined
def move(source: int, source_index: int, target: int, target_index: int, itemsize: int) -> None:
    """Copy one element."""
    if itemsize == 1:
        store_u8(target, target_index, load_u8(source, source_index))
    elif itemsize == 2:
        store_s16(target, target_index, load_s16(source, source_index))
    elif itemsize == 4:
        store_s32(target, target_index, load_s32(source, source_index))
    else:
        store_s64(target, target_index, load_s64(source, source_index))


@kernel(
    "copy",
    words=(
        *("source", "target", "itemsize", "offset", "rows", "inner", "s0", "t0"),
        *("d1", "d2", "d3", "d4", "d5", *(f"s{i}" for i in range(1, 6)), *(f"t{i}" for i in range(1, 6))),
    ),
)
def copy(operands: int, share: int, shares: int) -> None:
    """Move a box of elements from the source, from element `offset` on, to the whole target.

    The box has an inner axis of `inner` elements and outer ones of d1 ... d5 (from the inside, `rows` together), along
    which the source steps by s0 and s1 ... s5 elements, the target by t0 and t1 ... t5; steps may be negative.
    """
    itemsize, rows = load_s64(operands, 2), load_s64(operands, 4)
    source, target = load_s64(operands, 0) + load_s64(operands, 3) * itemsize, load_s64(operands, 1)
    inner, step, target_step = load_s64(operands, 5), load_s64(operands, 6), load_s64(operands, 7)
    size1, step1, target_step1 = load_s64(operands, 8), load_s64(operands, _STEPS), load_s64(operands, _TARGET_STEPS)
    index1, at, target_at = size1, 0, 0  # along axis 1; where the row starts
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        if index1 == size1:
            outside = row // size1
            index1 = row - outside * size1
            at, target_at = index1 * step1, index1 * target_step1
            for axis in range(1, OUTER_AXES):
                size = load_s64(operands, 8 + axis)
                further = outside // size
                index = outside - further * size
                at += index * load_s64(operands, _STEPS + axis)
                target_at += index * load_s64(operands, _TARGET_STEPS + axis)
                outside = further
        if step == 1 and target_step == 1:
            copy_bytes(target + target_at * itemsize, source + at * itemsize, inner * itemsize)
        elif itemsize == 1:
            for i in range(inner):
                store_u8(target + target_at, i * target_step, load_u8(source + at, i * step))
        elif itemsize == 2:
            for i in range(inner):
                store_s16(target + 2 * target_at, i * target_step, load_s16(source + 2 * at, i * step))
        else:
            for i in range(inner):
                move(source, at + i * step, target, target_at + i * target_step, itemsize)
        index1 += 1
        at += step1
        target_at += target_step1


@kernel("transpose", words=("source", "target", "itemsize", "batch", "rows", "columns"))
def transpose(operands: int, share: int, shares: int) -> None:
    """[batch, rows, columns] to [batch, columns, rows], tile by tile."""
    source, target, itemsize = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    batch, rows, columns = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    bands = (columns + _TILE - 1) // _TILE
    items = batch * bands
    for item in range(items * share // shares, items * (share + 1) // shares):
        matrix = item // bands
        left = (item - matrix * bands) * _TILE
        right = min(columns, left + _TILE)
        base = matrix * rows * columns
        for top in range(0, rows, _TILE):
            bottom = min(rows, top + _TILE)
            if itemsize == 1:
                for column in range(left, right):
                    for row in range(top, bottom):
                        store_u8(target, base + column * rows + row, load_u8(source, base + row * columns + column))
            else:
                for column in range(left, right):
                    for row in range(top, bottom):
                        move(source, base + row * columns + column, target, base + column * rows + row, itemsize)


@inlined
def interleave_pixels(target: int, planes: int, plane_bytes: int, count: int) -> None:
    """The bytes of `count` pixels from three planes `plane_bytes` apart to three neighbours each."""
    green, blue = planes + plane_bytes, planes + 2 * plane_bytes
    for i in range(count):
        store_u8(target, 3 * i, load_u8(planes, i))
        store_u8(target, 3 * i + 1, load_u8(green, i))
        store_u8(target, 3 * i + 2, load_u8(blue, i))


@kernel("interleave3", words=("source", "target", "batch", "pixels"))
def interleave3(operands: int, share: int, shares: int) -> None:
    """[batch, 3, pixels] bytes to [batch, pixels, 3]: the transposition of an RGB image, with vector shuffles."""
    source, target = load_s64(operands, 0), load_s64(operands, 1)
    batch, pixels = load_s64(operands, 2), load_s64(operands, 3)
    start, end = share_range(pixels, share, shares)
    for image in range(batch):
        planes, out = source + image * 3 * pixels + start, target + 3 * (image * pixels + start)
        interleave_pixels(out, planes, pixels, end - start)


@kernel(
    "concat",
    words=(
        *("target", "rows", "row_bytes", "operands"),
        *(f"x{i}" for i in range(CONCAT_OPERANDS)),
        *(f"bytes{i}" for i in range(CONCAT_OPERANDS)),
    ),
)
def concat(operands: int, share: int, shares: int) -> None:
    """Rows of the target are rows of the operands one after another; rows are cut up among shares."""
    target, rows, row_bytes = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        at = target + row * row_bytes
        for i in range(load_s64(operands, 3)):
            size = load_s64(operands, 4 + CONCAT_OPERANDS + i)
            source = load_s64(operands, 4 + i) + row * size
            if size <= 8 and size & (size - 1) == 0:  # an element: a call would take longer
                move(source, 0, at, 0, size)
            else:
                copy_bytes(at, source, size)
            at += size


@inlined
def fill(target: int, index: int, count: int, value: int, itemsize: int) -> None:
    """Set `count` elements from `index` on to the low bits of `value`."""
    if itemsize == 1:
        fill_bytes(target + index, value, count)
    elif itemsize == 2:
        for i in range(index, index + count):
            store_s16(target, i, value)
    elif itemsize == 4:
        for i in range(index, index + count):
            store_s32(target, i, value)
    else:
        for i in range(index, index + count):
            store_s64(target, i, value)


@kernel(
    "pad",
    words=(
        *("source", "target", "itemsize", "value", "rows", "inner_in", "inner_out", "begin0"),
        *(f"{kind}{i}" for kind in ("out", "in", "begin") for i in range(1, PAD_OUTER_AXES + 1)),
    ),
)
def pad(operands: int, share: int, shares: int) -> None:
    """A border of `value` around a tensor. Axes are counted from the inside, `rows` counts those of the outer ones."""
    source, target, itemsize = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    value, rows, inner_in = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    inner_out, begin = load_s64(operands, 6), load_s64(operands, 7)
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        rest, line, step, inside = row, 0, 1, True
        for axis in range(PAD_OUTER_AXES):
            size = load_s64(operands, 8 + axis)
            size_in = load_s64(operands, 8 + PAD_OUTER_AXES + axis)
            outside = rest // size
            index = rest - outside * size - load_s64(operands, 8 + 2 * PAD_OUTER_AXES + axis)
            inside = inside and 0 <= index < size_in
            line += index * step
            step *= size_in
            rest = outside
        first = row * inner_out
        if inside:
            fill(target, first, begin, value, itemsize)
            copy_bytes(target + (first + begin) * itemsize, source + line * inner_in * itemsize, inner_in * itemsize)
            after = begin + inner_in
            fill(target, first + after, inner_out - after, value, itemsize)
        else:
            fill(target, first, inner_out, value, itemsize)
