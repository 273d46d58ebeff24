"""The compiled loops of the interpreter: several threads walk one program, and none waits for an arrival.

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
from numba.extending import register_jitable

from qcompiler.runtime.atomics import (
    add_relaxed,
    add_release,
    call_kernel,
    claim_relaxed,
    current_processor,
    load_acquire,
    load_relaxed,
    load_word,
    now,
    spin_hint,
    store_relaxed,
    store_release,
    yield_processor,
)
from qcompiler.runtime.kernels.registry import Kernel

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


@register_jitable
def _crowded(shared: int) -> bool:
    """More threads want to run than there are processors: helpers give way."""
    running = load_relaxed(shared + CALLERS) + load_relaxed(shared + HELPERS)
    return bool(running > load_relaxed(shared + PROCESSORS))


@register_jitable
def _drain(context: int, slot: int, row: int, first_ticket: int, end: int) -> int:
    """Claim and run chunks of a slot, of the instruction at `row`, up to ticket `end`; returns how many."""
    words = context + FIRST_SLOT + SLOT_BYTES * slot
    count = 0
    ticket = load_relaxed(words + CLAIM)
    while ticket < end:
        if claim_relaxed(words + CLAIM, ticket, ticket + 1):
            chunk = load_word(row + TICKETS + 16 * slot + 8) + ticket - first_ticket
            operands = load_word(context + OPERANDS) + load_word(row + OPERAND_BYTES)
            call_kernel(load_word(row + KERNEL), operands, chunk, load_word(row + CHUNKS))
            add_release(words + DONE, 1)
            count += 1
        ticket = load_relaxed(words + CLAIM)
    return count


@register_jitable
def _finish(context: int, me: int, slot: int, row: int, first_ticket: int, end: int) -> None:
    """Return when `done` of `slot` has reached ticket `end`; run what its own thread does not."""
    words = context + FIRST_SLOT + SLOT_BYTES * slot
    spins = 0
    since = 0
    stalled = False
    while load_acquire(words + DONE) < end:
        if load_relaxed(words + PRESENT) == 0:
            _drain(context, slot, row, first_ticket, end)
        spins += 1
        if spins > SPINS:
            spin_hint()
            time = now()
            if since == 0:
                since = time
            waited = time - since
            if waited > PATIENCE_NS and _drain(context, slot, row, first_ticket, end) > 0:
                since = 0
            if waited > YIELD_NS:
                yield_processor()
            if me == 0 and waited > STALL_NS:
                stalled = True
    if stalled:
        _go_solo(load_word(context + SHARED), now())


@register_jitable
def _go_solo(shared: int, time: int) -> None:
    """Stop asking for help for a while: each time it comes to nothing costs a time slice of some other process."""
    window = load_relaxed(shared + SOLO_WINDOW)
    again = time - load_relaxed(shared + SOLO_UNTIL) < 4 * window
    window = min(2 * window, MAX_SOLO_NS) if again else SOLO_NS
    store_relaxed(shared + SOLO_WINDOW, window)
    store_relaxed(shared + SOLO_UNTIL, time + window)


@register_jitable
def _walk(context: int, job: int, me: int) -> None:
    """One thread's walk over the program; a helper gives up when the call is over or the machine is full."""
    slots = load_word(context + SLOTS)
    shared = load_word(context + SHARED)
    row = load_word(context + TABLE)
    row_bytes = TICKETS + 16 * slots
    totals = row + row_bytes * load_word(context + INSTRUCTIONS)
    while row < totals:
        if me != 0 and (load_relaxed(context + JOB) != job or _crowded(shared)):
            return
        for k in range(slots):
            slot = me + k
            if slot >= slots:
                slot -= slots
            cell = TICKETS + 16 * slot
            origin = job * load_word(totals + cell)
            first_ticket = origin + load_word(row + cell)
            end = origin + load_word(row + row_bytes + cell)
            if k == 0:
                _drain(context, slot, row, first_ticket, end)
            _finish(context, me, slot, row, first_ticket, end)
        row += row_bytes


@register_jitable
def _walk_alone(context: int) -> None:
    """The whole program on this thread, each instruction in one chunk, without a look at the slots."""
    operands = load_word(context + OPERANDS)
    row = load_word(context + TABLE)
    row_bytes = TICKETS + 16 * load_word(context + SLOTS)
    for _ in range(load_word(context + INSTRUCTIONS)):
        call_kernel(load_word(row + KERNEL), operands + load_word(row + OPERAND_BYTES), 0, 1)
        row += row_bytes


def _call(context: int, alone: int, _: int) -> None:
    """One call of the program, on the calling thread; all of it is done on return.

    With `alone` == 0 it is published as the next job, in which helpers may take part.
    """
    shared = load_word(context + SHARED)
    add_relaxed(shared + CALLERS, 1)
    if alone != 0:
        _walk_alone(context)
    else:
        job = load_relaxed(context + JOB) + 1
        store_relaxed(context + CALLER_PROCESSOR, current_processor())
        store_release(context + JOB, job)
        _walk(context, job, 0)
    add_relaxed(shared + CALLERS, -1)


def _help(context: int, me: int, linger_ns: int) -> None:
    """Take part in one call after another, until none came for `linger_ns` or help is not wanted here."""
    shared = load_word(context + SHARED)
    words = context + FIRST_SLOT + SLOT_BYTES * me
    add_relaxed(shared + HELPERS, 1)
    store_relaxed(words + PRESENT, 1)
    seen = load_word(words + SEEN)
    idle_since = now()
    while True:
        job = load_acquire(context + JOB)
        if job != seen:
            _walk(context, job, me)
            seen = job
            idle_since = now()
        time = now()
        if time - idle_since > linger_ns or load_relaxed(shared + SOLO_UNTIL) > time:
            break
        if _crowded(shared) or load_relaxed(shared + WANTED) > 0 or load_relaxed(shared + STOP) != 0:
            break
        spin_hint()
    store_release(words + SEEN, seen)
    store_relaxed(words + PRESENT, 0)
    add_relaxed(shared + HELPERS, -1)


# Compiled and cached as kernels are, for the same signature: context, slot or flag, nanoseconds.
CALL = Kernel("call", ("context", "alone", "unused"), _call)
HELP = Kernel("help", ("context", "slot", "linger_ns"), _help)


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
