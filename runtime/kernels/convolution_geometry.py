"""How a convolution's output divides into units and blocks, and where each pixel's activations and results are."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.ir.types import AnyArray
from qcompiler.runtime.codegen.matrix_unit import ROW_BYTES, ROWS
from qcompiler.runtime.codegen.primitives import LEAST_UNIT_PIXELS
from qcompiler.runtime.kernels.convolution import IN_PLACE, PADDED_ROWS, PIXELS, SAMPLED_ROWS
from qcompiler.runtime.kernels.kernel_plan import STAGE_BYTES
from qcompiler.runtime.kernels.packing import S64, aligned
from qcompiler.runtime.kernels.tile_choice import LARGEST_BLOCK_PIXELS, collected_pixels

if TYPE_CHECKING:
    from qcompiler.runtime.kernels.convolution_plan import PackedConv

BLOCK_PIXELS = 96  # a multiple of the usual tiles' pixels
COLLECTED_STAGE_BYTES = 256 * 1024  # that are read once, to be collected
_FEW_ROWS = 7  # with fewer it is faster to gather the pixels of several image rows


@dataclass(frozen=True)
class Geometry:
    """How the output divides into units and where a pixel's activations are. Sizes in activations or bytes."""

    conv: "PackedConv"
    batch: int
    height: int
    width: int
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    x_pitch: int
    out_pitch: int

    @cached_property
    def window(self) -> tuple[int, int]:
        (kh, kw), (dh, dw) = self.conv.kernel, self.conv.dilations
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @cached_property
    def out_height(self) -> int:
        return (self.height + self.pads[0] + self.pads[2] - self.window[0]) // self.strides[0] + 1

    @cached_property
    def out_width(self) -> int:
        return (self.width + self.pads[1] + self.pads[3] - self.window[1]) // self.strides[1] + 1

    @cached_property
    def pixels(self) -> int:
        return self.batch * self.out_height * self.out_width

    @cached_property
    def tile_pixels(self) -> float:
        """Pixels that tiles compute: more than `pixels` where they end with each row."""
        if self.conv.blocks == (1, 1):
            return self.pixels
        tiles = self.tiles()[:, 1]
        return float(np.mean(-(-self.out_width // tiles) * tiles)) / self.out_width * self.pixels

    @cached_property
    def pointwise(self) -> bool:
        """Each output pixel reads the one input pixel at its place."""
        return self.window == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    @cached_property
    def flat(self) -> bool:
        """Rows of pixels follow one another in input and output alike, so that they need not be told apart."""
        return self.pointwise and self.conv.blocks == (1, 1)

    @cached_property
    def staging(self) -> int:
        conv, p = self.conv, self.conv.primitive
        pitched = self.x_pitch != conv.cin
        one_pixel_runs = conv.runs == math.prod(conv.kernel)
        as_it_is = p.activation_bytes == 1 and not conv.flip_in and conv.run_items % p.group == 0
        if as_it_is and not any(self.pads) and (one_pixel_runs or not pitched):
            return IN_PLACE
        if self.pointwise and not pitched:
            return PIXELS
        if self.window == (1, 1) and not any(self.pads):
            return SAMPLED_ROWS
        return PADDED_ROWS

    @cached_property
    def pixel(self) -> int:
        """Bytes from one pixel to the next, where the tiles read them."""
        return self.x_pitch if self.staging == IN_PLACE else self.conv.cin * self.conv.primitive.activation_bytes

    @cached_property
    def unit_pixels(self) -> int:
        return 1 if self.flat else self.out_width

    @cached_property
    def units(self) -> int:
        return self.pixels // self.unit_pixels

    @cached_property
    def image_units(self) -> int:
        return self.units if self.flat else self.out_height

    @cached_property
    def pitch(self) -> int:
        """Bytes from one row of activations to the next, where the tiles read them."""
        columns = self.width + self.pads[1] + self.pads[3] if self.staging == PADDED_ROWS else self.width
        return columns * self.pixel

    def stage_bytes(self, units: int) -> int:
        """Bytes that staging `units` units takes."""
        if self.staging == PADDED_ROWS:
            return ((units - 1) * self.strides[0] + self.window[0]) * self.pitch
        return units * self.unit_pixels * self.conv.cin * self.conv.primitive.activation_bytes

    @cached_property
    def block_units(self) -> int:
        """Units of a block, of one image unless they are collected: then whole images if several have room."""
        if not self.conv.choice.collected:
            return self.staged_units
        most = max(1, collected_pixels(self.conv.steps) // self.unit_pixels)
        whole = self.image_units if most >= self.image_units else 1
        parts = self.units // whole
        blocks = math.ceil(parts / (most // whole))
        return math.ceil(parts / blocks) * whole

    @cached_property
    def staged_units(self) -> int:
        """Units of one image that are staged at a time; all of a block's where nothing is collected."""
        collected = self.conv.choice.collected
        largest = self.block_units if collected else max(1, LARGEST_BLOCK_PIXELS // self.unit_pixels)
        if self.staging != IN_PLACE:
            one, two = self.stage_bytes(1), self.stage_bytes(2)
            room = COLLECTED_STAGE_BYTES if collected else STAGE_BYTES
            largest = min(largest, max(0, room - one) // (two - one) + 1)
        if self.flat and not collected:
            largest = max(BLOCK_PIXELS, largest // BLOCK_PIXELS * BLOCK_PIXELS)
        return min(largest, self.image_units)

    @cached_property
    def register_rows(self) -> int:
        """Pixels of a matrix unit's register: as even as can be, and none at the end of an image row if possible."""
        if self.conv.primitive.matrix_unit is None:
            return ROWS
        width, registers = self.unit_pixels, self.conv.tile_registers
        at_one_distance = self.flat or (self.staging == SAMPLED_ROWS and self.conv.blocks == (1, 1))
        if at_one_distance or self.conv.choice.collected:
            pixels = self.block_units * width
            tiles = -(-pixels // (registers * ROWS))
            return max(LEAST_UNIT_PIXELS, -(-pixels // (registers * tiles)))
        divisors = [rows for rows in range(_FEW_ROWS, ROWS + 1) if width % rows == 0]
        return max(divisors, default=ROWS)

    def tiles(self) -> S64:
        """The tiles with the pixels that they have here, and their places in the output."""
        conv = self.conv
        if conv.primitive.matrix_unit is None and conv.blocks == (1, 1):
            return conv.tiles
        entries = conv.tiles.copy()
        if conv.primitive.matrix_unit is not None:
            entries[:, 1] = entries[:, 1] // ROWS * self.register_rows
        row, column = np.divmod(conv.places, conv.blocks[1])
        entries[:, 3] += (row * self.out_width * conv.blocks[1] + column) * self.out_pitch
        return aligned(entries).view(np.int64).reshape(entries.shape)

    @cached_property
    def panel_bytes(self) -> int:
        """Of one step of all pixels of a block: an odd number of rows, lest all panels meet in the same cache sets."""
        return (self.block_units * self.unit_pixels | 1) * ROW_BYTES

    @cached_property
    def panels_bytes(self) -> int:
        return self.conv.steps * self.panel_bytes

    def offsets(self) -> AnyArray:
        """s64: the byte offset of each run, then that of each pixel of a block.

        Where activations are collected, first of the collected ones, then of those that are staged.
        """
        conv, pixel = self.conv, self.pixel
        (kh, kw), (dh, dw) = conv.kernel, conv.dilations
        columns = np.arange(kw if conv.runs == kh * kw else 1, dtype=np.int64) * dw * pixel
        runs = (np.arange(kh, dtype=np.int64) * dh * self.pitch)[:, None] + columns
        row_step, pixel_step = self.strides[0] * self.pitch, self.strides[1] * pixel
        if self.staging in (PIXELS, SAMPLED_ROWS):
            row_step, pixel_step = self.unit_pixels * pixel, pixel
        elif self.flat:
            row_step = pixel
        rows = (np.arange(self.staged_units, dtype=np.int64) * row_step)[:, None]
        pixels = rows + np.arange(self.unit_pixels, dtype=np.int64) * pixel_step
        found = [runs.ravel(), pixels.ravel()]
        if conv.choice.collected:
            panels = np.arange(conv.steps, dtype=np.int64) * self.panel_bytes
            collected = np.arange(self.block_units * self.unit_pixels, dtype=np.int64) * conv.step_bytes
            found = [panels, collected, *found]
        return aligned(np.concatenate(found)).view(np.int64)

    def integers(self) -> dict[str, int]:
        cin, pixel_bytes = self.conv.cin, self.x_pitch
        row_bytes = self.width * pixel_bytes
        rows, columns = self.conv.blocks
        plain = (rows, columns) == (1, 1)
        return {
            "out_stride": columns * self.out_pitch,
            "out_unit_bytes": rows * columns * self.unit_pixels * self.out_pitch,
            "segment_pixels": self.unit_pixels * (self.block_units if plain else 1),
            "staging": self.staging,
            "item_bytes": self.conv.primitive.activation_bytes,
            "units": self.units,
            "image_units": self.image_units,
            "block_units": self.block_units,
            "staged_units": self.staged_units,
            "unit_pixels": self.unit_pixels,
            "image_bytes": self.height * row_bytes,
            "unit_bytes": pixel_bytes if self.flat else self.strides[0] * row_bytes,
            "column_step": self.strides[1] * pixel_bytes,
            "height": self.height,
            "row_items": self.width * cin,
            "row_step": self.strides[0],
            "window_rows": self.window[0],
            "pad_top": self.pads[0],
            "pad_left": self.pads[1] * cin,
            "pad_right": self.pads[3] * cin,
            "pixel_bytes": pixel_bytes,
        }
