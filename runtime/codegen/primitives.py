"""The exact dot products that the tiles are generated from.

A primitive adds, in each s32 lane, the products of `group` neighbouring activations and weights, modulo 2^32:

    vnni512, vnni256   `vpdpbusd`: 4 u8 activations by 4 s8 weights
    avx512, avx2       `vpmaddwd` and an add: 2 activations and 2 weights, both widened to s16
    generic            the same on 128 bits in plain IR, for any target

`vpdpbusds` and `vpmaddubsw` saturate and are not here. Products of two s16 that come from 8 bits cannot overflow
an s32 pair sum. The emulated forms have the layout of the real ones in plain IR: with them, whatever CPU runs the
tests executes the packing, tails and epilogue of the wide forms bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir

from qcompiler.runtime import isa
from qcompiler.runtime.codegen.vectors import I8, I16, I32, call, clamp, shuffle, splat_constant, vector


@dataclass(frozen=True)
class TileShape:
    """Registers of one tile: `pixels` rows of `vectors` accumulators (1, 2 or 4)."""

    vectors: int
    pixels: int


@dataclass(frozen=True)
class Primitive:
    """A vector width, an exact dot product on it, and the saturating packs of its epilogue.

    Attributes:
        lanes: s32 in a vector.
        group: activations in one lane's dot product: 4 bytes, or 2 s16.
        tiles: widest first.
        dot: (builder, s32 accumulator, activations, weights) -> s32 accumulator.
        pack_s16: two s32 vectors to one of s16, saturating, in each 16-byte lane first x, then y.
        pack_u8: the same from s16 to u8.
    """

    lanes: int
    group: int
    tiles: tuple[TileShape, ...]
    dot: Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
    pack_s16: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
    pack_u8: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]

    @property
    def vector_bytes(self) -> int:
        return 4 * self.lanes

    @property
    def operand_type(self) -> ir.VectorType:
        """Type of the activations and weights of one dot product."""
        return vector(I8, 4 * self.lanes) if self.group == 4 else vector(I16, 2 * self.lanes)

    @property
    def activation_bytes(self) -> int:
        """Bytes of one activation as the tile reads it."""
        return 4 // self.group

    @property
    def s32(self) -> ir.VectorType:
        """Type of an accumulator."""
        return vector(I32, self.lanes)


def primitive_named(name: str) -> Primitive:
    """The primitive of an ISA, or with the suffix `-emulated` its form in plain IR."""
    return _PRIMITIVES[name]


def emitted_primitive() -> Primitive:
    """The primitive of the kernel that is being compiled."""
    return primitive_named(isa.emitted())


def _vpdpbusd(bits: int) -> Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]:
    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, acc, activations, weights)

    return dot


def _vpmaddwd(name: str) -> Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]:
    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        return builder.add(acc, call(builder, name, acc.type, activations, weights))

    return dot


def _plain_dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """Any group: u8 by s8, or s16 by s16. LLVM recognises the s16 form where the target has `pmaddwd`."""
    count, lanes = activations.type.count, acc.type.count
    wide = vector(I32, count)
    widen = builder.zext if activations.type.element == I8 else builder.sext
    products = builder.mul(widen(activations, wide), builder.sext(weights, wide))
    terms = [shuffle(builder, products, products, range(i, count, count // lanes)) for i in range(count // lanes)]
    while len(terms) > 1:
        terms = [builder.add(x, y) for x, y in zip(terms[::2], terms[1::2], strict=True)]
    return builder.add(acc, terms[0])


def _pack_with(name: str, element: ir.Type) -> Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]:
    def pack(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        return call(builder, name, vector(element, 2 * x.type.count), x, y)

    return pack


def _plain_pack(element: ir.Type, low: int, high: int) -> Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]:
    def pack(builder: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
        bounds = splat_constant(x.type, low), splat_constant(x.type, high)
        narrow = vector(element, x.type.count)
        x, y = (builder.trunc(clamp(builder, value, *bounds), narrow) for value in (x, y))
        per_lane = 64 // element.width
        order = [
            operand * narrow.count + lane + i
            for lane in range(0, narrow.count, per_lane)
            for operand in (0, 1)
            for i in range(per_lane)
        ]
        return shuffle(builder, x, y, order)

    return pack


_PACKS_512 = _pack_with("llvm.x86.avx512.packssdw.512", I16), _pack_with("llvm.x86.avx512.packuswb.512", I8)
_PACKS_256 = _pack_with("llvm.x86.avx2.packssdw", I16), _pack_with("llvm.x86.avx2.packuswb", I8)
_PLAIN_PACKS = _plain_pack(I16, -(2**15), 2**15 - 1), _plain_pack(I8, 0, 255)
_TILES_512 = TileShape(4, 6), TileShape(2, 10), TileShape(1, 10)
_TILES_256 = TileShape(2, 6), TileShape(1, 8)
_TILES_128 = TileShape(2, 4), TileShape(1, 6)

_PRIMITIVES = {
    "vnni512": Primitive(16, 4, _TILES_512, _vpdpbusd(512), *_PACKS_512),
    "vnni256": Primitive(8, 4, _TILES_256, _vpdpbusd(256), *_PACKS_256),
    "avx512": Primitive(16, 2, _TILES_512, _vpmaddwd("llvm.x86.avx512.pmaddw.d.512"), *_PACKS_512),
    "avx2": Primitive(8, 2, _TILES_256, _vpmaddwd("llvm.x86.avx2.pmadd.wd"), *_PACKS_256),
    "generic": Primitive(4, 2, _TILES_128, _plain_dot, *_PLAIN_PACKS),
    "vnni512-emulated": Primitive(16, 4, _TILES_512, _plain_dot, *_PLAIN_PACKS),
    "vnni256-emulated": Primitive(8, 4, _TILES_256, _plain_dot, *_PLAIN_PACKS),
    "avx512-emulated": Primitive(16, 2, _TILES_512, _plain_dot, *_PLAIN_PACKS),
}
