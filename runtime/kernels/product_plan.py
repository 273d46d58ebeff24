"""Plans of products of two activations: what `int_product_pack` and `int_product` need for concrete shapes.

Operands are strided views: the axes of a transposition or a split into heads that precedes a product cost nothing if
the terms of a row of the first operand stay neighbours. Bytes of the second operand are read as s8, those of the first
as what the primitive's dot product takes, u8 or s8: 128 is added to, or taken from, both the values (a flipped top bit)
and their zero points.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qcompiler.ir.ops import IntMatMul
from qcompiler.ir.types import AnyArray, DType
from qcompiler.runtime.codegen.matrix_unit import REGISTER_BYTES, ROWS
from qcompiler.runtime.codegen.primitives import LEAST_UNIT_PIXELS, Primitive, primitive_named
from qcompiler.runtime.kernels.convolution import PARTIAL_BYTES
from qcompiler.runtime.kernels.convolution_geometry import BLOCK_PIXELS
from qcompiler.runtime.kernels.convolution_packing import register_bytes, tiles_of
from qcompiler.runtime.kernels.kernel_plan import MACS_PER_NS, SHARE_NS, STAGE_BYTES, KernelPlan
from qcompiler.runtime.kernels.packing import Bytes, Requantization, aligned, make_epilogue, round_up
from qcompiler.runtime.kernels.tile_choice import LARGEST_BLOCK_PIXELS, choose_tiles

_PACK_NS, _ELEMENT_NS = 0.05, 1.0  # an element of b, in vectors and one by one
_RESULT_NS = 0.15
_LEAST_BLOCK = 32
"""Rows of a block that is cut for the sake of more shares."""


@dataclass(frozen=True)
class View:
    """A tensor of bytes, or of wider results, in memory: steps in elements."""

    shape: tuple[int, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class ProductTypes:
    """What a product computes.

    Attributes:
        isa: a primitive's name.
        a_dtype, b_dtype: u8 or s8.
        op: zero points and requantization.
    """

    isa: str
    a_dtype: DType
    b_dtype: DType
    op: IntMatMul


def plan_product(types: ProductTypes, a: View, b: View, out: View, *, max_shares: int) -> tuple[KernelPlan, KernelPlan]:
    """The call of `int_product_pack` and that of `int_product`, which reads the first one's result.

    They are a[..., rows, terms] times b[..., terms, columns]; batch axes broadcast. The terms of a row of a, and the
    columns of a row of out, are neighbours. Nothing is empty.
    """
    product = _Product(types, a, b, out, max_shares)
    return product.pack(), product.multiply()


@dataclass(frozen=True)
class _Product:
    """Sizes that follow from shapes and types; in bytes unless they count something."""

    types: ProductTypes
    a: View
    b: View
    out: View
    max_shares: int

    @cached_property
    def primitive(self) -> Primitive:
        return primitive_named(self.types.isa)

    @property
    def terms(self) -> int:
        return self.a.shape[-1]

    @property
    def columns(self) -> int:
        return self.out.shape[-1]

    @cached_property
    def groups(self) -> int:
        return -(-self.terms // self.primitive.group)

    @property
    def run_bytes(self) -> int:
        return 4 * self.groups

    @property
    def zp_a(self) -> int:
        """Of the bytes as the dot product reads them."""
        return self.types.op.zp_a + self.primitive.added_to(self.types.a_dtype)

    @property
    def zp_b(self) -> int:
        """Of the bytes as s8."""
        return self.types.op.zp_b - self.flip_b

    @property
    def flip_a(self) -> int:
        return self.primitive.flip_of(self.types.a_dtype)

    @property
    def flip_b(self) -> int:
        return 128 if self.types.b_dtype is DType.U8 else 0

    @cached_property
    def merged(self) -> bool:
        """Whether b has one matrix, for which all rows of a, and of the result, are those of one matrix too."""
        one = math.prod(self.b.shape[:-2]) == 1
        return one and _rows_follow(self.a) and _rows_follow(self.out)

    @cached_property
    def rows(self) -> int:
        return math.prod(self.out.shape[:-1]) if self.merged else self.out.shape[-2]

    @cached_property
    def jobs(self) -> AnyArray:
        """s64[job, 3]: byte offsets in a, the packed matrices and out."""
        if self.merged:
            return aligned(np.zeros((1, 3), np.int64)).view(np.int64).reshape(1, 3)
        batch = self.out.shape[:-2]
        every = np.arange(math.prod(self.b.shape[:-2]), dtype=np.int64).reshape(self.b.shape[:-2])
        columns = [
            np.broadcast_to(_starts(self.a), batch),
            np.broadcast_to(every, batch) * self.matrix_bytes,
            _starts(self.out) * self.types.op.dtype.itemsize,
        ]
        found = np.stack([column.reshape(-1) for column in columns], axis=1)
        return aligned(found).view(np.int64).reshape(found.shape)

    @cached_property
    def row_factor(self) -> int:
        """What the sum of a row of a is multiplied by."""
        return -self.zp_b

    @cached_property
    def staged(self) -> bool:
        """Whether rows of a are copied before the tiles read them."""
        p = self.primitive
        whole = p.vector_bytes if self.row_factor else 4
        return p.activation_bytes != 1 or self.flip_a != 0 or self.terms % whole != 0

    @cached_property
    def pitch(self) -> int:
        """From one staged row to the next: whole vectors."""
        return round_up(self.terms * self.primitive.activation_bytes, self.primitive.vector_bytes)

    @cached_property
    def widest(self) -> int:
        """Index of the widest tile that is used. The tallest ones are for weights that memory gives once."""
        p = self.primitive
        choice = choose_tiles(p, channels=self.columns, activations=self.terms, pixels=self.rows)
        return min(choice.widest, len(p.tiles) - 2)

    @cached_property
    def tile_entries(self) -> AnyArray:
        """s64[tile, PRODUCT_TILE_WORDS], without what the rows of a block decide."""
        p, itemsize = self.primitive, self.types.op.dtype.itemsize
        entries, weights, biases = [], 0, self._biases_at
        for index, first, valid in tiles_of(p, self.columns, self.widest):
            shape = p.tiles[index]
            width = shape.vectors * p.lanes
            narrow = valid * itemsize if valid < width else 0
            entries.append(
                [index, shape.pixels, p.least_pixels(shape), first, weights, biases, narrow, width, min(valid, width)]
            )
            weights += self.groups * shape.vectors * p.vector_bytes
            biases += shape.vectors * p.vector_bytes
        return np.array(entries, np.int64)

    @cached_property
    def _biases_at(self) -> int:
        """Where a packed matrix has its biases."""
        p = self.primitive
        return self.groups * sum(
            p.tiles[index].vectors * p.vector_bytes for index, _, _ in tiles_of(p, self.columns, self.widest)
        )

    @cached_property
    def matrix_bytes(self) -> int:
        """Of a packed matrix with its biases."""
        p = self.primitive
        biases = sum(p.tiles[index].vectors * p.vector_bytes for index, _, _ in tiles_of(p, self.columns, self.widest))
        return round_up(self._biases_at + biases, 64)

    def multiply(self) -> KernelPlan:
        """The call of `int_product`."""
        p, op = self.primitive, self.types.op
        macs = len(self.jobs) * self.rows * self.columns * self.terms
        results = len(self.jobs) * self.rows * self.columns
        cost = macs / MACS_PER_NS[self.types.isa.removesuffix("-emulated")] + results * _RESULT_NS
        shares = max(1, min(self.max_shares, int(cost / SHARE_NS)))
        block = self._block_rows(shares)
        blocks = -(-self.rows // block)
        entries = self.tile_entries.copy()
        chunks = min(len(entries), max(1, shares // (len(self.jobs) * blocks)))
        shares = min(shares, len(self.jobs) * blocks * chunks)
        register_rows = ROWS
        if p.matrix_unit is not None:
            registers = p.tiles[self.widest].pixels // ROWS
            register_rows = max(LEAST_UNIT_PIXELS, -(-block // (registers * -(-block // (registers * ROWS)))))
            entries[:, 1] = entries[:, 1] // ROWS * register_rows
        step = self.pitch if self.staged else self.a.steps[-2]
        epilogue = make_epilogue(
            np.zeros(p.lanes, np.int64),
            Requantization(
                np.full(p.lanes, op.multiplier, np.int32),
                np.full(p.lanes, op.shift, np.int32),
                op.zp_out,
                op.lo,
                op.hi,
                op.dtype,
            ),
        )
        stage = (block * self.pitch if self.staged else 0) + 64
        scratch = round_up(PARTIAL_BYTES + round_up(4 * block, 64) + stage, 64)
        offsets = np.concatenate([[0], np.arange(block, dtype=np.int64) * step])
        constants = {
            "record": epilogue.records(np.zeros((1, p.lanes), np.intp)),
            "tiles": aligned(entries),
            "jobs": self.jobs,
            "offsets": aligned(offsets),
        }
        integers = {
            **epilogue.parameters,
            "scratch_bytes": scratch,
            "job_count": len(self.jobs),
            "rows": self.rows,
            "block_rows": block,
            "blocks": blocks,
            "chunks": chunks,
            "tile_count": len(entries),
            "terms": self.terms,
            "row_step": self.a.steps[-2],
            "staged": int(self.staged),
            "flip_a": self.flip_a,
            "item_bytes": p.activation_bytes,
            "pitch": self.pitch,
            "run_bytes": self.run_bytes,
            "register_rows": register_rows,
            "register_bytes": register_bytes(self.run_bytes),
            "row_vectors": self.pitch // p.vector_bytes,
            "row_factor": self.row_factor,
            "out_step": self.out.steps[-2] * op.dtype.itemsize,
            "itemsize": op.dtype.itemsize,
        }
        return KernelPlan("int_product", constants, integers, shares * scratch, shares, cost, self.out.shape)

    def pack(self) -> KernelPlan:
        """The call of `int_product_pack`."""
        p = self.primitive
        matrices = _starts(self.b).reshape(-1)
        in_vectors = 1 in self.b.steps[-2:] and self.columns >= p.lanes
        elements = len(matrices) * self.terms * self.columns
        cost = elements * (_PACK_NS if in_vectors else _ELEMENT_NS)
        items = len(matrices) * len(self.tile_entries)
        integers = {
            "matrix_count": len(matrices),
            "matrix_bytes": self.matrix_bytes,
            "tile_count": len(self.tile_entries),
            "terms": self.terms,
            "term_step": self.b.steps[-2],
            "column_step": self.b.steps[-1],
            "lanes": p.lanes,
            "group": p.group,
            "flip": self.flip_b,
            "factor": -self.zp_a,
            "base": self.terms * self.zp_a * self.zp_b,
        }
        constants: dict[str, Bytes] = {"matrices": aligned(matrices), "tiles": aligned(self.tile_entries)}
        shares = max(1, min(self.max_shares, items, int(cost / SHARE_NS)))
        # A matrix unit reads whole tiles of weights, also where a run ends before.
        slack = 0 if p.matrix_unit is None else REGISTER_BYTES * max(shape.vectors for shape in p.tiles)
        packed_bytes = len(matrices) * self.matrix_bytes + slack
        return KernelPlan("int_product_pack", constants, integers, 0, shares, cost, (packed_bytes,))

    def _block_rows(self, shares: int) -> int:
        """Rows of a block: as many as stay in the cache, fewer where a block is all that a share gets."""
        largest = LARGEST_BLOCK_PIXELS
        if self.staged:
            largest = min(largest, max(1, STAGE_BYTES // self.pitch))
        largest = max(BLOCK_PIXELS, largest // BLOCK_PIXELS * BLOCK_PIXELS)
        wanted = -(-shares // len(self.jobs))
        if wanted > 1:
            largest = min(largest, max(_LEAST_BLOCK, round_up(-(-self.rows // wanted), _LEAST_BLOCK)))
        return min(largest, self.rows)


def _starts(view: View) -> AnyArray:
    """s64[batch]: the element at which each matrix begins."""
    starts = np.zeros((1,) * (len(view.shape) - 2), np.int64)
    for axis, (size, step) in enumerate(zip(view.shape[:-2], view.steps, strict=False)):
        along = [1] * (len(view.shape) - 2)
        along[axis] = size
        starts = starts + (np.arange(size, dtype=np.int64) * step).reshape(along)
    return starts


def _rows_follow(view: View) -> bool:
    """Whether the rows of all matrices have one distance."""
    expected = view.steps[-2]
    for size, step in zip(reversed(view.shape[:-1]), reversed(view.steps[:-1]), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True
