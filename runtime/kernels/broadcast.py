"""How kernels on two operands walk broadcast tensors.

The result is contiguous, but for rows of its last axis that may be apart: `out_inner` elements lie from the beginning
of one inner axis to that of the next. Lowering drops axes of size 1 and merges axes that all walk alike, until what is
left is one inner axis of `inner` elements, along which the operands step by `a0` and `b0` elements, and up to four
outer axes of `d1` ... `d4` elements (from the inside), along which they step by `a1` ... `a4` and `b1` ... `b4`; a
step of 0 is broadcasting. `count` is the number of elements of the result.
"""

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.memory import load_s64

OUTER_AXES = 4
BROADCAST_WORDS = (
    *("a", "b", "out", "count", "inner", "a0", "b0"),
    *("d1", "d2", "d3", "a1", "a2", "a3", "a4", "b1", "b2", "b3", "b4", "out_inner"),
)
"""The first words of every such kernel; its own follow from `PARAMETERS`."""
PARAMETERS = len(BROADCAST_WORDS)
_D1, _A1, _B1, _OUT_INNER = 7, 10, 14, 18


@inlined
def run_at(operands: int, position: int, end: int, itemsize_a: int, itemsize_b: int) -> tuple[int, int, int]:
    """How many elements from `position` on, up to `end`, lie in one row; the addresses of those of a and b."""
    inner = load_s64(operands, 4)
    row = position // inner
    column = position - row * inner
    a = load_s64(operands, 0) + itemsize_a * (_row(operands, row, _A1) + column * load_s64(operands, 5))
    b = load_s64(operands, 1) + itemsize_b * (_row(operands, row, _B1) + column * load_s64(operands, 6))
    return min(inner - column, end - position), a, b


@inlined
def out_at(operands: int, position: int) -> int:
    """The place of the result's element `position`, in elements."""
    inner, out_inner = load_s64(operands, 4), load_s64(operands, _OUT_INNER)
    place: int = position + (position // inner) * (out_inner - inner)
    return place


@inlined
def _row(operands: int, row: int, steps: int) -> int:
    d1, d2, d3 = load_s64(operands, _D1), load_s64(operands, _D1 + 1), load_s64(operands, _D1 + 2)
    elements: int = row * load_s64(operands, steps)
    if row >= d1:  # divisions only where there is more than one outer axis
        rest2 = row // d1
        rest3 = rest2 // d2
        rest4 = rest3 // d3
        elements = (
            (row - rest2 * d1) * load_s64(operands, steps)
            + (rest2 - rest3 * d2) * load_s64(operands, steps + 1)
            + (rest3 - rest4 * d3) * load_s64(operands, steps + 2)
            + rest4 * load_s64(operands, steps + 3)
        )
    return elements
