"""Calls of the kernel `copy`, and how the elements of a buffer lie."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompiler.runtime.kernels import movement as kernels
from qcompiler.runtime.lowering.geometry import Walk, contiguous_steps
from qcompiler.runtime.program import Buffer, Operand

_GOOD_ROW_BYTES = 16
COPY_NS, GATHER_NS, ROW_NS = 0.05, 0.7, 4.0  # a byte in a row, an element out of order, a row


@dataclass(frozen=True)
class CopyCall:
    """The operands of a call.

    Attributes:
        cost: predicted nanoseconds.
        rows: indivisible pieces of work.
    """

    words: Mapping[str, Operand]
    cost: float
    rows: int


def steps_of(buffer: Buffer, sizes: Sequence[int]) -> tuple[int, ...]:
    """Steps in elements along axes of these sizes, which take the buffer's apart: the last ones its rows."""
    if not buffer.pitch:
        return contiguous_steps(sizes)
    steps: list[int] = []
    step = 1
    for size in reversed(sizes):
        if step == buffer.shape[-1]:
            step = buffer.pitch // buffer.dtype.itemsize
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def copy_call(source: Buffer, out: Buffer, walk: Walk, what: str, *, offset: int = 0) -> CopyCall:
    """Move the walk's elements of `source` (its first row of steps, from `offset` on) to `out` (its second).

    Raises:
        UnsupportedOpError: it has too many axes; `what` says whose.
    """
    itemsize, count = source.dtype.itemsize, math.prod(walk.sizes)
    walk = _with_good_inner_axis(walk, itemsize).inner(kernels.OUTER_AXES + 1, what)
    rows = math.prod(walk.sizes[1:])
    words: dict[str, Operand] = {"source": source, "target": out, "itemsize": itemsize, "offset": offset}
    words |= {"rows": rows, "inner": walk.sizes[0]}
    words |= {f"d{i}": size for i, size in enumerate(walk.sizes[1:], 1)}
    words |= {f"{name}{i}": step for name, row in zip("st", walk.steps, strict=True) for i, step in enumerate(row)}
    in_order = walk.steps[0][0] == walk.steps[1][0] == 1
    return CopyCall(words, rows * ROW_NS + count * (COPY_NS * itemsize if in_order else GATHER_NS), rows)


def _with_good_inner_axis(walk: Walk, itemsize: int) -> Walk:
    """The walk of a copy with its longest axis inside, unless rows of bytes in order are long enough as they are.

    Of equally long ones the innermost: its elements are the closest.
    """
    last = len(walk.sizes) - 1
    if walk.steps[0][last] == walk.steps[1][last] == 1 and walk.sizes[last] * itemsize >= _GOOD_ROW_BYTES:
        return walk
    longest = max(range(last + 1), key=lambda axis: (walk.sizes[axis], axis))
    order = [*(axis for axis in range(last + 1) if axis != longest), longest]
    steps = tuple(tuple(row[axis] for axis in order) for row in walk.steps)
    return Walk(tuple(walk.sizes[axis] for axis in order), steps)
