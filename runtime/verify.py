"""Checks a program and its placement before the first run, so that kernels need no checks.

A fault found here is a fault of the lowering or the planner. The message names the instruction and shows it
among its neighbours.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from qcompiler.errors import VerifyError
from qcompiler.runtime.planner import Placement, arena_lifetimes, may_share
from qcompiler.runtime.program import (
    ALIGNMENT,
    Buffer,
    Instruction,
    Port,
    Program,
    Storage,
    dense_bytes,
    pitched_bytes,
)

NEIGHBOURS = 5  # instructions shown before and after the culprit


def verify_program(program: Program, words_of: Mapping[str, tuple[str, ...]]) -> None:
    """Check everything that does not depend on addresses.

    Args:
        program: what to check.
        words_of: the operand words of each kernel that exists.

    Raises:
        VerifyError: buffers, constants or ports are inconsistent; an instruction does not fit its kernel; a
            buffer is read before it is written, written twice, or written though it is an input or a constant; a state
            is used by an instruction that does not update it.
    """
    _check_buffers(program)
    _check_ports(program)
    defined = _Defined(program)
    for index, instruction in enumerate(program.instructions):
        try:
            _check_operands(program, instruction, words_of)
            defined.step(instruction)
        except VerifyError as error:
            raise VerifyError(f"instruction {index}: {error}\n{_neighbourhood(program, index)}") from None
    for port in program.outputs:
        defined.require(port.buffer, f"output {port.name!r}")


def verify_placement(program: Program, placement: Placement) -> None:
    """Check that every arena buffer has its own aligned place in the arena for as long as it lives.

    Raises:
        VerifyError: a buffer has no place, is outside the arena or unaligned, or is written over another one
            that is still needed.
    """
    lifetimes = arena_lifetimes(program)
    extents: dict[int, tuple[int, int]] = {}
    for root in lifetimes:
        offset, nbytes = placement.offsets.get(root, -1), program.buffers[root].nbytes
        if offset < 0 or offset % ALIGNMENT or offset + nbytes > placement.peak_bytes:
            raise VerifyError(
                f"buffer %{root}: bytes {offset}..{offset + nbytes} are not an aligned part of an arena"
                f" of {placement.peak_bytes} bytes"
            )
        extents[root] = offset, offset + nbytes
    live: set[int] = set()
    for index, instruction in enumerate(program.instructions):
        starting = [i for i in _arena_roots(program, instruction) if lifetimes[i].first == index]
        for root in starting:
            for other in live:
                if _overlap(extents[root], extents[other]) and not (
                    lifetimes[other].last == index
                    and extents[root][0] == extents[other][0]
                    and _declared_in_place(instruction, root, other)
                ):
                    raise VerifyError(
                        f"instruction {index}: buffer %{root} overlaps %{other}, which is still needed\n"
                        + _neighbourhood(program, index)
                    )
            live.add(root)
        live = {root for root in live if lifetimes[root].last > index}


class _Defined:
    """The bytes that have been written so far: disjoint sorted extents, or where rows are written a mark for each byte.

    Attributes:
        _extents: root buffer -> extents.
        _marks: root buffer with pitched views -> bool[nbytes].
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._extents: dict[int, list[tuple[int, int]]] = {}
        self._marks: dict[int, npt.NDArray[np.bool_]] = {}
        for root in {buffer.root.id for buffer in program.buffers if buffer.pitch}:
            self._marks[root] = np.zeros(program.buffers[root].nbytes, np.bool_)
        for given in (*program.constants, *(port.buffer.id for port in program.inputs)):
            self._extents[given] = [(0, program.buffers[given].nbytes)]
            if given in self._marks:
                self._marks[given][:] = True

    def step(self, instruction: Instruction) -> None:
        for word, buffer in instruction.reads_of.items():
            self.require(buffer, f"operand {word!r}")
        modified = {**instruction.writes_of, **instruction.scratch_of}
        for word, buffer in modified.items():
            storage = self._program.storage(buffer)
            if storage in (Storage.INPUT, Storage.CONSTANT, Storage.STATE):
                raise VerifyError(f"{word!r} writes {buffer} ({buffer.name!r}), which is {storage}")
            for other_word, other in instruction.operands.items():
                if other_word != word and isinstance(other, Buffer) and _same_bytes(buffer, other):
                    raise VerifyError(f"{word!r} writes bytes of {other_word!r}: {buffer} and {other}")
        for word, buffer in instruction.writes_of.items():
            if self._is_written(buffer, any_of_it=True):
                raise VerifyError(f"{word!r} writes {buffer} ({buffer.name!r}), which has been written before")
            if buffer.root.id in self._marks:
                self._marked(buffer)[...] = True
            else:
                known = [*self._extents.get(buffer.root.id, []), buffer.extent]
                self._extents[buffer.root.id] = _merged(known)

    def require(self, buffer: Buffer, what: str) -> None:
        """Raise VerifyError unless all bytes of `buffer` have been written."""
        if not self._is_written(buffer, any_of_it=False):
            raise VerifyError(f"{what} reads {buffer} ({buffer.name!r}) before all of it is written")

    def _is_written(self, buffer: Buffer, *, any_of_it: bool) -> bool:
        """Whether all bytes of `buffer`, or any, have been written; of no bytes all have."""
        if buffer.root.id in self._marks:
            marks = self._marked(buffer)
            return bool(marks.any() if any_of_it else marks.all())
        known = self._extents.get(buffer.root.id, [])
        if any_of_it:
            return any(_overlap(buffer.extent, extent) for extent in known)
        start, end = buffer.extent
        return start == end or any(s <= start and end <= e for s, e in known)

    def _marked(self, buffer: Buffer) -> npt.NDArray[np.bool_]:
        """The marks of the bytes of a buffer, a view."""
        start, end = buffer.extent
        marks = self._marks[buffer.root.id][start:end]
        if not buffer.pitch:
            return marks
        rows = (buffer.nbytes - buffer.row_bytes) // buffer.pitch + 1
        return np.lib.stride_tricks.as_strided(marks, (rows, buffer.row_bytes), (buffer.pitch, 1))


def _merged(extents: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(extents):
        if merged and merged[-1][1] == start:
            merged[-1] = merged[-1][0], end
        else:
            merged.append((start, end))
    return merged


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return max(a[0], b[0]) < min(a[1], b[1])


def _same_bytes(a: Buffer, b: Buffer) -> bool:
    """Whether two buffers have bytes in common, or may have: of pitched ones in one root only columns are compared."""
    if a.root.id != b.root.id or not _overlap(a.extent, b.extent):
        return False
    if not a.pitch or a.pitch != b.pitch:
        return True
    (first, size), (second, other) = ((x.root_offset % x.pitch, x.row_bytes) for x in (a, b))
    inside = max(first + size, second + other) <= a.pitch  # else a row may reach into the columns of the next
    return not inside or _overlap((first, first + size), (second, second + other))


def _check_buffers(program: Program) -> None:
    for index, buffer in enumerate(program.buffers):
        if buffer.id != index:
            raise VerifyError(f"buffer {index} has the id {buffer.id}")
        if any(dim < 0 for dim in buffer.shape) or buffer.nbytes < dense_bytes(buffer.dtype, buffer.shape):
            raise VerifyError(f"{_described(buffer)}: {buffer.nbytes} bytes do not hold its elements")
        if buffer.pitch:
            _check_rows(buffer)
        _check_view(program, buffer)
    if not program.states <= program.constants.keys():
        raise VerifyError("a state has no array")
    if any(program.constants[index].ndim == 0 for index in program.states):
        raise VerifyError("a state has no axis of lanes")
    for index, array in program.constants.items():
        if not 0 <= index < len(program.buffers) or program.buffers[index].parent is not None:
            raise VerifyError(f"constant {index} is not the id of a buffer that owns its bytes")
        if array.nbytes != program.buffers[index].nbytes:
            raise VerifyError(f"{_described(program.buffers[index])}: its array has {array.nbytes} bytes")
        if not array.flags.c_contiguous or array.ctypes.data % ALIGNMENT:
            raise VerifyError(f"{_described(program.buffers[index])}: its array is not contiguous and aligned")


def _check_view(program: Program, buffer: Buffer) -> None:
    parent = buffer.parent
    if parent is None:
        if buffer.offset:
            raise VerifyError(f"{_described(buffer)} has an offset, but is not a view")
    elif parent.id >= buffer.id or program.buffers[parent.id] != parent:
        raise VerifyError(f"{_described(buffer)} is a view of a later or unknown buffer")
    elif buffer.offset < 0 or buffer.offset + buffer.nbytes > parent.nbytes:
        raise VerifyError(f"{_described(buffer)} reaches outside {_described(parent)}")
    elif parent.pitch:
        inside = buffer.offset % parent.pitch + buffer.row_bytes <= parent.row_bytes
        if buffer.pitch != parent.pitch or not inside:
            raise VerifyError(f"{_described(buffer)} is not within the rows of {_described(parent)}")


def _check_rows(buffer: Buffer) -> None:
    """Check that a pitched buffer is a view whose size is that of its rows, which do not overlap."""
    if buffer.parent is None or not 0 < buffer.row_bytes <= buffer.pitch:
        raise VerifyError(f"{_described(buffer)} has a pitch of {buffer.pitch}, but no rows of a view as short")
    if buffer.nbytes != pitched_bytes(buffer.dtype, buffer.shape, buffer.pitch):
        raise VerifyError(f"{_described(buffer)}: {buffer.nbytes} bytes are not the size of its rows")


def _check_ports(program: Program) -> None:
    for kind, ports in (("input", program.inputs), ("output", program.outputs)):
        names = [port.name for port in ports]
        if len(set(names)) < len(names):
            raise VerifyError(f"two {kind}s have the same name: {', '.join(names)}")
        for port in ports:
            if not _belongs(program, port.buffer):
                raise VerifyError(f"{kind} {port.name!r} is not a buffer of the program")
            if port.buffer.pitch:
                raise VerifyError(
                    f"{kind} {port.name!r}: {_described(port.buffer)} is pitched, callers' arrays are not"
                )
    if len({port.buffer.id for port in program.inputs}) < len(program.inputs):
        raise VerifyError("two inputs are the same buffer")
    for port in program.inputs:
        _check_input(program, port)


def _check_input(program: Program, port: Port) -> None:
    buffer = port.buffer
    if buffer.parent is not None or buffer.id in program.constants:
        raise VerifyError(f"input {port.name!r}: {_described(buffer)} is a view or a constant")
    if buffer.nbytes != dense_bytes(buffer.dtype, buffer.shape):
        raise VerifyError(f"input {port.name!r}: {_described(buffer)} is padded, but callers' arrays are not")


def _check_operands(program: Program, instruction: Instruction, words_of: Mapping[str, tuple[str, ...]]) -> None:
    words = words_of.get(instruction.kernel)
    if words is None:
        raise VerifyError(f"there is no kernel {instruction.kernel!r}")
    if set(instruction.operands) != set(words):
        raise VerifyError(
            f"kernel {instruction.kernel!r} takes {', '.join(words)}, not {', '.join(instruction.operands)}"
        )
    for word, operand in instruction.operands.items():
        if isinstance(operand, Buffer):
            if not _belongs(program, operand):
                raise VerifyError(f"operand {word!r} is {operand}, which is not a buffer of the program")
            if operand.pitch and word not in instruction.pitched:
                raise VerifyError(f"operand {word!r} is {operand}, whose rows are apart, which the kernel is not told")
        elif type(operand) is not int or not -(2**63) <= operand < 2**63:
            raise VerifyError(f"operand {word!r} is {operand!r}, neither a buffer nor a 64-bit integer")
    buffers = {word for word, operand in instruction.operands.items() if isinstance(operand, Buffer)}
    modified = [*instruction.writes, *instruction.scratch]
    if len(set(modified)) < len(modified) or not buffers.issuperset(modified):
        raise VerifyError(f"writes and scratch must be distinct buffer operands, not {', '.join(modified)}")
    for written, read in instruction.overwrites.items():
        if written not in instruction.writes or read not in buffers.difference(modified):
            raise VerifyError(f"{written!r} cannot overwrite {read!r}: one must be written, the other read")
    states = {word for word in buffers if program.storage(instruction.buffer(word)) is Storage.STATE}
    if states != set(instruction.updates):
        raise VerifyError(f"updates {', '.join(instruction.updates)}, but its states are {', '.join(sorted(states))}")
    if instruction.shares < 1:
        raise VerifyError(f"{instruction.shares} shares")
    if not (math.isfinite(instruction.cost) and instruction.cost >= 0):
        raise VerifyError(f"a cost of {instruction.cost} ns")


def _belongs(program: Program, buffer: Buffer) -> bool:
    return 0 <= buffer.id < len(program.buffers) and program.buffers[buffer.id] == buffer


def _arena_roots(program: Program, instruction: Instruction) -> set[int]:
    roots = {operand.root for operand in instruction.operands.values() if isinstance(operand, Buffer)}
    return {root.id for root in roots if program.storage(root) is Storage.ARENA}


def _declared_in_place(instruction: Instruction, new: int, old: int) -> bool:
    return any(
        (instruction.buffer(w).root.id, instruction.buffer(r).root.id) == (new, old) and may_share(instruction, w, r)
        for w, r in instruction.overwrites.items()
    )


def _described(buffer: Buffer) -> str:
    return f"buffer {buffer} ({buffer.name!r})"


def _neighbourhood(program: Program, culprit: int) -> str:
    """The instructions around one, which is marked."""
    lines = []
    for index in range(max(0, culprit - NEIGHBOURS), min(len(program.instructions), culprit + NEIGHBOURS + 1)):
        instruction = program.instructions[index]
        operands = ", ".join(f"{w}={o}" for w, o in instruction.operands.items())
        mark = ">" if index == culprit else " "
        lines.append(f"{mark} {index} {instruction.kernel}({operands}) {instruction.label}".rstrip())
    return "\n".join(lines)
