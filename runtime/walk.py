"""How several threads walk one program so that none waits for an arrival, and the memory that they share.

`qcompiler.runtime.walk_loops` has the compiled loops.

Every thread walks all instructions. An instruction is cut into chunks, dealt out to *slots*, one slot for
each thread that may take part; slot 0 is the caller's. A slot has two counters, `claim` and `done`, that only
grow.

1. A thread claims the chunks of its own slot one by one (compare and swap on `claim`), runs each, and adds 1
   to `done`.
2. Then it looks at every slot, its own too. As long as `done` has not reached the end of this instruction: if
   the slot's thread is absent, it claims that slot's chunks at once; if present, after a short patience.
3. When all slots are done it goes on to the next instruction.

So a thread only ever waits for chunks that a running thread has begun, the caller can finish alone at any
time, and helpers may come late, leave early or be descheduled without any effect but on speed.

Counters never restart: of a program with T chunks in a slot, job j (the j-th call) owns its tickets j·T to
(j + 1)·T − 1. A helper that is late, even by whole calls, finds all tickets taken, claims none and leaves.

Memory ordering:

- *Results.* `done` is raised with release after a chunk has run; a thread passes to the next instruction
  after reading every slot's `done` with acquire. Successive read-modify-writes of `done` by different threads
  extend each other's release sequence, so reading the last value synchronizes with all of them. Hence all
  accesses of instruction i, reads too, happen before all accesses of instruction i + 1: memory that the
  planner gives to another buffer is safe, and so is the caller after the last instruction.
- *Inputs, operand table.* The caller writes them before it stores `JOB` with release; a helper reads `JOB`
  with acquire before it walks. The caller may change them after its call: it has seen all `done` counters of
  the last instruction, and a thread reads operands only between a successful claim and `done`.
- *Claims* need atomicity only. A relaxed load may be stale, but the compare and swap works on the latest
  value and then fails. What the chunk reads was acquired through `done` and `JOB` before, by the same thread.
- *All other words* (present, solo, processor, callers, helpers, ...) are hints that decide who does the work,
  never whether it is right: relaxed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

LINE = 128
"""Bytes between words of different writers: x86 fetches cache lines of 64 in pairs, Apple's have 128."""

# A context, one for each call at a time. Line 0: words that never change.
SLOTS, INSTRUCTIONS, TABLE, OPERANDS, SHARED = (8 * i for i in range(5))
# One line each, then three for each slot.
JOB, CALLER_PROCESSOR, FIRST_SLOT = (LINE * i for i in range(1, 4))
CLAIM, DONE, PRESENT = (LINE * i for i in range(3))
SLOT_BYTES = 3 * LINE
SEEN = PRESENT + 8  # the last job that this slot's helper has walked; only the helper uses it

# The words that all contexts of a process share, one line each.
CALLERS, HELPERS, WANTED, STOP, PROCESSORS, SOLO_UNTIL = (LINE * i for i in range(6))
SOLO_WINDOW = SOLO_UNTIL + 8
SHARED_BYTES = 6 * LINE

# A row of the instruction table; a last row without kernel has the totals.
KERNEL, OPERAND_BYTES, CHUNKS, TICKETS = (8 * i for i in range(4))
"""Kernel address; offset into the operand table; number of chunks; then, for each slot, the number of its
tickets before this instruction and its first chunk in it."""

SPINS = 32  # looks at a counter before the clock is asked: about 0.1 us
PATIENCE_NS = 2_000  # a present thread usually claims its chunks within 1 us
YIELD_NS = 20_000  # after that, the waited-for thread may need this core
STALL_NS = 500_000  # a begun chunk that takes longer than this was descheduled: the machine is busy,
SOLO_NS = 20_000_000  # so callers go without help for this long,
MAX_SOLO_NS = 640_000_000  # and for twice as long, up to this, if it happens again soon afterwards


def instruction_table(rows: Sequence[tuple[int, int, int]], slots: int) -> npt.NDArray[np.int64]:
    """The table that a context points to, s64[len(rows) + 1, 3 + 2·slots].

    Args:
        rows: kernel address, offset of its operands in bytes, chunks (at most `slots`, or a multiple of it).
        slots: threads that may take part.
    """
    table = np.zeros((len(rows) + 1, 3 + 2 * slots), np.int64)
    for row, (kernel, operand_bytes, chunks) in enumerate(rows):
        per_slot = max(1, chunks // slots)
        first = np.minimum(np.arange(slots + 1) * per_slot, chunks)
        table[row, :3] = kernel, operand_bytes, chunks
        table[row, 4::2] = first[:-1]
        table[row + 1, 3::2] = table[row, 3::2] + np.diff(first)
    return table
