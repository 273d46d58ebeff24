"""What lowering produces and the interpreter runs: a straight list of kernel calls over byte buffers.

A `Program` belongs to one set of concrete input shapes. It says nothing about addresses: the planner
(`qcompiler.runtime.planner`) gives every arena buffer an offset, and a plan
(`qcompiler.runtime.interpreter`) turns offsets into absolute addresses, one table for each call that runs at
the same time.

Grammar of the printed form (`Program.text`)::

    program     = header { buffer } { instruction }
    header      = "program (" ports ") -> (" ports ") cost=" ns " ns, constants=" bytes " bytes"
    ports       = [ port { ", " port } ]      port = name "=%" id
    buffer      = "%" id storage dtype shape bytes [ "@" arena-offset ] [ view ] name
    view        = "= %" parent "+" byte-offset [ "pitch" bytes ]
    instruction = index kernel "(" [ operand { ", " operand } ] ") ->" written "shares=" n "cost=" ns label
    operand     = word "=" ( "%" id | integer )
    written     = "%" id { ", %" id }
"""

import ctypes
import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from qcompiler.errors import InternalError
from qcompiler.ir.types import AnyArray, DType, format_shape

ALIGNMENT = 64
"""Bytes. Constants, arena buffers and the arrays that a call returns start at a multiple of it."""


class Storage(enum.StrEnum):
    """Where the bytes of a buffer live."""

    INPUT = "input"  # the caller's array, or an aligned copy of it
    OUTPUT = "output"  # the array that the call returns
    CONSTANT = "constant"  # an array of the program
    STATE = "state"  # an array that outlives calls, and that instructions change
    ARENA = "arena"  # placed by the planner


@dataclass(frozen=True, slots=True)
class Buffer:
    """One SSA tensor, written once, or a view of another one's bytes.

    A view (`parent` is set) has no storage of its own: it is the `nbytes` bytes of `parent` from byte
    `offset`, under its own dtype and shape. Reshapes are views of the whole; a Concat that is written in
    place gives each of its operands a view of the result.

    A view may be *pitched*: its rows, which are its last axis, begin `pitch` bytes apart, and what lies between them
    is not its own. So are the operands of a Concat along the last axis, and slices of it.

    Attributes:
        id: position in `Program.buffers`.
        name: the IR value it holds, or what the lowering made it for.
        shape: concrete dimensions, in storage order (NHWC in an integer program).
        nbytes: from the first byte to the last; more than the elements need where a kernel wants padding at the end.
        pitch: bytes from row to row of a pitched view, else 0.
    """

    id: int
    name: str
    dtype: DType
    shape: tuple[int, ...]
    nbytes: int
    parent: "Buffer | None" = None
    offset: int = 0
    pitch: int = 0

    @property
    def row_bytes(self) -> int:
        """Bytes of the last axis."""
        return self.shape[-1] * self.dtype.itemsize if self.shape else self.dtype.itemsize

    @property
    def row_pitch(self) -> int:
        """Bytes from one row, along the last axis, to the next."""
        return self.pitch or self.row_bytes

    @property
    def root(self) -> "Buffer":
        """The buffer that owns the bytes; `self` unless this is a view."""
        return self if self.parent is None else self.parent.root

    @property
    def root_offset(self) -> int:
        """Byte offset of this buffer in its root."""
        return 0 if self.parent is None else self.offset + self.parent.root_offset

    @property
    def extent(self) -> tuple[int, int]:
        """First byte and the byte after the last, in the root; not all between are its own if it is pitched."""
        start = self.root_offset
        return start, start + self.nbytes

    def __str__(self) -> str:
        return f"%{self.id}"


Operand = Buffer | int


@dataclass(frozen=True, slots=True, eq=False)
class Instruction:
    """One kernel call.

    A kernel reads every buffer operand that is neither in `writes` nor in `scratch`, and defines the whole of
    each buffer in `writes`.

    Attributes:
        kernel: name in the kernel registry.
        operands: word -> buffer (the kernel gets its absolute address) or integer; one for each of the
            kernel's `words`, in any order.
        writes: words whose buffers the kernel writes.
        scratch: words whose buffers are the kernel's own for the duration of this instruction; contents
            undefined before and after. All shares see the same scratch buffer: it needs room for each of
            them, and there are never more of them than `shares`.
        overwrites: written word -> read word whose memory it may take over if the latter's value is not
            needed afterwards. The kernel promises that each share reads only those bytes of the one that it
            itself writes of the other, at the same byte positions, and reads an element before writing it.
        updates: words whose buffers are states, which the kernel reads and changes.
        pitched: words whose buffers may be pitched: the other operands tell the kernel of it.
        shares: the most shares that the work is cut into (1: not divisible). The kernel is called with
            `share` in 0..n-1 for one n in 1..shares.
        cost: predicted nanoseconds on one thread; decides whether helper threads are woken and how finely the
            work is cut.
        label: the IR node that it came from.
    """

    kernel: str
    operands: Mapping[str, Operand]
    writes: tuple[str, ...]
    scratch: tuple[str, ...] = ()
    overwrites: Mapping[str, str] = field(default_factory=dict)
    updates: tuple[str, ...] = ()
    pitched: tuple[str, ...] = ()
    shares: int = 1
    cost: float = 0.0
    label: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "operands", MappingProxyType(dict(self.operands)))
        object.__setattr__(self, "overwrites", MappingProxyType(dict(self.overwrites)))

    def buffer(self, word: str) -> Buffer:
        """The buffer operand `word`.

        Raises:
            InternalError: there is no such operand, or it is an integer.
        """
        operand = self.operands.get(word)
        if not isinstance(operand, Buffer):
            raise InternalError(f"{self.kernel} ({self.label}): operand {word!r} is {operand!r}, not a buffer")
        return operand

    @property
    def reads_of(self) -> dict[str, Buffer]:
        """The buffers that are read, by word."""
        skip = {*self.writes, *self.scratch}
        return {w: o for w, o in self.operands.items() if isinstance(o, Buffer) and w not in skip}

    @property
    def writes_of(self) -> dict[str, Buffer]:
        """The buffers that are written, by word."""
        return {w: self.buffer(w) for w in self.writes}

    @property
    def scratch_of(self) -> dict[str, Buffer]:
        """The scratch buffers, by word."""
        return {w: self.buffer(w) for w in self.scratch}


@dataclass(frozen=True, slots=True)
class Port:
    """A named input or output of a program: an array of `buffer.dtype` and `buffer.shape`."""

    name: str
    buffer: Buffer


@dataclass(frozen=True, eq=False)
class Program:
    """Instructions in execution order over SSA buffers, for one set of input shapes.

    Attributes:
        buffers: all buffers; `buffers[i].id == i`.
        constants: buffer id -> C-contiguous array that starts at a multiple of `ALIGNMENT`; states too.
        inputs: ports in the order of `Plan.run`'s arguments; their buffers are no views and are only read.
        outputs: ports in the order of `Plan.run`'s results. A port may name any buffer; where it covers its
            root it is written in the returned array directly, else it is copied at the end of the call.
        states: ids of those constants that instructions change. The first axis of their arrays is that of *lanes*: what
            instructions change in the first they change in another one for a call that is given its number, and calls
            that overlap must be given different ones.
    """

    instructions: tuple[Instruction, ...]
    buffers: tuple[Buffer, ...]
    constants: Mapping[int, AnyArray]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    states: frozenset[int] = frozenset()

    @cached_property
    def _storage(self) -> Mapping[int, Storage]:
        found = dict.fromkeys(self.constants, Storage.CONSTANT) | dict.fromkeys(self.states, Storage.STATE)
        found.update((port.buffer.id, Storage.INPUT) for port in self.inputs)
        for port in self.outputs:
            root = port.buffer.root
            if root.id not in found and port.buffer.extent == (0, root.nbytes):
                found[root.id] = Storage.OUTPUT
        return found

    def storage(self, buffer: Buffer) -> Storage:
        """Where the bytes of `buffer` (of its root, for a view) live."""
        return self._storage.get(buffer.root.id, Storage.ARENA)

    @property
    def cost(self) -> float:
        """Predicted nanoseconds of one call on one thread."""
        return sum(i.cost for i in self.instructions)

    @property
    def constant_bytes(self) -> int:
        return sum(a.nbytes for a in self.constants.values())

    def text(self, offsets: Mapping[int, int] | None = None) -> str:
        """The printed form; `offsets` (of a `Placement`) adds the arena offset of each root buffer."""
        ports = ", ".join(f"{p.name}={p.buffer}" for p in self.inputs)
        results = ", ".join(f"{p.name}={p.buffer}" for p in self.outputs)
        lines = [f"program ({ports}) -> ({results}) cost={self.cost:.0f} ns, constants={self.constant_bytes} bytes"]
        lines += [self._buffer_text(b, offsets or {}) for b in self.buffers]
        width = len(str(max(len(self.instructions) - 1, 0)))
        for index, instruction in enumerate(self.instructions):
            operands = ", ".join(f"{w}={o}" for w, o in instruction.operands.items())
            written = ", ".join(str(b) for b in instruction.writes_of.values())
            lines.append(
                f"{index:>{width}} {instruction.kernel}({operands}) -> {written}"
                f" shares={instruction.shares} cost={instruction.cost:.0f} {instruction.label}".rstrip()
            )
        return "\n".join(lines) + "\n"

    def _buffer_text(self, buffer: Buffer, offsets: Mapping[int, int]) -> str:
        place = f" @{offsets[buffer.id]}" if buffer.id in offsets else ""
        view = f" = {buffer.parent}+{buffer.offset}" if buffer.parent is not None else ""
        view += f" pitch {buffer.pitch}" if buffer.pitch else ""
        return (
            f"{buffer} {self.storage(buffer)} {buffer.dtype}{format_shape(buffer.shape)} {buffer.nbytes}"
            f"{place}{view} {buffer.name}"
        )

    def __str__(self) -> str:
        return self.text()


def dense_bytes(dtype: DType, shape: Sequence[int]) -> int:
    """Bytes of the elements of a tensor, without padding."""
    return math.prod(shape) * dtype.itemsize


def pitched_bytes(dtype: DType, shape: Sequence[int], pitch: int) -> int:
    """Bytes from the first element to the last of a tensor whose rows begin `pitch` bytes apart."""
    row = shape[-1] * dtype.itemsize
    return max(0, (math.prod(shape[:-1]) - 1) * pitch + row) if row else 0


def empty_aligned(nbytes: int) -> npt.NDArray[np.uint8]:
    """Uninitialised u8[nbytes] that starts at a multiple of `ALIGNMENT`."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    skip = -raw.ctypes.data % ALIGNMENT
    return raw[skip : skip + nbytes]


def address_of(array: AnyArray) -> int:
    """Where a contiguous array begins, as `array.ctypes.data` says in three times the time."""
    if array.flags.writeable and array.nbytes:
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return int(array.ctypes.data)


def aligned(array: AnyArray) -> AnyArray:
    """`array` itself if it is C-contiguous and starts at a multiple of `ALIGNMENT`, else a copy that does."""
    if array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0:
        return array
    copy = empty_aligned(array.nbytes).view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
