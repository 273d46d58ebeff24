"""Integer pooling, mean and softmax."""

import numpy as np

from qcompiler.ir.ops import IntAveragePool, IntMean, IntSoftmax
from qcompiler.ir.types import AnyArray
from qcompiler.runtime.reference.fixed_point import divide_half_up, narrow, requantize, shift_half_up, widen
from qcompiler.runtime.reference.registry import Domain, reference
from qcompiler.runtime.reference.windows import (
    from_channels_first,
    sliding_windows,
    to_channels_first,
    window_counts,
)


@reference(IntAveragePool, Domain.STORED)
def int_average_pool(op: IntAveragePool, x: AnyArray, multiplier: AnyArray, shift: AnyArray) -> AnyArray:
    x = to_channels_first(x, op.layout)
    # Padding is real zero, whose difference from the zero point is 0.
    windows = sliding_windows(
        widen(x) - op.zp_in, op.kernel, op.strides, op.dilations, op.pads, 0, ceil_mode=op.ceil_mode
    )
    counts = window_counts(
        x.shape[2:], op.kernel, op.strides, op.dilations, op.pads,
        ceil_mode=op.ceil_mode, include_pad=op.count_include_pad,
    )  # fmt: skip
    y = requantize(
        windows.sum((-2, -1)), widen(multiplier)[counts], widen(shift)[counts],
        op.zp_out, op.lo, op.hi, op.dtype,
    )  # fmt: skip
    return from_channels_first(y, op.layout)


@reference(IntMean, Domain.STORED)
def int_mean(op: IntMean, x: AnyArray) -> AnyArray:
    total = np.asarray((widen(x) - op.zp_in).sum(op.axes, keepdims=op.keepdims))
    return requantize(total, op.multiplier, op.shift, op.zp_out, op.lo, op.hi, op.dtype)


@reference(IntSoftmax, Domain.STORED)
def int_softmax(op: IntSoftmax, x: AnyArray, exp_high: AnyArray, exp_low: AnyArray | None = None) -> AnyArray:
    d = widen(x.max(op.axis, keepdims=True)) - widen(x)
    if exp_low is not None:
        e = shift_half_up(widen(exp_high)[d >> 8] * widen(exp_low)[d & 255], 30)
    else:
        e = widen(exp_high)[d]
    total = e.sum(op.axis, keepdims=True)
    return narrow(divide_half_up(e * op.one, total), 0, op.hi, op.dtype)
