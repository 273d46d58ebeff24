"""A second way to run programs: one share after another, without planner and threads, every byte watched."""

import ctypes
from collections.abc import Callable, Mapping
from unittest import mock

import numpy as np
import pytest

from qcompiler.ir import AnyArray, Graph
from qcompiler.runtime.kernels.registry import kernel_named, registered_kernels
from qcompiler.runtime.lowering import PackedModel, context, lower
from qcompiler.runtime.program import Buffer, Instruction, Program
from qcompiler.runtime.reference import bind_feeds
from qcompiler.runtime.verify import verify_program
from tests.runtime.guard_pages import GUARD_BYTE, guarded

GARBAGE = 0xC3
Execute = Callable[[Graph, Mapping[str, AnyArray], int], dict[str, AnyArray]]


@pytest.fixture(scope="session")
def run_in_shares() -> Execute:
    """Lower a graph so finely that even small tensors are cut up, run it with that many shares, return its outputs."""

    def run(graph: Graph, feeds: Mapping[str, AnyArray], shares: int) -> dict[str, AnyArray]:
        with mock.patch.object(context, "SHARE_NS", 1e-6):
            program = lower(PackedModel(graph), bind_feeds(graph, feeds))
        verify_program(program, {name: kernel_named(name).words for name in registered_kernels()})
        return _Memory(program, feeds).run(shares)

    return run


class _Memory:
    """Every buffer that owns bytes has memory of its own, full of garbage, see `guarded`."""

    def __init__(self, program: Program, feeds: Mapping[str, AnyArray]) -> None:
        self.program = program
        self.arrays: dict[int, AnyArray] = {}
        self.before: dict[int, AnyArray] = {}
        given = {port.buffer.id: np.ascontiguousarray(feeds[port.name]) for port in program.inputs}
        for buffer in program.buffers:
            if buffer.parent is None:
                self.before[buffer.id], array = guarded(buffer.nbytes, buffer.dtype.itemsize)
                array[:] = GARBAGE
                source = given.get(buffer.id, program.constants.get(buffer.id))
                if source is not None:
                    array[:] = source.reshape(-1).view(np.uint8)
                self.arrays[buffer.id] = array

    def run(self, shares: int) -> dict[str, AnyArray]:
        for instruction in self.program.instructions:
            # Kernels take any number of shares; only scratch has room for no more than was planned.
            self._call(instruction, min(shares, instruction.shares) if instruction.scratch else shares)
        for buffer in self.program.buffers:
            if buffer.parent is None:
                assert (self.before[buffer.id] == GUARD_BYTE).all(), f"bytes before {buffer.name} were written"
        return {port.name: self._read(port.buffer) for port in self.program.outputs}

    def _call(self, instruction: Instruction, shares: int) -> None:
        kernel = kernel_named(instruction.kernel)
        operands = [instruction.operands[word] for word in kernel.words]
        words = np.array([o if isinstance(o, int) else self._address(o) for o in operands], np.int64)
        function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel.address)
        parts = [b for b in instruction.writes_of.values() if b.parent is not None]
        others = [self._without(buffer) for buffer in parts]
        for share in reversed(range(shares)):
            function(words.ctypes.data, share, shares)
        for buffer, before in zip(parts, others, strict=True):
            assert np.array_equal(self._without(buffer), before), f"bytes beside {buffer.name} were written"

    def _without(self, buffer: Buffer) -> AnyArray:
        """The bytes of the root of a view, those of the view set to zero."""
        array = self.arrays[buffer.root.id].copy()
        start, end = buffer.extent
        if buffer.row_bytes:
            for row in range(start, end, buffer.row_pitch):
                array[row : row + buffer.row_bytes] = 0
        return array

    def _address(self, buffer: Buffer) -> int:
        return int(self.arrays[buffer.root.id].ctypes.data) + buffer.root_offset

    def _read(self, buffer: Buffer) -> AnyArray:
        start, end = buffer.extent
        data = self.arrays[buffer.root.id][start:end]
        return data.view(buffer.dtype.numpy).reshape(buffer.shape)
