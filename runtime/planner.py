"""Places the buffers of a program in one arena, so that those that live at the same time do not overlap."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qcompiler.runtime.program import ALIGNMENT, Buffer, Instruction, Program, Storage

RETRIES = 64
"""Most orders tried after the first one has not reached the lower bound."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """The instructions, first to last inclusive, between which a root buffer must keep its bytes."""

    first: int
    last: int


@dataclass(frozen=True, eq=False)
class Placement:
    """Where each arena buffer is.

    Attributes:
        offsets: id of each root buffer in the arena that an instruction uses -> byte offset.
        peak_bytes: size of the arena.
        lower_bound_bytes: the most bytes, rounded up to the alignment, that live at the same instruction: no
            arena can be smaller.
    """

    offsets: Mapping[int, int]
    peak_bytes: int
    lower_bound_bytes: int


def arena_lifetimes(program: Program) -> dict[int, Lifetime]:
    """Lifetime of each root buffer in the arena, by id; those that nothing uses are left out."""
    found: dict[int, Lifetime] = {}

    def use(buffer: Buffer, at: int) -> None:
        root = buffer.root
        if program.storage(root) is Storage.ARENA:
            known = found.get(root.id)
            found[root.id] = Lifetime(at if known is None else known.first, at)

    for index, instruction in enumerate(program.instructions):
        for operand in instruction.operands.values():
            if isinstance(operand, Buffer):
                use(operand, index)
    for port in program.outputs:
        use(port.buffer, len(program.instructions))
    return found


def place(program: Program) -> Placement:
    """Offsets for all arena buffers of a program.

    Buffers are placed from the largest to the smallest, each in the smallest gap that it fits between those
    placed before that live at the same time ("greedy by size for offset calculation": Pisarchyk and Lee,
    "Efficient Memory Management for Deep Neural Net Inference", 2020, section 5.2; with best fit). Where the
    result is above the lower bound, the blocks that reach the top are placed earlier, and the best of some
    tries is kept.
    """
    blocks = _Blocks(program)
    bound = blocks.lower_bound()
    order = blocks.by_size()
    best = offsets = blocks.offsets_in(order)
    # A try is quadratic in the number of blocks: about 1 ms for 50, 20 ms for 1000, which get fewer.
    for _ in range(min(RETRIES, 32_000 // max(len(order), 1))):
        if blocks.peak(best) == bound:
            break
        top = offsets + blocks.sizes == blocks.peak(offsets)
        order = np.concatenate([order[top[order]], order[~top[order]]])
        offsets = blocks.offsets_in(order)
        if blocks.peak(offsets) < blocks.peak(best):
            best = offsets
    placed = {root: int(best[block]) for root, block in blocks.block_of.items()}
    return Placement(placed, blocks.peak(best), bound)


class _Blocks:
    """Pieces of memory to place: root buffers, together with those that take over their memory in place.

    Attributes:
        block_of: root buffer id -> block.
        sizes, first, last: s64[blocks]: bytes, a multiple of the alignment; lifetime.
    """

    def __init__(self, program: Program) -> None:
        lifetimes = arena_lifetimes(program)
        self.block_of: dict[int, int] = {}
        sizes: list[int] = []
        spans: list[list[int]] = []
        taken_over = _taken_over(program, lifetimes)
        # In order of first use, so that whoever takes over memory comes after whom it takes it from.
        for root, lifetime in sorted(lifetimes.items(), key=lambda item: item[1].first):
            block = self.block_of.get(taken_over.get(root, -1))
            if block is None:
                block = len(sizes)
                sizes.append(-(-program.buffers[root].nbytes // ALIGNMENT) * ALIGNMENT)
                spans.append([lifetime.first, lifetime.last])
            self.block_of[root] = block
            spans[block][1] = lifetime.last
        self.sizes = np.array(sizes, np.int64)
        self.first, self.last = np.array(spans, np.int64).reshape(-1, 2).T

    def by_size(self) -> npt.NDArray[np.int64]:
        """Largest first; of equal ones the longest-lived first."""
        return np.lexsort((self.first - self.last, -self.sizes))

    def lower_bound(self) -> int:
        change = np.zeros(int(self.last.max(initial=-1)) + 2, np.int64)
        np.add.at(change, self.first, self.sizes)
        np.subtract.at(change, self.last + 1, self.sizes)
        return int(change.cumsum().max(initial=0))

    def peak(self, offsets: npt.NDArray[np.int64]) -> int:
        return int((offsets + self.sizes).max(initial=0))

    def offsets_in(self, order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Offsets, s64[blocks], when blocks are placed in this order."""
        offsets = np.full(len(self.sizes), -1, np.int64)
        for block in order:
            together = (self.first <= self.last[block]) & (self.last >= self.first[block]) & (offsets >= 0)
            starts = offsets[together]
            by_start = np.argsort(starts, kind="stable")
            ends = np.maximum.accumulate((starts + self.sizes[together])[by_start])
            floors = np.concatenate([[0], ends])  # the gaps: from floors[i] to the next start
            gaps = starts[by_start] - floors[:-1]
            fits = np.flatnonzero(gaps >= self.sizes[block])
            offsets[block] = floors[fits[np.argmin(gaps[fits])]] if len(fits) else floors[-1]
        return offsets


def _taken_over(program: Program, lifetimes: Mapping[int, Lifetime]) -> dict[int, int]:
    """Root written in place -> root whose memory it takes over."""
    found: dict[int, int] = {}
    given: set[int] = set()
    for index, instruction in enumerate(program.instructions):
        for written, read in instruction.overwrites.items():
            new, old = instruction.buffer(written).root, instruction.buffer(read).root
            if (
                lifetimes.get(new.id, Lifetime(-1, -1)).first == index
                and lifetimes.get(old.id, Lifetime(-1, -1)).last == index
                and old.id not in given
                and new.id not in found
                and may_share(instruction, written, read)
            ):
                found[new.id] = old.id
                given.add(old.id)
    return found


def may_share(instruction: Instruction, written: str, read: str) -> bool:
    """Whether two operands, if the instruction lets one overwrite the other, may be at the same address.

    Both must be whole buffers of the same size, and no other operand may look at either of them differently.
    """
    new, old = instruction.buffer(written), instruction.buffer(read)
    whole = new.extent == (0, new.root.nbytes) and old.extent == (0, old.root.nbytes) and not new.pitch + old.pitch
    others = [o for w, o in instruction.operands.items() if isinstance(o, Buffer) and w not in (written, read)]
    return (
        whole
        and new.nbytes == old.nbytes
        and new.root.id != old.root.id
        and all(o.root.id != new.root.id for o in others)
        and all(o.extent == old.extent for o in others if o.root.id == old.root.id)
    )
