"""Lowering of float32 transposed convolutions: what a model is before `decompose-transposed-convolution`."""

from collections.abc import Sequence

import numpy as np

from qcompiler.ir import Node
from qcompiler.ir.ops import Conv, ConvTranspose
from qcompiler.ir.types import DType
from qcompiler.output_phases import PhaseAxis, phase_bias, phase_filters, transposed_axes
from qcompiler.runtime.lowering.context import Lowering
from qcompiler.runtime.lowering.float_linear import lower_windows
from qcompiler.runtime.lowering.float_rules import lowers_f32
from qcompiler.runtime.lowering.geometry import Walk, contiguous_steps, merged_walk
from qcompiler.runtime.lowering.movement import gather_into


@lowers_f32(ConvTranspose)
def lower_conv_transpose(lowering: Lowering, node: Node, op: ConvTranspose) -> None:
    """The convolution of all output phases, and walks that interleave them and cut off what is over."""
    weight, *biases = (value.data for value in node.operands[1:])
    if weight is None or any(bias is None for bias in biases):
        raise lowering.unsupported(node, "its weight and bias have to be constants")
    if len(op.strides) > 2:
        raise lowering.unsupported(node, f"it has {len(op.strides)} spatial axes, the kernels take 1 or 2")
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    batch, channels = out.shape[:2]
    axes = transposed_axes(op, x.shape[2:], weight.shape[2:], out.shape[2:])
    bias = next((b for b in biases if b is not None), np.zeros(channels, np.float32))
    filters = lowering.constant(node, "filters", lambda: phase_filters(weight, op.group, axes))
    own_bias = lowering.constant(node, "biases", lambda: phase_bias(bias, op.group, axes))
    pads = (*(axis.pads[0] for axis in axes), *(axis.pads[1] for axis in axes))
    conv = Conv((1,) * len(axes), pads, tuple(axis.dilation for axis in axes), op.group, op.clamp)
    counts = [axis.count for axis in axes]
    whole = (batch, channels, *(axis.count * axis.phases for axis in axes))
    joined = out if whole == out.shape else lowering.build.tensor(f"{node.name}.whole", DType.F32, whole)
    if filters.shape[0] == channels:
        lower_windows(lowering, node, conv, x, filters, own_bias, joined)
    else:
        apart = lowering.build.tensor(f"{node.name}.phases", DType.F32, (batch, filters.shape[0], *counts))
        lower_windows(lowering, node, conv, x, filters, own_bias, apart)
        gather_into(lowering, node, apart, joined, _interleaving(batch, channels, axes, op.group))
    if joined is not out:
        cut = merged_walk(out.shape, contiguous_steps(whole), contiguous_steps(out.shape))
        gather_into(lowering, node, joined, out, cut)


def _interleaving(batch: int, channels: int, axes: Sequence[PhaseAxis], group: int) -> Walk:
    """From [n, phases..., c, positions...], with groups [n, c, phases..., positions...], to [n, c, axes...]."""
    positions, phases = [f"q{i}" for i in range(len(axes))], [f"r{i}" for i in range(len(axes))]
    sizes = {"n": batch, "c": channels}
    for position, phase, axis in zip(positions, phases, axes, strict=True):
        sizes |= {position: axis.count, phase: axis.phases}
    source = ["n", *(["c", *phases] if group > 1 else [*phases, "c"]), *positions]
    steps = dict(zip(source, contiguous_steps([sizes[part] for part in source]), strict=True))
    target = ["n", "c", *(part for pair in zip(positions, phases, strict=True) for part in pair)]
    extents = [sizes[part] for part in target]
    return merged_walk(extents, [steps[part] for part in target], contiguous_steps(extents))
