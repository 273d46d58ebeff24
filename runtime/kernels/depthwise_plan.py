"""Plans of `int_depthwise`: weights are packed once for a model, the rest is worked out for each input shape.

    packed = pack_depthwise(weight, bias, requantization, zp_in=3, x_dtype=DType.U8, isa=isa.current())
    plan = packed.plan(batch=1, height=56, width=56, strides=(1, 1), pads=(1, 1, 1, 1))

The interface is that of `qcompiler.runtime.kernels.convolution_plan`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcompiler.ir.types import AnyArray, DType
from qcompiler.runtime.codegen.depthwise_tile import VECTORS
from qcompiler.runtime.codegen.epilogue import channel_of
from qcompiler.runtime.codegen.primitives import Primitive, primitive_named
from qcompiler.runtime.kernels.convolution_plan import SHARE_NS, STAGE_BYTES, STAGE_SLACK, KernelPlan
from qcompiler.runtime.kernels.depthwise import PARTIAL_BYTES, TILE_WORDS
from qcompiler.runtime.kernels.packing import (
    S8,
    S32,
    S64,
    Bytes,
    Epilogue,
    Requantization,
    aligned,
    make_epilogue,
    round_up,
)


@dataclass(frozen=True, eq=False)
class PackedDepthwise:
    """A depthwise convolution's constants for one primitive.

    Attributes:
        weights: [block of channels, group of taps, vector, lane, tap], s8 or s16.
        records: [block of channels, vector], see `rescale`.
        tiles: s64[block of channels, TILE_WORDS].
        kernel: (kh, kw); with `dilations`.
    """

    isa: str
    weights: Bytes
    records: Bytes
    tiles: S64
    epilogue: Epilogue
    flip_in: int
    zp_in: int
    channels: int
    kernel: tuple[int, int]
    dilations: tuple[int, int]

    @cached_property
    def primitive(self) -> Primitive:
        return primitive_named(self.isa)

    @cached_property
    def window(self) -> tuple[int, int]:
        (kh, kw), (dh, dw) = self.kernel, self.dilations
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    def plan(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        strides: tuple[int, int] = (1, 1),
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        max_shares: int = 8,
    ) -> KernelPlan:
        """The call for x[batch, height, width, channels]; pads: top, left, bottom, right.

        The output must not be empty.
        """
        out_height = (height + pads[0] + pads[2] - self.window[0]) // strides[0] + 1
        out_width = (width + pads[1] + pads[3] - self.window[1]) // strides[1] + 1
        units, tile_count = batch * out_height, len(self.tiles)
        groups = -(-math.prod(self.kernel) // self.primitive.group)
        vector = self.primitive.vector_bytes
        step_pixels = min(max(1, vector // self.channels), out_width) if strides[1] == 1 else 1
        step_channels = step_pixels * self.channels
        vectors = units * -(-out_width // step_pixels) * tile_count
        cost = vectors * (groups * 6 + 10) * _NS_PER_OPERATION[self.isa.removesuffix("-emulated")]
        shares = max(1, min(max_shares, int(cost / SHARE_NS), max(tile_count, units)))
        by_tiles = units < 4 * shares and tile_count > units
        shares = min(shares, tile_count if by_tiles else units)

        # A block narrower than a vector reads beyond its channels.
        staged = any(pads) or bool(self.flip_in) or self.channels < vector
        pitch = (width + pads[1] + pads[3] if staged else width) * self.channels
        one, more = self.window[0] * pitch, strides[0] * pitch
        block_units = min(out_height, max(0, STAGE_BYTES - one) // more + 1)
        stage = one + (block_units - 1) * more + STAGE_SLACK if staged else 0
        scratch = round_up(PARTIAL_BYTES + stage, 64)
        integers = {
            **self.epilogue.parameters,
            "scratch_bytes": scratch,
            "share_limit": shares,
            "by_tiles": int(by_tiles),
            "staged": int(staged),
            "flip_in": self.flip_in,
            "zp_in": self.zp_in,
            "units": units,
            "image_units": out_height,
            "block_units": block_units,
            "unit_pixels": out_width,
            "step_pixels": step_pixels,
            "step_bytes": step_channels * self.epilogue.itemsize if step_channels < vector else 0,
            "tile_count": tile_count,
            "tap_groups": groups,
            "unrolled": int(groups == -(-9 // self.primitive.group)),
            "image_bytes": height * width * self.channels,
            "out_stride": self.channels * self.epilogue.itemsize,
            "pixel_step": strides[1] * self.channels,
            "height": height,
            "row_items": width * self.channels,
            "row_step": strides[0],
            "window_rows": self.window[0],
            "pad_top": pads[0],
            "pad_left": pads[1] * self.channels,
            "pad_right": pads[3] * self.channels,
        }
        constants: dict[str, AnyArray] = {
            "weights": self.weights,
            "records": self.records,
            "tiles": self.tiles,
            "taps": self._taps(pitch, groups),
        }
        out_shape = (batch, out_height, out_width, self.channels)
        return KernelPlan("int_depthwise", constants, integers, scratch * shares, shares, cost, out_shape)

    def _taps(self, pitch: int, groups: int) -> S64:
        """s64[groups * group]: byte offset of each tap in the window; those that fill up repeat the first."""
        (kh, kw), (dh, dw) = self.kernel, self.dilations
        offsets = (np.arange(kh, dtype=np.int64) * dh * pitch)[:, None] + np.arange(kw) * dw * self.channels
        taps = np.zeros(groups * self.primitive.group, np.int64)
        taps[: offsets.size] = offsets.ravel()
        return aligned(taps).view(np.int64)


_NS_PER_OPERATION = {"amx": 0.25, "vnni512": 0.25, "vnni256": 0.25, "avx512": 0.35, "avx2": 0.35, "generic": 0.4}


def pack_depthwise(
    weight: S8,
    bias: S32,
    requantization: Requantization | None,
    *,
    zp_in: int,
    x_dtype: DType,
    isa: str,
    dilations: tuple[int, int] = (1, 1),
) -> PackedDepthwise:
    """Pack a depthwise convolution of as many output as input channels; weight s8[channels, 1, kh, kw].

    The other arguments are those of `pack_conv`. With several outputs for each input channel use `pack_conv`.
    """
    channels, _, kh, kw = weight.shape
    p = primitive_named(isa)
    flip = 128 if x_dtype is DType.S8 else 0
    sums = weight.reshape(channels, -1).sum(axis=1, dtype=np.int64)
    epilogue = make_epilogue(bias.astype(np.int64) - flip * sums, requantization)
    groups = -(-kh * kw // p.group)
    taps = np.zeros((channels, groups * p.group), np.int8 if p.group == 4 else np.int16)
    taps[:, : kh * kw] = weight.reshape(channels, kh * kw)
    taps = taps.reshape(channels, groups, p.group)

    width = p.vector_bytes  # channels of a block: four vectors of s32
    order = np.array([[channel_of(VECTORS, v, lane) for lane in range(p.lanes)] for v in range(VECTORS)])
    starts = [min(start, max(0, channels - width)) for start in range(0, channels, width)]
    # [block, vector, lane]; several pixels of few channels repeat them, and what is left over is never stored
    own = np.array([(start + order) % channels for start in starts])
    weights = taps[own].transpose(0, 3, 1, 2, 4)
    records = epilogue.records(own.reshape(-1, p.lanes))
    item = epilogue.itemsize
    tiles = [
        [
            start,
            start * item,
            i * weights[0].nbytes,
            i * (records.nbytes // len(starts)),
        ]
        for i, start in enumerate(starts)
    ]
    return PackedDepthwise(
        isa=isa,
        weights=aligned(weights),
        records=records,
        tiles=aligned(np.array(tiles, np.int64)).view(np.int64).reshape(-1, TILE_WORDS),
        epilogue=epilogue,
        flip_in=flip,
        zp_in=zp_in + flip,
        channels=channels,
        kernel=(kh, kw),
        dilations=dilations,
    )
