"""Packing of convolutions and fully connected layers: their weights in the order in which tiles read them."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.epilogue import channel_of
from qcompiler.runtime.codegen.matrix_unit import REGISTER_BYTES, ROW_BYTES
from qcompiler.runtime.codegen.primitives import Primitive, TileShape, primitive_named
from qcompiler.runtime.kernels.convolution import TILE_WORDS
from qcompiler.runtime.kernels.convolution_plan import PackedConv
from qcompiler.runtime.kernels.packing import S8, S32, Epilogue, Requantization, aligned, make_epilogue
from qcompiler.runtime.kernels.pair_proof import MOST, pair_sum_for
from qcompiler.runtime.kernels.tile_choice import choose_tiles, prefers_vectors


@dataclass(frozen=True, eq=False)
class ConvLayer:
    """A convolution as its kernel sees it; a fully connected layer is one of 1x1 whose pixels are its rows.

    Attributes:
        weight: s8[cout, cin / group, kh, kw].
        bias: s32[cout], with -zp_in * sum(weight) folded in.
        requantization: None to store the accumulators as s32.
        zp_in: zero point of the activations, with which borders are padded.
        x_dtype: u8 or s8.
        x_range: of the activations, if it is known to be less than that of their dtype.
        dilations: of (rows, columns).
        group: number of groups.
    """

    weight: S8
    bias: S32
    requantization: Requantization | None
    zp_in: int
    x_dtype: DType
    x_range: tuple[int, int] | None = None
    dilations: tuple[int, int] = (1, 1)
    group: int = 1

    @property
    def held(self) -> tuple[int, int]:
        """Least and largest activation, those of padded borders included."""
        low, high = self.x_range or self.x_dtype.limits
        return min(low, self.zp_in), max(high, self.zp_in)

    def epilogue(self, p: Primitive) -> Epilogue:
        """What follows the sums; their biases take off what `p` adds to the activations."""
        sums = self.weight.reshape(len(self.weight), -1).sum(axis=1, dtype=np.int64)
        return make_epilogue(self.bias.astype(np.int64) - p.added_to(self.x_dtype) * sums, self.requantization)


def pack_conv(layer: ConvLayer, isa: str, *, pixels: int = 0, blocks: tuple[int, int] = (1, 1)) -> PackedConv:
    """Pack a convolution for one primitive.

    Args:
        layer: the convolution; without groups, if it has blocks.
        isa: a primitive's name.
        pixels: of the result, which the tiles are chosen for; 0 if that is not known. Any number can be planned.
        blocks: rows and columns of pixels that an output pixel becomes.
    """
    weight, group = layer.weight, layer.group
    cout, per_group, kh, kw = weight.shape
    merged = group == 1 and (layer.dilations[1] == 1 or kw == 1)  # neighbouring columns are neighbouring bytes
    runs = kh if merged else kh * kw
    flat = weight.transpose(0, 2, 3, 1).reshape(cout, runs, -1)
    sections = group * math.prod(blocks)  # of the output channels; no tile has channels of two
    p = primitive_named(isa)
    pair_sum = None
    if p.narrow is not None:
        pair_sum = pair_sum_for(p.narrow, _in_groups(flat, p.narrow.group), layer.x_dtype, layer.held)
        p = p.narrow if pair_sum <= MOST else p
    elif p.vectors_only is not None and prefers_vectors(p.vectors_only, cout // sections, flat[0].size):
        p = p.vectors_only
    epilogue = layer.epilogue(p)
    groups = _in_groups(flat, p.group)
    choice = choose_tiles(p, channels=cout // sections, activations=flat[0].size, pixels=pixels, sections=sections)
    collected = _steps(4 * runs * groups.shape[2]) if choice.collected else None
    tiles = [
        _Tile(section, index, section * (cout // sections) + start, start, valid)
        for section in range(sections)
        for index, start, valid in tiles_of(p, cout // sections, choice.widest)
    ]
    taps = kw if merged else 1  # of a run
    used = [
        (slice(0, runs), slice(0, groups.shape[2])) if collected else _used(flat[t.first :][: t.valid], taps, p.group)
        for t in tiles
    ]
    element = np.int8 if p.group == 4 else np.int16
    weights = [t.packed(p, groups[(slice(None), *own)]).astype(element) for t, own in zip(tiles, used, strict=True)]
    entries = _entries(p, epilogue, tiles, used, collected)
    forms = primitive_named(isa).forms
    entries[:, _VARIANT] += 2 * sum(len(form.tiles) for form in forms[: forms.index(p)])
    entries[:, _WEIGHTS] = np.cumsum([0, *(w.nbytes for w in weights[:-1])])
    if group > 1:
        entries[:, _OUTPUT] = [t.first * epilogue.itemsize for t in tiles]
        entries[:, _INPUT] += [t.section * per_group * p.activation_bytes for t in tiles]
    computed = sum(w.size for w in weights)
    if p.matrix_unit is not None:  # it reads whole tiles of weights, also where a run ends before
        weights.append(np.zeros(REGISTER_BYTES * max(shape.vectors for shape in p.tiles), element))
    return PackedConv(
        isa=isa,
        weights=aligned(np.concatenate(weights)),
        records=epilogue.records(np.concatenate([t.channels(p) for t in tiles])),
        tiles=aligned(entries).view(np.int64).reshape(-1, TILE_WORDS),
        epilogue=epilogue,
        flip_in=p.flip_of(layer.x_dtype),
        zp_in=layer.zp_in + p.added_to(layer.x_dtype),
        per_group=per_group,
        group=group,
        cout=cout,
        kernel=(kh, kw),
        dilations=layer.dilations,
        runs=runs,
        run_items=flat.shape[2],
        choice=choice,
        steps=collected[0] if collected else 0,
        step_bytes=collected[1] if collected else 0,
        blocks=blocks,
        places=np.array([t.section if group == 1 else 0 for t in tiles], np.int64),
        density=computed / sum(t.columns(p) * groups[0].size for t in tiles),
        is_disjoint=sum(t.valid for t in tiles) == cout,
        form=forms.index(p),
        pair_sum=pair_sum,
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


def register_bytes(run_bytes: int) -> int:
    """Bytes of a matrix unit's step: such that the steps of a run are alike, if that adds no more than one."""
    steps = -(-run_bytes // ROW_BYTES)
    for count in (steps, steps + 1):
        if run_bytes % (4 * count) == 0:
            return run_bytes // count
    return ROW_BYTES


def _steps(collected_bytes: int) -> tuple[int, int]:
    """Steps of a matrix unit over all runs of a pixel, and bytes of each."""
    step_bytes = register_bytes(collected_bytes)
    return -(-collected_bytes // step_bytes), step_bytes


_VARIANT, _OUTPUT, _WEIGHTS, _INPUT = 0, 3, 4, 6
"""Columns of a tile's entry, see `convolution.TILE_WORDS`."""


@dataclass(frozen=True)
class _Tile:
    """The channels of a tile.

    Attributes:
        section: the group, or the place in blocks of pixels, that they belong to.
        index: of the shape in `Primitive.tiles`.
        first: the first of them; `start`: within the section.
        valid: their number; the tile may be wider.
    """

    section: int
    index: int
    first: int
    start: int
    valid: int

    def columns(self, p: Primitive) -> int:
        """Channels that the tile has room for."""
        return p.tiles[self.index].vectors * p.lanes

    def _order(self, p: Primitive) -> npt.NDArray[np.intp]:
        return _order_of_channels(p.tiles[self.index].vectors, p.lanes)

    def channels(self, p: Primitive) -> npt.NDArray[np.intp]:
        """Each lane's channel, intp[vectors, lanes]; 0 for those beyond the last."""
        order = self._order(p)
        return np.where(order < self.valid, self.first + order, 0)

    def packed(self, p: Primitive, groups: S8) -> S8:
        """The weights s8[cout, run, group, activation] of these channels: [run, group, vector, lane, activation]."""
        whole = groups.view(f"i{groups.shape[-1]}")[..., 0]  # a group as one number: fewer to move
        order = self._order(p)
        block = whole[self.channels(p)]
        block[order >= self.valid] = 0
        return block.transpose(2, 3, 0, 1).ravel().view(np.int8)


@cache
def _order_of_channels(vectors: int, lanes: int) -> npt.NDArray[np.intp]:
    """The channel in a tile of each lane, intp[vectors, lanes]."""
    order = np.array([[channel_of(vectors, v, lane) for lane in range(lanes)] for v in range(vectors)])
    order.flags.writeable = False
    return order


def _entries(
    p: Primitive,
    epilogue: Epilogue,
    tiles: list[_Tile],
    used: list[tuple[slice, slice]],
    collected: tuple[int, int] | None,
) -> npt.NDArray[np.int64]:
    """s64[tile, TILE_WORDS] for one group, without the offsets of weights; variants are those of `p` alone."""
    record_size = epilogue.records(np.zeros((1, p.lanes), np.intp)).nbytes
    entries, record_offset = [], 0
    for tile, (runs, groups) in zip(tiles, used, strict=True):
        shape, columns, run_bytes = p.tiles[tile.index], tile.columns(p), 4 * (groups.stop - groups.start)
        step_bytes = 0 if p.matrix_unit is None else register_bytes(run_bytes)
        own_runs = (runs.start, runs.stop - runs.start, run_bytes, step_bytes)
        entries.append(
            [
                2 * tile.index,
                shape.pixels,
                p.least_pixels(shape),
                tile.start * epilogue.itemsize,
                0,
                record_offset,
                4 * groups.start,
                tile.valid * epilogue.itemsize if tile.valid < columns else 0,
                columns * epilogue.itemsize,
                *((0, *collected, collected[1]) if collected else own_runs),
            ]
        )
        record_offset += shape.vectors * record_size
    return np.array(entries, np.int64)


def _in_groups(runs: S8, group: int) -> S8:
    """s8[cout, run, item] to s8[cout, run, group of items, item], contiguous; the last group ends in zeros."""
    padded = np.pad(runs, ((0, 0), (0, 0), (0, -runs.shape[2] % group)))
    return np.ascontiguousarray(padded).reshape(*runs.shape[:2], -1, group)


def _used(weight: S8, taps: int, group: int) -> tuple[slice, slice]:
    """The runs, and within them the groups, from the first to the last tap with a weight in s8[cout, runs, items].

    They are at least one of each. Where `taps` share a run it begins and ends with one of them.
    """
    items = weight.shape[2]
    if weight.shape[1] == taps == 1:
        return slice(0, 1), slice(0, -(-items // group))
    by_tap = np.any(weight.reshape(len(weight), -1, taps, items // taps), axis=(0, 3))
    runs, columns = (np.flatnonzero(np.any(by_tap, axis=axis)) for axis in (1, 0))
    if not len(runs):
        return slice(0, 1), slice(0, 1)
    step = items // taps
    groups = slice(int(columns[0]) * step // group, -(-(int(columns[-1]) + 1) * step // group))
    return slice(int(runs[0]), int(runs[-1]) + 1), groups
