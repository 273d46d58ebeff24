"""Which tiles a convolution uses on a matrix unit: a model of its cycles, from measurements on Sapphire Rapids.

A tile of `v` vectors of channels has 4 / v registers of pixels. Wide ones store whole cache lines, which decides where
a result has few products. Tall ones read each weight less often, which decides where it has many, and most of all
where weights come from memory: then one tile should have all pixels. Vectors' tiles have no such choice.
"""

import math
from dataclasses import dataclass

from qcompiler.runtime.codegen.matrix_unit import ROW_BYTES, ROWS, SUMS
from qcompiler.runtime.codegen.primitives import Primitive

L2_BYTES = 2**20
"""Weights beyond this are read from memory each time the layer runs."""

_FEW_PRODUCTS = 28
"""With as many products for each result, or fewer, vectors are faster: a matrix unit's sums go through memory."""

_STEP_CYCLES = {4: 117, 2: 82, 1: 84}
"""Vectors of a tile -> cycles of a step's four products, with weights from the L2 cache."""

_EPILOGUE_CYCLES = {4: 6.5, 2: 7.8, 1: 9.5}
"""Vectors of a tile -> cycles for 16 results."""

_MEMORY_CYCLES = ROWS * ROW_BYTES / 8
"""Cycles to read a register of weights from memory."""

LARGEST_BLOCK_PIXELS = 480
"""Most pixels of a block, however few bytes they take."""

COLLECTED_BYTES = 2**20
"""Of a block's collected activations: they and the weights of a tile are to stay in the L2 cache."""

_COLLECTING_CYCLES = 8
"""Cycles to copy a pixel's activations of one step."""


@dataclass(frozen=True, slots=True)
class TileChoice:
    """How a layer is tiled.

    Attributes:
        widest: index in `Primitive.tiles` of the widest that is used.
        collected: whether a block's activations are first copied to the order in which a matrix unit reads them.
    """

    widest: int
    collected: bool


def collected_pixels(steps: int) -> int:
    """Most pixels whose activations are collected together, so many steps of each: at least one tile."""
    return min(LARGEST_BLOCK_PIXELS, max(len(SUMS) * ROWS, COLLECTED_BYTES // (steps * ROW_BYTES)))


def choose_tiles(p: Primitive, *, channels: int, activations: int, pixels: int, sections: int = 1) -> TileChoice:
    """The choice for a layer.

    Args:
        p: the primitive.
        channels: of the result, in one section.
        activations: products of one result.
        pixels: of the result that a pass over the weights can compute, those of one image unless the layer is 1x1; 0
            if unknown, which counts as many. That collected activations may be those of several images is left out.
        sections: groups, or places in blocks of pixels; with more than one, activations are not collected.
    """
    if p.matrix_unit is None:
        return TileChoice(0, collected=False)
    steps = -(-activations // ROW_BYTES)
    pixels = pixels or 1024
    costs = {index: _cycles(shape.vectors, channels, steps, pixels) for index, shape in enumerate(p.tiles)}
    widest = min(costs, key=costs.__getitem__)
    return TileChoice(widest, collected=p.tiles[widest].vectors == 1 and sections == 1 and channels >= ROW_BYTES)


def prefers_vectors(vectors_only: Primitive, channels: int, activations: int) -> bool:
    """Whether a layer is faster without the matrix unit; the arguments as for `choose_tiles`."""
    narrowest = vectors_only.tiles[-1].vectors * vectors_only.lanes
    return activations <= _FEW_PRODUCTS and channels >= narrowest


def _cycles(vectors: int, channels: int, steps: int, pixels: int) -> float:
    tiles = math.ceil(pixels * vectors / (len(SUMS) * ROWS))
    panels = math.ceil(channels / (ROWS * vectors))
    step = first_step = float(_STEP_CYCLES[vectors])
    if channels * steps * ROW_BYTES > L2_BYTES:
        first_step = max(step, vectors * _MEMORY_CYCLES)
    first_tiles = math.ceil(pixels / collected_pixels(steps)) if vectors == 1 else 1
    collecting = steps * pixels * _COLLECTING_CYCLES if vectors == 1 else 0
    dots = panels * steps * (first_tiles * first_step + (tiles - first_tiles) * step)
    return dots + panels * vectors * pixels * _EPILOGUE_CYCLES[vectors] + collecting
