"""The arena planner: nothing that lives at the same time overlaps, and little is wasted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.types import DType
from qcompiler.runtime.planner import Placement, place
from qcompiler.runtime.program import ALIGNMENT, Buffer, Program, Storage
from qcompiler.runtime.program_builder import ProgramBuilder
from qcompiler.runtime.verify import verify_placement


def rounded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """Random straight-line programs: views, scratch, in-place steps, dead results, several outputs."""
    build = ProgramBuilder()
    known = [build.input("x", DType.U8, (draw(st.integers(0, 300)),))]
    for index in range(draw(st.integers(1, 14))):
        first = draw(st.sampled_from(known))
        if draw(st.booleans()):
            first = build.view(first, "view", (first.nbytes // 2,), offset=first.nbytes - first.nbytes // 2)
        operands = {"a": first, "b": draw(st.sampled_from(known))}
        same_size = draw(st.booleans())
        size = first.nbytes if same_size else draw(st.integers(0, 500))
        operands["out"] = build.tensor(f"t{index}", DType.U8, (size,))
        scratch = draw(st.booleans())
        if scratch:
            operands["tmp"] = build.tensor("tmp", DType.U8, (draw(st.integers(1, 200)),))
        overwrites = {"out": draw(st.sampled_from(["a", "b"]))} if draw(st.booleans()) else {}
        build.emit("k", operands, writes=("out",), scratch=("tmp",) * scratch, overwrites=overwrites)
        known.append(operands["out"])
    for index, buffer in enumerate(draw(st.lists(st.sampled_from(known), max_size=3, unique=True))):
        build.output(f"y{index}", buffer)
    return build.finish()


def uses(program: Program, buffer: Buffer) -> list[int]:
    """Indices of the instructions that touch the bytes of a root buffer; one past the last for an output."""
    found = [
        index
        for index, instruction in enumerate(program.instructions)
        for operand in instruction.operands.values()
        if isinstance(operand, Buffer) and operand.root == buffer
    ]
    return found + [len(program.instructions) for port in program.outputs if port.buffer.root == buffer]


def clashes(program: Program, placement: Placement) -> list[tuple[int, int]]:
    """Pairs of buffers that share bytes of the arena at the same instruction, by comparing each with each."""
    arena = [b for b in program.buffers if b.id in placement.offsets]
    found = []
    for a in arena:
        for b in arena:
            a_uses, b_uses = uses(program, a), uses(program, b)
            together = a.id != b.id and a_uses[0] <= b_uses[0] <= a_uses[-1]
            a_start, b_start = placement.offsets[a.id], placement.offsets[b.id]
            if together and max(a_start, b_start) < min(a_start + a.nbytes, b_start + b.nbytes):
                found.append((a.id, b.id))
    return found


def in_place(program: Program) -> list[tuple[int, int]]:
    """Pairs (read, written) where the program allows it and the one read is not used afterwards."""
    return [
        (instruction.buffer(read).root.id, instruction.buffer(written).root.id)
        for index, instruction in enumerate(program.instructions)
        for written, read in instruction.overwrites.items()
        if uses(program, instruction.buffer(read).root)[-1] == index
    ]


@given(programs())
@settings(max_examples=120)
def test_nothing_that_lives_overlaps(program: Program):
    placement = place(program)
    verify_placement(program, placement)
    assert set(clashes(program, placement)) <= set(in_place(program))
    used = {b.id for b in program.buffers if b.parent is None and uses(program, b)}
    assert placement.offsets.keys() == {i for i in used if program.storage(program.buffers[i]) is Storage.ARENA}


@given(programs())
@settings(max_examples=100)
def test_peak_and_bound(program: Program):
    placement = place(program)
    sizes = {i: rounded(program.buffers[i].nbytes) for i in placement.offsets}
    assert placement.lower_bound_bytes <= placement.peak_bytes <= sum(sizes.values())
    ends = [offset + sizes[i] for i, offset in placement.offsets.items()]
    assert placement.peak_bytes == max(ends, default=0)
    if not any(i.overwrites for i in program.instructions):
        live = [
            sum(sizes[i] for i in sizes if (u := uses(program, program.buffers[i]))[0] <= step <= u[-1])
            for step in range(len(program.instructions) + 1)
        ]
        assert placement.lower_bound_bytes == max(live, default=0)


def chain(sizes: list[int], *, residual_every: int = 0, in_place_every: int = 0) -> Program:
    """A chain of layers with these activation sizes, some of them with a skip connection or in place."""
    build = ProgramBuilder()
    value = build.input("x", DType.U8, (sizes[0],))
    skip = value
    for index, size in enumerate(sizes[1:], start=1):
        reuse = in_place_every and index % in_place_every == 0
        out = build.tensor(f"t{index}", DType.U8, (value.nbytes if reuse else size,))
        joins = residual_every and index % residual_every == 0
        operands = {"a": value, "b": skip if joins else value, "out": out}
        build.emit("k", operands, writes=("out",), overwrites={"out": "a"} if reuse else {})
        value = out
        skip = value if joins else skip
    build.output("y", value)
    return build.finish()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("residual_every", "in_place_every"), [(0, 0), (3, 0), (3, 2), (4, 3)])
def test_cnns_are_within_5_percent_of_the_bound(seed: int, residual_every: int, in_place_every: int):
    """Expanding and projecting layers over images that shrink, as in MobileNetV2 and ResNets."""
    random = np.random.default_rng(seed)
    sizes = [
        int(side * side * channels * random.choice([1, 2, 4, 6]))
        for side, channels in [(112, 16), (56, 24), (28, 32), (14, 64), (14, 96), (7, 160)]
        for _ in range(6)
    ]
    program = chain(sizes, residual_every=residual_every, in_place_every=in_place_every)
    placement = place(program)
    verify_placement(program, placement)
    assert placement.peak_bytes <= 1.05 * placement.lower_bound_bytes


def test_two_buffers_in_turn():
    program = chain([1000] * 9)
    assert place(program).peak_bytes == 2 * rounded(1000)


def test_in_place_needs_one_buffer():
    program = chain([1000] * 9, in_place_every=1)
    placement = place(program)
    # The first layer reads the caller's array and the last one writes the result: neither is in the arena.
    assert placement.peak_bytes == rounded(1000)
    assert len(set(placement.offsets.values())) == 1


def test_in_place_is_refused_while_the_input_is_needed():
    build = ProgramBuilder()
    x = build.input("x", DType.U8, (64,))
    first, second, third = (build.tensor(name, DType.U8, (64,)) for name in ("first", "second", "third"))
    build.emit("k", {"a": x, "out": first}, writes=("out",))
    build.emit("k", {"a": first, "out": second}, writes=("out",), overwrites={"out": "a"})
    build.emit("k", {"a": first, "b": second, "out": third}, writes=("out",), overwrites={"out": "b"})
    # Parts of the second and third come out of the arena at the end of the call.
    build.output("a", build.view(second, "a", (32,), offset=16))
    build.output("b", build.view(third, "b", (32,), offset=16))
    placement = place(build.finish())
    assert sorted(placement.offsets.values()) == [0, 64, 128]


def test_in_place_is_refused_between_different_views():
    build = ProgramBuilder()
    x = build.input("x", DType.U8, (64,))
    first, second, third = (build.tensor(name, DType.U8, (64,)) for name in ("first", "second", "third"))
    build.emit("k", {"a": x, "out": first}, writes=("out",))
    half = build.view(first, "half", (32,), offset=32)
    build.emit("k", {"a": first, "b": half, "out": second}, writes=("out",), overwrites={"out": "a"})
    build.emit("k", {"a": second, "out": third}, writes=("out",))
    build.output("y", third)
    placement = place(build.finish())
    assert placement.offsets[first.id] != placement.offsets[second.id]


def test_an_empty_program():
    placement = place(ProgramBuilder().finish())
    assert (placement.peak_bytes, placement.lower_bound_bytes, placement.offsets) == (0, 0, {})


def test_scratch_is_reused():
    build = ProgramBuilder()
    value = build.input("x", DType.U8, (64,))
    for index in range(5):
        out, tmp = build.tensor(f"t{index}", DType.U8, (64,)), build.tensor("tmp", DType.U8, (6400,))
        build.emit("k", {"a": value, "out": out, "tmp": tmp}, writes=("out",), scratch=("tmp",))
        value = out
    build.output("y", value)
    assert place(build.finish()).peak_bytes == 6400 + 2 * 64


def test_five_hundred_buffers_of_random_sizes():
    random = np.random.default_rng(0)
    program = chain([int(n) for n in random.integers(1, 100_000, 500)], residual_every=5)
    placement = place(program)
    verify_placement(program, placement)
    assert placement.peak_bytes <= 1.05 * placement.lower_bound_bytes
