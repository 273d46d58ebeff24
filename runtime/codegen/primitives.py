"""The exact dot products that the tiles are generated from.

A primitive adds, in each s32 lane, the products of `group` neighbouring activations and weights, modulo 2^32:

    vnni512, vnni256   `vpdpbusd`: 4 u8 activations by 4 s8 weights
    avx512, avx2       `vpmaddwd` and an add: 2 activations and 2 weights, both widened to s16
    neon_i8mm          `usdot`: as `vpdpbusd`, on the 128 bits of Arm's vectors
    neon_dot           `sdot`: 4 s8 activations by 4 s8 weights; u8 has 128 taken off, by a flipped top bit
    generic, neon      2 activations by 2 weights on 128 bits in plain IR, for any target
    amx                `tdpbusd`: tiles of 16 pixels by 16 channels in a matrix unit, beside the vectors of vnni512

avx512, avx2 and neon have a second, narrow form: `vpmaddubsw`, or `smull` and `addp`, which add two products of bytes
in 16 bits. A layer gets it where its weights prove that no such sum leaves 16 bits (`kernels.pair_proof`). amx has
that of vnni512, for layers with few products (`kernels.tile_choice`).

The emulated forms have the layout of the real ones in plain IR: with them, whatever CPU runs the tests executes the
packing, tails and epilogue of the wide forms bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from llvmlite import ir

from qcompiler.ir.types import DType
from qcompiler.runtime import isa
from qcompiler.runtime.codegen.dot_products import (
    Dot,
    plain_dot,
    plain_pairs_dot,
    plain_signed_dot,
    sdot,
    smull_addp,
    usdot,
    vpdpbusd,
    vpdpwssd,
    vpmaddubsw,
    vpmaddwd,
)
from qcompiler.runtime.codegen.high_products import HighProduct, plain_sqdmulh, sqdmulh, vpmuldq
from qcompiler.runtime.codegen.lookup import Lookup, look_up_256, look_up_512, look_up_plainly
from qcompiler.runtime.codegen.matrix_unit import ROWS, Amx, EmulatedMatrixUnit, MatrixUnit
from qcompiler.runtime.codegen.vectors import I8, I16, I32, call, clamp, shuffle, splat_constant, vector


@dataclass(frozen=True)
class TileShape:
    """Accumulators of one tile: `pixels` rows of `vectors` vectors (1, 2 or 4)."""

    vectors: int
    pixels: int


LEAST_UNIT_PIXELS = 2
"""Fewest pixels that a matrix unit computes: one alone takes less time on vectors."""

EPILOGUE_VECTORS = 8
"""Vectors of a matrix unit's sums that are rescaled together."""


@dataclass(frozen=True)
class Primitive:
    """A vector width, an exact dot product on it, and the saturating packs of its epilogue.

    Attributes:
        lanes: s32 in a vector.
        group: activations in one lane's dot product: 4 bytes, or 2 s16.
        tiles: widest first.
        dot: of vectors of activations and weights.
        dot_s16: of vectors of s16, two to a lane.
        pack_s16: two s32 vectors to one of s16, saturating, in each 16-byte lane first x, then y.
        pack_u8: the same from s16 to u8.
        look_up: table[index] in a vector of bytes, see `lookup`.
        matrix_unit: computes the tiles of more than one pixel, if there is one.
        high_product: upper halves of products, for the epilogue.
        signed: the dot product reads bytes as s8 activations, not as u8.
        narrow: the same vectors and tiles with a dot product that is exact only for some weights.
        is_narrow: it is that.
        vectors_only: the same without the matrix unit, for results of few products.
    """

    lanes: int
    group: int
    tiles: tuple[TileShape, ...]
    dot: Dot
    dot_s16: Dot
    pack_s16: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
    pack_u8: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]
    look_up: Lookup
    matrix_unit: MatrixUnit | None = None
    high_product: HighProduct = vpmuldq
    signed: bool = False
    narrow: "Primitive | None" = None
    is_narrow: bool = False
    vectors_only: "Primitive | None" = None

    @property
    def forms(self) -> "tuple[Primitive, ...]":
        """This one, and the others that a layer may get instead."""
        return (self, *(form for form in (self.narrow, self.vectors_only) if form is not None))

    def flip_of(self, x_dtype: DType) -> int:
        """What activations of a dtype are xored with for the dot product: 128 if it reads the other one, else 0."""
        return 128 if (x_dtype is DType.S8) != self.signed else 0

    def added_to(self, x_dtype: DType) -> int:
        """What that adds to their values, and to their zero point: 128, -128 or 0."""
        return -self.flip_of(x_dtype) if self.signed else self.flip_of(x_dtype)

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

    def least_pixels(self, shape: TileShape) -> int:
        """The fewest pixels that a tile of this shape can be told to compute."""
        return shape.pixels if self.matrix_unit is None else LEAST_UNIT_PIXELS

    @property
    def s32(self) -> ir.VectorType:
        """Type of an accumulator."""
        return vector(I32, self.lanes)


def primitive_named(name: str) -> Primitive:
    """The primitive of an ISA, or with the suffix `-emulated` its form in plain IR."""
    return _PRIMITIVES[name]


DOT_PRODUCTS: dict[str, tuple[str, ...]] = {
    "amx": ("tdpbusd", "vpdpbusd"),
    **dict.fromkeys(("vnni512", "vnni256"), ("vpdpbusd",)),
    **dict.fromkeys(("avx512", "avx2"), ("vpmaddwd", "vpmaddubsw")),
    "neon_i8mm": ("usdot",),
    "neon_dot": ("sdot",),
    "neon": ("smull", "smull, addp"),
    "generic": ("products in 32 bits",),
}
"""What computes the sums of each of a primitive's forms, to show to people."""


def emitted_primitive() -> Primitive:
    """The primitive of the kernel that is being compiled."""
    return primitive_named(isa.emitted())


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


_EPILOGUE_512 = (
    _pack_with("llvm.x86.avx512.packssdw.512", I16),
    _pack_with("llvm.x86.avx512.packuswb.512", I8),
    look_up_512,
)
_EPILOGUE_256 = _pack_with("llvm.x86.avx2.packssdw", I16), _pack_with("llvm.x86.avx2.packuswb", I8), look_up_256
_PLAIN_EPILOGUE = _plain_pack(I16, -(2**15), 2**15 - 1), _plain_pack(I8, 0, 255), look_up_plainly
_MADDWD_512, _MADDWD_256 = "llvm.x86.avx512.pmaddw.d.512", "llvm.x86.avx2.pmadd.wd"
_MADD_512, _MADD_256 = vpmaddwd(_MADDWD_512), vpmaddwd(_MADDWD_256)
_MADDUBS_512, _MADDUBS_256 = (
    vpmaddubsw("avx512.pmaddubs.w.512", _MADDWD_512),
    vpmaddubsw("avx2.pmadd.ub.sw", _MADDWD_256),
)
_TILES_512 = TileShape(4, 6), TileShape(2, 10), TileShape(1, 10)
_TILES_AMX = TileShape(4, ROWS), TileShape(2, 2 * ROWS), TileShape(1, 4 * ROWS)
_TILES_256 = TileShape(2, 6), TileShape(1, 8)
_TILES_256_PAIRS = TileShape(2, 5), TileShape(1, 8)  # sums of pairs and a vector of ones take two more registers
_TILES_128 = TileShape(2, 4), TileShape(1, 6)
_TILES_NEON = TileShape(4, 6), TileShape(2, 10), TileShape(1, 10)  # of 32 registers


def _neon(group: int, dot: Dot, high_product: HighProduct, *, signed: bool = False) -> Primitive:
    return Primitive(4, group, _TILES_NEON, dot, plain_dot, *_PLAIN_EPILOGUE, high_product=high_product, signed=signed)


def _with_matrix_unit(vectors: Primitive, unit: MatrixUnit) -> Primitive:
    few = replace(vectors, tiles=tuple(shape for shape in vectors.tiles if shape.vectors > 1))
    return replace(vectors, tiles=_TILES_AMX, matrix_unit=unit, vectors_only=few)


def _with_pairs(p: Primitive, dot: Dot, *, signed: bool = False, tiles: tuple[TileShape, ...] = ()) -> Primitive:
    return replace(p, narrow=replace(p, group=4, tiles=tiles or p.tiles, dot=dot, signed=signed, is_narrow=True))


_VNNI_512 = Primitive(16, 4, _TILES_512, vpdpbusd(512), vpdpwssd(512), *_EPILOGUE_512)
_PLAIN_512 = Primitive(16, 4, _TILES_512, plain_dot, plain_dot, *_PLAIN_EPILOGUE)
_PRIMITIVES = {
    "amx": _with_matrix_unit(_VNNI_512, Amx()),
    "vnni512": _VNNI_512,
    "vnni256": Primitive(8, 4, _TILES_256, vpdpbusd(256), vpdpwssd(256), *_EPILOGUE_256),
    "avx512": _with_pairs(Primitive(16, 2, _TILES_512, _MADD_512, _MADD_512, *_EPILOGUE_512), _MADDUBS_512),
    "avx2": _with_pairs(
        Primitive(8, 2, _TILES_256, _MADD_256, _MADD_256, *_EPILOGUE_256), _MADDUBS_256, tiles=_TILES_256_PAIRS
    ),
    "generic": Primitive(4, 2, _TILES_128, plain_dot, plain_dot, *_PLAIN_EPILOGUE),
    "neon_i8mm": _neon(4, usdot, sqdmulh),
    "neon_dot": _neon(4, sdot, sqdmulh, signed=True),
    "neon": _with_pairs(_neon(2, plain_dot, sqdmulh), smull_addp, signed=True),
    "amx-emulated": _with_matrix_unit(_PLAIN_512, EmulatedMatrixUnit()),
    "vnni512-emulated": _PLAIN_512,
    "vnni256-emulated": Primitive(8, 4, _TILES_256, plain_dot, plain_dot, *_PLAIN_EPILOGUE),
    "avx512-emulated": _with_pairs(
        Primitive(16, 2, _TILES_512, plain_dot, plain_dot, *_PLAIN_EPILOGUE), plain_pairs_dot(signed=False)
    ),
    "neon_i8mm-emulated": _neon(4, plain_dot, plain_sqdmulh),
    "neon_dot-emulated": _neon(4, plain_signed_dot, plain_sqdmulh, signed=True),
    "neon-emulated": _with_pairs(_neon(2, plain_dot, plain_sqdmulh), plain_pairs_dot(signed=True), signed=True),
}
