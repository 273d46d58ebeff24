"""The way to write a `Program`: one call for each buffer, one for each instruction."""

import math
from collections.abc import Mapping, Sequence

from qcompiler.errors import InternalError
from qcompiler.ir.types import AnyArray, DType
from qcompiler.runtime.program import Buffer, Instruction, Operand, Port, Program, aligned, dense_bytes, pitched_bytes


class ProgramBuilder:
    """Collects buffers and instructions in execution order.

    Example, `y = x + w` on 8 bytes::

        build = ProgramBuilder()
        x = build.input("x", DType.U8, (8,))
        w = build.constant("w", weights)
        y = build.tensor("y", DType.U8, (8,))
        operands = {"a": x, "b": w, "out": y, "n": 8}
        build.emit("int_add", operands, writes=("out",), overwrites={"out": "a"}, label="add_1")
        build.output("y", y)
        program = build.finish()
    """

    def __init__(self) -> None:
        self._buffers: list[Buffer] = []
        self._instructions: list[Instruction] = []
        self._constants: dict[int, AnyArray] = {}
        self._states: set[int] = set()
        # By id() of the caller's array, which must stay alive as long as its id is a key.
        self._constant_of: dict[int, tuple[AnyArray, Buffer]] = {}
        self._inputs: list[Port] = []
        self._outputs: list[Port] = []

    def input(self, name: str, dtype: DType, shape: Sequence[int]) -> Buffer:
        """The next input of the program."""
        buffer = self.tensor(name, dtype, shape)
        self._inputs.append(Port(name, buffer))
        return buffer

    def output(self, name: str, buffer: Buffer) -> None:
        """Make `buffer` the next output of the program."""
        self._outputs.append(Port(name, buffer))

    def tensor(self, name: str, dtype: DType, shape: Sequence[int], *, nbytes: int | None = None) -> Buffer:
        """A tensor that some instruction will write, or a scratch buffer; `nbytes` where it is padded."""
        size = dense_bytes(dtype, shape) if nbytes is None else nbytes
        return self._add(Buffer(len(self._buffers), name, dtype, tuple(shape), size))

    def constant(self, name: str, array: AnyArray, dtype: DType | None = None) -> Buffer:
        """The bytes of `array`, copied only if it is not aligned; the same array gives the same buffer.

        `dtype` is that of the elements where NumPy has no such dtype (s4).
        """
        known = self._constant_of.get(id(array))
        if known is not None:
            return known[1]
        data = aligned(array)
        data_type = DType.from_numpy(array.dtype) if dtype is None else dtype
        buffer = self._add(Buffer(len(self._buffers), name, data_type, tuple(data.shape), data.nbytes))
        self._constants[buffer.id] = data
        self._constant_of[id(array)] = array, buffer
        return buffer

    def state(self, name: str, array: AnyArray) -> Buffer:
        """The memory of `array` itself, contiguous and aligned, for instructions to change."""
        buffer = self.constant(name, array)
        self._states.add(buffer.id)
        return buffer

    def view(
        self,
        parent: Buffer,
        name: str,
        shape: Sequence[int],
        *,
        dtype: DType | None = None,
        offset: int = 0,
        nbytes: int | None = None,
    ) -> Buffer:
        """`nbytes` bytes (as many as `shape` needs) of `parent` from byte `offset`, under another shape."""
        view_type = parent.dtype if dtype is None else dtype
        if nbytes is None:
            dense = dense_bytes(view_type, shape)
            # A reshape of a padded tensor keeps the padding: it is the same tensor.
            whole = offset == 0 and dense == dense_bytes(parent.dtype, parent.shape)
            nbytes = parent.nbytes if whole else dense
        if offset < 0 or offset + nbytes > parent.nbytes:
            raise InternalError(
                f"view {name!r}: bytes {offset}..{offset + nbytes} of {parent.name!r} ({parent.nbytes} bytes)"
            )
        return self._add(Buffer(len(self._buffers), name, view_type, tuple(shape), nbytes, parent, offset))

    def slice(self, parent: Buffer, name: str, shape: Sequence[int], *, offset: int) -> Buffer:
        """The `shape[-1]` elements from byte `offset` on of each row of `parent`; other axes have the same extent."""
        if math.prod(shape[:-1]) <= 1 or not math.prod(shape):
            return self.view(parent, name, shape, offset=offset if math.prod(shape) else 0)
        pitch = parent.row_pitch
        nbytes = pitched_bytes(parent.dtype, shape, pitch)
        if offset < 0 or offset + nbytes > parent.nbytes:
            raise InternalError(f"slice {name!r}: rows from byte {offset} on reach outside of {parent.name!r}")
        if shape[-1] == parent.shape[-1] and not parent.pitch:
            pitch = 0
        return self._add(Buffer(len(self._buffers), name, parent.dtype, tuple(shape), nbytes, parent, offset, pitch))

    def emit(  # noqa: PLR0913  # the attributes of an instruction
        self,
        kernel: str,
        operands: Mapping[str, Operand],
        *,
        writes: Sequence[str],
        scratch: Sequence[str] = (),
        overwrites: Mapping[str, str] | None = None,
        updates: Sequence[str] = (),
        pitched: Sequence[str] = (),
        shares: int = 1,
        cost: float = 0.0,
        label: str = "",
    ) -> Instruction:
        """Append one kernel call; the arguments are the attributes of `Instruction`."""
        instruction = Instruction(
            kernel,
            operands,
            tuple(writes),
            tuple(scratch),
            overwrites or {},
            tuple(updates),
            tuple(pitched),
            shares,
            cost,
            label,
        )
        self._instructions.append(instruction)
        return instruction

    def finish(self) -> Program:
        """The program; `qcompiler.runtime.verify` checks it before it is first run."""
        return Program(
            tuple(self._instructions),
            tuple(self._buffers),
            self._constants,
            tuple(self._inputs),
            tuple(self._outputs),
            frozenset(self._states),
        )

    def _add(self, buffer: Buffer) -> Buffer:
        self._buffers.append(buffer)
        return buffer
