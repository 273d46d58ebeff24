"""Squared errors of 8-bit quantization over a histogram, for many ranges at a time: what `mse` calibration asks for."""

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.arithmetic import share_range
from qcompiler.runtime.kernels.float_bits import clamp_f64
from qcompiler.runtime.kernels.memory import load_f64, load_s64, store_f64
from qcompiler.runtime.kernels.registry import kernel

LARGEST_LEVEL = 255.0
_ROUND = 1.5 * 2.0**52
"""Adding it to |t| < 2^51 and taking it away rounds t to an integer, ties to even."""


@inlined
def nearest(x: float) -> float:
    """The integer nearest to |x| < 2^51, ties to even."""
    return (x + _ROUND) - _ROUND


@kernel("range_errors", words=("points", "weights", "scales", "zero_points", "errors", "count", "ranges"))
def range_errors(operands: int, share: int, shares: int) -> None:
    """``errors[r]`` = sum of ``weights · (points − quantized)²``, in order, quantized to the 8 bits of range r.

    `points` and `weights` are f64[count]; `scales`, `zero_points` and `errors` f64[ranges]. No quotient of a point and
    a scale reaches 2^51.
    """
    points, weights = load_s64(operands, 0), load_s64(operands, 1)
    scales, zero_points, errors = load_s64(operands, 2), load_s64(operands, 3), load_s64(operands, 4)
    count = load_s64(operands, 5)
    first, end = share_range(load_s64(operands, 6), share, shares)
    for r in range(first, end):
        store_f64(errors, r, 0.0)
    for i in range(count):
        point, weight = load_f64(points, i), load_f64(weights, i)
        for r in range(first, end):
            scale, zero_point = load_f64(scales, r), load_f64(zero_points, r)
            level = clamp_f64(nearest(point / scale) + zero_point, 0.0, LARGEST_LEVEL)
            error = point - (level - zero_point) * scale
            store_f64(errors, r, load_f64(errors, r) + weight * error * error)
