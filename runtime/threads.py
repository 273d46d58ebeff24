"""Helper threads of the process, and the contexts in which they take part in calls.

The threads are daemons, started on first need, at most one less than the processors that the process may use.
One that has nothing to do lingers for `LINGER_NS` in compiled code without the interpreter lock, then parks
on a lock, which costs no processor time. `qcompiler.runtime.walk` has the algorithm and its memory ordering.

A child of `os.fork` has none of these threads, and its copies of the counters may be in any state: it starts
with a fresh pool, and each context that it takes over is made anew.
"""

import atexit
import contextlib
import ctypes
import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from qcompiler.runtime import walk
from qcompiler.runtime.cores import usable_processors
from qcompiler.runtime.program import empty_aligned

if TYPE_CHECKING:
    from qcompiler.runtime.kernels.registry import Progress

WORTH_WAKING_NS = 200_000.0
"""Predicted time on one thread from which on a program gets help: a wake takes 30 us of the caller's time,
and the helper arrives after 60."""

LINGER_NS = 100_000
CHUNK_NS = 1_000.0  # below this an instruction is not divided: a hand-over costs 0.1-0.2 us
BALANCING_CHUNK_NS = 50_000.0  # longer chunks are cut again, so that a disturbed thread holds up the others less
CHUNKS_PER_SLOT = 4

Words = npt.NDArray[np.int64]


class Step(Protocol):
    """What scheduling needs to know of an instruction."""

    @property
    def shares(self) -> int: ...

    @property
    def cost(self) -> float: ...


def chunks_of(step: Step, slots: int) -> int:
    """Into how many chunks an instruction is cut: at most `slots`, or a multiple of it."""
    chunks = min(step.shares, int(step.cost / CHUNK_NS), slots)
    if chunks < slots:
        return max(chunks, 1)
    finer = min(int(step.cost / slots / BALANCING_CHUNK_NS), step.shares // slots, CHUNKS_PER_SLOT)
    return slots * max(finer, 1)


@dataclass(frozen=True, eq=False)
class Schedule:
    """The instructions of a program, cut into chunks for some number of threads; shared by all its contexts.

    Attributes:
        table: see `qcompiler.runtime.walk.instruction_table`.
        slots: threads that may take part, the caller's included.
        cost: predicted nanoseconds of a call on one thread.
    """

    table: Words
    slots: int
    cost: float

    @staticmethod
    def of(steps: Sequence[Step], kernels: Sequence[int], words: Sequence[int], slots: int) -> "Schedule":
        """The schedule of instructions, given the address of each one's kernel and how many operands it has."""
        starts = itertools.accumulate(words, initial=0)
        rows = [
            (kernel, 8 * start, chunks_of(step, slots))
            for kernel, start, step in zip(kernels, starts, steps, strict=False)
        ]
        return Schedule(walk.instruction_table(rows, slots), slots, sum(step.cost for step in steps))


class Context:
    """What one call at a time needs: counters, operand words, and whatever memory those point to.

    Args:
        schedule: what to run.
        operands: s64[words], the operand words of all instructions, in order; may change between calls.
        memory: objects to keep alive as long as a helper may look at this context.
    """

    def __init__(self, schedule: Schedule, operands: Words, memory: Sequence[object] = ()) -> None:
        self.schedule = schedule
        self.operands = operands
        self.memory = memory
        self._reset(pool())

    def _reset(self, owner: "Pool") -> None:
        slots = self.schedule.slots
        self.pool = owner
        self.words = _lines(walk.FIRST_SLOT + slots * walk.SLOT_BYTES)
        constant = {
            walk.SLOTS: slots,
            walk.INSTRUCTIONS: len(self.schedule.table) - 1,
            walk.TABLE: self.schedule.table.ctypes.data,
            walk.OPERANDS: self.operands.ctypes.data,
            walk.SHARED: owner.shared.ctypes.data,
            walk.JOB: -1,
            walk.FIRST_SLOT + walk.PRESENT: 1,  # the caller is always there
        }
        for place, value in constant.items():
            self.words[place // 8] = value
        for slot in range(1, slots):
            self.words[self._place(slot, walk.SEEN)] = -1
        self.address = self.words.ctypes.data
        self._asked = [False] * slots
        self._helped = min(slots, owner.processors)  # further slots stay without a thread of their own

    @staticmethod
    def _place(slot: int, word: int) -> int:
        return (walk.FIRST_SLOT + slot * walk.SLOT_BYTES + word) // 8

    def run(self) -> None:
        """Run the program once; one thread at a time may. The interpreter lock is released meanwhile."""
        if self.pool is not pool():
            self._reset(pool())
        alone = self.schedule.slots == 1 or self.schedule.cost < WORTH_WAKING_NS or not self._has_room()
        if not alone:
            absent = [slot for slot in range(1, self._helped) if not self._asked[slot]]
            if absent:
                for slot in absent:
                    self._asked[slot] = True
                self.pool.ask(self, absent)
        _loops()[0](self.address, alone, 0)

    def help(self, slot: int) -> None:
        """Take part as `slot`, on a helper thread, until there is nothing to do for a while."""
        seen = self._place(slot, walk.SEEN)
        while True:
            _loops()[1](self.address, slot, LINGER_NS)
            if self.words[seen] == self.words[walk.JOB // 8]:  # else a call has begun that counts on this slot
                break
        self._asked[slot] = False

    def _has_room(self) -> bool:
        """Whether there is a processor for a helper, and the last one was not held up by other load."""
        shared = self.pool.shared
        free = shared[walk.PROCESSORS // 8] - shared[walk.CALLERS // 8] - 1
        solo_until = shared[walk.SOLO_UNTIL // 8]
        return bool(free > 0 and solo_until <= time.clock_gettime_ns(time.CLOCK_MONOTONIC))


class Pool:
    """Helper threads, and the counters that they share with all callers.

    Args:
        processors: threads, callers included, that may usefully run at the same time.
    """

    def __init__(self, processors: int) -> None:
        self.shared = _lines(walk.SHARED_BYTES)
        self.shared[walk.PROCESSORS // 8] = processors
        self.processors = processors
        self._lock = threading.Lock()
        self._helpers: list[_Helper] = []
        self._parked: list[_Helper] = []
        self._waiting: deque[Task] = deque()
        self._closed = False

    def ask(self, context: Context, slots: Sequence[int]) -> None:
        """Get helpers for these slots of a context: parked ones, new ones, or as soon as others become free.

        Only one helper is woken here, as that takes the caller's time; each wakes up to two more.
        """
        with self._lock:
            if self._closed:
                return
            helper = self._parked.pop() if self._parked else self._start()
            if helper is None:
                self._waiting.extend((context, [slot]) for slot in slots)
                self._note_waiting()
                return
        helper.tasks.put((context, slots))

    def next_task(self, helper: "_Helper") -> "Task | None":
        """What a helper that has become free does next; if nothing, it counts as parked from now on."""
        with self._lock:
            if self._waiting and not self._closed:
                task = self._waiting.popleft()
                self._note_waiting()
                return task
            self._parked.append(helper)
            return None

    def close(self) -> None:
        """End the helpers, after the calls that they take part in; callers go on alone."""
        with self._lock:
            self._closed = True
            self.shared[walk.STOP // 8] = 1
            self._waiting.clear()
            helpers = self._helpers
        for helper in helpers:
            helper.tasks.put(None)
        for helper in helpers:
            helper.join(timeout=1.0)

    def _start(self) -> "_Helper | None":
        if len(self._helpers) >= self.processors - 1:
            return None
        helper = _Helper(self)
        try:
            helper.start()
        except RuntimeError:  # the process may have no more threads: make do with what there is
            self.processors = 1 + len(self._helpers)
            return None
        self._helpers.append(helper)
        return helper

    def _note_waiting(self) -> None:
        self.shared[walk.WANTED // 8] = len(self._waiting)


Task = tuple[Context, Sequence[int]]
"""A context and the slots that it wants help in: the first from the helper that gets the task."""


class _Helper(threading.Thread):
    """One helper thread. A `SimpleQueue` waits on a raw lock; a semaphore takes twice as long to wake it."""

    def __init__(self, owner: Pool) -> None:
        super().__init__(daemon=True, name="qcompiler-helper")
        self._pool = owner
        self.tasks: SimpleQueue[Task | None] = SimpleQueue()

    def run(self) -> None:
        while (task := self.tasks.get()) is not None:
            while task is not None:
                self._do(task)
                task = self._pool.next_task(self)

    def _do(self, task: Task) -> None:
        context, (slot, *others) = task
        half = len(others) // 2
        for part in (others[:half], others[half:]):
            if part:
                self._pool.ask(context, part)
        _leave_processor(int(context.words[walk.CALLER_PROCESSOR // 8]))
        context.help(slot)


def _leave_processor(taken: int) -> None:
    """Move this thread to another processor than `taken`.

    Linux starts a woken thread on its waker's processor more often than not, even if others are idle. There
    it would take turns with the caller until the next load balancing, milliseconds later.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    allowed = os.sched_getaffinity(0)
    elsewhere = allowed - {taken}
    if elsewhere and elsewhere != allowed:
        with contextlib.suppress(OSError):  # a sandbox may forbid it; the thread then stays where it is
            os.sched_setaffinity(0, elsewhere)
            os.sched_setaffinity(0, allowed)


def _lines(nbytes: int) -> Words:
    """Zeroed words, aligned so that words `walk.LINE` apart are in different cache lines."""
    words = empty_aligned(nbytes).view(np.int64)
    words[:] = 0
    return words


CompiledLoop = Callable[[int, int, int], None]
_LOOP_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
_found_loops: list[tuple[CompiledLoop, CompiledLoop]] = []


def _loops() -> tuple[CompiledLoop, CompiledLoop]:
    """The loops of a caller and of a helper, as functions that release the interpreter lock while they run."""
    if not _found_loops:
        compile_loops()
    return _found_loops[0]


def compile_loops(progress: "Progress | None" = None) -> None:
    """Compile the interpreter's loops, or read them from the cache, so that no call has to."""
    if _found_loops:
        return
    from qcompiler.runtime.kernels.registry import addresses_of
    from qcompiler.runtime.walk_loops import CALL, HELP

    use_loops(*addresses_of([CALL, HELP], progress).values())


def use_loops(call: int, help_: int) -> None:
    """Take the loops at these addresses, unless this process has some already."""
    if not _found_loops:
        _found_loops.append((_LOOP_TYPE(call), _LOOP_TYPE(help_)))


class _Process:
    """The pool of this process."""

    pool: Pool | None = None
    lock = threading.Lock()


def pool() -> Pool:
    """The helper threads of this process."""
    found = _Process.pool
    if found is None:
        with _Process.lock:
            found = _Process.pool
            if found is None:
                found = _Process.pool = Pool(usable_processors())
    return found


def _start_anew_in_child() -> None:
    _Process.pool = None
    _Process.lock = threading.Lock()


def _close_at_exit() -> None:
    if _Process.pool is not None:
        _Process.pool.close()


atexit.register(_close_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)
