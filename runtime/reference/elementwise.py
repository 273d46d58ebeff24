"""Real functions of several operands, and softmax."""

import numpy as np

from qcompiler.ir.ops import Add, BatchNormalization, Div, Mul, PRelu, Softmax, Sub
from qcompiler.runtime.reference.linear import clamped
from qcompiler.runtime.reference.real import Real
from qcompiler.runtime.reference.registry import reference


@reference(Add)
def add(op: Add, a: Real, b: Real) -> Real:
    return clamped(a + b, op.clamp)


@reference(Sub)
def sub(op: Sub, a: Real, b: Real) -> Real:
    return clamped(a - b, op.clamp)


@reference(Mul)
def mul(op: Mul, a: Real, b: Real) -> Real:
    return clamped(a * b, op.clamp)


@reference(Div)
def div(_op: Div, a: Real, b: Real) -> Real:
    return a / b


@reference(PRelu)
def prelu(_op: PRelu, x: Real, slope: Real) -> Real:
    return np.where(x >= 0, x, slope * x)


@reference(Softmax)
def softmax(op: Softmax, x: Real) -> Real:
    e = np.exp(x - x.max(op.axis, keepdims=True))
    p: Real = e / e.sum(op.axis, keepdims=True)
    return p


@reference(BatchNormalization)
def batch_normalization(op: BatchNormalization, x: Real, scale: Real, bias: Real, mean: Real, variance: Real) -> Real:
    gain = scale / np.sqrt(variance + op.epsilon)
    shape = (-1, *[1] * (x.ndim - 2))
    return (x - mean.reshape(shape)) * gain.reshape(shape) + bias.reshape(shape)
