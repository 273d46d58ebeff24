import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qcompiler.runtime import isa, walk_loops
from qcompiler.runtime.kernels import images, registry, workers
from qcompiler.runtime.kernels.registry import kernel, kernel_named
from qcompiler.runtime.kernels.workers import Job, divide, kept_workers

pytestmark = pytest.mark.skipif(not images.SUPPORTED, reason="workers make images, which are for Linux on x86-64")

BROKEN = [Job("qcompiler.runtime.no_such_module", "f", per_isa=n == 3, isa="generic") for n in range(4)]

# Three kernels, on two processors; the first that this process compiles takes as long as a worker does for the others.
RUN = """
import os, time
exec(os.environ.get("PREPARE", ""))
from qcompiler.runtime import lowering, walk_loops
from qcompiler.runtime.kernels import registry, workers

workers.free_processors = lambda: 2
kernels = [walk_loops.CALL, walk_loops.HELP, registry.kernel_named("interleave3")]
compile_here, here, told = registry.Kernel._compile, [], []
start = workers._Worker.__init__

def noted(worker, first):
    start(worker, first)
    print(worker._process.pid, flush=True)

def slowly(kernel, emitted):
    here.append(kernel.name)
    end = time.monotonic() + 60
    while not all(k.load() for k in kernels if k is not kernel) and time.monotonic() < end:
        time.sleep(0.02)
    return compile_here(kernel, emitted)

workers._Worker.__init__, registry.Kernel._compile = noted, slowly
registry.addresses_of(kernels, lambda *step: told.append(step))
print(here, told, all(k.image_for("generic") for k in kernels))
"""


def environment(cache: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    path = os.pathsep.join(filter(None, sys.path))
    return {**kept, "PYTHONPATH": path, "QCOMPILER_CACHE_DIR": str(cache), "QCOMPILER_ISA": "generic", **more}


@pytest.fixture
def two_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache's directory, for a process that may keep two processors busy."""
    monkeypatch.setattr(workers, "free_processors", lambda: 2)
    monkeypatch.setenv("QCOMPILER_CACHE_DIR", str(tmp_path))
    return tmp_path


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def started(monkeypatch: pytest.MonkeyPatch) -> list[workers._Worker]:
    """The workers that are started from now on."""
    found: list[workers._Worker] = []
    begin = workers._Worker.__init__

    def noted(worker: workers._Worker, first: bytes) -> None:
        begin(worker, first)
        found.append(worker)

    monkeypatch.setattr(workers._Worker, "__init__", noted)
    return found


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""},
        {"PREPARE": "from numba import config; config.CPU_NAME, config.CPU_FEATURES = 'nehalem', ''"},
    ],
    ids=["default", "by the environment", "at run time"],
)
def test_a_worker_compiles_for_the_same_target(tmp_path: Path, more: dict[str, str]):
    """A target is part of the name of the directory that this process looks into."""
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, env=environment(tmp_path, **more), capture_output=True, text=True, check=True)
    pid, printed = done.stdout.splitlines()
    assert printed == "['call'] [('call', 0, 3)] True"
    assert not is_alive(int(pid))
    again = subprocess.run(command, env=environment(tmp_path, **more), capture_output=True, text=True, check=True)
    assert again.stdout == "[] [] True\n"


def test_an_interrupt_ends_workers_and_leaves_the_cache_valid(tmp_path: Path):
    command = [sys.executable, "-c", RUN]
    with subprocess.Popen(command, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        pid = int(run.stdout.readline())
        assert is_alive(pid)
        run.send_signal(signal.SIGINT)
        assert b"KeyboardInterrupt" in run.communicate(timeout=60)[1]
    # One that was just being started is not ended by its parent, but ends when it finds that there is none.
    end = time.monotonic() + 30
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not is_alive(pid)
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=True)
    assert done.stdout.endswith(" True\n")


def test_what_a_worker_cannot_do_is_left_to_the_caller(two_processors: Path, monkeypatch: pytest.MonkeyPatch):
    found = started(monkeypatch)
    order = divide(BROKEN, two_processors)
    assert next(order) == (3, 0)  # what takes long comes first
    (worker,) = found
    worker._process.wait(60)
    assert sorted(index for index, _ in order) == [0, 1, 2]


def test_a_worker_that_dies_is_done_without(two_processors: Path, monkeypatch: pytest.MonkeyPatch):
    found = started(monkeypatch)
    order = divide(BROKEN, two_processors)
    seen = [next(order)[0]]
    (worker,) = found
    worker._process.kill()
    seen += [index for index, _ in order]
    assert sorted(seen) == [0, 1, 2, 3]
    assert not is_alive(worker._process.pid)


@kernel("test_workers.nothing", words=())
def nothing(operands: int, share: int, shares: int) -> None:
    """Do nothing."""


def test_only_our_kernels_are_sent(two_processors: Path, monkeypatch: pytest.MonkeyPatch):
    assert registry._job(kernel_named("test_workers.nothing")) is None
    assert registry._job(walk_loops.CALL) == Job(
        "qcompiler.runtime.walk_loops", "_call", per_isa=False, isa=isa.current()
    )
    found = started(monkeypatch)
    assert [index for index, _ in divide([None] * 5, two_processors)] == [0, 1, 2, 3, 4]
    assert found == []


def test_no_worker_for_little_work_one_processor_or_an_unknown_command(
    two_processors: Path, monkeypatch: pytest.MonkeyPatch
):
    found = started(monkeypatch)

    def all_are_left(jobs: list[Job], directory: Path | None) -> bool:
        return sorted(index for index, _ in divide(jobs, directory)) == list(range(len(jobs)))

    assert all_are_left(BROKEN[:2], two_processors)
    assert all_are_left(BROKEN, None)
    assert all_are_left(BROKEN, two_processors / "missing")
    for command in (None, "", "/usr/bin/application"):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", command)
            assert all_are_left(BROKEN, two_processors)
    monkeypatch.setattr(workers, "free_processors", lambda: 1)
    assert all_are_left(BROKEN, two_processors)
    assert found == []


def test_one_process_has_workers_and_one_thread(two_processors: Path, monkeypatch: pytest.MonkeyPatch):
    found = started(monkeypatch)
    first = divide(BROKEN, two_processors)
    next(first)
    assert len(found) == 1
    assert len(list(divide(BROKEN, two_processors))) == 4
    assert len(list(first)) == 3
    locked = os.open(two_processors, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as another process does: it was free again
    assert len(list(divide(BROKEN, two_processors))) == 4
    os.close(locked)
    assert len(found) == 1


def test_workers_are_kept_for_a_while(two_processors: Path, monkeypatch: pytest.MonkeyPatch):
    found = started(monkeypatch)
    sane = [Job("qcompiler.runtime.walk_loops", "_call", per_isa=False, isa="generic")] * 3
    with kept_workers():
        for _ in range(2):
            list(divide(sane, two_processors))
        (worker,) = found
        assert is_alive(worker._process.pid)
    assert not is_alive(worker._process.pid)


def test_processors_that_others_keep_busy_are_not_free(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(workers, "usable_processors", lambda: 4)
    free = []
    for load in (0.0, 12.5, 13.9, 16.0, 40.0):
        monkeypatch.setattr(os, "getloadavg", lambda load=load: (load, 0.0, 0.0))
        free.append(workers.free_processors())
    assert free == [4, 4, 3, 0, -24]


def test_one_processor_is_free_where_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", refuse)
    assert workers.free_processors() == 1


def test_the_child_of_a_fork_keeps_no_workers_of_its_own():
    with kept_workers():
        child = os.fork()
        if child == 0:
            os._exit(int(workers._Team.keep))
        assert os.waitpid(child, 0)[1] == 0
