"""Random convolutions, what they compute in Python integers, and running their kernels between guard bytes."""

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from qcompiler import numerics
from qcompiler.ir.types import DType
from qcompiler.runtime.kernels.convolution_packing import ConvLayer, pack_conv
from qcompiler.runtime.kernels.convolution_plan import PackedConv
from qcompiler.runtime.kernels.depthwise_plan import PackedDepthwise, pack_depthwise
from qcompiler.runtime.kernels.kernel_plan import KernelPlan
from qcompiler.runtime.kernels.packing import Requantization, aligned
from qcompiler.runtime.kernels.registry import kernel_named
from tests.runtime.guard_pages import guarded

GUARD = 64  # bytes around the result, which must stay as they are


@dataclass(frozen=True)
class Layer:
    batch: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    group: int
    per_group: int
    cout: int
    x_dtype: DType
    zp_in: int
    dtype: DType
    zp_out: int
    lo: int
    hi: int
    shares: int
    seed: int


@st.composite
def layers(draw: st.DrawFn, *, depthwise: bool = False) -> Layer:
    small = st.integers(1, 3)
    kernel, strides, dilations = ((draw(small), draw(small)) for _ in range(3))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    window = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    least = [max(1, window[0] - pads[0] - pads[2]), max(1, window[1] - pads[1] - pads[3])]
    size = draw(st.integers(least[0], least[0] + 6)), draw(st.integers(least[1], least[1] + 9))
    if depthwise:
        group, per_group = draw(st.sampled_from([1, 3, 8, 16, 31, 32, 33, 64, 72])), 1
        cout = group
    else:
        group = draw(st.sampled_from([1, 1, 1, 2, 3]))
        per_group = draw(st.sampled_from([1, 2, 3, 4, 5, 8, 17, 32]))
        cout = group * draw(st.sampled_from([1, 2, 7, 8, 9, 16, 17, 24, 33, 64, 65, 100]))
    x_dtype = draw(st.sampled_from([DType.U8, DType.S8]))
    dtype = draw(st.sampled_from([DType.U8, DType.U8, DType.S8, DType.S16, DType.S32]))
    lowest, highest = dtype.limits
    lo = draw(st.integers(lowest, highest))
    return Layer(
        batch=draw(st.integers(1, 2)),
        size=size,
        kernel=kernel,
        strides=strides,
        pads=(pads[0], pads[1], pads[2], pads[3]),
        dilations=dilations,
        group=group,
        per_group=per_group,
        cout=cout,
        x_dtype=x_dtype,
        zp_in=draw(st.integers(*x_dtype.limits)),
        dtype=dtype,
        zp_out=draw(st.integers(lowest, highest)),
        lo=lo,
        hi=draw(st.integers(lo, highest)),
        shares=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def random_operands(layer: Layer):
    """x NHWC, weight, folded bias, requantization; one time in three only extreme values."""
    rng = np.random.default_rng(layer.seed)
    x_limits = layer.x_dtype.limits

    def integers(lo: int, hi: int, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
        if layer.seed % 3 == 0:
            return rng.choice([lo, hi], shape)
        return rng.integers(lo, hi + 1, shape)

    cin = layer.group * layer.per_group
    x = integers(*x_limits, (layer.batch, *layer.size, cin)).astype(layer.x_dtype.numpy)
    weight = integers(-128, 127, (layer.cout, layer.per_group, *layer.kernel)).astype(np.int8)
    bias = integers(-(2**31), 2**31 - 1, (layer.cout,)) if layer.seed % 5 == 0 else integers(-999, 999, (layer.cout,))
    multiplier = integers(2**30, 2**31 - 1, (layer.cout,))
    multiplier[rng.random(layer.cout) < 0.1] = 0
    largest = 62 if layer.seed % 2 else 45
    shift = rng.integers(2 if layer.seed % 4 == 0 else 33, largest + 1, layer.cout)
    requantization = None
    if layer.dtype is not DType.S32:
        scale = multiplier.astype(np.int32), shift.astype(np.int32)
        requantization = Requantization(*scale, layer.zp_out, layer.lo, layer.hi, layer.dtype)
    return x, weight, bias.astype(np.int32), requantization


def expected(layer: Layer, x, weight, bias, requantization: Requantization | None, added: Any = 0):
    """Straight from the definition: int64 sums, with what is added to them, then Python integers."""
    top, left, bottom, right = layer.pads
    padded = np.pad(x.astype(np.int64), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=layer.zp_in)
    (kh, kw), (sh, sw), (dh, dw) = layer.kernel, layer.strides, layer.dilations
    oh = (padded.shape[1] - (kh - 1) * dh - 1) // sh + 1
    ow = (padded.shape[2] - (kw - 1) * dw - 1) // sw + 1
    sums = np.zeros((layer.batch, oh, ow, layer.cout), np.int64) + bias
    outputs, inputs = layer.cout // layer.group, layer.per_group
    for g in range(layer.group):
        own = slice(g * outputs, (g + 1) * outputs)
        for i in range(kh):
            for j in range(kw):
                rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
                columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
                window = padded[:, rows, columns, g * inputs : (g + 1) * inputs]
                sums[..., own] += window @ weight[own, :, i, j].T.astype(np.int64)
    return requantized(sums + added, requantization)


def requantized(sums: npt.NDArray[np.int64], q: Requantization | None):
    accs = [numerics.wrap_s32(int(acc)) for acc in sums.ravel()]
    if q is None:
        return np.array(accs, np.int32).reshape(sums.shape)
    channels = sums.shape[-1]
    Ms, shifts = q.multiplier.tolist(), q.shift.tolist()
    values = [
        numerics.requantize(acc, Ms[i % channels], shifts[i % channels], q.zp_out, q.lo, q.hi)
        for i, acc in enumerate(accs)
    ]
    return np.array(values, q.dtype.numpy).reshape(sums.shape)


def spread(array: npt.NDArray[np.generic], pitch: int, fill: int) -> npt.NDArray[np.uint8]:
    """The bytes of an array with its rows `pitch` bytes apart, and `fill` between them; not after the last."""
    rows = np.ascontiguousarray(array).reshape(-1, array.shape[-1]).view(np.uint8)
    result = np.full((len(rows), pitch), fill, np.uint8)
    result[:, : rows.shape[1]] = rows
    return result.ravel()[: (len(rows) - 1) * pitch + rows.shape[1]]


def execute(
    plan: KernelPlan,
    isa_name: str,
    x: npt.NDArray[np.generic],
    dtype: DType,
    shares: int,
    residual: npt.NDArray[np.generic] | None = None,
    table: npt.NDArray[np.generic] | None = None,
    *,
    in_place: bool = False,
):
    """Run all shares, the last first; nothing around the result or scratch may be written, nothing behind x read.

    With `in_place` the result takes the place of the residual.
    """
    kernel = kernel_named(plan.kernel)
    memory = guarded(x.nbytes, x.itemsize)[1]
    memory[:] = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    size = math.prod(plan.out_shape) * dtype.itemsize
    out, scratch = (aligned(np.full(n + 2 * GUARD, 77, np.uint8)) for n in (size, plan.scratch_bytes))
    buffers = {"x": memory.ctypes.data, "out": out.ctypes.data + GUARD, "scratch": scratch.ctypes.data + GUARD}
    constants = {word: array.ctypes.data for word, array in plan.constants.items()}
    named = {**buffers, **constants, **plan.integers}
    if "residual" in kernel.words:
        named["residual"] = 0 if residual is None else residual.ctypes.data
    if in_place and residual is not None:
        out[GUARD:-GUARD] = residual.reshape(-1).view(np.uint8)
        named["residual"] = named["out"]
    if table is not None:
        named["table"] = table.ctypes.data
    words = np.array([named.pop(word) for word in kernel.words], np.int64)
    assert not named
    call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel.address_for(isa_name))
    for share in reversed(range(shares)):
        call(words.ctypes.data, share, shares)
    for buffer in (out, scratch):
        assert (buffer[:GUARD] == 77).all()
        assert (buffer[-GUARD:] == 77).all()
    return out[GUARD:-GUARD].view(dtype.numpy).reshape(plan.out_shape)


def facts_of(layer: Layer, weight, bias, requantization: Requantization | None) -> ConvLayer:
    return ConvLayer(
        weight,
        bias,
        requantization,
        zp_in=layer.zp_in,
        x_dtype=layer.x_dtype,
        dilations=layer.dilations,
        group=layer.group,
    )


def pack(layer: ConvLayer, isa_name: str, *, depthwise: bool) -> PackedConv | PackedDepthwise:
    """For the general kernel, or for the one of depthwise convolutions."""
    return pack_depthwise(layer, isa_name) if depthwise else pack_conv(layer, isa_name)


def conv_plan(
    layer: Layer, isa_name: str, weight, bias, requantization: Requantization | None, blocks: tuple[int, int] = (1, 1)
) -> KernelPlan:
    packed = pack_conv(facts_of(layer, weight, bias, requantization), isa_name, blocks=blocks)
    return packed.plan(layer.batch, *layer.size, strides=layer.strides, pads=layer.pads)
