"""Functions of one real number. `real_function` is also what look-up tables are built from."""

import math
from collections.abc import Callable

import numpy as np

from qcompiler.errors import PluginError
from qcompiler.ir import Op
from qcompiler.ir.ops import (
    Abs,
    Clip,
    Erf,
    Exp,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Neg,
    Power,
    Reciprocal,
    Relu,
    Sigmoid,
    Silu,
    Sqrt,
    Tanh,
)
from qcompiler.runtime.reference.real import Real
from qcompiler.runtime.reference.registry import Domain, implementation, reference


def real_function(op: Op) -> Callable[[float], float]:
    """A unary op as a function of one float64, without NumPy's warnings (log(0) is −inf, log(−1) NaN).

    Raises:
        PluginError: the op is not an elementwise function of one operand, or has no reference function.
    """
    found = implementation(type(op))
    if not op.elementwise_unary or found.domain is not Domain.REAL or found.typed:
        raise PluginError(f"op {op.name!r} is not a real function of one operand")

    @np.errstate(all="ignore")
    def function(x: float) -> float:
        return float(found.function(op, np.float64(x)))

    return function


@reference(Relu)
def relu(_op: Relu, x: Real) -> Real:
    return np.maximum(x, 0)


@reference(LeakyRelu)
def leaky_relu(op: LeakyRelu, x: Real) -> Real:
    return np.where(x >= 0, x, op.alpha * x)


@reference(Clip)
def clip(op: Clip, x: Real) -> Real:
    return np.minimum(np.maximum(x, op.low), op.high)


@reference(Sigmoid)
def sigmoid(_op: Sigmoid, x: Real) -> Real:
    return 1 / (1 + np.exp(-x))


@reference(HardSigmoid)
def hard_sigmoid(op: HardSigmoid, x: Real) -> Real:
    return np.clip(op.alpha * x + op.beta, 0, 1)


@reference(HardSwish)
def hard_swish(_op: HardSwish, x: Real) -> Real:
    return x * np.clip(x / 6 + 0.5, 0, 1)


@reference(Silu)
def silu(_op: Silu, x: Real) -> Real:
    y: Real = x / (1 + np.exp(-x))
    return y


@reference(Tanh)
def tanh(_op: Tanh, x: Real) -> Real:
    return np.tanh(x)


@reference(Erf)
def erf(_op: Erf, x: Real) -> Real:
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x), np.float64)


@reference(Exp)
def exp(_op: Exp, x: Real) -> Real:
    return np.exp(x)


@reference(Log)
def log(_op: Log, x: Real) -> Real:
    return np.log(x)


@reference(Sqrt)
def sqrt(_op: Sqrt, x: Real) -> Real:
    return np.sqrt(x)


@reference(Abs)
def absolute(_op: Abs, x: Real) -> Real:
    return np.abs(x)


@reference(Neg)
def negative(_op: Neg, x: Real) -> Real:
    return -x


@reference(Reciprocal)
def reciprocal(_op: Reciprocal, x: Real) -> Real:
    return 1 / x


@reference(Power)
def power(op: Power, x: Real) -> Real:
    return np.power(x, op.exponent)
