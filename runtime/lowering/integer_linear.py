"""Lowering of integer convolutions and fully connected layers: packed once for a model, planned for each shape."""

import math

import numpy as np
import numpy.typing as npt

from qcompiler.errors import VerifyError
from qcompiler.ir import Node
from qcompiler.ir.ops import IntConv, IntGemm
from qcompiler.ir.types import DType
from qcompiler.runtime import isa
from qcompiler.runtime.kernels.convolution_plan import KernelPlan, PackedConv, pack_conv, pack_gemm
from qcompiler.runtime.kernels.depthwise_plan import PackedDepthwise, pack_depthwise
from qcompiler.runtime.kernels.packing import Requantization
from qcompiler.runtime.lowering.context import MOST_SHARES, Lowering, lowers
from qcompiler.runtime.program import Operand


@lowers(IntConv)
def lower_conv(lowering: Lowering, node: Node, op: IntConv) -> None:
    """The depthwise kernel for one filter a channel, else the general one."""
    if op.layout != "nhwc":
        raise VerifyError(
            f"node '{node.name}' (int.conv) has layout {op.layout!r}, and kernels run 'nhwc' only: "
            "run the pass assign-layout before lowering"
        )
    chosen = isa.current()

    def pack() -> PackedConv | PackedDepthwise:
        weight, bias = _constant(node, 1).astype(np.int8), _constant(node, 2).astype(np.int32)
        x_dtype, dilations = node.operands[0].type.dtype, (op.dilations[0], op.dilations[1])
        rescaling = _requantization(node, op)
        if op.group == weight.shape[0] and weight.shape[1] == 1 and op.group > 1:
            return pack_depthwise(
                weight, bias, rescaling, zp_in=op.zp_in, x_dtype=x_dtype, isa=chosen, dilations=dilations
            )
        return pack_conv(
            weight, bias, rescaling, zp_in=op.zp_in, x_dtype=x_dtype, isa=chosen, dilations=dilations, group=op.group
        )

    if math.prod(lowering.shape(node.result)) == 0:
        lowering.result(node.result)
        return
    packed = lowering.model.made(node.name, f"packed for {chosen}", pack)
    batch, height, width, _ = lowering.shape(node.operands[0])
    top, left, bottom, right = op.pads
    plan = packed.plan(
        batch,
        height,
        width,
        strides=(op.strides[0], op.strides[1]),
        pads=(top, left, bottom, right),
        max_shares=MOST_SHARES,
    )
    _emit(lowering, node, plan)


@lowers(IntGemm)
def lower_gemm(lowering: Lowering, node: Node, op: IntGemm) -> None:
    """A convolution over one row of pixels, which are the rows of the operand."""
    chosen = isa.current()

    def pack() -> PackedConv:
        return pack_gemm(
            _constant(node, 1).astype(np.int8),
            _constant(node, 2).astype(np.int32),
            _requantization(node, op),
            zp_in=op.zp_in,
            x_dtype=node.operands[0].type.dtype,
            isa=chosen,
        )

    shape = lowering.shape(node.result)
    if math.prod(shape) == 0:
        lowering.result(node.result)
        return
    packed = lowering.model.made(node.name, f"packed for {chosen}", pack)
    _emit(lowering, node, packed.plan(1, 1, math.prod(shape[:-1]), max_shares=MOST_SHARES))


def _emit(lowering: Lowering, node: Node, plan: KernelPlan) -> None:
    build = lowering.build
    words: dict[str, Operand] = {"x": lowering.buffer(node.operands[0]), "out": lowering.result(node.result)}
    words |= {w: build.constant(f"{node.name}.{w}", array) for w, array in plan.constants.items()}
    words["scratch"] = build.tensor(f"{node.name}.scratch", DType.U8, (plan.scratch_bytes,))
    words |= plan.integers
    build.emit(
        plan.kernel, words, writes=("out",), scratch=("scratch",), shares=plan.shares, cost=plan.cost, label=node.name
    )


def _requantization(node: Node, op: IntConv | IntGemm) -> Requantization | None:
    if len(node.operands) == 3:
        return None
    multiplier, shift = (_constant(node, i).astype(np.int32) for i in (3, 4))
    return Requantization(multiplier, shift, op.zp_out, op.lo, op.hi, op.dtype)


def _constant(node: Node, index: int) -> npt.NDArray[np.generic]:
    value = node.operands[index]
    if value.data is None:
        raise VerifyError(
            f"node '{node.name}' ({node.op.name}): operand %{value.name} has to be a constant to be packed"
        )
    return value.data
