"""Float32 functions of one operand, element by element.

Those with an exponential work in double precision inside, with relative errors below 1e-9, so that hardly a result
differs from the correctly rounded one; all are plain arithmetic that LLVM turns into vectors without changing a bit.
"""

import math
from collections.abc import Callable

import numpy as np

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.arithmetic import share_start
from qcompiler.runtime.kernels.float_bits import bits_of_double, clamp_f32, clamp_f64, double_of_bits, float_of_bits
from qcompiler.runtime.kernels.memory import load_f32, load_s64, store_f32
from qcompiler.runtime.kernels.registry import kernel

_WORDS = ("x", "out", "count", "p", "q")
_ROUND = 1.5 * 2.0**52
"""Adding it to |t| < 2^51 rounds t to an integer, which is then in the low bits."""
_LOG2_E = 1.4426950408889634
_LN2 = 0.6931471805599453


@inlined
def exponential_parts(x: float) -> tuple[float, float]:
    """2^n and exp(r) − 1 with exp(x) = 2^n · exp(r), |r| <= ln(2)/2; relative error below 1e-9.

    The second is its Taylor polynomial of degree 8. x is clamped to ±700, far beyond the range of float32.
    """
    bounded = clamp_f64(x, -700.0, 700.0)
    shifted = bounded * _LOG2_E + _ROUND
    r = bounded - (shifted - _ROUND) * _LN2
    power = double_of_bits((bits_of_double(shifted) << 52) + (np.int64(1023) << 52))
    p = 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    return power, p * r * r + r


@inlined
def exponential(x: float) -> float:
    """exp(x) for float64, relative error below 1e-9 within the range of float32."""
    power, rest = exponential_parts(x)
    return power + power * rest


@inlined
def exponential_minus_one(x: float) -> float:
    """exp(x) − 1 likewise, for small x too."""
    power, rest = exponential_parts(x)
    return power * rest + (power - 1.0)


@inlined
def leaky_relu(x: float, p: float, q: float) -> float:  # noqa: ARG001 - all functions take two parameters
    """Slope p below zero."""
    return x if x >= 0 else p * x


@inlined
def sigmoid(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The logistic function."""
    return 1.0 / (1.0 + exponential(-x))


@inlined
def hard_sigmoid(x: float, p: float, q: float) -> float:
    """A line of slope p through q, between 0 and 1."""
    return float(clamp_f64(p * x + q, 0.0, 1.0))


@inlined
def hard_swish(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The operand times its hard sigmoid of slope 1/6."""
    return x * float(clamp_f64(x / 6.0 + 0.5, 0.0, 1.0))


@inlined
def silu(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The operand times its sigmoid."""
    return x / (1.0 + exponential(-x))


@inlined
def tanh(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The hyperbolic tangent, from exp(−2|x|) − 1."""
    e = exponential_minus_one(-2.0 * abs(x))
    return math.copysign(-e / (2.0 + e), x)


@inlined
def error_function(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """A fit x · P(x²)/Q(x²) of least relative error, 1e-11, on |x| <= 4; from there on float32 has 1."""
    bounded = clamp_f64(x, -4.0, 4.0)
    s = bounded * bounded
    top = 3.013298599104484e-09
    top = top * s + 7.508228940916498e-07
    top = top * s + 2.1616734698622006e-05
    top = top * s + 0.0005113927039965593
    top = top * s + 0.00493801965677813
    top = top * s + 0.058037447787852865
    top = top * s + 0.1998381670368772
    top = top * s + 1.128379167088389
    bottom = 7.333534403307475e-08
    bottom = bottom * s + 4.4906764433838536e-06
    bottom = bottom * s + 0.00011094387385678608
    bottom = bottom * s + 0.0017084344907156745
    bottom = bottom * s + 0.017668672600202856
    bottom = bottom * s + 0.12157945125686163
    bottom = bottom * s + 0.5104352973319645
    return float(bounded * top / (bottom * s + 1.0))


@inlined
def natural_exponential(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The exponential, as a function of `map_elements`."""
    return exponential(x)


@inlined
def logarithm(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The natural logarithm."""
    return float(np.log(x))


@inlined
def square_root(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The square root."""
    return float(np.sqrt(x))


@inlined
def absolute(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The absolute value."""
    return abs(x)


@inlined
def negative(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The operand with its sign turned."""
    return -x


@inlined
def reciprocal(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """One over the operand."""
    return 1.0 / x


@inlined
def power(x: float, p: float, q: float) -> float:  # noqa: ARG001
    """The operand to the power p; squares, which every layer normalization has, without the library."""
    return x * x if p == 2.0 else float(x**p)


@kernel("float_clip", words=("x", "out", "count", "lo", "hi"))
def float_clip(operands: int, share: int, shares: int) -> None:
    """`clip` and `relu`, in float32."""
    x, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    lo, hi = float_of_bits(load_s64(operands, 3)), float_of_bits(load_s64(operands, 4))
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        store_f32(out, i, clamp_f32(load_f32(x, i), lo, hi))


@inlined
def map_elements(operands: int, share: int, shares: int, function: Callable[[float, float, float], float]) -> None:
    """``out = function(x, p, q)``, in float64, rounded once."""
    x, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    p, q = double_of_bits(load_s64(operands, 3)), double_of_bits(load_s64(operands, 4))
    for i in range(share_start(count, share, shares), min(count, share_start(count, share + 1, shares))):
        store_f32(out, i, np.float32(function(np.float64(load_f32(x, i)), p, q)))


@kernel("float_leaky_relu", words=_WORDS)
def float_leaky_relu(operands: int, share: int, shares: int) -> None:
    """`leaky_relu`; p is alpha."""
    map_elements(operands, share, shares, leaky_relu)


@kernel("float_sigmoid", words=_WORDS)
def float_sigmoid(operands: int, share: int, shares: int) -> None:
    """`sigmoid`."""
    map_elements(operands, share, shares, sigmoid)


@kernel("float_hard_sigmoid", words=_WORDS)
def float_hard_sigmoid(operands: int, share: int, shares: int) -> None:
    """`hard_sigmoid`; p is alpha, q is beta."""
    map_elements(operands, share, shares, hard_sigmoid)


@kernel("float_hard_swish", words=_WORDS)
def float_hard_swish(operands: int, share: int, shares: int) -> None:
    """`hard_swish`."""
    map_elements(operands, share, shares, hard_swish)


@kernel("float_silu", words=_WORDS)
def float_silu(operands: int, share: int, shares: int) -> None:
    """`silu`."""
    map_elements(operands, share, shares, silu)


@kernel("float_tanh", words=_WORDS)
def float_tanh(operands: int, share: int, shares: int) -> None:
    """`tanh`."""
    map_elements(operands, share, shares, tanh)


@kernel("float_erf", words=_WORDS)
def float_erf(operands: int, share: int, shares: int) -> None:
    """`erf`."""
    map_elements(operands, share, shares, error_function)


@kernel("float_exp", words=_WORDS)
def float_exp(operands: int, share: int, shares: int) -> None:
    """`exp`."""
    map_elements(operands, share, shares, natural_exponential)


@kernel("float_log", words=_WORDS)
def float_log(operands: int, share: int, shares: int) -> None:
    """`log`."""
    map_elements(operands, share, shares, logarithm)


@kernel("float_sqrt", words=_WORDS)
def float_sqrt(operands: int, share: int, shares: int) -> None:
    """`sqrt`."""
    map_elements(operands, share, shares, square_root)


@kernel("float_abs", words=_WORDS)
def float_abs(operands: int, share: int, shares: int) -> None:
    """`abs`."""
    map_elements(operands, share, shares, absolute)


@kernel("float_neg", words=_WORDS)
def float_neg(operands: int, share: int, shares: int) -> None:
    """`neg`."""
    map_elements(operands, share, shares, negative)


@kernel("float_reciprocal", words=_WORDS)
def float_reciprocal(operands: int, share: int, shares: int) -> None:
    """`reciprocal`."""
    map_elements(operands, share, shares, reciprocal)


@kernel("float_power", words=_WORDS)
def float_power(operands: int, share: int, shares: int) -> None:
    """`power`; p is the exponent."""
    map_elements(operands, share, shares, power)
