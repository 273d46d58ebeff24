"""Float32 functions of two operands with broadcasting, and batch normalization."""

from collections.abc import Callable

import numpy as np

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.arithmetic import share_range
from qcompiler.runtime.kernels.broadcast import BROADCAST_WORDS, PARAMETERS, run_at
from qcompiler.runtime.kernels.float_bits import clamp_f32, float_of_bits
from qcompiler.runtime.kernels.memory import load_f32, load_s64, store_f32
from qcompiler.runtime.kernels.registry import kernel

_WORDS = (*BROADCAST_WORDS, "lo", "hi")


@inlined
def add(a: float, b: float) -> float:
    """The sum."""
    return a + b


@inlined
def subtract(a: float, b: float) -> float:
    """The difference."""
    return a - b


@inlined
def multiply(a: float, b: float) -> float:
    """The product."""
    return a * b


@inlined
def divide(a: float, b: float) -> float:
    """The quotient."""
    return a / b


@inlined
def parametric_relu(x: float, slope: float) -> float:
    """The operand, times `slope` where it is negative."""
    return x if x >= 0 else slope * x


@inlined
def combine(operands: int, share: int, shares: int, function: Callable[[float, float], float]) -> None:
    """``out = clamp(function(a, b))`` over a broadcast walk."""
    out, a0, b0 = load_s64(operands, 2), load_s64(operands, 5), load_s64(operands, 6)
    lo, hi = float_of_bits(load_s64(operands, PARAMETERS)), float_of_bits(load_s64(operands, PARAMETERS + 1))
    position, end = share_range(load_s64(operands, 3), share, shares)
    while position < end:
        n, x, y = run_at(operands, position, end, 4, 4)
        z = out + 4 * position
        if a0 == 1 and b0 == 1:
            for i in range(n):
                store_f32(z, i, clamp_f32(function(load_f32(x, i), load_f32(y, i)), lo, hi))
        elif a0 == 1 and b0 == 0:
            right = load_f32(y, 0)
            for i in range(n):
                store_f32(z, i, clamp_f32(function(load_f32(x, i), right), lo, hi))
        else:
            for i in range(n):
                store_f32(z, i, clamp_f32(function(load_f32(x, i * a0), load_f32(y, i * b0)), lo, hi))
        position += n


@kernel("float_add", words=_WORDS)
def float_add(operands: int, share: int, shares: int) -> None:
    """`add`."""
    combine(operands, share, shares, add)


@kernel("float_sub", words=_WORDS)
def float_sub(operands: int, share: int, shares: int) -> None:
    """`sub`."""
    combine(operands, share, shares, subtract)


@kernel("float_mul", words=_WORDS)
def float_mul(operands: int, share: int, shares: int) -> None:
    """`mul`."""
    combine(operands, share, shares, multiply)


@kernel("float_div", words=_WORDS)
def float_div(operands: int, share: int, shares: int) -> None:
    """`div`."""
    combine(operands, share, shares, divide)


@kernel("float_prelu", words=_WORDS)
def float_prelu(operands: int, share: int, shares: int) -> None:
    """`prelu`; `b` is the slope."""
    combine(operands, share, shares, parametric_relu)


@kernel(
    "float_batch_normalization",
    words=("x", "scale", "bias", "mean", "variance", "out", "count", "channels", "inner", "epsilon"),
)
def float_batch_normalization(operands: int, share: int, shares: int) -> None:
    """`batch_normalization`; element i belongs to channel (i / inner) mod channels."""
    x, scale, bias, mean = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    variance, out, count = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    channels, inner = load_s64(operands, 7), load_s64(operands, 8)
    epsilon = float_of_bits(load_s64(operands, 9))
    position, end = share_range(count, share, shares)
    while position < end:
        row = position // inner
        n = min((row + 1) * inner, end) - position
        channel = row % channels
        gain = load_f32(scale, channel) / np.sqrt(load_f32(variance, channel) + epsilon)
        center, start = load_f32(mean, channel), load_f32(bias, channel)
        source, target = x + 4 * position, out + 4 * position
        for i in range(n):
            store_f32(target, i, (load_f32(source, i) - center) * gain + start)
        position += n
