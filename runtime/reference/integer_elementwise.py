"""Integer functions of single elements."""

import numpy as np

from qcompiler.ir import DType
from qcompiler.ir.ops import IntAdd, IntDiv, IntLut, IntMul, IntPRelu, IntRescale
from qcompiler.ir.types import AnyArray
from qcompiler.runtime.reference.fixed_point import divide_half_up, narrow, requantize, shift_half_up, widen
from qcompiler.runtime.reference.real import along_axis
from qcompiler.runtime.reference.registry import Domain, reference


@reference(IntAdd, Domain.STORED)
def int_add(op: IntAdd, a: AnyArray, b: AnyArray) -> AnyArray:
    total = (widen(a) - op.zp_a) * op.multiplier_a + (widen(b) - op.zp_b) * op.multiplier_b
    return narrow(op.zp_out + shift_half_up(total, op.shift), op.lo, op.hi, op.dtype)


@reference(IntMul, Domain.STORED)
def int_mul(op: IntMul, a: AnyArray, b: AnyArray) -> AnyArray:
    product = (widen(a) - op.zp_a) * (widen(b) - op.zp_b)
    return requantize(product, op.multiplier, op.shift, op.zp_out, op.lo, op.hi, op.dtype)


@reference(IntDiv, Domain.STORED)
def int_div(op: IntDiv, a: AnyArray, b: AnyArray) -> AnyArray:
    n = (widen(a) - op.zp_a) * op.multiplier
    d = (widen(b) - op.zp_b) << op.shift
    n, d = np.broadcast_arrays(np.where(d < 0, -n, n), np.abs(d))
    quotient = divide_half_up(n, np.where(d == 0, 1, d))
    # What is divided by zero goes to the end of the range on its side.
    at_zero = np.select([n > 0, n < 0], [op.hi, op.lo], op.zp_out)
    return narrow(np.where(d == 0, at_zero, op.zp_out + quotient), op.lo, op.hi, op.dtype)


@reference(IntRescale, Domain.STORED)
def int_rescale(op: IntRescale, x: AnyArray) -> AnyArray:
    return requantize(widen(x) - op.zp_in, op.multiplier, op.shift, op.zp_out, op.lo, op.hi, op.dtype)


@reference(IntLut, Domain.STORED)
def int_lut(_op: IntLut, x: AnyArray, table: AnyArray) -> AnyArray:
    return table[widen(x) - DType.from_numpy(x.dtype).limits[0]]


@reference(IntPRelu, Domain.STORED)
def int_prelu(op: IntPRelu, x: AnyArray, multiplier: AnyArray, shift: AnyArray) -> AnyArray:
    difference = widen(x) - op.zp_in
    positive = difference >= 0
    M = np.where(positive, op.positive_multiplier, along_axis(multiplier, op.axis, x.ndim, np.int64))
    s = np.where(positive, op.positive_shift, along_axis(shift, op.axis, x.ndim, np.int64))
    return requantize(difference, M, s, op.zp_out, op.lo, op.hi, op.dtype)
