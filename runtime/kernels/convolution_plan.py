"""Plans of `int_conv`: weights are packed once for a model, the rest is worked out once for each input shape.

    packed = pack_conv(weight, bias, requantization, zp_in=3, x_dtype=DType.U8, isa=isa.current())
    plan = packed.plan(batch=1, height=56, width=56, strides=(1, 1), pads=(1, 1, 1, 1))

The lowering makes an instruction of a plan: buffers for the words "x", "residual" (0 if nothing is added), "out" and
"scratch", constants for those in `plan.constants`, and the integers as they are. A primitive reads bytes as u8 or as
s8; activations that are the other get 128 added to, or taken from, both their values (a flipped top bit, while staging)
and their zero point (in the bias).

With `blocks` the result is that of the convolution and a `depth_to_space` (mode DCR) of it: output channels are (row,
column, channel) of a block of pixels, and each tile has channels of one place in the block.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcompiler.ir.types import AnyArray, DType
from qcompiler.runtime.codegen.epilogue import channel_of
from qcompiler.runtime.codegen.matrix_unit import REGISTER_BYTES, ROW_BYTES, ROWS
from qcompiler.runtime.codegen.primitives import Primitive, TileShape, primitive_named
from qcompiler.runtime.kernels.convolution import (
    IN_PLACE,
    PADDED_ROWS,
    PARTIAL_BYTES,
    PIXELS,
    SAMPLED_ROWS,
    TILE_WORDS,
)
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
from qcompiler.runtime.kernels.pair_proof import MOST, pair_sum_for
from qcompiler.runtime.kernels.tile_choice import TileChoice, choose_tiles

STAGE_BYTES = 48 * 1024  # of scratch that a block aims for: with one tile's weights it stays in the L2 cache
BLOCK_PIXELS = 96  # a multiple of the usual tiles' pixels
LARGEST_BLOCK_PIXELS = 480
COLLECTED_PIXELS = 64  # of a block whose activations are collected: one tile
COLLECTED_STAGE_BYTES = 256 * 1024  # that are read once, to be collected
STAGE_SLACK = 64  # bytes: the last run may be padded to whole groups, whose weights are zero
SHARE_NS = 5000.0  # a share is worth at least this much time


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """One kernel call for concrete shapes.

    Attributes:
        kernel: name in the registry.
        constants: word -> array, aligned; addresses at run time.
        integers: word -> value.
        scratch_bytes: size of the buffer for the word "scratch", all shares together; aligned like any buffer.
        shares: the most shares that are any use.
        cost: predicted nanoseconds on one thread.
        out_shape: NHWC.
    """

    kernel: str
    constants: Mapping[str, AnyArray]
    integers: Mapping[str, int]
    scratch_bytes: int
    shares: int
    cost: float
    out_shape: tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class PackedConv:
    """A convolution's constants for one primitive.

    Attributes:
        weights: [tile, run, group of activations, vector, lane, activation], s8 or s16.
        records: [tile, vector], see `rescale`.
        tiles: s64[tile, TILE_WORDS].
        per_group: input channels of a group.
        kernel: (kh, kw); with `dilations`.
        runs: number of runs of a pixel; run_items: activations of each, without padding.
        choice: the widest tile, and whether activations are collected: then into `steps` of `step_bytes`, else 0.
        is_narrow: packed for `Primitive.narrow`.
        pair_sum: what decided that, where there is such a form: see `pair_proof`.
        blocks: rows and columns of pixels that an output pixel becomes.
        places: s64[tile], row · columns + column in the block of each tile's channels.
        density: the part of the products that tiles compute, which leave out taps that are zero.
    """

    isa: str
    weights: Bytes
    records: Bytes
    tiles: S64
    epilogue: Epilogue
    flip_in: int
    zp_in: int
    per_group: int
    group: int
    cout: int
    kernel: tuple[int, int]
    dilations: tuple[int, int]
    runs: int
    run_items: int
    choice: TileChoice
    steps: int
    step_bytes: int
    blocks: tuple[int, int]
    places: S64
    density: float
    is_narrow: bool = False
    pair_sum: int | None = None

    @property
    def cin(self) -> int:
        return self.per_group * self.group

    @property
    def run_bytes(self) -> int:
        """Bytes of a run of staged activations: whole groups."""
        return round_up(self.run_items * self.primitive.activation_bytes, 4)

    @property
    def pixel_bytes(self) -> int:
        """Bytes of an output pixel."""
        return self.cout // math.prod(self.blocks) * self.epilogue.itemsize

    @cached_property
    def primitive(self) -> Primitive:
        return primitive_named(self.isa).forms[self.is_narrow]

    @property
    def tile_registers(self) -> int:
        """Registers of pixels of the widest tile on a matrix unit."""
        return self.primitive.tiles[self.choice.widest].pixels // ROWS

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
        """The call for x[batch, height, width, cin]; pads: top, left, bottom, right.

        The output must not be empty. `pitches` are the bytes from pixel to pixel of x and of the output, if they are
        not next to each other.
        """
        x_pitch, out_pitch = pitches or (self.cin, self.pixel_bytes)
        geometry = _Geometry(self, batch, height, width, strides, pads, x_pitch, out_pitch)
        macs = geometry.tile_pixels * self.density * self.cout * self.per_group * math.prod(self.kernel)
        speed = MACS_PER_NS[self.isa.removesuffix("-emulated")] * (_NARROW_SPEED if self.is_narrow else 1)
        cost = macs / speed + geometry.pixels * self.cout * 0.15
        if self.blocks != (1, 1) and self.primitive.matrix_unit is not None:
            cost += geometry.units * self.weights.nbytes * _PREFETCH_NS
        tile_count = len(self.tiles)
        shares = max(1, min(max_shares, int(cost / SHARE_NS), max(tile_count, geometry.units)))
        by_tiles = geometry.units < 4 * shares and tile_count > geometry.units
        shares = min(shares, tile_count if by_tiles else geometry.units)
        stage = 0 if geometry.staging == IN_PLACE else geometry.stage_bytes(geometry.block_units) + STAGE_SLACK
        scratch = round_up(PARTIAL_BYTES + geometry.panels_bytes + stage, 64)
        integers = {
            **self.epilogue.parameters,
            **self.epilogue.residual_parameters,
            **geometry.integers(),
            "scratch_bytes": scratch,
            "share_limit": shares,
            "by_tiles": int(by_tiles),
            "flip_in": self.flip_in,
            "zp_in": self.zp_in,
            "tile_count": tile_count,
            "run_count": self.steps or self.runs,
            "step_bytes": self.step_bytes,
            "panel_bytes": geometry.panel_bytes,
            "panels_bytes": geometry.panels_bytes,
            "staged_run_count": self.runs,
            "staged_run_bytes": self.run_bytes,
            "register_rows": geometry.register_rows,
            "cin": self.cin,
        }
        constants: dict[str, AnyArray] = {
            "weights": self.weights,
            "records": self.records,
            "tiles": geometry.tiles(),
            "offsets": geometry.offsets(),
        }
        rows, columns = self.blocks
        out_shape = (batch, geometry.out_height * rows, geometry.out_width * columns, self.cout // (rows * columns))
        return KernelPlan("int_conv", constants, integers, scratch * shares, shares, cost, out_shape)


LEAST_ROWS = 4  # of a register of pixels: with fewer, a tile could not have `Primitive.least_pixels`
_PREFETCH_NS = 0.0025  # a byte of weights that a matrix unit's tiles ask for once more, with each row of pixels
_FEW_ROWS = 7  # with fewer it is faster to gather the pixels of several image rows


def register_bytes(run_bytes: int) -> int:
    """Bytes of a matrix unit's step: such that the steps of a run are alike, if that adds no more than one."""
    steps = -(-run_bytes // ROW_BYTES)
    for count in (steps, steps + 1):
        if run_bytes % (4 * count) == 0:
            return run_bytes // count
    return ROW_BYTES


def _collected_steps(collected_bytes: int) -> tuple[int, int]:
    """Steps of a matrix unit over all runs of a pixel, and bytes of each."""
    step_bytes = register_bytes(collected_bytes)
    return -(-collected_bytes // step_bytes), step_bytes


MACS_PER_NS = {
    "amx": 800.0,
    "vnni512": 200.0,
    "vnni256": 100.0,
    "avx512": 100.0,
    "avx2": 70.0,
    "generic": 15.0,
    "neon_i8mm": 60.0,
    "neon_dot": 60.0,
    "neon": 15.0,
}
_NARROW_SPEED = 1.3  # times that of the other form


@dataclass(frozen=True)
class _Geometry:
    """How the output divides into units and where a pixel's activations are. Sizes in activations or bytes."""

    conv: PackedConv
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
        largest = max(1, (COLLECTED_PIXELS if self.conv.choice.collected else LARGEST_BLOCK_PIXELS) // self.unit_pixels)
        if self.staging != IN_PLACE:
            one, two = self.stage_bytes(1), self.stage_bytes(2)
            room = COLLECTED_STAGE_BYTES if self.conv.choice.collected else STAGE_BYTES
            largest = min(largest, max(0, room - one) // (two - one) + 1)
        if self.flat:
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
            return max(LEAST_ROWS, -(-pixels // (registers * tiles)))
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
        rows = (np.arange(self.block_units, dtype=np.int64) * row_step)[:, None]
        pixels = rows + np.arange(self.unit_pixels, dtype=np.int64) * pixel_step
        found = [runs.ravel(), pixels.ravel()]
        if conv.choice.collected:
            panels = np.arange(conv.steps, dtype=np.int64) * self.panel_bytes
            found = [panels, np.arange(pixels.size, dtype=np.int64) * conv.step_bytes, *found]
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


def pack_conv(  # noqa: PLR0913 - each is a fact of the layer
    weight: S8,
    bias: S32,
    requantization: Requantization | None,
    *,
    zp_in: int,
    x_dtype: DType,
    isa: str,
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    pixels: int = 0,
    x_range: tuple[int, int] | None = None,
    blocks: tuple[int, int] = (1, 1),
) -> PackedConv:
    """Pack a convolution for one primitive.

    Args:
        weight: s8[cout, cin / group, kh, kw].
        bias: s32[cout], with -zp_in * sum(weight) folded in.
        requantization: None to store the accumulators as s32.
        zp_in: zero point of the activations, with which borders are padded.
        x_dtype: u8 or s8.
        isa: a primitive's name.
        dilations: of (rows, columns).
        group: number of groups; 1 with blocks.
        pixels: of the result, which the tiles are chosen for; 0 if that is not known. Any number can be planned.
        x_range: of the activations, if it is known to be less than that of their dtype.
        blocks: rows and columns of pixels that an output pixel becomes.
    """
    cout, per_group, kh, kw = weight.shape
    merged = group == 1 and (dilations[1] == 1 or kw == 1)  # neighbouring columns are neighbouring bytes
    runs = kh if merged else kh * kw
    flat = weight.transpose(0, 2, 3, 1).reshape(cout, runs, -1)
    run_items = flat.shape[2]
    p = primitive_named(isa)
    pair_sum = None
    if p.narrow is not None:
        low, high = x_range or x_dtype.limits
        held = min(low, zp_in), max(high, zp_in)  # borders are padded with the zero point
        pair_sum = pair_sum_for(p.narrow, _in_groups(flat, p.narrow.group), x_dtype, held)
        p = p.narrow if pair_sum <= MOST else p
    dot_groups = _in_groups(flat, p.group)
    first_variant = 2 * len(p.tiles) if p.is_narrow else 0
    added = p.added_to(x_dtype)
    sums = weight.reshape(cout, -1).sum(axis=1, dtype=np.int64)
    epilogue = make_epilogue(bias.astype(np.int64) - added * sums, requantization)
    element = np.int8 if p.group == 4 else np.int16

    weights, channels, tiles, places = [], [], [], []
    sections = group * math.prod(blocks)  # of the output channels; no tile has channels of two
    per_section = cout // sections
    choice = choose_tiles(p, channels=per_section, activations=runs * run_items, pixels=pixels, sections=sections)
    steps, step_bytes = _collected_steps(4 * runs * dot_groups.shape[2]) if choice.collected else (0, 0)
    taps = kw if merged else 1  # of a run
    used_products = products = 0
    weight_offset = record_offset = 0
    record_size = epilogue.records(np.zeros((1, p.lanes), np.intp)).nbytes
    for section in range(sections):
        g = section if group > 1 else 0
        for index, start, valid in tiles_of(p, per_section, choice.widest):
            shape = p.tiles[index]
            columns = shape.vectors * p.lanes
            lanes, vectors = range(p.lanes), range(shape.vectors)
            order = np.array([[channel_of(shape.vectors, v, lane) for lane in lanes] for v in vectors])
            inside = order < valid
            first = section * per_section + start
            own = np.where(inside, first + order, 0)  # [vectors, lanes]
            used_runs, used_groups = slice(0, runs), slice(0, dot_groups.shape[2])
            if not choice.collected:
                used_runs, used_groups = _used(flat[first : first + valid], taps, p.group)
            used = dot_groups[:, used_runs, used_groups]
            block = np.where(inside[:, :, None, None, None], used[own], 0).astype(element)
            weights.append(block.transpose(2, 3, 0, 1, 4).ravel())  # [run, group, vector, lane, activation]
            channels.append(own)
            places.append(section if group == 1 else 0)
            narrow = valid * epilogue.itemsize if valid < columns else 0
            entry = [
                first_variant + 2 * index,
                shape.pixels,
                p.least_pixels(shape),
                (first if group > 1 else start) * epilogue.itemsize,
                weight_offset,
                record_offset,
                g * per_group * p.activation_bytes + 4 * used_groups.start,
                narrow,
                columns * epilogue.itemsize,
            ]
            used_products, products = used_products + used[0].size * columns, products + dot_groups[0].size * columns
            run_bytes = 4 * (used_groups.stop - used_groups.start)
            own_runs = [used_runs.start, used_runs.stop - used_runs.start, run_bytes, register_bytes(run_bytes)]
            tiles.append([*entry, *([0, steps, step_bytes, step_bytes] if choice.collected else own_runs)])
            weight_offset += weights[-1].nbytes
            record_offset += shape.vectors * record_size
    if p.matrix_unit is not None:  # it reads whole tiles of weights, also where a run ends before
        weights.append(np.zeros(REGISTER_BYTES * max(shape.vectors for shape in p.tiles), element))
    return PackedConv(
        isa=isa,
        weights=aligned(np.concatenate(weights)),
        records=epilogue.records(np.concatenate(channels)),
        tiles=aligned(np.array(tiles, np.int64)).view(np.int64).reshape(-1, TILE_WORDS),
        epilogue=epilogue,
        flip_in=p.flip_of(x_dtype),
        zp_in=zp_in + added,
        per_group=per_group,
        group=group,
        cout=cout,
        kernel=(kh, kw),
        dilations=dilations,
        runs=runs,
        run_items=run_items,
        choice=choice,
        steps=steps,
        step_bytes=step_bytes,
        blocks=blocks,
        places=np.array(places, np.int64),
        density=used_products / products,
        is_narrow=p.is_narrow,
        pair_sum=pair_sum,
    )


def _in_groups(runs: S8, group: int) -> S8:
    """s8[cout, run, item] to s8[cout, run, group of items, item]; the last group is filled up with zeros."""
    padded = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % group)))
    return padded.reshape(*runs.shape[:2], -1, group)


def _used(weight: S8, taps: int, group: int) -> tuple[slice, slice]:
    """The runs, and within them the groups, from the first to the last tap with a weight in s8[cout, runs, items].

    They are at least one of each. Where `taps` share a run it begins and ends with one of them.
    """
    items = weight.shape[2]
    by_tap = np.any(weight.reshape(len(weight), -1, taps, items // taps), axis=(0, 3))
    runs, columns = (np.flatnonzero(np.any(by_tap, axis=axis)) for axis in (1, 0))
    if not len(runs):
        return slice(0, 1), slice(0, 1)
    step = items // taps
    groups = slice(int(columns[0]) * step // group, -(-(int(columns[-1]) + 1) * step // group))
    return slice(int(runs[0]), int(runs[-1]) + 1), groups


def pack_gemm(
    weight: S8,
    bias: S32,
    requantization: Requantization | None,
    *,
    zp_in: int,
    x_dtype: DType,
    isa: str,
    pixels: int = 0,
    x_range: tuple[int, int] | None = None,
) -> PackedConv:
    """Pack a fully connected layer: weight s8[out, in], the rest as for `pack_conv`.

    Plan it with `plan(batch=1, height=1, width=rows)`: a row is a pixel.
    """
    return pack_conv(
        weight[:, :, None, None],
        bias,
        requantization,
        zp_in=zp_in,
        x_dtype=x_dtype,
        isa=isa,
        pixels=pixels,
        x_range=x_range,
    )


def tiles_of(p: Primitive, channels: int, widest: int) -> list[tuple[int, int, int]]:
    """(index of the tile shape, first channel, channels) that cover `channels`; the last may overlap its neighbour.

    No tile is wider than the shape `widest`.
    """

    def width(shape: TileShape) -> int:
        return shape.vectors * p.lanes

    result = []
    start = 0
    while start < channels:
        fitting = [i for i in range(widest, len(p.tiles)) if width(p.tiles[i]) <= channels - start]
        index = fitting[0] if fitting else len(p.tiles) - 1
        begin = min(start, max(0, channels - width(p.tiles[index])))
        result.append((index, begin, min(width(p.tiles[index]), channels)))
        start = begin + width(p.tiles[index])
    return result
