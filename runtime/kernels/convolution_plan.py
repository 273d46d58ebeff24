"""Plans of `int_conv`: weights are packed once for a model, the rest is worked out once for each input shape.

    packed = pack_conv(ConvLayer(weight, bias, requantization, zp_in=3, x_dtype=DType.U8), isa.current())
    plan = packed.plan(batch=1, height=56, width=56, strides=(1, 1), pads=(1, 1, 1, 1))

The lowering makes an instruction of a plan: buffers for the words "x", "residual" (0 if nothing is added), "out" and
"scratch", constants for those in `plan.constants`, and the integers as they are. A primitive reads bytes as u8 or as
s8; activations that are the other get 128 added to, or taken from, both their values (a flipped top bit, while staging)
and their zero point (in the bias).

With `blocks` the result is that of the convolution and a `depth_to_space` (mode DCR) of it: output channels are (row,
column, channel) of a block of pixels, and each tile has channels of one place in the block.
"""

import math
from dataclasses import dataclass
from functools import cached_property

from qcompiler.ir.types import AnyArray
from qcompiler.runtime.codegen.matrix_unit import ROWS
from qcompiler.runtime.codegen.primitives import Primitive, primitive_named
from qcompiler.runtime.kernels.convolution import IN_PLACE, PARTIAL_BYTES
from qcompiler.runtime.kernels.convolution_geometry import Geometry
from qcompiler.runtime.kernels.kernel_plan import MACS_PER_NS, SHARE_NS, STAGE_SLACK, KernelPlan
from qcompiler.runtime.kernels.packing import S64, Bytes, Epilogue, round_up
from qcompiler.runtime.kernels.tile_choice import TileChoice

_NARROW_SPEED = 1.3  # times that of the other form
_SCRATCH_BYTES = 4 << 20  # of all shares together, unless that were fewer than `_ENOUGH_SHARES`
_ENOUGH_SHARES = 8
_PREFETCH_NS = 0.0025  # a byte of weights that a matrix unit's tiles ask for once more, with each row of pixels


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
        form: of the primitive's `forms`, which it is packed for.
        pair_sum: what decided that, where there is such a form: see `pair_proof`.
        blocks: rows and columns of pixels that an output pixel becomes.
        places: s64[tile], row · columns + column in the block of each tile's channels.
        density: the part of the products that tiles compute, which leave out taps that are zero.
        is_disjoint: whether no two tiles have a channel in common.
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
    is_disjoint: bool
    form: int = 0
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
        return primitive_named(self.isa).forms[self.form]

    @property
    def is_narrow(self) -> bool:
        """Whether the dot product is one that is exact for these weights only."""
        return self.primitive.is_narrow

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
        geometry = Geometry(self, batch, height, width, strides, pads, x_pitch, out_pitch)
        macs = geometry.tile_pixels * self.density * self.cout * self.per_group * math.prod(self.kernel)
        speed = MACS_PER_NS[self.isa.removesuffix("-emulated")] * (_NARROW_SPEED if self.is_narrow else 1)
        cost = macs / speed + geometry.pixels * self.cout * 0.15
        if self.blocks != (1, 1) and self.primitive.matrix_unit is not None:
            cost += geometry.units * self.weights.nbytes * _PREFETCH_NS
        tile_count = len(self.tiles)
        shares = max(1, min(max_shares, int(cost / SHARE_NS), max(tile_count, geometry.units)))
        by_tiles = geometry.units < 4 * shares and tile_count > geometry.units
        shares = min(shares, tile_count if by_tiles else geometry.units)
        stage = 0 if geometry.staging == IN_PLACE else geometry.stage_bytes(geometry.staged_units) + STAGE_SLACK
        scratch = round_up(PARTIAL_BYTES + geometry.panels_bytes + stage, 64)
        shares = min(shares, max(_ENOUGH_SHARES, _SCRATCH_BYTES // scratch))
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
        adds_residual = bool(self.epilogue.residual_parameters["adds_residual"])
        return KernelPlan(
            "int_conv",
            constants,
            integers,
            scratch * shares,
            shares,
            cost,
            out_shape,
            replaces_residual=adds_residual and self.is_disjoint,
        )
