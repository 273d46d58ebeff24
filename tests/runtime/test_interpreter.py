"""Plans: right results for any program, threads, callers and kinds of arrays; and the cache of plans."""

import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import RuntimeInputError, UsageError, VerifyError
from qcompiler.ir.types import AnyArray, DType
from qcompiler.runtime.interpreter import Plan, PlanCache, Shapes
from qcompiler.runtime.kernels.memory import load_s64, load_u8, store_s32, store_u8
from qcompiler.runtime.kernels.registry import kernel
from qcompiler.runtime.program import ALIGNMENT, Operand, Program, Storage
from qcompiler.runtime.program_builder import ProgramBuilder

Bytes = npt.NDArray[np.uint8]


def run_planned(plans: PlanCache, inputs: list[Bytes]) -> list[AnyArray]:
    """Run the plan for arrays of these shapes, made if need be."""
    return plans.plan_for(tuple(array.shape for array in inputs)).run(inputs)


@kernel("test_mix", words=("a", "b", "out", "count", "factor"))
def mix(operands: int, share: int, shares: int) -> None:
    """out = a * factor + b, modulo 256."""
    a, b, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    count, factor = load_s64(operands, 3), load_s64(operands, 4)
    for i in range(count * share // shares, count * (share + 1) // shares):
        store_u8(out, i, load_u8(a, i) * factor + load_u8(b, i))


@kernel("test_reversed", words=("a", "scratch", "out", "count"))
def reverse(operands: int, share: int, _shares: int) -> None:
    """out = a backwards, through scratch memory; not divisible."""
    a, scratch, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    count = load_s64(operands, 3)
    if share == 0:
        for i in range(count):
            store_u8(scratch, i, load_u8(a, count - 1 - i))
        for i in range(count):
            store_u8(out, i, load_u8(scratch, i))


@kernel("test_widen", words=("a", "out", "count"))
def widen(operands: int, share: int, shares: int) -> None:
    """out: s32 = a: u8."""
    a, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    for i in range(count * share // shares, count * (share + 1) // shares):
        store_s32(out, i, load_u8(a, i))


COUNT = 96
COST = 100_000.0  # of an instruction: a few of them are worth helper threads


class Model:
    """A random program over u8[COUNT] values, built together with its twin in NumPy."""

    def __init__(self) -> None:
        self.build = ProgramBuilder()
        self.values = [self.build.input(name, DType.U8, (COUNT,)) for name in ("x", "y")]
        weights = np.random.default_rng(7).integers(0, 256, COUNT).astype(np.uint8)
        self.values.append(self.build.constant("w", weights))
        self.steps: list[tuple[int, int, int]] = []  # a, b, factor; or a, -1, 0 for reversed
        self.weights = weights

    def mix(self, a: int, b: int, factor: int, *, in_place: str | None) -> None:
        out = self.build.tensor(f"t{len(self.values)}", DType.U8, (COUNT,))
        self.build.emit(
            "test_mix",
            {"a": self.values[a], "b": self.values[b], "out": out, "count": COUNT, "factor": factor},
            writes=("out",),
            overwrites={"out": in_place} if in_place else {},
            shares=COUNT,
            cost=COST,
        )
        self.values.append(out)
        self.steps.append((a, b, factor))

    def reverse(self, a: int) -> None:
        out = self.build.tensor(f"t{len(self.values)}", DType.U8, (8, COUNT // 8))
        scratch = self.build.tensor("scratch", DType.U8, (COUNT,))
        operands: dict[str, Operand] = {"a": self.values[a], "scratch": scratch, "out": out, "count": COUNT}
        self.build.emit("test_reversed", operands, writes=("out",), scratch=("scratch",), cost=COST)
        self.values.append(self.build.view(out, "flat", (COUNT,)))
        self.steps.append((a, -1, 0))

    def expected(self, x: Bytes, y: Bytes) -> list[Bytes]:
        values = [x, y, self.weights]
        for a, b, factor in self.steps:
            wide = values[a].astype(np.int64) * factor + values[b] if b >= 0 else values[a][::-1]
            values.append(wide.astype(np.uint8))
        return values


@st.composite
def models(draw: st.DrawFn) -> tuple[Model, list[int]]:
    """A model and the values that are its outputs, inputs and constants among them."""
    model = Model()
    for _ in range(draw(st.integers(1, 10))):
        value = st.integers(0, len(model.values) - 1)
        if draw(st.integers(0, 3)):
            in_place = draw(st.sampled_from(["a", "b", None]))
            model.mix(draw(value), draw(value), draw(st.integers(0, 5)), in_place=in_place)
        else:
            model.reverse(draw(value))
    outputs = draw(st.lists(st.integers(0, len(model.values) - 1), min_size=1, max_size=3))
    for index, value_index in enumerate(outputs):
        model.build.output(f"out{index}", model.values[value_index])
    return model, outputs


def images(seed: int) -> tuple[Bytes, Bytes]:
    random = np.random.default_rng(seed)
    x, y = random.integers(0, 256, (2, COUNT)).astype(np.uint8)
    return x, y


@given(models(), st.integers(1, 3))
@settings(max_examples=100)
def test_equals_its_twin(drawn: tuple[Model, list[int]], threads: int):
    model, outputs = drawn
    plan = Plan(model.build.finish(), threads)
    for seed in range(3):
        x, y = images(seed)
        results = plan.run([x, y])
        expected = model.expected(x, y)
        for result, value in zip(results, outputs, strict=True):
            assert np.array_equal(result.reshape(-1), expected[value])


def long_model(steps: int = 30) -> tuple[Model, Program]:
    model = Model()
    for step in range(steps):
        model.mix(len(model.values) - 1, step % 3, 3, in_place="a")
        if step % 7 == 6:
            model.reverse(len(model.values) - 1)
    model.build.output("out", model.values[-1])
    return model, model.build.finish()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_callers_at_the_same_time(threads: int):
    model, program = long_model()
    plan = Plan(program, threads)
    wrong: list[int] = []

    def call(caller: int) -> None:
        x, y = images(caller)
        expected = model.expected(x, y)[-1]
        wrong.extend(caller for _ in range(100) if not np.array_equal(plan.run([x, y])[0], expected))

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []
    assert plan.retained_bytes <= 6 * plan.arena_bytes


def run_in_child(check: Callable[[], bool]) -> bool:
    """What `check` says in a forked child."""
    child = os.fork()
    if child == 0:
        passed = False
        try:
            passed = check()
        finally:
            os._exit(0 if passed else 1)
    return os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_runs_the_same_plan():
    model, program = long_model()
    plan = Plan(program, 2)
    x, y = images(0)
    expected = model.expected(x, y)[-1]
    plan.run([x, y])
    assert run_in_child(lambda: all(np.array_equal(plan.run([x, y])[0], expected) for _ in range(20)))
    assert np.array_equal(plan.run([x, y])[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_another_thread_makes_a_plan():
    model, program = long_model()
    x, y = images(0)
    expected = model.expected(x, y)[-1]
    building, forked = threading.Event(), threading.Event()

    def build(_shapes: Shapes) -> Program:
        building.set()
        forked.wait(20)
        return program

    plans = PlanCache(build, 2)
    builder = threading.Thread(target=run_planned, args=(plans, [x, y]))
    builder.start()
    building.wait(20)

    def check() -> bool:
        signal.alarm(20)  # ends a child that waits for the lock of a thread that is not there
        forked.set()
        return np.array_equal(run_planned(plans, [x, y])[0], expected)

    assert run_in_child(check)
    forked.set()
    builder.join()
    assert np.array_equal(run_planned(plans, [x, y])[0], expected)


def test_results_belong_to_the_caller():
    model, program = long_model()
    plan = Plan(program)
    x, y = images(0)
    first = plan.run([x, y])[0]
    kept = first.copy()
    second = plan.run(list(images(1)))[0]
    assert np.array_equal(first, kept)
    assert not np.shares_memory(first, second)
    assert first.ctypes.data % ALIGNMENT == 0
    assert first.flags.writeable
    assert np.array_equal(kept, model.expected(x, y)[-1])


def test_outputs_that_are_no_results_of_their_own_are_copied():
    """An output twice, a part of it, an input, a constant, and a view of a value inside the arena."""
    model = Model()
    model.mix(0, 1, 3, in_place=None)
    model.mix(3, 1, 5, in_place="a")
    build, (x_in, _, w, inner, last) = model.build, model.values
    build.output("last", last)
    build.output("again", build.view(last, "square", (8, 12)))
    build.output("part", build.view(last, "part", (5,), offset=90))
    build.output("x", x_in)
    build.output("w", w)
    build.output("inner", build.view(inner, "middle", (10,), offset=40))
    program = build.finish()
    assert program.storage(inner) is Storage.ARENA
    x, y = images(3)
    results = Plan(program).run([x, y])
    values = model.expected(x, y)
    expected = [values[4], values[4].reshape(8, 12), values[4][90:95], x, model.weights, values[3][40:50]]
    for result, value in zip(results, expected, strict=True):
        assert np.array_equal(result, value)
    for i, result in enumerate(results):
        assert not any(np.shares_memory(result, other) for other in [*results[:i], x, w, model.weights])


@pytest.mark.parametrize("kind", ["strided", "read-only", "unaligned", "fortran"])
def test_inputs_of_every_layout(kind: str):
    build = ProgramBuilder()
    a = build.input("a", DType.U8, (6, 4))
    out = build.tensor("out", DType.S32, (6, 4))
    build.emit("test_widen", {"a": a, "out": out, "count": 24}, writes=("out",))
    build.output("out", out)
    data = np.arange(24, dtype=np.uint8).reshape(6, 4)
    given_array = {
        "strided": np.repeat(data, 3, axis=1)[:, ::3],
        "read-only": np.frombuffer(data.tobytes(), np.uint8).reshape(6, 4),
        "unaligned": np.frombuffer(b"x" + data.tobytes(), np.uint8)[1:].reshape(6, 4),
        "fortran": np.asfortranarray(data),
    }[kind]
    (result,) = Plan(build.finish()).run([given_array])
    assert result.dtype == np.int32
    assert np.array_equal(result, data)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2)])
def test_scalars_and_empty_tensors(shape: tuple[int, ...]):
    build = ProgramBuilder()
    a, out = build.input("a", DType.U8, shape), build.tensor("out", DType.S32, shape)
    operands: dict[str, Operand] = {"a": a, "out": out, "count": int(np.prod(shape))}
    build.emit("test_widen", operands, writes=("out",), shares=4)
    build.output("out", out)
    data = np.full(shape, 200, np.uint8)
    (result,) = Plan(build.finish()).run([data])
    assert result.shape == shape
    assert np.array_equal(result, data)


def test_padded_buffers_come_back_without_padding():
    build = ProgramBuilder()
    a, out = build.input("a", DType.U8, (10,)), build.tensor("out", DType.S32, (10,), nbytes=256)
    build.emit("test_widen", {"a": a, "out": out, "count": 10}, writes=("out",))
    build.output("out", out)
    (result,) = Plan(build.finish()).run([np.arange(10, dtype=np.uint8)])
    assert result.tolist() == list(range(10))


def test_refuses_inputs_that_do_not_fit():
    _, program = long_model(1)
    plan = Plan(program)
    x, y = images(0)
    with pytest.raises(RuntimeInputError, match="1 arrays were given for 2 inputs"):
        plan.run([x])
    with pytest.raises(RuntimeInputError, match=r"input 'y' is int8\[96\], but must be uint8\[96\]"):
        plan.run([x, y.astype(np.int8)])
    with pytest.raises(RuntimeInputError, match=r"input 'x' is uint8\[95\], but must be uint8\[96\]"):
        plan.run([x[1:], y])


@pytest.mark.parametrize("threads", [0, -1])
def test_refuses_no_threads(threads: int):
    with pytest.raises(UsageError, match="threads must be at least 1"):
        Plan(long_model(1)[1], threads)


def test_a_bad_program_is_never_run():
    build = ProgramBuilder()
    a, out = build.tensor("a", DType.U8, (10,)), build.tensor("out", DType.S32, (10,))
    build.emit("test_widen", {"a": a, "out": out, "count": 10}, writes=("out",))
    build.output("out", out)
    with pytest.raises(VerifyError, match="reads %0"):
        Plan(build.finish())


def test_an_interrupted_call_leaves_the_plan_usable(monkeypatch: pytest.MonkeyPatch):
    model, program = long_model()
    plan = Plan(program, 2)
    x, y = images(0)
    plan.run([x, y])
    (instance,) = plan._free

    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(instance._context, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        plan.run([x, y])
    assert plan.retained_bytes == 0
    assert np.array_equal(plan.run([x, y])[0], model.expected(x, y)[-1])
    assert plan.retained_bytes == plan.arena_bytes


def test_text_has_the_offsets():
    _, program = long_model(3)
    plan = Plan(program)
    assert plan.text() == program.text(plan.placement.offsets)
    assert "@0 t3" in plan.text()


def test_every_instruction_is_timed_and_the_plan_stays_right():
    _, program = long_model(3)
    plan = Plan(program)
    x, y = images(11)
    expected = plan.run([x, y])
    times = plan.time_instructions([x, y], rounds=3)
    assert len(times) == len(program.instructions)
    assert all(0 < t < 10**9 for t in times)
    assert all(np.array_equal(a, b) for a, b in zip(plan.run([x, y]), expected, strict=True))


def widening(shapes: Shapes) -> Program:
    """s32 of u8, of any shape, through 64-byte steps in the arena."""
    build = ProgramBuilder()
    a = build.input("a", DType.U8, shapes[0])
    count = int(np.prod(shapes[0]))
    wide, out = build.tensor("wide", DType.S32, shapes[0]), build.tensor("out", DType.U8, (count,))
    build.emit("test_widen", {"a": a, "out": wide, "count": count}, writes=("out",))
    low = build.view(wide, "bytes", (count,), dtype=DType.U8)
    operands: dict[str, Operand] = {"a": low, "b": a, "out": out, "count": count, "factor": 1}
    build.emit("test_mix", operands, writes=("out",))
    build.output("out", out)
    return build.finish()


def widened(data: Bytes) -> Bytes:
    return data.astype(np.int32).reshape(-1).view(np.uint8)[: data.size] + data.reshape(-1)


def test_a_plan_for_each_shape():
    built: list[Shapes] = []

    def build(shapes: Shapes) -> Program:
        built.append(shapes)
        return widening(shapes)

    plans = PlanCache(build, max_plans=2)
    for rows in (1, 2, 1, 7, 1, 2):
        data = np.arange(rows * 5, dtype=np.uint8).reshape(rows, 5)
        (result,) = run_planned(plans, [data])
        assert np.array_equal(result, widened(data))
    # 2 was used before 1 when 7 came, so it was dropped.
    assert built == [((1, 5),), ((2, 5),), ((7, 5),), ((2, 5),)]
    assert len(plans) == 2


def test_plans_are_bounded_in_bytes():
    plans = PlanCache(widening, max_plans=100, max_bytes=3 * 4096)
    for rows in range(1, 9):
        run_planned(plans, [np.zeros((rows, 1024), np.uint8)])
        held = [p.arena_bytes for p in plans._plans.values()]
        assert sum(held) <= 3 * 4096 or len(held) == 1
    assert held == [8 * 4096]


def test_a_failing_build_leaves_the_cache_usable():
    def build(shapes: Shapes) -> Program:
        if shapes[0][0] == 3:
            raise UsageError("no batch of 3")
        return widening(shapes)

    plans = PlanCache(build)
    with pytest.raises(UsageError, match="no batch of 3"):
        run_planned(plans, [np.zeros((3, 2), np.uint8)])
    (result,) = run_planned(plans, [np.ones((2, 2), np.uint8)])
    assert np.array_equal(result, widened(np.ones((2, 2), np.uint8)))


def test_known_shapes_do_not_wait_for_a_plan_in_the_making():
    building, used = threading.Event(), threading.Event()

    def build(shapes: Shapes) -> Program:
        if shapes == ((2, 4),):
            building.set()
            assert used.wait(20)
        return widening(shapes)

    plans = PlanCache(build)
    known, new = np.ones((1, 4), np.uint8), np.ones((2, 4), np.uint8)
    run_planned(plans, [known])
    results: list[AnyArray] = []
    builder = threading.Thread(target=lambda: results.extend(run_planned(plans, [new])))
    builder.start()
    assert building.wait(20)
    assert np.array_equal(run_planned(plans, [known])[0], widened(known))
    used.set()
    builder.join()
    assert np.array_equal(results[0], widened(new))


def test_dropped_plans_are_freed():
    plans = PlanCache(widening, max_plans=1)
    run_planned(plans, [np.zeros((1, 4), np.uint8)])
    first = weakref.ref(plans.plan_for(((1, 4),)))
    run_planned(plans, [np.zeros((2, 4), np.uint8)])
    gc.collect()
    assert first() is None
