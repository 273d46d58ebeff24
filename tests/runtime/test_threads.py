"""Helper threads: every share runs exactly once, whatever the threads, callers, forks and load."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from qcompiler.runtime import threads, walk
from qcompiler.runtime.atomics import now, spin_hint
from qcompiler.runtime.cores import cgroup_quota, usable_cores, usable_processors
from qcompiler.runtime.kernels.memory import load_s64, store_s64
from qcompiler.runtime.kernels.registry import kernel, kernel_named

SHARES = 64  # counters of a program: the most shares that an instruction is cut into
STEPS = (1, 2, 3, 4) * 25


@kernel("test_count", words=("counters", "step"))
def count(operands: int, share: int, shares: int) -> None:
    """Each of 64 counters += step; the share-th part of the counters."""
    counters, step = load_s64(operands, 0), load_s64(operands, 1)
    for i in range(SHARES * share // shares, SHARES * (share + 1) // shares):
        store_s64(counters, i, load_s64(counters, i) + step)


@dataclass
class Work:
    """An instruction, as the scheduler sees it."""

    shares: int
    cost: float


@dataclass
class Counting:
    """A context whose every call adds sum(STEPS) to each counter."""

    context: threads.Context
    counters: npt.NDArray[np.int64]
    calls: int = 0

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            self.context.run()
        self.calls += times

    @property
    def is_exact(self) -> bool:
        return bool((self.counters == self.calls * sum(STEPS)).all())


def counting(slots: int, *, shares: int = SHARES, cost: float = 500_000.0) -> Counting:
    """A program of 100 steps, each of this predicted cost (by default worth waking helpers and cutting finely)."""
    counters = np.zeros(SHARES, np.int64)
    operands = np.array([(counters.ctypes.data, step) for step in STEPS]).reshape(-1)
    address = kernel_named("test_count").address
    work = [Work(shares, cost)] * len(STEPS)
    schedule = threads.Schedule.of(work, [address] * len(STEPS), [2] * len(STEPS), slots)
    return Counting(threads.Context(schedule, operands, memory=(counters,)), counters)


def was_helped(program: Counting, slot: int) -> bool:
    """Whether a helper has taken part in this slot, and left again."""
    return bool(program.context.words[program.context._place(slot, walk.SEEN)] >= 0)


@pytest.fixture(params=[1, 2, 4], ids=lambda n: f"{n}-processors")
def processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A pool of its own for the test, of as many threads as if there were that many processors."""
    pool = threads.Pool(request.param)
    monkeypatch.setattr(threads._Process, "pool", pool)
    yield request.param
    pool.close()


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("shares", [1, 2, 5, SHARES])
@pytest.mark.usefixtures("processors")
def test_each_share_runs_once(slots: int, shares: int):
    program = counting(slots, shares=shares)
    program.run(times=200)
    assert program.is_exact


@kernel("test_rotate", words=("source", "target"))
def rotate(operands: int, share: int, shares: int) -> None:
    """target[i] = source[i + 1] + 1, cyclically: each share reads what another one wrote before."""
    source, target = load_s64(operands, 0), load_s64(operands, 1)
    for i in range(SHARES * share // shares, SHARES * (share + 1) // shares):
        store_s64(target, i, load_s64(source, (i + 1) % SHARES) + 1)


@pytest.mark.usefixtures("processors")
@pytest.mark.parametrize("slots", [2, 3, 8])
def test_an_instruction_follows_all_shares_of_the_one_before(slots: int):
    first, second = np.arange(SHARES), np.zeros(SHARES, np.int64)
    steps = 50
    there, back = (first.ctypes.data, second.ctypes.data), (second.ctypes.data, first.ctypes.data)
    operands = np.array([there, back] * (steps // 2)).reshape(-1)
    address = kernel_named("test_rotate").address
    work = [Work(SHARES, 500_000.0)] * steps
    schedule = threads.Schedule.of(work, [address] * steps, [2] * steps, slots)
    context = threads.Context(schedule, operands, memory=(first, second))
    for call in range(1, 301):
        context.run()
        done = call * steps
        assert first.tolist() == [(i + done) % SHARES + done for i in range(SHARES)]


def test_helpers_take_part(processors: int):
    program = counting(slots=8)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        program.run()
        present = [slot for slot in range(1, 8) if was_helped(program, slot)]
        if len(present) == processors - 1:
            break
    assert len(present) == processors - 1
    assert len(threads.pool()._helpers) == processors - 1
    assert program.is_exact


@pytest.mark.parametrize("cost", [0.0, 10.0])
def test_short_programs_wake_nobody(monkeypatch: pytest.MonkeyPatch, cost: float):
    pool = threads.Pool(4)
    monkeypatch.setattr(threads._Process, "pool", pool)
    program = counting(4, cost=cost)
    program.run(times=20)
    assert program.is_exact
    assert pool._helpers == []


@pytest.mark.usefixtures("processors")
def test_callers_at_the_same_time():
    programs = [counting(slots=1 + index % 3) for index in range(6)]
    callers = [threading.Thread(target=program.run, args=(300,)) for program in programs]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(program.is_exact for program in programs)


def test_a_lingering_helper_goes_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch):
    pool = threads.Pool(2)
    monkeypatch.setattr(threads._Process, "pool", pool)
    monkeypatch.setattr(threads, "LINGER_NS", 60 * 10**9)
    first, second = counting(slots=2), counting(slots=2)
    first.run()
    second.run()  # asks, while the only helper lingers with the first
    assert first.is_exact
    deadline = time.monotonic() + 20
    while not second.context.words[second.context._place(1, walk.PRESENT)] and time.monotonic() < deadline:
        time.sleep(0.001)
    assert second.context.words[second.context._place(1, walk.PRESENT)] == 1
    assert was_helped(first, slot=1)
    assert second.is_exact
    pool.close()


@pytest.mark.usefixtures("processors")
def test_alternating_programs_share_helpers():
    programs = [counting(slots=2), counting(slots=3)]
    for _ in range(200):
        for program in programs:
            program.run()
    assert all(program.is_exact for program in programs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.usefixtures("processors")
def test_fork_in_the_middle_of_calls():
    mine, other = counting(slots=2), counting(slots=3)
    mine.run(times=20)
    parents = threads.pool()
    stop = threading.Event()

    def keep_calling() -> None:
        while not stop.is_set():
            other.run()

    busy = threading.Thread(target=keep_calling)
    busy.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:  # the other thread does not exist here, whatever it was doing
                exact = False
                try:
                    fresh = counting(slots=2)
                    fresh.run(times=20)
                    mine.run(times=20)
                    exact = mine.is_exact and fresh.is_exact and threads.pool() is not parents
                finally:
                    os._exit(0 if exact else 1)
            mine.run(times=20)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        busy.join()
    assert mine.is_exact
    assert other.is_exact


@pytest.mark.usefixtures("processors")
def test_goes_on_alone_after_the_pool_is_closed():
    program = counting(slots=3)
    program.run(times=5)
    threads.pool().close()
    program.run(times=5)
    assert program.is_exact
    assert not any(helper.is_alive() for helper in threads.pool()._helpers)


def test_does_without_threads_that_cannot_start(monkeypatch: pytest.MonkeyPatch):
    def refuse(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threads._Process, "pool", threads.Pool(4))
    monkeypatch.setattr(threads._Helper, "start", refuse)
    program = counting(slots=4)
    program.run(times=5)
    assert program.is_exact


@pytest.mark.usefixtures("processors")
def test_idle_helpers_park():
    program = counting(slots=2)
    program.run(times=10)
    pool = threads.pool()
    deadline = time.monotonic() + 20
    while len(pool._parked) < len(pool._helpers) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert len(pool._parked) == len(pool._helpers)
    assert pool.shared[walk.HELPERS // 8] == 0
    assert pool.shared[walk.CALLERS // 8] == 0


@kernel("test_slow_second_share", words=("unused",))
def slow_second_share(_operands: int, share: int, _shares: int) -> None:
    """Share 1 takes 2 ms, as if its thread had lost its processor."""
    start = now()
    while share == 1 and now() - start < 2_000_000:
        spin_hint()


def test_no_help_is_asked_for_after_a_stall(monkeypatch: pytest.MonkeyPatch):
    pool = threads.Pool(2)
    monkeypatch.setattr(threads._Process, "pool", pool)
    address = kernel_named("test_slow_second_share").address
    schedule = threads.Schedule.of([Work(2, 500_000.0)], [address], [1], slots=2)
    context = threads.Context(schedule, np.zeros(1, np.int64))
    deadline = time.monotonic() + 20
    while pool.shared[walk.SOLO_UNTIL // 8] == 0 and time.monotonic() < deadline:
        context.run()
    assert pool.shared[walk.SOLO_WINDOW // 8] >= walk.SOLO_NS
    pool.shared[walk.SOLO_UNTIL // 8] = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 10**12
    program = counting(slots=2)
    program.run(times=5)
    assert not was_helped(program, slot=1)
    assert program.is_exact
    pool.close()


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
@pytest.mark.parametrize("cost", [0.0, 3_000.0, 1e6])
@pytest.mark.parametrize("shares", [1, 3, 7, 100])
def test_chunks_fit_shares_and_slots(slots: int, cost: float, shares: int):
    chunks = threads.chunks_of(Work(shares, cost), slots)
    assert 1 <= chunks <= shares
    assert chunks <= slots or chunks % slots == 0
    assert chunks <= slots * threads.CHUNKS_PER_SLOT
    if cost == 0.0:
        assert chunks == 1
    if cost == 1e6 and shares >= slots:
        assert chunks >= slots


@pytest.mark.parametrize("slots", [1, 2, 3, 8])
def test_tickets_of_a_table_deal_out_every_chunk_once(slots: int):
    chunk_counts = [1, slots, 3 * slots, max(1, slots - 1)]
    table = walk.instruction_table([(0, 0, chunks) for chunks in chunk_counts], slots)
    for row, chunks in enumerate(chunk_counts):
        dealt = [
            int(table[row, 4 + 2 * slot]) + ticket
            for slot in range(slots)
            for ticket in range(int(table[row + 1, 3 + 2 * slot] - table[row, 3 + 2 * slot]))
        ]
        assert dealt == list(range(chunks))


def test_cgroup_v2_takes_the_tightest_limit(tmp_path: Path):
    (tmp_path / "cgroup").write_text("0::/outer/inner\n")
    (tmp_path / "outer" / "inner").mkdir(parents=True)
    (tmp_path / "outer" / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "outer" / "inner" / "cpu.max").write_text("max 100000\n")
    assert cgroup_quota(tmp_path / "cgroup", tmp_path) == 1.5


def test_cgroup_v1_limit(tmp_path: Path):
    (tmp_path / "cgroup").write_text("4:memory:/x\n3:cpu,cpuacct:/job\n0::/\n")
    job = tmp_path / "cpu" / "job"
    job.mkdir(parents=True)
    (job / "cpu.cfs_quota_us").write_text("300000\n")
    (job / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_quota(tmp_path / "cgroup", tmp_path) == 3.0
    (job / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(tmp_path / "cgroup", tmp_path) is None


def test_no_control_groups(tmp_path: Path):
    assert cgroup_quota(tmp_path / "missing", tmp_path) is None


def test_loops_of_a_second_process_come_from_the_cache(tmp_path: Path):
    script = (
        "from qcompiler.runtime import threads\n"
        "seen = []\n"
        "threads.compile_loops(lambda *step: seen.append(step))\n"
        "print(seen)\n"
    )
    environment = {**os.environ, "QCOMPILER_CACHE_DIR": str(tmp_path)}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    printed = [
        subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert printed == ["[('call', 0, 2), ('help', 1, 2)]", "[]"]


def test_affinity_limits_the_cores():
    assert 1 <= usable_cores() <= usable_processors() <= (os.cpu_count() or 1)
