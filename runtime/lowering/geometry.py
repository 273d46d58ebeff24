"""Pure shape arithmetic of the lowering: fewer and longer axes for kernels to walk."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.errors import UnsupportedOpError


@dataclass(frozen=True)
class Walk:
    """How to walk several tensors together: axes from the outside in, steps in elements, one row of steps a tensor."""

    sizes: tuple[int, ...]
    steps: tuple[tuple[int, ...], ...]

    def inner(self, most: int, what: str) -> "Walk":
        """The walk with exactly `most` axes, from the inside out, filled up with axes of size 1.

        Raises:
            UnsupportedOpError: it has more axes; `what` says whose.
        """
        if len(self.sizes) > most:
            raise UnsupportedOpError(f"{what} walks {len(self.sizes)} axes of its own steps, kernels have {most}")
        missing = most - len(self.sizes)
        return Walk(
            (*reversed(self.sizes), *(1,) * missing),
            tuple((*reversed(row), *(0,) * missing) for row in self.steps),
        )


def contiguous_steps(shape: Sequence[int]) -> tuple[int, ...]:
    """Steps in elements of a row-major tensor."""
    steps: list[int] = []
    step = 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def broadcast_steps(shape: Sequence[int], rank: int, steps: Sequence[int] | None = None) -> tuple[int, ...]:
    """Steps of a tensor, row-major by default, broadcast to `rank` axes as by NumPy: 0 where it has one element."""
    steps = contiguous_steps(shape) if steps is None else steps
    own = tuple(0 if size == 1 else step for size, step in zip(shape, steps, strict=True))
    return (0,) * (rank - len(shape)) + own


def merged_walk(sizes: Sequence[int], *steps: Sequence[int]) -> Walk:
    """Drop axes of size 1 and merge neighbours that every tensor walks as one axis."""
    axes: list[tuple[int, tuple[int, ...]]] = []
    for size, row in zip(sizes, zip(*steps, strict=True), strict=True):
        if size == 1:
            continue
        if axes and all(outer == inner * size for outer, inner in zip(axes[-1][1], row, strict=True)):
            axes[-1] = (axes[-1][0] * size, row)
        else:
            axes.append((size, row))
    axes = axes or [(1, (0,) * len(steps))]
    return Walk(tuple(size for size, _ in axes), tuple(zip(*(row for _, row in axes), strict=True)))


def split_at(shape: Sequence[int], first: int, end: int) -> tuple[int, int, int]:
    """Elements before, in and after the axes first ... end − 1, each as one axis."""
    return math.prod(shape[:first]), math.prod(shape[first:end]), math.prod(shape[end:])
