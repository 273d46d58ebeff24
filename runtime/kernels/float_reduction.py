"""Means and softmax over float32.

Sums are kept in double precision and run over the reduced axis in an order that depends on its length alone.
"""

import numpy as np

from qcompiler.runtime.codegen.deferred import compiled, inlined
from qcompiler.runtime.kernels.float_bits import largest_f32
from qcompiler.runtime.kernels.float_functions import exponential
from qcompiler.runtime.kernels.memory import load_f32, load_s64, store_f32
from qcompiler.runtime.kernels.registry import kernel

_WORDS = ("x", "out", "outer", "length", "inner")


@inlined
def total(x: int, length: int) -> float:
    """The sum of neighbouring elements: four interleaved chains of additions, as one would wait for each result."""
    a, b, c, d = 0.0, 0.0, 0.0, 0.0
    quads = length // 4
    for k in range(quads):
        a += load_f32(x, 4 * k)
        b += load_f32(x, 4 * k + 1)
        c += load_f32(x, 4 * k + 2)
        d += load_f32(x, 4 * k + 3)
    for k in range(4 * quads, length):
        a += load_f32(x, k)
    return (a + b) + (c + d)


@kernel("float_mean", words=_WORDS)
def float_mean(operands: int, share: int, shares: int) -> None:
    """`reduce_mean` over the middle axis of [outer, length, inner]."""
    x, out, outer = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    length, inner = load_s64(operands, 3), load_s64(operands, 4)
    items = outer * inner
    for item in range(items * share // shares, items * (share + 1) // shares):
        row = item // inner
        start = x + 4 * (row * length * inner + item - row * inner)
        if inner == 1:
            result = total(start, length)
        else:
            result = 0.0
            for k in range(length):
                result += load_f32(start, k * inner)
        store_f32(out, item, np.float32(result / length))


@kernel("float_softmax", words=_WORDS)
def float_softmax(operands: int, share: int, shares: int) -> None:
    """`softmax` along the middle axis of [outer, length, inner]."""
    x, out, outer = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    length, inner = load_s64(operands, 3), load_s64(operands, 4)
    items = outer * inner
    for item in range(items * share // shares, items * (share + 1) // shares):
        row = item // inner
        offset = 4 * (row * length * inner + item - row * inner)
        if inner == 1:
            soften_row(x + offset, out + offset, length)
        else:
            soften_column(x + offset, out + offset, length, inner)


@compiled
def soften_row(x: int, out: int, length: int) -> None:
    """Softmax of neighbouring elements."""
    largest = load_f32(x, 0)
    for k in range(1, length):
        largest = largest_f32(largest, load_f32(x, k))
    for k in range(length):
        difference = np.float64(load_f32(x, k)) - np.float64(largest)
        store_f32(out, k, np.float32(exponential(difference)))
    scale = 1.0 / total(out, length)
    for k in range(length):
        store_f32(out, k, np.float32(load_f32(out, k) * scale))


@compiled
def soften_column(x: int, out: int, length: int, step: int) -> None:
    """Softmax of elements `step` apart."""
    largest = load_f32(x, 0)
    for k in range(1, length):
        largest = largest_f32(largest, load_f32(x, k * step))
    weight = 0.0
    for k in range(length):
        difference = np.float64(load_f32(x, k * step)) - np.float64(largest)
        part = np.float32(exponential(difference))
        weight += float(part)
        store_f32(out, k * step, part)
    scale = 1.0 / weight
    for k in range(length):
        store_f32(out, k * step, np.float32(load_f32(out, k * step) * scale))
