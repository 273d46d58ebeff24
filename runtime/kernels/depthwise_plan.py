"""Plans of `int_depthwise`: weights are packed once for a model, the rest is worked out for each input shape.

    packed = pack_depthwise(ConvLayer(weight, bias, requantization, zp_in=3, x_dtype=DType.U8), isa.current())
    plan = packed.plan(batch=1, height=56, width=56, strides=(1, 1), pads=(1, 1, 1, 1))

The interface is that of `qcompiler.runtime.kernels.convolution_plan`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcompiler.ir.types import AnyArray
from qcompiler.runtime.codegen.depthwise_columns import COLUMNS, ROWS, VARIANTS, ColumnVariant
from qcompiler.runtime.codegen.depthwise_operands import VECTORS
from qcompiler.runtime.codegen.epilogue import channel_of
from qcompiler.runtime.codegen.primitives import Primitive, primitive_named
from qcompiler.runtime.kernels.convolution_packing import ConvLayer
from qcompiler.runtime.kernels.depthwise import PARTIAL_BYTES, TILE_WORDS
from qcompiler.runtime.kernels.kernel_plan import SHARE_NS, STAGE_BYTES, STAGE_SLACK, KernelPlan
from qcompiler.runtime.kernels.packing import (
    S8,
    S64,
    Bytes,
    Epilogue,
    aligned,
    round_up,
)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Blocks of channels, each with its weights and records.

    Attributes:
        weights: [block, ..., vector, lane, tap of a group], s8 or s16.
        records: [block, vector], see `rescale`.
        starts: first channel of each block.
        pieces: pixels that share a vector in each block, because it has only so few channels.
    """

    weights: Bytes
    records: Bytes
    starts: tuple[int, ...]
    pieces: tuple[int, ...]

    def tiles(self, itemsize: int, step_pixels: Sequence[int], variants: Sequence[int]) -> S64:
        """s64[block, TILE_WORDS]."""
        size, record_size = (array.nbytes // len(self.starts) for array in (self.weights, self.records))
        entries = [
            [start, start * itemsize, i * size, i * record_size, pixels, variant]
            for i, (start, pixels, variant) in enumerate(zip(self.starts, step_pixels, variants, strict=True))
        ]
        return aligned(np.array(entries, np.int64)).view(np.int64).reshape(-1, TILE_WORDS)


@dataclass(frozen=True, eq=False)
class PackedDepthwise:
    """A depthwise convolution's constants for one primitive.

    Attributes:
        weight: s8[channels, kh, kw].
        dilations: of (rows, columns).
    """

    isa: str
    weight: S8
    epilogue: Epilogue
    flip_in: int
    zp_in: int
    dilations: tuple[int, int]

    @property
    def channels(self) -> int:
        return int(self.weight.shape[0])

    @cached_property
    def primitive(self) -> Primitive:
        return primitive_named(self.isa)

    @cached_property
    def window(self) -> tuple[int, int]:
        (kh, kw), (dh, dw) = self.weight.shape[1:], self.dilations
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def tap_groups(self) -> int:
        """Groups of taps of a kernel of any shape."""
        return -(-math.prod(self.weight.shape[1:]) // self.primitive.group)

    @cached_property
    def by_taps(self) -> _Layout:
        """For `depthwise_row`: weights [block, group of taps, vector, lane, tap]."""
        p = self.primitive
        taps = np.zeros((self.channels, self.tap_groups * p.group), np.int8)
        taps[:, : self.weight[0].size] = self.weight.reshape(self.channels, -1)
        starts = [
            min(start, max(0, self.channels - p.vector_bytes)) for start in range(0, self.channels, p.vector_bytes)
        ]
        return self._layout(taps.reshape(self.channels, self.tap_groups, p.group), starts, [1] * len(starts))

    @cached_property
    def by_columns(self) -> _Layout:
        """For `depthwise_columns`: weights [block, output row, column, group of rows, vector, lane, row]."""
        p = self.primitive
        rows = np.zeros((self.channels, 2, COLUMNS, ROWS), np.int8)
        for m in range(2):
            rows[:, m, :, m : m + 3] = self.weight.transpose(0, 2, 1)
        starts, pieces = [], []
        start = 0
        while start < self.channels:  # the last block may overlap its neighbour
            left = self.channels - start
            pieces.append(next((n for n in (1, 2) if p.vector_bytes // n <= left), 4))
            width = p.vector_bytes // pieces[-1]
            starts.append(min(start, self.channels - width))
            start = starts[-1] + width
        return self._layout(rows.reshape(self.channels, -1, p.group), starts, pieces)

    def _layout(self, groups: S8, starts: list[int], pieces: list[int]) -> _Layout:
        """Of s8[channel, group, tap]."""
        p = self.primitive
        order = np.array([[channel_of(VECTORS, v, lane) for lane in range(p.lanes)] for v in range(VECTORS)])
        # [block, vector, lane]; several pixels of few channels repeat them, and what is left over is never stored
        own = np.array(
            [
                (start + order % (p.vector_bytes // count)) % self.channels
                for start, count in zip(starts, pieces, strict=True)
            ]
        )
        element = np.int8 if p.group == 4 else np.int16
        weights = groups.astype(element)[own].transpose(0, 3, 1, 2, 4)
        records = self.epilogue.records(own.reshape(-1, p.lanes))
        return _Layout(aligned(weights), records, tuple(starts), tuple(pieces))

    def plan(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        max_shares: int = 8,
        pitches: tuple[int, int] | None = None,
    ) -> KernelPlan:
        """The call for x[batch, height, width, channels]; pads: top, left, bottom, right.

        The output must not be empty. `pitches` are the bytes from pixel to pixel of x and of the output, if they are
        not next to each other.
        """
        x_pitch, out_pitch = pitches or (self.channels, self.channels * self.epilogue.itemsize)
        out_height = (height + pads[0] + pads[2] - self.window[0]) // strides[0] + 1
        out_width = (width + pads[1] + pads[3] - self.window[1]) // strides[1] + 1
        vector = self.primitive.vector_bytes
        by_columns = (
            self.weight.shape[1:] == (3, 3)
            and self.dilations == (1, 1)
            and strides[1] in {1, 2}
            and self.channels >= vector // 4
            and out_width >= max(self.by_columns.pieces)
        )
        reads_beyond = not by_columns and self.channels < vector  # a block narrower than a vector
        staged = bool(self.flip_in) or (not by_columns and any(pads)) or reads_beyond
        pixel = self.channels if staged else x_pitch
        stores_rows = out_pitch == self.channels * self.epilogue.itemsize
        step_bytes = 0
        if by_columns:
            layout = self.by_columns
            step_pixels = list(layout.pieces)
            variants = [VARIANTS.index(ColumnVariant(count, strides[1], rows=1)) for count in layout.pieces]
        else:
            layout = self.by_taps
            together = min(max(1, vector // self.channels), out_width) if strides[1] == 1 and stores_rows else 1
            step_pixels = [together] * len(layout.starts)
            variants = [0] * len(layout.starts)
            if together * self.channels < vector:
                step_bytes = together * self.channels * self.epilogue.itemsize

        units, tile_count = batch * out_height, len(layout.starts)
        steps = units * sum(-(-out_width // pixels) for pixels in step_pixels)
        operations = 28 if by_columns else self.tap_groups * 6 + 10
        cost = steps * operations * _NS_PER_OPERATION[self.isa.removesuffix("-emulated")]
        shares = max(1, min(max_shares, int(cost / SHARE_NS), max(tile_count, units)))
        by_tiles = units < 4 * shares and tile_count > units
        shares = min(shares, tile_count if by_tiles else units)

        pitch = (width + pads[1] + pads[3] if staged else width) * pixel
        one, more = self.window[0] * pitch, strides[0] * pitch
        block_units = min(out_height, max(0, STAGE_BYTES - one) // more + 1) if staged else out_height
        stage = one + (block_units - 1) * more + STAGE_SLACK if staged else 0
        outside = 0
        if by_columns and not staged:
            outside = max(vector, width * pixel if pads[0] or pads[2] else 0)
        scratch = round_up(PARTIAL_BYTES + stage + outside, 64)
        integers = {
            **self.epilogue.parameters,
            "scratch_bytes": scratch,
            "share_limit": shares,
            "by_tiles": int(by_tiles),
            "staged": int(staged),
            "outside_bytes": outside,
            "flip_in": self.flip_in,
            "zp_in": self.zp_in,
            "units": units,
            "image_units": out_height,
            "block_units": block_units,
            "unit_pixels": out_width,
            "by_columns": int(by_columns),
            "paired": int(by_columns and strides == (1, 1)),
            "step_bytes": step_bytes,
            "tile_count": tile_count,
            "tap_groups": self.tap_groups,
            "image_bytes": height * width * x_pitch,
            "out_stride": out_pitch,
            "column_bytes": pixel,
            "pixel_step": strides[1] * pixel,
            "height": height,
            "row_items": width * pixel,
            "row_step": strides[0],
            "window_rows": self.window[0],
            "pad_top": pads[0],
            "pad_left": pads[1] * pixel,
            "pad_right": pads[3] * pixel,
            "channels": self.channels,
            "pixel_bytes": x_pitch,
        }
        constants: dict[str, AnyArray] = {
            "weights": layout.weights,
            "records": layout.records,
            "tiles": layout.tiles(self.epilogue.itemsize, step_pixels, variants),
            "taps": self._taps(pitch, pixel),
        }
        out_shape = (batch, out_height, out_width, self.channels)
        return KernelPlan("int_depthwise", constants, integers, scratch * shares, shares, cost, out_shape)

    def _taps(self, pitch: int, pixel: int) -> S64:
        """s64[tap_groups * group]: byte offset of each tap in the window; those that fill up repeat the first."""
        (kh, kw), (dh, dw) = self.weight.shape[1:], self.dilations
        offsets = (np.arange(kh, dtype=np.int64) * dh * pitch)[:, None] + np.arange(kw) * dw * pixel
        taps = np.zeros(self.tap_groups * self.primitive.group, np.int64)
        taps[: offsets.size] = offsets.ravel()
        return aligned(taps).view(np.int64)


_NS_PER_OPERATION = {
    "amx": 0.25,
    "vnni512": 0.25,
    "vnni256": 0.25,
    "avx512": 0.35,
    "avx2": 0.35,
    "generic": 0.4,
    "neon_i8mm": 0.3,
    "neon_dot": 0.3,
    "neon": 0.4,
}


def pack_depthwise(layer: ConvLayer, isa: str) -> PackedDepthwise:
    """Pack a convolution of as many output as input channels, each a group of its own, for the primitive `isa`.

    With several outputs for each input channel use `pack_conv`.
    """
    p = primitive_named(isa)
    return PackedDepthwise(
        isa=isa,
        weight=layer.weight[:, 0],
        epilogue=layer.epilogue(p),
        flip_in=p.flip_of(layer.x_dtype),
        zp_in=layer.zp_in + p.added_to(layer.x_dtype),
        dilations=layer.dilations,
    )
