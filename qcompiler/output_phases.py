"""A transposed convolution as an ordinary one, by output phases; shared by the pass and the float kernels' lowering.

Output position ``o = s·q + r`` along an axis of stride s is of *phase* r. It sums the products of taps k and input
positions i with ``i·s + k·d = o + pad``, d the dilation. So tap k belongs to one phase, ``r = (k·d − pad) mod s``, and
meets the input at ``i = q − (k·d − pad − r) / s``: each phase is a convolution of stride 1 over some of the taps, and
all of them are one convolution with s filters a channel, over the window that covers their taps. A filter is zero where
its phase has no tap. The s results of a channel at q are neighbours in the output, as `depth_to_space` has it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.ir.ops import ConvTranspose
from qcompiler.ir.ops.shapes import static_dim
from qcompiler.ir.types import AnyArray, Dim


@dataclass(frozen=True, slots=True)
class PhaseAxis:
    """One spatial axis of the ordinary convolution.

    Attributes:
        phases: the stride of the transposed convolution.
        places: of each tap of the transposed convolution: its phase, and its place in the window.
        window: taps of the window.
        dilation: distance of two of them.
        pads: of the input, begin and end.
        count: positions q; ``phases · count`` is at least the size of the output, and what is more is to be cut off.
    """

    phases: int
    places: tuple[tuple[int, int], ...]
    window: int
    dilation: int
    pads: tuple[int, int]
    count: int


def phase_axis(size: int, kernel: int, out: int, stride: int, dilation: int, pad: int) -> PhaseAxis:
    """The axis for an input of `size` and an output of `out` positions, `pad` of them cut off at the beginning."""
    quotients, phases = zip(*(divmod(k * dilation - pad, stride) for k in range(kernel)), strict=True)
    step = math.gcd(*(quotient - quotients[0] for quotient in quotients)) or 1
    first = -max(quotients)  # the position that the window begins with, relative to q
    first -= max(0, -(-first // step)) * step  # a convolution cannot begin within its input
    window = (-min(quotients) - first) // step + 1
    count = -(-out // stride)
    end = count + first + (window - 1) * step - size
    places = tuple((phase, (-quotient - first) // step) for quotient, phase in zip(quotients, phases, strict=True))
    return PhaseAxis(stride, places, window, step, (-first, max(0, end)), count + max(0, -end))


def transposed_axes(
    op: ConvTranspose, spatial: Sequence[Dim], kernel: Sequence[Dim], wanted: Sequence[Dim]
) -> list[PhaseAxis]:
    """All axes, for input, kernel and output of these spatial sizes."""
    sizes = [[static_dim(dim, "a spatial axis") for dim in dims] for dims in zip(spatial, kernel, wanted, strict=True)]
    return [
        phase_axis(size, taps, out, op.strides[i], op.dilations[i], op.pads[i])
        for i, (size, taps, out) in enumerate(sizes)
    ]


def phase_filters(weight: AnyArray, group: int, axes: Sequence[PhaseAxis]) -> AnyArray:
    """Weights [cout · phases, cin/group, window...] of the ordinary convolution, from [cin, cout/group, kernel...].

    Without groups the filters of one phase lie together ("DCR" of `depth_to_space`), else those of one channel ("CRD"),
    as the filters of a group have to be neighbours.
    """
    cin, per_group, *kernel = weight.shape
    rank, own = len(axes), weight.reshape(group, cin // group, per_group, *kernel)
    counts = [axis.phases for axis in axes]
    filters = np.zeros((group, per_group, *counts, cin // group, *(axis.window for axis in axes)), weight.dtype)
    for tap in np.ndindex(*kernel):
        phase, place = zip(*(axis.places[k] for axis, k in zip(axes, tap, strict=True)), strict=True)
        filters[(slice(None), slice(None), *phase, slice(None), *place)] = own[(..., *tap)].swapaxes(1, 2)
    if group == 1:
        filters = np.moveaxis(filters, 1, 1 + rank)
    return np.ascontiguousarray(filters.reshape(-1, *filters.shape[2 + rank :]))


def phase_bias(bias: AnyArray, group: int, axes: Sequence[PhaseAxis]) -> AnyArray:
    """The bias [cout · phases] in the order of `phase_filters`."""
    phases = math.prod(axis.phases for axis in axes)
    return np.tile(bias, phases) if group == 1 else np.repeat(bias, phases)
