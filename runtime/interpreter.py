"""Runs programs: a verified, placed `Plan` for one set of input shapes, and a cache of plans by shape."""

import ctypes
import os
import threading
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.errors import RuntimeInputError
from qcompiler.ir.types import AnyArray, format_shape
from qcompiler.runtime.cores import thread_count, usable_processors
from qcompiler.runtime.planner import Placement, place
from qcompiler.runtime.program import ALIGNMENT, Buffer, Program, Storage, address_of, empty_aligned
from qcompiler.runtime.threads import Context, Schedule, compile_loops
from qcompiler.runtime.verify import verify_placement, verify_program

if TYPE_CHECKING:
    from qcompiler.runtime.kernels.registry import Progress

Shapes = tuple[tuple[int, ...], ...]
_KERNEL_TYPE = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)


@dataclass(frozen=True)
class Code:
    """The kernels of a program in this process.

    Attributes:
        words: kernel -> names of its operand words, in order.
        addresses: kernel -> address of its code.
    """

    words: Mapping[str, tuple[str, ...]]
    addresses: Mapping[str, int]


class Plan:
    """A program that is ready to run.

    Safe to use from any number of threads at once: each call has an arena and operand table of its own, from a
    free list. Results do not depend on `threads`.

    Attributes:
        program: what is run.
        placement: where its arena buffers are, the size of the arena and the lower bound for it.
        threads: how many threads may take part in a call, the caller's included.

    Args:
        program: the program; verified here.
        threads: default: one for each physical core that the process may use. More than there are is allowed.
        progress: told of each kernel that has to be compiled because no cache has it.
        code: the kernels, if the process has them without the registry's help.

    Raises:
        VerifyError: the program is not well-formed.
        UsageError: `threads` is not a positive integer.
    """

    def __init__(
        self,
        program: Program,
        threads: int | None = None,
        *,
        progress: "Progress | None" = None,
        code: Code | None = None,
    ) -> None:
        self.program = program
        self.threads = thread_count(threads)
        verify_program(program, _registered_words() if code is None else code.words)
        self.placement: Placement = place(program)
        verify_placement(program, self.placement)
        self._code = compile_code(program, progress) if code is None else code
        compile_loops(progress)
        self._operands = _OperandTable(program, self.placement, self._code.words)
        self._schedule = Schedule.of(
            program.instructions,
            [self._code.addresses[i.kernel] for i in program.instructions],
            [len(i.operands) for i in program.instructions],
            self.threads,
        )
        self._dtypes = [port.buffer.dtype.numpy for port in program.inputs]
        self._shapes = [port.buffer.shape for port in program.inputs]
        # More calls at a time than processors make and drop instances of their own.
        self._free: deque[_Instance] = deque(maxlen=usable_processors())

    @property
    def arena_bytes(self) -> int:
        """Bytes of working memory that one call takes."""
        return self.placement.peak_bytes

    @property
    def retained_bytes(self) -> int:
        """Bytes of working memory that are kept for further calls."""
        return self.arena_bytes * len(self._free)

    def text(self) -> str:
        """The program with the arena offset of each buffer."""
        return self.program.text(self.placement.offsets)

    def run(self, inputs: Sequence[AnyArray], lane: int = 0) -> list[AnyArray]:
        """Run the program on one array for each input port; returns a new array for each output port.

        `lane` chooses among the states (see `Program`), which overlapping calls must not share.

        Raises:
            RuntimeInputError: the number of arrays, or the dtype or shape of one, is not that of the ports.
        """
        arrays = self._checked(inputs)
        # `deque` operations are atomic: no lock that a fork or an interrupt could leave taken. An instance whose
        # call was interrupted does not come back.
        try:
            instance = self._free.pop()
        except IndexError:
            instance = _Instance(self.program, self.placement, self._operands, self._schedule)
        results = instance.run(arrays, lane)
        self._free.append(instance)
        return results

    def time_instructions(self, inputs: Sequence[AnyArray], rounds: int = 10) -> list[int]:
        """Nanoseconds of each instruction, the least of `rounds` walks over the program, on the calling thread.

        Each figure holds about 0.3 us of the timing itself.

        Raises:
            RuntimeInputError: as `run`.
        """
        arrays = self._checked(inputs)
        instance = _Instance(self.program, self.placement, self._operands, self._schedule)
        calls: list[tuple[Callable[[int, int, int], None], int]] = []
        position = 0
        for instruction in self.program.instructions:
            calls.append((_KERNEL_TYPE(self._code.addresses[instruction.kernel]), position))
            position += len(self._code.words[instruction.kernel])
        return instance.time(arrays, calls, rounds)

    def takes(self, inputs: Sequence[AnyArray]) -> bool:
        """Whether these are arrays for all input ports, of the right dtypes and shapes."""
        return [a.shape for a in inputs] == self._shapes and [a.dtype for a in inputs] == self._dtypes

    def _checked(self, inputs: Sequence[AnyArray]) -> list[AnyArray]:
        if not self.takes(inputs):
            ports = self.program.inputs
            if len(inputs) != len(ports):
                raise RuntimeInputError(f"{len(inputs)} arrays were given for {len(ports)} inputs")
            for port, array, dtype, shape in zip(ports, inputs, self._dtypes, self._shapes, strict=True):
                if array.dtype != dtype or array.shape != shape:
                    raise RuntimeInputError(
                        f"input {port.name!r} is {array.dtype}{format_shape(array.shape)}, but must be"
                        f" {dtype}{format_shape(shape)}"
                    )
        # Kernels want contiguous elements at multiples of their size, in the caller's array too.
        return [a if a.flags.carray else np.require(a, requirements=("C", "ALIGNED")) for a in inputs]


def _registered_words() -> dict[str, tuple[str, ...]]:
    from qcompiler.runtime.kernels.registry import kernel_named, registered_kernels

    return {name: kernel_named(name).words for name in registered_kernels()}


def compile_code(program: Program, progress: "Progress | None" = None) -> Code:
    """The kernels of a program, compiled with the interpreter's loops or read from the cache."""
    from qcompiler.runtime.kernels.registry import addresses_of, kernel_named
    from qcompiler.runtime.walk_loops import CALL, HELP

    kernels = [kernel_named(name) for name in dict.fromkeys(i.kernel for i in program.instructions)]
    return Code(_registered_words(), addresses_of([CALL, HELP, *kernels], progress))


class _OperandTable:
    """The operand words of all instructions, for any arena and any arrays of the caller.

    Attributes:
        template: s64[words]: integers and addresses of constants in place, the rest 0.
        arena: positions, s64[n], of words in the arena, and their offsets, s64[n].
        states: positions, s64[n], of words in states, and the bytes, s64[n], from one lane to the next.
        ports: root buffer of an input or output -> positions of words, and their offsets in the caller's array.
    """

    def __init__(self, program: Program, placement: Placement, words_of: Mapping[str, tuple[str, ...]]) -> None:
        words: list[int] = []
        arena: list[tuple[int, int]] = []
        states: list[tuple[int, int]] = []
        self.ports: dict[int, list[tuple[int, int]]] = {}
        for instruction in program.instructions:
            for word in words_of[instruction.kernel]:
                operand = instruction.operands[word]
                position = len(words)
                words.append(0 if isinstance(operand, Buffer) else operand)
                if not isinstance(operand, Buffer):
                    continue
                root, offset = operand.root.id, operand.root_offset
                match program.storage(operand):
                    case Storage.CONSTANT | Storage.STATE as storage:
                        array = program.constants[root]
                        words[position] = array.ctypes.data + offset
                        if storage is Storage.STATE:
                            states.append((position, array.strides[0]))
                    case Storage.ARENA:
                        arena.append((position, placement.offsets[root] + offset))
                    case Storage.INPUT | Storage.OUTPUT:
                        self.ports.setdefault(root, []).append((position, offset))
        self.template = np.array(words, np.int64)
        self.arena = np.array(arena, np.int64).reshape(-1, 2).T
        self.states = np.array(states, np.int64).reshape(-1, 2).T


@dataclass(frozen=True, slots=True)
class _Result:
    """How an output comes out of the memory of its root buffer, precomputed because each call needs it.

    Attributes:
        is_owner: it is the one result that may keep the memory; others are copies.
    """

    root: int
    is_owner: bool
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    offset: int

    @staticmethod
    def all_of(program: Program) -> "list[_Result]":
        owned: set[int] = set()
        results: list[_Result] = []
        for port in program.outputs:
            buffer, root = port.buffer, port.buffer.root
            is_owner = program.storage(root) is Storage.OUTPUT and root.id not in owned
            if is_owner:
                owned.add(root.id)
            results.append(_Result(root.id, is_owner, buffer.shape, buffer.dtype.numpy, buffer.root_offset))
        return results

    def taken_from(self, memory: AnyArray, start: int) -> AnyArray:
        """The array in the root buffer that begins `start` bytes into `memory`."""
        array: AnyArray = np.ndarray(self.shape, self.dtype, memory, start + self.offset)
        return array if self.is_owner else array.copy()


_Place = tuple[AnyArray, int]
"""Memory, and the byte in it where a root buffer begins."""


class _Instance:
    """What one call at a time needs: an arena, the operand words with its addresses, counters for helpers."""

    def __init__(self, program: Program, placement: Placement, table: _OperandTable, schedule: Schedule) -> None:
        self._states = table.states
        self._lane = 0
        self._inputs = [(port.buffer.id, table.ports.get(port.buffer.id, [])) for port in program.inputs]
        self._results = _Result.all_of(program)
        owned = [result.root for result in self._results if result.is_owner]
        self._owned = [(root, program.buffers[root].nbytes, table.ports.get(root, [])) for root in owned]
        arena = empty_aligned(placement.peak_bytes)
        self._words = table.template.copy()
        positions, offsets = table.arena
        self._words[positions] = arena.ctypes.data + offsets
        self._context = Context(schedule, self._words, memory=(program, arena))
        self._fixed: dict[int, _Place] = {}  # of outputs that the caller does not bring
        for result in self._results:
            if result.root in program.constants:
                self._fixed[result.root] = program.constants[result.root], 0
            elif result.root in placement.offsets:
                self._fixed[result.root] = arena, placement.offsets[result.root]

    def run(self, arrays: Sequence[AnyArray], lane: int) -> list[AnyArray]:
        """Run the program on contiguous arrays of the right dtypes and shapes."""
        memory = self._bind(arrays)
        if lane != self._lane:
            positions, strides = self._states
            self._words[positions] += (lane - self._lane) * strides
            self._lane = lane
        self._context.run()
        return [result.taken_from(*memory[result.root]) for result in self._results]

    def time(
        self, arrays: Sequence[AnyArray], calls: Sequence[tuple[Callable[[int, int, int], None], int]], rounds: int
    ) -> list[int]:
        """The least nanoseconds of each call (kernel, position of its operand words) over several rounds."""
        memory = self._bind(arrays)  # keeps the results' memory alive
        base = self._words.ctypes.data
        least = [2**62] * len(calls)
        for _ in range(rounds):
            for index, (kernel, position) in enumerate(calls):
                started = time.perf_counter_ns()
                kernel(base + self._words.itemsize * position, 0, 1)
                least[index] = min(least[index], time.perf_counter_ns() - started)
        del memory
        return least

    def _bind(self, arrays: Sequence[AnyArray]) -> "dict[int, _Place]":
        """Let the operand words point at inputs and new outputs; returns where each root buffer of a port is."""
        places = self._fixed.copy()
        for (root, used), array in zip(self._inputs, arrays, strict=True):
            address = address_of(array)
            for position, offset in used:
                self._words[position] = address + offset
            places[root] = array, 0
        for root, nbytes, used in self._owned:
            memory = np.empty(nbytes + ALIGNMENT, np.uint8)
            address = address_of(memory)
            start = -address % ALIGNMENT
            for position, offset in used:
                self._words[position] = address + start + offset
            places[root] = memory, start
        return places


class PlanCache:
    """Plans by input shapes, least recently used ones dropped: a dynamic batch costs a plan for each size seen.

    Args:
        build: makes the program for the shapes of all inputs, in order, alone or with its kernels, which stay compiled
            across shapes.
        threads: see `Plan`.
        max_plans: most plans kept.
        max_bytes: most bytes of working memory that the kept plans hold on to, together; the plan used last may
            exceed it alone.
        progress: see `Plan`.
    """

    def __init__(
        self,
        build: Callable[[Shapes], Program | tuple[Program, Code]],
        threads: int | None = None,
        *,
        max_plans: int = 8,
        max_bytes: int = 256 << 20,
        progress: "Progress | None" = None,
    ) -> None:
        self._build = build
        self._threads = threads
        self._max_plans = max_plans
        self._max_bytes = max_bytes
        self._progress = progress
        self._plans: OrderedDict[Shapes, Plan] = OrderedDict()
        self.renew_locks()
        _caches.add(self)

    def __len__(self) -> int:
        return len(self._plans)

    def plan_for(self, shapes: Shapes) -> Plan:
        """The plan for these input shapes; one at a time is made, while plans that are there can be used."""
        plan = self._known(shapes)
        if plan is None:
            with self._build_lock:
                plan = self._known(shapes)  # another thread may have made it meanwhile
                if plan is None:
                    built = self._build(shapes)
                    program, code = built if isinstance(built, tuple) else (built, None)
                    plan = Plan(program, self._threads, progress=self._progress, code=code)
                    self._keep(shapes, plan)
        return plan

    def known_for(self, inputs: Sequence[object]) -> Plan | None:
        """The plan for these arrays, if there is one; None as well if one of them is no array or of another dtype."""
        arrays = [array for array in inputs if isinstance(array, np.ndarray)]
        if len(arrays) < len(inputs):
            return None
        plan = self._known(tuple([array.shape for array in arrays]))
        return plan if plan is not None and plan.takes(arrays) else None

    def renew_locks(self) -> None:
        """Forget who holds the locks: in a forked child, a thread that held one does not exist."""
        self._build_lock = threading.Lock()
        self._lock = threading.Lock()  # of `_plans`, held for moments only

    def _known(self, shapes: Shapes) -> Plan | None:
        with self._lock:
            plan = self._plans.get(shapes)
            if plan is not None:
                self._plans.move_to_end(shapes)
            return plan

    def _keep(self, shapes: Shapes, plan: Plan) -> None:
        with self._lock:
            self._plans[shapes] = plan
            while len(self._plans) > 1 and (len(self._plans) > self._max_plans or self._held() > self._max_bytes):
                self._plans.popitem(last=False)

    def _held(self) -> int:
        return sum(max(plan.retained_bytes, plan.arena_bytes) for plan in self._plans.values())


_caches: "weakref.WeakSet[PlanCache]" = weakref.WeakSet()


def _renew_locks() -> None:
    for cache in _caches:
        cache.renew_locks()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
