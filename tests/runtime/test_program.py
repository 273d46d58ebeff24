"""The program model, its text, and what verification refuses."""

import dataclasses

import numpy as np
import pytest

from qcompiler.errors import InternalError, VerifyError
from qcompiler.ir.types import DType
from qcompiler.runtime.planner import Placement, place
from qcompiler.runtime.program import (
    ALIGNMENT,
    Buffer,
    Instruction,
    Port,
    Program,
    Storage,
    address_of,
    aligned,
    empty_aligned,
)
from qcompiler.runtime.program_builder import ProgramBuilder
from qcompiler.runtime.verify import verify_placement, verify_program

WORDS = {"add": ("a", "b", "out"), "relu": ("a", "out"), "sort": ("a", "out", "buffer")}


def small() -> Program:
    """y = relu(x + w) in two steps over 100 bytes, the second in place; z is a view of y."""
    build = ProgramBuilder()
    x = build.input("x", DType.U8, (100,))
    w = build.constant("w", np.arange(100, dtype=np.uint8))
    total = build.tensor("total", DType.U8, (100,))
    build.emit("add", {"a": x, "b": w, "out": total}, writes=("out",), cost=10, shares=4, label="add_1")
    y = build.tensor("y", DType.U8, (100,))
    build.emit("relu", {"a": total, "out": y}, writes=("out",), overwrites={"out": "a"}, label="relu_1")
    last = build.tensor("last", DType.U8, (100,))
    tmp = build.tensor("tmp", DType.S32, (100,))
    operands = {"a": build.view(y, "z", (10, 10)), "out": last, "buffer": tmp}
    build.emit("sort", operands, writes=("out",), scratch=("buffer",), label="sort_1")
    build.output("last", last)
    return build.finish()


def changed(program: Program, index: int, **fields: object) -> Program:
    """The program with other fields in one instruction."""
    instructions = list(program.instructions)
    instructions[index] = dataclasses.replace(instructions[index], **fields)  # type: ignore[arg-type]
    return dataclasses.replace(program, instructions=tuple(instructions))


def with_operand(program: Program, index: int, word: str, operand: Buffer | int) -> Program:
    return changed(program, index, operands={**program.instructions[index].operands, word: operand})


def with_buffer(program: Program, index: int, **fields: object) -> Program:
    """The program with other fields in one buffer, wherever it occurs."""
    old = program.buffers[index]
    new = dataclasses.replace(old, **fields)  # type: ignore[arg-type]

    def swap(operand: Buffer | int) -> Buffer | int:
        return new if operand == old else operand

    return dataclasses.replace(
        program,
        buffers=tuple(new if b == old else b for b in program.buffers),
        instructions=tuple(
            dataclasses.replace(i, operands={w: swap(o) for w, o in i.operands.items()}) for i in program.instructions
        ),
        inputs=tuple(Port(p.name, new if p.buffer == old else p.buffer) for p in program.inputs),
    )


def test_small_program_is_well_formed():
    program = small()
    verify_program(program, WORDS)
    verify_placement(program, place(program))


def test_storage_follows_from_ports_and_constants():
    program = small()
    names = {b.name: program.storage(b) for b in program.buffers}
    assert names == {
        "x": Storage.INPUT,
        "w": Storage.CONSTANT,
        "total": Storage.ARENA,
        "y": Storage.ARENA,
        "z": Storage.ARENA,
        "last": Storage.OUTPUT,
        "tmp": Storage.ARENA,
    }


def test_text():
    program = small()
    assert program.text(place(program).offsets) == (
        "program (x=%0) -> (last=%4) cost=10 ns, constants=100 bytes\n"
        "%0 input u8[100] 100 x\n"
        "%1 constant u8[100] 100 w\n"
        "%2 arena u8[100] 100 @448 total\n"
        "%3 arena u8[100] 100 @448 y\n"
        "%4 output u8[100] 100 last\n"
        "%5 arena s32[100] 400 @0 tmp\n"
        "%6 arena u8[10,10] 100 = %3+0 z\n"
        "0 add(a=%0, b=%1, out=%2) -> %2 shares=4 cost=10 add_1\n"
        "1 relu(a=%2, out=%3) -> %3 shares=1 cost=0 relu_1\n"
        "2 sort(a=%6, out=%4, buffer=%5) -> %4 shares=1 cost=0 sort_1\n"
    )


def test_views_of_views_reach_the_root():
    build = ProgramBuilder()
    whole = build.tensor("whole", DType.U8, (4, 16))
    half = build.view(whole, "half", (2, 16), offset=32)
    row = build.view(half, "row", (4,), dtype=DType.S32, offset=16)
    assert (row.root, row.extent, row.nbytes) == (whole, (48, 64), 16)


def test_a_reshape_keeps_padding():
    build = ProgramBuilder()
    padded = build.tensor("padded", DType.U8, (3, 5), nbytes=64)
    assert build.view(padded, "flat", (15,)).nbytes == 64
    assert build.view(padded, "part", (5,)).nbytes == 5


def test_a_view_outside_its_parent_is_refused():
    build = ProgramBuilder()
    whole = build.tensor("whole", DType.U8, (16,))
    with pytest.raises(InternalError, match="view 'late'"):
        build.view(whole, "late", (8,), offset=9)


def test_one_array_is_one_constant():
    build = ProgramBuilder()
    array = np.arange(6, dtype=np.int8)
    assert build.constant("a", array) is build.constant("b", array)
    assert build.constant("c", array.copy()) is not build.constant("a", array)


def test_address_of_an_array() -> None:
    array = np.arange(12, dtype=np.int16).reshape(3, 4)
    read_only, empty = array.copy(), np.empty((0, 4), np.float32)
    read_only.flags.writeable = False
    for each in (array, array[1:], read_only, empty):
        assert address_of(each) == each.ctypes.data


def test_alignment():
    odd = empty_aligned(1000)[1:]
    assert aligned(odd).ctypes.data % ALIGNMENT == 0
    even = empty_aligned(999)
    assert aligned(even) is even
    columns = np.arange(12, dtype=np.int32).reshape(3, 4).T
    assert aligned(columns).flags.c_contiguous
    assert np.array_equal(aligned(columns), columns)


def test_an_operand_that_is_no_buffer():
    with pytest.raises(InternalError, match="'n' is 3, not a buffer"):
        Instruction("add", {"n": 3}, writes=("n",)).buffer("n")


X, W, TOTAL, Y, LAST, TMP, Z = range(7)


def test_refuses_an_unknown_kernel():
    with pytest.raises(VerifyError, match="instruction 1: there is no kernel 'cos'"):
        verify_program(changed(small(), 1, kernel="cos"), WORDS)


def test_refuses_missing_and_surplus_operands():
    program = small()
    with pytest.raises(VerifyError, match="kernel 'relu' takes a, out, not a, out, n"):
        verify_program(with_operand(program, 1, "n", 3), WORDS)
    with pytest.raises(VerifyError, match="kernel 'add' takes a, b, out, not a, out"):
        verify_program(changed(program, 1, kernel="add"), WORDS)


@pytest.mark.parametrize("operand", [2**63, 1.5, True, np.int64(3), "x"])
def test_refuses_operands_that_are_no_words(operand: int):
    with pytest.raises(VerifyError, match="neither a buffer nor a 64-bit integer"):
        verify_program(with_operand(small(), 0, "b", operand), WORDS)


def test_refuses_a_buffer_of_another_program():
    stranger = Buffer(2, "total", DType.S16, (50,), 100)
    with pytest.raises(VerifyError, match="'a' is %2, which is not a buffer of the program"):
        verify_program(with_operand(small(), 1, "a", stranger), WORDS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"writes": ("out", "a")}, "'a' writes %0 .'x'., which is input"),
        ({"writes": ("out", "b")}, "'b' writes %1 .'w'., which is constant"),
        ({"writes": ("out", "out")}, "distinct buffer operands"),
        ({"writes": ("n",)}, "distinct buffer operands"),
        ({"scratch": ("out",)}, "distinct buffer operands"),
        ({"overwrites": {"out": "out"}}, "cannot overwrite"),
        ({"overwrites": {"a": "b"}}, "cannot overwrite"),
        ({"shares": 0}, "0 shares"),
        ({"cost": float("nan")}, "cost of nan"),
        ({"cost": -1.0}, "cost of -1"),
    ],
)
def test_refuses_instructions_that_contradict_themselves(fields: dict[str, object], message: str):
    with pytest.raises(VerifyError, match=message):
        verify_program(changed(small(), 0, **fields), WORDS)


def test_refuses_reading_what_is_not_written_yet():
    program = small()
    swapped = dataclasses.replace(
        program, instructions=(program.instructions[1], program.instructions[0], program.instructions[2])
    )
    with pytest.raises(VerifyError, match=r"'a' reads %2 .'total'. before all of it is written") as caught:
        verify_program(swapped, WORDS)
    assert "> 0 relu(a=%2, out=%3) relu_1\n  1 add" in str(caught.value)


def test_refuses_an_output_that_nothing_writes():
    program = small()
    with pytest.raises(VerifyError, match="output 'last' reads %4"):
        verify_program(dataclasses.replace(program, instructions=program.instructions[:2]), WORDS)


def test_refuses_writing_twice():
    program = small()
    with pytest.raises(VerifyError, match=r"instruction 1: 'out' writes %2 .* written before"):
        verify_program(
            dataclasses.replace(program, instructions=(program.instructions[0], *program.instructions)), WORDS
        )


def test_refuses_writing_what_it_reads():
    with pytest.raises(VerifyError, match="'out' writes bytes of 'a': %2 and %2"):
        verify_program(with_operand(small(), 1, "out", small().buffers[TOTAL]), WORDS)


def counting(**fields: object) -> Program:
    """`last` as in `small`, and its elements counted in a state."""
    build = ProgramBuilder()
    x = build.input("x", DType.U8, (100,))
    counts = build.state("counts", aligned(np.zeros(256, np.int64)))
    y = build.tensor("y", DType.U8, (100,))
    build.emit("relu", {"a": x, "out": y}, writes=("out",))
    emitted = {"operands": {"a": y, "counts": counts}, "writes": (), "updates": ("counts",)} | fields
    build.emit("count", **emitted)  # type: ignore[arg-type]
    build.output("y", y)
    return build.finish()


def test_a_state_is_memory_of_the_caller_that_instructions_update():
    program = counting()
    verify_program(program, WORDS | {"count": ("a", "counts")})
    (state,) = program.states
    assert program.storage(program.buffers[state]) is Storage.STATE
    assert state not in place(program).offsets


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"updates": ()}, "updates , but its states are counts"),
        ({"updates": ("a", "counts")}, "updates a, counts, but its states are counts"),
        ({"writes": ("counts",)}, "'counts' writes %1 .* which is state"),
    ],
)
def test_refuses_states_that_are_not_updated(fields: dict[str, object], message: str):
    with pytest.raises(VerifyError, match=message):
        verify_program(counting(**fields), WORDS | {"count": ("a", "counts")})


def test_refuses_a_state_without_an_array():
    with pytest.raises(VerifyError, match="a state has no array"):
        verify_program(dataclasses.replace(counting(), constants={}), WORDS | {"count": ("a", "counts")})


def test_refuses_a_state_without_lanes():
    build = ProgramBuilder()
    x = build.input("x", DType.U8, (100,))
    counts = build.state("counts", np.array(0, np.int64))
    build.emit("count", {"a": x, "counts": counts}, writes=(), updates=("counts",))
    build.output("x", x)
    with pytest.raises(VerifyError, match="a state has no axis of lanes"):
        verify_program(build.finish(), {"count": ("a", "counts")})


def test_a_concat_in_place_is_complete_when_all_its_parts_are_written():
    def concat(parts: int) -> Program:
        build = ProgramBuilder()
        x = build.input("x", DType.U8, (8,))
        whole = build.tensor("whole", DType.U8, (2, 8))
        for part in range(parts):
            out = build.view(whole, f"part{part}", (8,), offset=8 * part)
            build.emit("relu", {"a": x, "out": out}, writes=("out",))
        build.output("whole", whole)
        return build.finish()

    verify_program(concat(2), WORDS)
    with pytest.raises(VerifyError, match="output 'whole' reads %1"):
        verify_program(concat(1), WORDS)


@pytest.mark.parametrize(
    ("index", "fields", "message"),
    [
        (TOTAL, {"id": 5}, "buffer 2 has the id 5"),
        (TOTAL, {"nbytes": 99}, "99 bytes do not hold"),
        (TOTAL, {"shape": (-1,)}, "do not hold"),
        (TOTAL, {"offset": 4}, "not a view"),
        (Z, {"offset": 1}, "reaches outside"),
        (Z, {"offset": -1}, "reaches outside"),
        (Z, {"parent": Buffer(9, "late", DType.U8, (100,), 100)}, "view of a later or unknown buffer"),
        (W, {"nbytes": 120}, "its array has 100 bytes"),
        (X, {"nbytes": 128}, "is padded"),
    ],
)
def test_refuses_bad_buffers(index: int, fields: dict[str, object], message: str):
    with pytest.raises(VerifyError, match=message):
        verify_program(with_buffer(small(), index, **fields), WORDS)


def test_refuses_bad_constants():
    program = small()
    w = program.constants[W]
    for array, message in [
        (empty_aligned(101)[1:], "not contiguous and aligned"),
        (np.zeros(99, np.uint8), "99 bytes"),
    ]:
        with pytest.raises(VerifyError, match=message):
            verify_program(dataclasses.replace(program, constants={W: array}), WORDS)
    for index in (Z, 99):
        with pytest.raises(VerifyError, match="not the id of a buffer that owns its bytes"):
            verify_program(dataclasses.replace(program, constants={W: w, index: w}), WORDS)


def test_refuses_bad_ports():
    program = small()
    x, last = program.inputs[0], program.outputs[0]
    stranger = Port("last", Buffer(50, "stranger", DType.U8, (1,), 1))
    for fields, message in [
        ({"outputs": (last, last)}, "two outputs have the same name"),
        ({"inputs": (x, Port("again", x.buffer))}, "two inputs are the same buffer"),
        ({"outputs": (stranger,)}, "output 'last' is not a buffer of the program"),
        ({"inputs": (x, Port("w", program.buffers[W]))}, "is a view or a constant"),
        ({"inputs": (x, Port("z", program.buffers[Z]))}, "is a view or a constant"),
    ]:
        with pytest.raises(VerifyError, match=message):
            verify_program(dataclasses.replace(program, **fields), WORDS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("offsets", "peak", "message"),
    [
        ({TOTAL: 448, Y: 448}, 576, "buffer %5: bytes -1..399 are not an aligned part"),
        ({TOTAL: 448, Y: 448, TMP: 32}, 576, "buffer %5: bytes 32..432 are not an aligned part"),
        ({TOTAL: 448, Y: 448, TMP: 0}, 540, "buffer %2: bytes 448..548 are not an aligned part"),
        ({TOTAL: 0, Y: 64, TMP: 192}, 640, "instruction 1: buffer %3 overlaps %2, which is still needed"),
        ({TOTAL: 0, Y: 384, TMP: 0}, 512, "instruction 2: buffer %5 overlaps %3"),
    ],
)
def test_refuses_bad_placements(offsets: dict[int, int], peak: int, message: str):
    with pytest.raises(VerifyError, match=message):
        verify_placement(small(), Placement(offsets, peak, peak))


def test_refuses_sharing_that_no_instruction_allows():
    program = changed(small(), 1, overwrites={})
    with pytest.raises(VerifyError, match="buffer %3 overlaps %2"):
        verify_placement(program, Placement({TOTAL: 448, Y: 448, TMP: 0}, 576, 576))
