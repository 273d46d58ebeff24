"""The compiled loops of the interpreter. `qcompiler.runtime.walk` has the algorithm and its memory ordering."""

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
from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.registry import Kernel
from qcompiler.runtime.walk import (
    CALLER_PROCESSOR,
    CALLERS,
    CHUNKS,
    CLAIM,
    DONE,
    FIRST_SLOT,
    HELPERS,
    INSTRUCTIONS,
    JOB,
    KERNEL,
    MAX_SOLO_NS,
    OPERAND_BYTES,
    OPERANDS,
    PATIENCE_NS,
    PRESENT,
    PROCESSORS,
    SEEN,
    SHARED,
    SLOT_BYTES,
    SLOTS,
    SOLO_NS,
    SOLO_UNTIL,
    SOLO_WINDOW,
    SPINS,
    STALL_NS,
    STOP,
    TABLE,
    TICKETS,
    WANTED,
    YIELD_NS,
)


@inlined
def _crowded(shared: int) -> bool:
    """More threads want to run than there are processors: helpers give way."""
    running = load_relaxed(shared + CALLERS) + load_relaxed(shared + HELPERS)
    return bool(running > load_relaxed(shared + PROCESSORS))


@inlined
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


@inlined
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


@inlined
def _go_solo(shared: int, time: int) -> None:
    """Stop asking for help for a while: each time it comes to nothing costs a time slice of some other process."""
    window = load_relaxed(shared + SOLO_WINDOW)
    again = time - load_relaxed(shared + SOLO_UNTIL) < 4 * window
    window = min(2 * window, MAX_SOLO_NS) if again else SOLO_NS
    store_relaxed(shared + SOLO_WINDOW, window)
    store_relaxed(shared + SOLO_UNTIL, time + window)


@inlined
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


@inlined
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
