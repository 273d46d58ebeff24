"""Lowering of integer convolutions and fully connected layers: packed once for a model, planned for each shape."""

import math
from dataclasses import dataclass, replace
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from qcompiler.errors import VerifyError
from qcompiler.ir import Graph, Node, Value
from qcompiler.ir.held_range import held_range
from qcompiler.ir.integer_layer import IntegerLayer, integer_layer
from qcompiler.ir.ops import DepthToSpace, IntConv, IntGemm, IntLut
from qcompiler.runtime import isa
from qcompiler.runtime.codegen.primitives import DOT_PRODUCTS
from qcompiler.runtime.kernels.convolution_packing import ConvLayer, pack_conv
from qcompiler.runtime.kernels.convolution_plan import PackedConv
from qcompiler.runtime.kernels.depthwise_plan import PackedDepthwise, pack_depthwise
from qcompiler.runtime.kernels.kernel_plan import KernelPlan
from qcompiler.runtime.kernels.packing import Requantization, Residual
from qcompiler.runtime.kernels.pair_proof import MOST
from qcompiler.runtime.lowering.context import MOST_SHARES, Lowering, lowers
from qcompiler.runtime.lowering.pixel_blocks import blocks_of, layer_before
from qcompiler.runtime.lowering.planned_calls import emit_planned
from qcompiler.runtime.lowering.tables import looked_up_layer, table_after, table_of
from qcompiler.runtime.program import Buffer, Operand

_WALK_NS = 0.05  # a byte of a depth_to_space on its own


@lowers(IntConv)
def lower_conv(lowering: Lowering, node: Node, op: IntConv) -> None:
    """The depthwise kernel for one filter a channel, else the general one."""
    if op.layout != "nhwc":
        raise VerifyError(
            f"node '{node.name}' (int.conv) has layout {op.layout!r}, and kernels run 'nhwc' only: "
            "run the pass assign-layout before lowering"
        )
    _lower_layer(lowering, IntegerLayer(node, op, *node.operands))


@lowers(IntGemm)
def lower_gemm(lowering: Lowering, node: Node, op: IntGemm) -> None:
    """A convolution over one row of pixels, which are the rows of the operand."""
    _lower_layer(lowering, IntegerLayer(node, op, *node.operands))


def lower_with_blocks(lowering: Lowering, blocks: Node) -> bool:
    """Have a layer's kernel do the DepthToSpace `blocks` of its result; whether one can, and is faster with it.

    Else the layer is emitted alone. It is what tiles waste at the end of each row against a walk through the result.
    """
    layer = layer_before(blocks, isa.current())
    if layer is None:
        return False
    walk = math.prod(lowering.shape(blocks.result)) * blocks.result.type.dtype.itemsize * _WALK_NS
    pays = walk == 0 or _plan(lowering, layer, blocks).cost <= _plan(lowering, layer, None).cost + walk
    _emit_layer(lowering, layer, blocks if pays else None)
    return pays


def lower_with_table(lowering: Lowering, table: Node) -> bool:
    """Have a layer's kernel look its result up in `table`; whether one can."""
    layer = looked_up_layer(table, isa.current())
    if layer is None:
        return False
    _emit_layer(lowering, layer, table)
    return True


def _lower_layer(lowering: Lowering, layer: IntegerLayer) -> None:
    """Emit the layer, unless it waits for the node that it will do as well."""
    chosen = isa.current()
    if blocks_of(layer, chosen) is None and table_of(layer, chosen) is None:
        _emit_layer(lowering, layer, None)


def _emit_layer(lowering: Lowering, layer: IntegerLayer, then: Node | None) -> None:
    """Emit a layer, and with it `then`: the DepthToSpace or the look-up of its result."""
    result = layer.result if then is None else then.result
    if math.prod(lowering.shape(result)) == 0:
        lowering.result(result)
        return
    x, residual = lowering.rows(layer.x), layer.residual
    # A residual is read at the distances at which results are stored.
    out = lowering.result_rows(result) if residual is None else lowering.result(result)
    plan = _plan(lowering, layer, then, (x.row_pitch, out.row_pitch))
    words: dict[str, Operand] = {"x": x}
    if plan.kernel == "int_conv":
        words["residual"] = 0 if residual is None else lowering.buffer(residual)
    words["out"] = out
    rescaling = _requantization(layer)
    if _looks_up(then) and rescaling is not None:
        words["table"] = table_after(lowering, then, rescaling)
    added = words.get("residual")
    in_place = plan.replaces_residual and isinstance(added, Buffer) and added.root is not x.root
    overwrites = {"out": "residual"} if in_place else None
    emit_planned(lowering, layer.name, plan, words, writes=("out",), overwrites=overwrites, pitched=("x", "out"))


def _plan(
    lowering: Lowering, layer: IntegerLayer, then: Node | None, pitches: tuple[int, int] | None = None
) -> KernelPlan:
    """The kernel call of a layer, with `then` as for `_emit_layer`; its result is not empty.

    `pitches` are the bytes from row to row of operand and result where they are not next to each other.
    """
    chosen, op = isa.current(), layer.op
    batch, *image = lowering.shape(layer.result)[:-1] or (1,)
    image_pixels = math.prod(image)
    pixels = image_pixels if layer.has_window else batch * image_pixels
    form = f"packed for {chosen}" if then is None else f"packed for {chosen}, with '{then.name}'"
    packed = lowering.model.made(layer.name, form, lambda: _pack(layer, then, chosen, pixels))
    if not isinstance(op, IntConv):
        return packed.plan(1, 1, batch * image_pixels, max_shares=MOST_SHARES, pitches=pitches)
    _, height, width, _ = lowering.shape(layer.x)
    return packed.plan(
        batch,
        height,
        width,
        strides=(op.strides[0], op.strides[1]),
        pads=(op.pads[0], op.pads[1], op.pads[2], op.pads[3]),
        max_shares=MOST_SHARES,
        pitches=pitches,
    )


def _looks_up(then: Node | None) -> TypeGuard[Node]:
    return then is not None and isinstance(then.op, IntLut)


def _pack(layer: IntegerLayer, then: Node | None, chosen: str, pixels: int) -> PackedConv | PackedDepthwise:
    facts = _facts(layer, looked_up=_looks_up(then))
    if layer.is_depthwise and layer.residual is None:
        return pack_depthwise(facts, chosen)
    blocks = then.op.blocks if then is not None and isinstance(then.op, DepthToSpace) else (1, 1)
    return pack_conv(facts, chosen, pixels=pixels, blocks=blocks)


def _facts(layer: IntegerLayer, *, looked_up: bool) -> ConvLayer:
    """The layer as its kernel sees it, which looks its results up or not."""
    op, weight = layer.op, _constant(layer, layer.weight).astype(np.int8)
    rescaling = _requantization(layer)
    facts = ConvLayer(
        weight if isinstance(op, IntConv) else weight[:, :, None, None],
        _constant(layer, layer.bias).astype(np.int32),
        None if rescaling is None else replace(rescaling, looked_up=looked_up),
        zp_in=op.zp_in,
        x_dtype=layer.x.type.dtype,
        x_range=held_range(layer.x),
    )
    if isinstance(op, IntGemm):
        return facts
    return replace(facts, dilations=(op.dilations[0], op.dilations[1]), group=op.group)


@dataclass(frozen=True)
class DotProduct:
    """What a layer's kernel multiplies with, and why."""

    layer: str
    instruction: str
    reason: str


def dot_products(graph: Graph, isa_name: str) -> list[DotProduct]:
    """The dot product of each integer layer of a graph on one primitive, in execution order."""
    found = []
    for node in graph.nodes():
        layer = integer_layer(node)
        if layer is None:
            continue
        names = DOT_PRODUCTS[isa_name]
        form, reason = 0, "exact for all weights"
        packed = None if len(names) == 1 else _pack(layer, None, isa_name, 0)
        if isinstance(packed, PackedDepthwise):
            form, reason = int(packed.primitive.matrix_unit is not None), "depthwise"
        elif packed is not None:
            form = packed.form
            if packed.pair_sum is not None:
                relation = "within" if packed.is_narrow else "beyond"
                reason = f"sums of two products reach {packed.pair_sum}, {relation} the {MOST} of 16 bits"
            elif form:
                reason = "few products for each result"
        found.append(DotProduct(layer.name, names[form], reason))
    return found


def _requantization(layer: IntegerLayer) -> Requantization | None:
    if layer.multiplier is None or layer.shift is None:
        return None
    op, residual = layer.op, None
    multiplier, shift = (_constant(layer, value).astype(np.int32) for value in (layer.multiplier, layer.shift))
    if layer.residual is not None and layer.factor is not None:
        factor = _constant(layer, layer.factor).astype(np.int32)
        residual = Residual(factor, op.zp_residual, layer.residual.type.dtype)
    return Requantization(multiplier, shift, op.zp_out, op.lo, op.hi, op.dtype, residual)


def _constant(layer: IntegerLayer, value: Value) -> npt.NDArray[np.generic]:
    if value.data is None:
        raise VerifyError(
            f"node '{layer.name}' ({layer.op.name}): operand %{value.name} has to be a constant to be packed"
        )
    return value.data
