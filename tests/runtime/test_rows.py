"""Concatenations along the last axis without copies: producers write slices, consumers read them."""

import dataclasses
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import reference
from qcompiler.errors import VerifyError
from qcompiler.ir import DType, Graph, Op, Stage, TensorType, Value
from qcompiler.ir.ops import (
    Concat,
    DepthToSpace,
    IntAdd,
    IntAveragePool,
    IntConv,
    IntLut,
    IntMul,
    IntPad,
    IntRescale,
    MaxPool,
    Slice,
    Split,
    Transpose,
)
from qcompiler.runtime import isa, prepared
from qcompiler.runtime.interpreter import Plan
from qcompiler.runtime.lowering import PackedModel, lower
from qcompiler.runtime.planner import place
from qcompiler.runtime.program import Buffer, Program
from qcompiler.runtime.program_builder import ProgramBuilder
from qcompiler.runtime.verify import verify_placement, verify_program

SIZE = 6, 5
CHANNELS = 1, 2, 3, 8, 16, 20, 32, 40, 64, 70


class Network:
    """A random graph of ops on u8 and s8 images of one size, in the making."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.numbers = np.random.default_rng(random.getrandbits(32))
        self.graph = Graph("network", Stage.INTEGER)
        self.dtype = random.choice([DType.U8, DType.S8])
        channels = [random.choice(CHANNELS) for _ in range(2)]
        self.known = [
            self.graph.add_input(f"x{i}", TensorType(self.dtype, ("N", *SIZE, c))) for i, c in enumerate(channels)
        ]

    def constant(self, array: npt.NDArray[Any]) -> Value:
        return self.graph.add_constant(array)

    def add(self, op, *operands: Value) -> list[Value]:
        return list(self.graph.add_node(op, operands, name=f"n{len(self.known)}").results)

    def range(self) -> dict[str, Any]:
        low, high = self.dtype.limits
        lo = self.random.randint(low, low + 60)
        return {"dtype": self.dtype, "zp_out": low + 30, "lo": lo, "hi": high}

    def conv(self, x: Value, kernel: int, *, depthwise: bool) -> list[Value]:
        cin = channels_of(x)
        cout = cin if depthwise else self.random.choice(CHANNELS)
        group, zp_in = cin if depthwise else 1, x.type.dtype.limits[0] + 9
        op = IntConv((1, 1), (kernel // 2,) * 4, (1, 1), group, zp_in, layout="nhwc", **self.range())
        weight = self.numbers.integers(-127, 128, (cout, 1 if depthwise else cin, kernel, kernel), dtype=np.int8)
        scale = np.full(cout, 3 * 2**29, np.int32), np.full(cout, 37, np.int32)
        bias = self.numbers.integers(-999, 999, cout, dtype=np.int32)
        return self.add(op, x, *(self.constant(each) for each in (weight, bias, *scale)))

    def step(self) -> None:
        random, low = self.random, self.dtype.limits[0]
        x = random.choice(self.known[-5:])
        same = [v for v in self.known if v.type.shape == x.type.shape]
        pool: dict[str, Any] = {
            "kernel": (3, 3),
            "strides": (1, 1),
            "pads": (1,) * 4,
            "dilations": (1, 1),
            "layout": "nhwc",
        }
        kinds = ["conv", "depthwise", "max", "mean", "add", "mul", "lut", "rescale", "cut", "stack"]
        match random.choice([*kinds, *["join"] * 5]):
            case "conv":
                made = self.conv(x, random.choice([1, 1, 3]), depthwise=False)
            case "depthwise" if channels_of(x) > 1:
                made = self.conv(x, random.choice([1, 3]), depthwise=True)
            case "max":
                made = self.add(MaxPool(**pool), x)
            case "mean":
                table = np.array([0, *[2**30] * 9], np.int32), np.array([33, *[33] * 9], np.int32)
                op = IntAveragePool(**pool, ceil_mode=False, count_include_pad=False, zp_in=low + 4, **self.range())
                made = self.add(op, x, *map(self.constant, table))
            case "add":
                terms: dict[str, Any] = {"multiplier_a": 2**19, "multiplier_b": 2**18 + 77, "shift": 20}
                made = self.add(IntAdd(zp_a=low + 1, zp_b=low + 2, **terms, **self.range()), x, random.choice(same))
            case "mul":
                scale: dict[str, Any] = {"multiplier": 2**30 + 5, "shift": 36}
                made = self.add(IntMul(zp_a=low + 7, zp_b=low + 99, **scale, **self.range()), x, random.choice(same))
            case "lut":
                entries = self.numbers.integers(0, 256, 256, dtype=np.uint8).view(self.dtype.numpy)
                made = self.add(IntLut(), x, self.constant(entries))
            case "rescale":
                made = self.add(IntRescale(zp_in=low + 3, multiplier=2**30, shift=30, **self.range()), x)
            case "cut" if channels_of(x) > 1:
                middle = random.randint(1, channels_of(x) - 1)
                if random.random() < 0.5:
                    made = self.add(Split(3, (middle, channels_of(x) - middle)), x)
                else:
                    made = self.add(Slice((3,), (middle,), (channels_of(x) - middle,), (1,)), x)
            case "stack":
                axis = random.choice([1, 2])
                tall = self.add(Concat(axis), x, random.choice(same))
                made = self.add(Slice((axis,), (random.randint(0, SIZE[axis - 1]),), (SIZE[axis - 1],), (1,)), *tall)
            case _:
                pieces = random.sample(self.known, random.randint(2, min(len(self.known), 4)))
                made = self.add(Concat(3), *pieces)
        self.known += made

    def finish(self) -> Graph:
        loose = [value for value in self.known if not value.is_used and value.producer is not None]
        for i, value in enumerate(dict.fromkeys([*loose, self.known[-1]])):
            self.graph.add_output(value, f"y{i}")
        return self.graph


def channels_of(value: Value) -> int:
    return int(value.type.shape[-1])


def feeds_of(graph: Graph, batch: int) -> dict[str, npt.NDArray[Any]]:
    rng = np.random.default_rng(batch)
    shapes = {v.name: (batch, *(int(d) for d in v.type.shape[1:])) for v in graph.inputs}
    return {v.name: rng.integers(0, 256, shapes[v.name], dtype=np.uint8).view(v.type.dtype.numpy) for v in graph.inputs}


@pytest.mark.parametrize("isa_name", isa.available())
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), batch=st.integers(1, 2))
def test_random_graphs_equal_the_reference(run_in_shares, isa_name: str, seed: int, batch: int):
    random = Random(seed)  # noqa: S311  # reproducible
    network = Network(random)
    for _ in range(random.randint(3, 14)):
        network.step()
    graph = network.finish()
    feeds = feeds_of(graph, batch)
    expected = reference.run(graph, feeds)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(isa.ENVIRONMENT_VARIABLE, isa_name)
        for shares in (1, 3):
            got = run_in_shares(graph, feeds, shares)
            assert all(np.array_equal(got[name], array) for name, array in expected.items())
        plan = Plan(lower(PackedModel(graph), {"N": batch}), threads=2)
        results = plan.run([feeds[v.name] for v in graph.inputs])
    for name, result in zip(graph.output_names, results, strict=True):
        assert np.array_equal(result, expected[name])


def layer(graph: Graph, x: Value, cout: int, kernel: int = 1) -> Value:
    """A convolution that keeps the size."""
    rng = np.random.default_rng(cout)
    weight = rng.integers(-127, 128, (cout, channels_of(x), kernel, kernel), dtype=np.int8)
    constants = weight, rng.integers(-99, 99, cout, dtype=np.int32)
    scale = np.full(cout, 2**30, np.int32), np.full(cout, 38, np.int32)
    op = IntConv((1, 1), (kernel // 2,) * 4, (1, 1), 1, 3, DType.U8, 5, 0, 255, "nhwc")
    return graph.add_node(op, [x, *(graph.add_constant(c) for c in (*constants, *scale))]).result


def pool(graph: Graph, x: Value) -> Value:
    return graph.add_node(MaxPool((3, 3), (1, 1), (1,) * 4, (1, 1), layout="nhwc"), [x]).result


def join(graph: Graph, *values: Value) -> Value:
    return graph.add_node(Concat(3), values).result


def fire_modules(graph: Graph, x: Value) -> Value:
    """Two modules of SqueezeNet."""
    for _ in range(2):
        x = layer(graph, x, 8)
        x = join(graph, layer(graph, x, 20), layer(graph, x, 24, 3))
    return x


def skip_connections(graph: Graph, x: Value) -> Value:
    """The skip connections of a U-Net, one inside of another; pooling reads what is kept for later."""
    outer = layer(graph, x, 16, 3)
    inner = layer(graph, pool(graph, outer), 24, 3)
    deepest = layer(graph, pool(graph, inner), 8)
    return join(graph, outer, layer(graph, join(graph, inner, deepest), 16, 3))


def dense_block(graph: Graph, x: Value) -> Value:
    """Each layer reads all that came before it, as PyTorch's DenseNet says it."""
    features = [layer(graph, x, 16)]
    for i in range(4):
        seen = join(graph, *features) if len(features) > 1 else features[0]
        features.append(layer(graph, layer(graph, seen, 32), 8 + i, 3))
    return join(graph, *features)


def growing_block(graph: Graph, x: Value) -> Value:
    """The same with one concatenation for each layer."""
    for i in range(4):
        x = join(graph, x if i else layer(graph, x, 16), layer(graph, layer(graph, x, 32), 8 + i, 3))
    return x


def cross_stage(graph: Graph, x: Value) -> Value:
    """A block that splits channels, goes on with one part, and concatenates all of it."""
    first, second = graph.add_node(Split(3, (16, 16)), [layer(graph, x, 32)]).results
    third = layer(graph, layer(graph, second, 16, 3), 16)
    return layer(graph, join(graph, first, second, third, pool(graph, third)), 24)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(
    "network", [fire_modules, skip_connections, dense_block, growing_block, cross_stage], ids=lambda f: f.__name__
)
def test_no_instruction_moves_what_is_concatenated(run_in_shares, network, batch: int):
    graph = Graph("network", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, ("N", 8, 7, 16)))
    graph.add_output(network(graph, x), "y")
    program = lower(PackedModel(graph), {"N": batch})
    assert {i.kernel for i in program.instructions} <= {"int_conv", "max_pool8"}
    placement = place(program)
    verify_placement(program, placement)
    assert placement.peak_bytes == placement.lower_bound_bytes
    feeds = feeds_of(graph, batch)
    expected = reference.run(graph, feeds)["y"]
    assert len(np.unique(expected)) > 20
    for shares in (1, 2):
        assert np.array_equal(run_in_shares(graph, feeds, shares)["y"], expected)


def test_what_a_kernel_cannot_read_in_rows_is_not_placed_there(run_in_shares):
    graph = Graph("network", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, ("N", 8, 7, 16)))
    kept = layer(graph, x, 16)
    graph.add_output(join(graph, kept, layer(graph, x, 8)), "y")
    padded = graph.add_node(IntPad((0, 1, 0, 0, 0, 0, 0, 0), 7), [kept]).result
    graph.add_output(padded, "z")
    assert [i.kernel for i in lower(PackedModel(graph), {"N": 1}).instructions] == ["int_conv"] * 2 + ["copy", "pad"]
    feeds = feeds_of(graph, 1)
    expected, got = reference.run(graph, feeds), run_in_shares(graph, feeds, 2)
    assert all(np.array_equal(got[name], array) for name, array in expected.items())


@pytest.mark.parametrize(
    "op", [Transpose((0, 3, 1, 2)), Transpose((0, 2, 1, 3)), DepthToSpace((2, 2), "DCR", "nhwc")], ids=repr
)
def test_a_part_of_a_longer_concatenation_is_walked_by_its_rows(run_in_shares, op: Op):
    graph = Graph("network", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, ("N", 8, 7, 16)))
    first, second = layer(graph, x, 16), layer(graph, x, 24)
    graph.add_output(graph.add_node(op, [join(graph, first, second)]).result, "y")
    graph.add_output(join(graph, first, second, layer(graph, x, 8)), "z")
    feeds = feeds_of(graph, 2)
    expected, got = reference.run(graph, feeds), run_in_shares(graph, feeds, 2)
    assert all(np.array_equal(got[name], array) for name, array in expected.items())


WORDS = {"move": ("a", "out")}


def in_rows() -> Program:
    """y = [a, b] along rows of 3 and 5 bytes, z a copy of b, each moved by a kernel."""
    build = ProgramBuilder()
    x = build.input("x", DType.U8, (4, 3))
    w = build.constant("w", np.arange(20, dtype=np.uint8).reshape(4, 5))
    whole = build.tensor("whole", DType.U8, (4, 8))
    a = build.slice(whole, "a", (4, 3), offset=0)
    b = build.slice(whole, "b", (4, 5), offset=3)
    z = build.tensor("z", DType.U8, (4, 5))
    build.emit("move", {"a": x, "out": a}, writes=("out",), pitched=("a", "out"))
    build.emit("move", {"a": w, "out": b}, writes=("out",), pitched=("a", "out"))
    build.emit("move", {"a": b, "out": z}, writes=("out",), pitched=("a", "out"))
    build.output("y", whole)
    build.output("z", z)
    return build.finish()


def buffer_named(program: Program, name: str) -> Buffer:
    return next(b for b in program.buffers if b.name == name)


def with_instructions(program: Program, *instructions) -> Program:
    return dataclasses.replace(program, instructions=instructions)


def test_rows_are_parts_of_their_parent():
    program = in_rows()
    verify_program(program, WORDS)
    a, b = (buffer_named(program, name) for name in "ab")
    assert (a.pitch, a.row_bytes, a.extent, b.extent) == (8, 3, (0, 27), (3, 32))
    assert f"{b} output u8[4,5] 29 = %2+3 pitch 8 b" in program.text()


def test_one_row_is_contiguous():
    build = ProgramBuilder()
    whole = build.tensor("whole", DType.U8, (1, 8))
    assert build.slice(whole, "part", (1, 3), offset=2).pitch == 0
    assert build.slice(whole, "none", (4, 0), offset=0).nbytes == 0


def test_a_slice_of_a_slice_keeps_the_pitch():
    build = ProgramBuilder()
    half = build.slice(build.tensor("whole", DType.U8, (4, 16)), "half", (4, 8), offset=8)
    part = build.slice(half, "part", (4, 2), offset=5)
    assert (part.pitch, part.extent) == (16, (13, 63))


def test_rows_that_are_not_all_written_are_not_read():
    program = in_rows()
    first, _, last = program.instructions
    with pytest.raises(VerifyError, match=r"operand 'a' reads %4 \('b'\) before all of it is written"):
        verify_program(with_instructions(program, first, last), WORDS)
    with pytest.raises(VerifyError, match=r"output 'y' reads %2 .*before all of it is written"):
        verify_program(dataclasses.replace(with_instructions(program, first), outputs=program.outputs[:1]), WORDS)


def test_rows_are_written_once():
    program = in_rows()
    first, second, last = program.instructions
    with pytest.raises(VerifyError, match=r"'out' writes %3 \('a'\), which has been written before"):
        verify_program(with_instructions(program, first, first, second, last), WORDS)


def test_a_kernel_does_not_write_the_rows_that_it_reads():
    program = in_rows()
    first, second, last = program.instructions
    a = buffer_named(program, "a")
    with pytest.raises(VerifyError, match="'out' writes bytes of 'a'"):
        verify_program(
            with_instructions(program, first, second, dataclasses.replace(last, operands={"a": a, "out": a})), WORDS
        )


def test_a_kernel_may_read_the_columns_beside_those_that_it_writes():
    program = in_rows()
    build = ProgramBuilder()
    whole = build.tensor("whole", DType.U8, (4, 6))
    w = build.constant("w", np.zeros((4, 3), np.uint8))
    left, right = (build.slice(whole, name, (4, 3), offset=at) for name, at in (("left", 0), ("right", 3)))
    build.emit("move", {"a": w, "out": left}, writes=("out",), pitched=("a", "out"))
    build.emit("move", {"a": left, "out": right}, writes=("out",), pitched=("a", "out"))
    build.output("y", whole)
    program = build.finish()
    verify_program(program, WORDS)
    shifted = dataclasses.replace(buffer_named(program, "right"), offset=2)
    instruction = dataclasses.replace(program.instructions[1], operands={"a": left, "out": shifted})
    buffers = tuple(shifted if b.name == "right" else b for b in program.buffers)
    broken = dataclasses.replace(program, buffers=buffers, instructions=(program.instructions[0], instruction))
    with pytest.raises(VerifyError, match="'out' writes bytes of 'a'"):
        verify_program(broken, WORDS)


def test_a_kernel_has_to_be_told_of_rows():
    program = in_rows()
    first, second, last = program.instructions
    told = dataclasses.replace(last, pitched=("out",))
    with pytest.raises(VerifyError, match="operand 'a' is %4, whose rows are apart, which the kernel is not told"):
        verify_program(with_instructions(program, first, second, told), WORDS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pitch": 4}, "has a pitch of 4, but no rows"),
        ({"pitch": 9}, "29 bytes are not the size of its rows"),
        ({"offset": 4}, "reaches outside"),
        ({"parent": None, "offset": 0}, "has a pitch of 8, but no rows"),
    ],
)
def test_inconsistent_rows_are_refused(changes: dict[str, Any], reason: str):
    program = in_rows()
    old = buffer_named(program, "b")
    new = dataclasses.replace(old, **changes)
    buffers = tuple(new if b is old else b for b in program.buffers)
    with pytest.raises(VerifyError, match=reason):
        verify_program(dataclasses.replace(program, buffers=buffers), WORDS)


def test_a_view_of_rows_stays_within_them():
    build = ProgramBuilder()
    whole = build.tensor("whole", DType.U8, (4, 16))
    half = build.slice(whole, "half", (4, 8), offset=0)
    build.slice(half, "beyond", (3, 4), offset=6)
    with pytest.raises(VerifyError, match=r"'beyond'.* is not within the rows of .*'half'"):
        verify_program(build.finish(), WORDS)


def test_an_output_has_no_gaps():
    build = ProgramBuilder()
    whole = build.constant("whole", np.zeros((4, 16), np.uint8))
    build.output("y", build.slice(whole, "half", (4, 8), offset=0))
    with pytest.raises(VerifyError, match=r"output 'y': .*is pitched"):
        verify_program(build.finish(), WORDS)


def test_rows_are_kept_with_a_program(tmp_path: Path):
    program = in_rows()
    path = tmp_path / "x.program"
    path.write_bytes(prepared.to_bytes(prepared.Kept(program, WORDS, {}, "generic")))
    kept = prepared.read(path)
    assert kept is not None
    assert kept.program.buffers == program.buffers
    assert [i.pitched for i in kept.program.instructions] == [("a", "out")] * 3
    verify_program(kept.program, WORDS)
