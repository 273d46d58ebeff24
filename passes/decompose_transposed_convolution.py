"""`decompose-transposed-convolution`: an ordinary convolution and depth_to_space in place of a transposed one."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Graph, Node, Op, Shape, Stage, ops
from qcompiler.ir.ops.shapes import static_dim
from qcompiler.output_phases import PhaseAxis, phase_axis, phase_bias, phase_filters, transposed_axes
from qcompiler.pass_manager import RewritePass, register_pass


@dataclass(frozen=True, slots=True)
class Transposed:
    """A transposed convolution."""

    node: Node
    op: ops.ConvTranspose


@register_pass
@dataclass(frozen=True)
class DecomposeTransposedConvolution(RewritePass[Transposed]):
    """Make a transposed convolution a convolution with one filter for each channel and phase, and a depth_to_space.

    Why: no zero is put between activations, so none is multiplied; and all that exists for convolutions serves it too:
    calibration, a scale for each filter, the proof of its accumulators, every kernel.

    Algebra: with stride s, dilation d and padding p, y[s·q + r] is a sum over the taps with k·d ≡ r + p (mod s) of
    x[q + (r + p − k·d)/s] · w[k] (`qcompiler.output_phases`). Of a 4×4 kernel with stride 2 each of the four phases has
    2×2 taps. With stride 1 there is one phase, and the kernel is flipped.

        y = conv_transpose(x, W: [cin, cout, 2, 2], b) {strides=[2, 2]}                                before
        c = conv(x, W': [4·cout, cin, 1, 1], b'); y = depth_to_space(c) {blocks=[2, 2]}                after

    One convolution of all phases, not one for each: the input is read and staged once, not s² times, and no result
    has to be put together of several. A filter is zero where only other phases have a tap; packing leaves such taps out
    of the tiles that have none of them. A window that begins with the input instead has fewer of them (2×2 taps for a
    4×4 kernel with stride 2 and padding 1, not 3×3), but needs a crop in front, which costs a copy. Here a slice cuts
    off the end only, where the output is no multiple of the stride. One spatial axis becomes two, the first of size 1,
    unless the stride is 1.

    Run it behind `fold-batch-norm` and `fuse-activation`, which know transposed convolutions.

    Known limits: weights and bias must be constants. Taps that only some phases have cost arithmetic in float, in
    integers where cout is small, and for groups, whose filters lie in the order of the channels.
    """

    name: ClassVar[str] = "decompose-transposed-convolution"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def match(self, node: Node) -> Transposed | None:
        return Transposed(node, node.op) if isinstance(node.op, ops.ConvTranspose) else None

    def check(self, graph: Graph, match: Transposed) -> str | None:
        del graph
        if not all(operand.is_constant for operand in match.node.operands[1:]):
            return "its weight or bias is computed at run time"
        if len(match.op.strides) > 2:
            return f"it has {len(match.op.strides)} spatial axes, and depth_to_space has two"
        return None

    def rewrite(self, graph: Graph, match: Transposed) -> None:
        """The node becomes the convolution, so that what is known of it by name stays."""
        node, op = match.node, match.op
        name, wanted = node.name, node.result.type.shape
        x, weight, *bias = node.operands
        axes = transposed_axes(op, x.type.shape[2:], weight.type.shape[2:], wanted[2:])
        filters = phase_filters(np.asarray(weight.data), op.group, axes)
        if len(axes) == 1 and axes[0].phases > 1:
            axes, filters = [phase_axis(1, 1, 1, 1, 1, 0), *axes], filters[:, :, np.newaxis]
            image = ops.Reshape((*x.type.shape[:2], 1, x.type.shape[2]))
            x = graph.add_node(image, [x], name=f"{name}.image", before=node).result
        parameters = [graph.add_constant(filters, f"{name}.filters")]
        if bias:
            parameters.append(
                graph.add_constant(phase_bias(np.asarray(bias[0].data), op.group, axes), f"{name}.biases")
            )
        node.op = ops.Conv(
            strides=(1,) * len(axes),
            pads=(*(axis.pads[0] for axis in axes), *(axis.pads[1] for axis in axes)),
            dilations=tuple(axis.dilation for axis in axes),
            group=op.group,
            clamp=op.clamp,
        )
        graph.set_operands(node, [x, *parameters])
        node.result.type = node.result.type.with_shape((wanted[0], len(filters), *(axis.count for axis in axes)))
        following = next(iter(node.neighbours(1)[1]), None)
        first, last = None, node.result
        for what, step in _steps(axes, op.group, wanted):
            added = graph.add_node(step, [last], name=f"{name}.{what}", before=following)
            first, last = first or added, added.result
        if first is not None:
            graph.replace_uses(node.result, last, except_by=first)


def _steps(axes: Sequence[PhaseAxis], group: int, wanted: Shape) -> Iterator[tuple[str, Op]]:
    """What makes a result of shape `wanted` from that of the convolution, with names."""
    phases = tuple(axis.phases for axis in axes)
    if set(phases) != {1}:
        yield "pixels", ops.DepthToSpace((phases[0], phases[1]), "DCR" if group == 1 else "CRD")
    sizes = (1, *wanted[2:])[-len(axes) :]
    cut = [i for i, axis in enumerate(axes) if axis.count * axis.phases != sizes[i]]
    if cut:
        counts = tuple(static_dim(sizes[i], "a spatial axis") for i in cut)
        yield "cut", ops.Slice(tuple(2 + i for i in cut), (0,) * len(cut), counts, (1,) * len(cut))
    if len(axes) + 2 != len(wanted):
        yield "row", ops.Reshape(wanted)
