"""The borders of the integer program: float32 to integer and back.

Element i of a tensor belongs to channel (i / inner) mod channels; a scale for the whole tensor is one channel.
"""

from collections.abc import Callable

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import inlined, types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.quantize_block import BLOCK, F32, quantize_block, round_quotient
from qcompiler.runtime.kernels.arithmetic import share_range
from qcompiler.runtime.kernels.memory import (
    load_f32,
    load_s16,
    load_s32,
    load_s64,
    load_u8,
    store_f32,
    store_s16,
    store_u8,
)
from qcompiler.runtime.kernels.movement import interleave_pixels
from qcompiler.runtime.kernels.registry import kernel


@emitted(types.int32, types.float32, types.float32, types.int32, types.float32, types.float32)
def quantize_element(
    builder: ir.IRBuilder, x: ir.Value, scale: ir.Value, zero_point: ir.Value, low: ir.Value, high: ir.Value
) -> ir.Value:
    """`round_quotient(x / scale, ...)`."""
    value, _distance = round_quotient(builder, builder.fdiv(x, scale), zero_point, low, high)
    return value


@emitted(types.float32, types.int32)
def float_of(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The nearest float32, ties to even."""
    return builder.sitofp(value, F32)


@inlined
def quantize_bytes(
    target: int, source: int, count: int, scale: float, zero_point: int, low: float, high: float
) -> None:
    """Quantize `count` elements with one scale to u8 or s8."""
    if count < BLOCK:
        for i in range(count):
            store_u8(target, i, quantize_element(load_f32(source, i), scale, zero_point, low, high))
        return
    for start in range(0, count, BLOCK):
        at = min(start, count - BLOCK)
        quantize_block(target + at, source + 4 * at, scale, zero_point, low, high)


@inlined
def quantize_shorts(
    target: int, source: int, count: int, scale: float, zero_point: int, low: float, high: float
) -> None:
    """Quantize `count` elements with one scale to s16."""
    for i in range(count):
        store_s16(target, i, quantize_element(load_f32(source, i), scale, zero_point, low, high))


@inlined
def quantize_rows(
    operands: int,
    share: int,
    shares: int,
    itemsize: int,
    quantize: Callable[[int, int, int, float, int, float, float], None],
) -> None:
    """Quantize to elements of `itemsize` bytes, one run with one scale after the other."""
    x, scales, zero_points = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    out, channels, inner = load_s64(operands, 3), load_s64(operands, 5), load_s64(operands, 6)
    lo, hi = load_s64(operands, 7), load_s64(operands, 8)
    position, end = share_range(load_s64(operands, 4), share, shares)
    while position < end:
        row = position // inner
        n = min((row + 1) * inner, end) - position
        scale, zero_point = load_f32(scales, row % channels), load_s32(zero_points, row % channels)
        low, high = float_of(lo - zero_point), float_of(hi - zero_point)
        quantize(out + itemsize * position, x + 4 * position, n, scale, zero_point, low, high)
        position += n


_QUANTIZE_WORDS = ("x", "scales", "zero_points", "out", "count", "channels", "inner", "lo", "hi")


@kernel("int_quantize8", words=_QUANTIZE_WORDS)
def int_quantize8(operands: int, share: int, shares: int) -> None:
    """`int.quantize` to u8 or s8; scales f32[channels], zero_points s32[channels], limits lo and hi of the dtype."""
    quantize_rows(operands, share, shares, 1, quantize_bytes)


_STRIP = 16 * BLOCK  # pixels that are quantized before they are interleaved: bytes are read when they are in the cache
INTERLEAVED_BYTES = 3 * _STRIP
"""Scratch of a share of `int_quantize_interleaved`."""


@kernel(
    "int_quantize_interleaved",
    words=("x", "scales", "zero_points", "out", "scratch", "batch", "pixels", "channels", "lo", "hi"),
)
def int_quantize_interleaved(operands: int, share: int, shares: int) -> None:
    """`int.quantize` of f32[batch, 3, pixels] to bytes [batch, pixels, 3]; scales and limits as for `int_quantize8`."""
    x, scales, zero_points = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    out, planes = load_s64(operands, 3), load_s64(operands, 4) + share * INTERLEAVED_BYTES
    pixels, channels = load_s64(operands, 6), load_s64(operands, 7)
    lo, hi = load_s64(operands, 8), load_s64(operands, 9)
    start, end = share_range(pixels, share, shares)
    for image in range(load_s64(operands, 5)):
        for first in range(start, end, _STRIP):
            count = min(_STRIP, end - first)
            for plane in range(3):
                scale, zero_point = load_f32(scales, plane % channels), load_s32(zero_points, plane % channels)
                low, high = float_of(lo - zero_point), float_of(hi - zero_point)
                source = x + 4 * ((3 * image + plane) * pixels + first)
                quantize_bytes(planes + plane * _STRIP, source, count, scale, zero_point, low, high)
            interleave_pixels(out + 3 * (image * pixels + first), planes, _STRIP, count)


@kernel("int_quantize16", words=_QUANTIZE_WORDS)
def int_quantize16(operands: int, share: int, shares: int) -> None:
    """`int.quantize` to s16."""
    quantize_rows(operands, share, shares, 2, quantize_shorts)


@inlined
def load_byte(base: int, index: int, flip: int) -> int:
    """A u8, or with flip = 128 an s8 plus 128."""
    value: int = load_u8(base, index) ^ flip
    return value


@inlined
def load_short(base: int, index: int, flip: int) -> int:  # noqa: ARG001  # as `load_byte`
    """An s16."""
    value: int = load_s16(base, index)
    return value


@inlined
def dequantize_rows(
    operands: int, share: int, shares: int, itemsize: int, load: Callable[[int, int, int], int]
) -> None:
    """The counterpart of `quantize_rows`."""
    x, scales, zero_points = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    out, channels, inner = load_s64(operands, 3), load_s64(operands, 5), load_s64(operands, 6)
    flip = load_s64(operands, 7)
    position, end = share_range(load_s64(operands, 4), share, shares)
    while position < end:
        row = position // inner
        n = min((row + 1) * inner, end) - position
        scale, zero_point = load_f32(scales, row % channels), load_s32(zero_points, row % channels)
        source, target = x + itemsize * position, out + 4 * position
        for i in range(n):
            store_f32(target, i, float_of(load(source, i, flip) - zero_point) * scale)
        position += n


_DEQUANTIZE_WORDS = ("x", "scales", "zero_points", "out", "count", "channels", "inner", "flip")


@kernel("int_dequantize8", words=_DEQUANTIZE_WORDS)
def int_dequantize8(operands: int, share: int, shares: int) -> None:
    """`int.dequantize` of u8, or of s8 with flip = 128 and zero points moved by 128."""
    dequantize_rows(operands, share, shares, 1, load_byte)


@kernel("int_dequantize16", words=_DEQUANTIZE_WORDS)
def int_dequantize16(operands: int, share: int, shares: int) -> None:
    """`int.dequantize` of s16; flip is 0."""
    dequantize_rows(operands, share, shares, 2, load_short)


@emitted(types.float32, types.int64)
def float_of_s64(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    """The nearest float32 of a difference that needs 33 bits, ties to even."""
    return builder.sitofp(value, F32)


@kernel("int_dequantize32", words=_DEQUANTIZE_WORDS)
def int_dequantize32(operands: int, share: int, shares: int) -> None:
    """`int.dequantize` of s32; flip is 0."""
    x, scales, zero_points = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    out, count, channels = load_s64(operands, 3), load_s64(operands, 4), load_s64(operands, 5)
    inner = load_s64(operands, 6)
    position, end = share_range(count, share, shares)
    while position < end:
        source, target = x + 4 * position, out + 4 * position
        if inner == 1:
            channel = position % channels
            n = min(channels - channel, end - position)
            for i in range(n):
                difference = load_s32(source, i) - load_s32(zero_points, channel + i)
                store_f32(target, i, float_of_s64(difference) * load_f32(scales, channel + i))
        else:
            row = position // inner
            n = min((row + 1) * inner, end) - position
            scale, zero_point = load_f32(scales, row % channels), load_s32(zero_points, row % channels)
            if zero_point == 0:  # then 32 bits suffice
                for i in range(n):
                    store_f32(target, i, float_of_s64(load_s32(source, i)) * scale)
            else:
                for i in range(n):
                    store_f32(target, i, float_of_s64(load_s32(source, i) - zero_point) * scale)
        position += n
