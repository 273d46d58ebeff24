"""Other processes that help to compile kernels which no cache has: they put them there.

Numba and LLVM compile under locks of their own, so threads gain nothing. A worker is a fresh interpreter: a fork would
have the locks of threads that it lacks, and what `multiprocessing` spawns would run the main module again. It says by
a byte on a socket that it is ready, gets one job at a time and answers each with a byte; it ends when the socket closes
or when it cannot do a job.

Nothing depends on the workers: what they fail to do is left to the process that started them.
"""

import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from qcompiler.runtime.cores import usable_processors
from qcompiler.runtime.kernels import images

WORTHWHILE = 3
"""Kernels from which on workers are started: each takes a second, or one to two kernels, to start Numba. Where other
processes keep the processors busy it is lost."""

MOST_PROCESSES = 4  # 180 MB each, and the longest of the kernels takes a fifth of the time of all
PATIENCE_S = 120.0  # without an answer; a kernel takes up to 3 s
_START = (
    "import json, socket, sys; connection = socket.socket(fileno=0); lines = connection.makefile();"
    " sys.path[:] = json.loads(lines.readline());"
    " from qcompiler.runtime.kernels.workers import serve; serve(connection, lines)"
)


@dataclass(frozen=True)
class Job:
    """A kernel to compile.

    Attributes:
        module: where its function is defined.
        function: the name of the function.
        per_isa: as of the kernel.
        isa: the primitive to compile it for.
    """

    module: str
    function: str
    per_isa: bool
    isa: str


def divide(jobs: Sequence[Job | None], directory: Path | None) -> Generator[tuple[int, int], None, None]:
    """Share jobs with workers: what is left for the caller to do, before it asks for the next.

    A job is over once it is done or has been left to the caller; when the iterator ends, all are.

    Args:
        jobs: of kernels that are not in the cache; None for what only this process can compile.
        directory: the cache's, if there is one; one process at a time has workers for it.

    Yields:
        The index of a job for the caller, and how many are over.
    """
    shared = deque(index for index, job in enumerate(jobs) if job is not None and job.per_isa)  # these take long
    shared += [index for index, job in enumerate(jobs) if job is not None and not job.per_isa]
    left = deque(index for index, job in enumerate(jobs) if job is None)
    over: list[int] = []
    with _workers_for(len(shared), directory) as workers:
        feeders = [threading.Thread(target=w.feed, args=(jobs, shared, left, over), daemon=True) for w in workers]
        for feeder in feeders:
            feeder.start()
        while (index := _next(left, shared)) is not None:
            yield index, len(over)
            over.append(index)
        for feeder in feeders:
            feeder.join()
        while (index := _next(left)) is not None:
            yield index, len(over)
            over.append(index)


def _next(*queues: deque[int]) -> int | None:
    for queue in queues:
        with suppress(IndexError):  # `deque` operations are atomic
            return queue.popleft()
    return None


@contextmanager
def kept_workers() -> Iterator[None]:
    """While kernels are compiled now and then: workers, once there are any, stay to compile the next."""
    outermost, _Team.keep = not _Team.keep, True
    try:
        yield
    finally:
        if outermost:
            _Team.keep = False
            with _Team.lock:
                team, _Team.kept = _Team.kept, None
            if team is not None:
                team.close()


@contextmanager
def _workers_for(jobs: int, directory: Path | None) -> Iterator[Sequence["_Worker"]]:
    """Those that have been kept or that pay for so many jobs; none if they cannot be had."""
    if not _Team.lock.acquire(blocking=False):  # another thread has them
        yield ()
        return
    try:
        team, _Team.kept = _Team.kept, None
        if team is None and images.SUPPORTED and directory is not None and jobs >= WORTHWHILE:
            team = _Team.start(min(free_processors(), MOST_PROCESSES, (jobs + 1) // 2) - 1, directory)
        if team is None:
            yield ()
            return
        finished = False
        try:
            yield team.workers
            finished = True
        finally:
            if finished and _Team.keep and all(worker.works for worker in team.workers):
                _Team.kept = team
            else:
                team.close()
    finally:
        _Team.lock.release()


class _Worker:
    """A process that waits for jobs.

    Attributes:
        works: whether it may be given another.
    """

    def __init__(self, first: bytes) -> None:
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603  # this interpreter
                [sys.executable, *_flags(), "-P", "-c", _START],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._connection.settimeout(PATIENCE_S)
        self._is_ready = False
        self.works = self._send(first)

    def feed(self, jobs: Sequence[Job | None], shared: deque[int], left: deque[int], over: list[int]) -> None:
        """Have jobs done until there is none; the index of one that failed goes to `left`, of the others to `over`."""
        if not self._is_ready:
            self._is_ready = self.works = self.works and self._answers()
        while self.works and (index := _next(shared)) is not None:
            job = jobs[index]
            self.works = job is not None and self._send(f"{json.dumps(astuple(job))}\n".encode()) and self._answers()
            (over if self.works else left).append(index)

    def _send(self, data: bytes) -> bool:
        try:
            self._connection.sendall(data, socket.MSG_NOSIGNAL)
        except OSError:
            return False
        return True

    def _answers(self) -> bool:
        try:
            return bool(self._connection.recv(1))
        except OSError:
            return False

    def end(self) -> None:
        """End the process, whatever it does."""
        self.works = False
        self._process.kill()
        self._process.wait()
        self._connection.close()

    def leave(self) -> None:
        """In the child of a fork: it is the parent's."""
        self._process.returncode = 0
        self._connection.close()


class _Team:
    """Workers and the lock of the cache's directory, by its descriptor."""

    lock = threading.Lock()
    keep = False
    kept: "_Team | None" = None

    def __init__(self, size: int, locked: int) -> None:
        self.workers: list[_Worker] = []
        self._locked = locked
        first = f"{json.dumps(list(map(str, sys.path)))}\n{json.dumps(_configuration())}\n"
        try:
            for _ in range(size):
                with suppress(OSError):  # no process or memory to be had
                    self.workers.append(_Worker(first.encode()))
        except BaseException:
            self.close()
            raise

    @staticmethod
    def start(size: int, directory: Path) -> "_Team | None":
        """So many workers; None if they cannot be had or another process has some, which do part of the work here."""
        if size < 1 or not _is_interpreter(sys.executable):
            return None
        import fcntl  # there on Linux, as all systems with images are

        try:
            locked = os.open(directory, os.O_RDONLY)
        except OSError:
            return None
        try:
            fcntl.flock(locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(locked)
            return None
        return _Team(size, locked)

    def close(self) -> None:
        for worker in self.workers:
            worker.end()
        os.close(self._locked)

    def leave(self) -> None:
        """In the child of a fork: they are its parent's."""
        for worker in self.workers:
            worker.leave()
        os.close(self._locked)


def _start_anew_in_child() -> None:
    _Team.lock = threading.Lock()  # a thread that the child lacks may hold it
    _Team.keep = False  # and would be the one to close a team that is kept
    team, _Team.kept = _Team.kept, None
    if team is not None:
        team.leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew_in_child)


def free_processors() -> int:
    """Processors that this process may use and that nothing kept busy in the last minute, on average.

    One where that cannot be told, as in a container without /proc.
    """
    try:
        load = os.getloadavg()[0]
    except OSError:
        return 1
    return min(usable_processors(), math.ceil((os.cpu_count() or 1) - load))


def _is_interpreter(path: str | None) -> bool:
    """Whether this is Python's command: that of an application with Python inside would start the application."""
    return bool(path) and Path(str(path)).name.startswith("python") and not getattr(sys, "frozen", False)


def _flags() -> list[str]:
    """Options that this process was started with, as far as they decide what is imported and written."""
    given = {
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
        "-S": sys.flags.no_site,
        "-B": sys.dont_write_bytecode,
    }
    return [flag for flag, is_on in given.items() if is_on]


def _configuration() -> dict[str, Any] | None:
    """Numba's options, which may not be what the environment says; None if Numba is not imported."""
    if "numba" not in sys.modules:
        return None
    from numba.core import config

    plain = (bool, int, float, str, type(None))
    return {name: value for name, value in vars(config).items() if name.isupper() and isinstance(value, plain)}


def serve(connection: socket.socket, lines: IO[str]) -> None:
    """Compile what is asked for: the work of a worker, whose first line is Numba's options, and the others jobs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; who started this one ends it
    configuration = json.loads(lines.readline())
    from numba.core import config

    here = vars(config)
    for name, value in ({} if configuration is None else configuration).items():
        if here.get(name) != value:
            here[name] = type(here[name])(value) if name == "OPT" else value  # of a class of Numba's
    from qcompiler.runtime.kernels.registry import Kernel

    connection.sendall(b"1")
    for line in lines:
        job = Job(*json.loads(line))
        function = getattr(import_module(job.module), job.function)
        Kernel(job.function, (), function, job.per_isa).address_for(job.isa)
        connection.sendall(b"1")
