"""How many processor cores this process may use: affinity, control groups, simultaneous multithreading."""

import os
from collections.abc import Callable
from pathlib import Path

from qcompiler.errors import UsageError

_CGROUP = Path("/sys/fs/cgroup")
_CPUS = Path("/sys/devices/system/cpu")


def usable_processors() -> int:
    """Logical processors that this process may keep busy at the same time, at least 1."""
    return _within_quota(len(_allowed()))


def usable_cores() -> int:
    """Physical cores that this process may keep busy at the same time, at least 1: the default thread count.

    Two threads on the two logical processors of one core share its multipliers, so they gain next to nothing.
    """
    cores = {_siblings(cpu) for cpu in _allowed()}
    return _within_quota(len(cores))


def thread_count(threads: object) -> int:
    """`threads`, or as many as there are usable cores for None.

    Raises:
        UsageError: it is not a positive integer.
    """
    if threads is None:
        return usable_cores()
    if not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads must be at least 1 and a whole number, not {threads!r}")
    return threads


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _siblings(cpu: int) -> str:
    """The logical processors of the core of `cpu`, in whatever notation; `cpu` itself where nobody says."""
    try:
        return (_CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text()
    except OSError:
        return str(cpu)


def _within_quota(processors: int) -> int:
    quota = cgroup_quota()
    return max(1, processors if quota is None else min(processors, int(quota)))


def cgroup_quota(membership: Path = Path("/proc/self/cgroup"), mount: Path = _CGROUP) -> float | None:
    """The tightest CPU limit, in processors, of this process's control groups (v1 or v2); None if none is set.

    Rounding it down is up to the caller: a spinning thread on a fraction of a processor is throttled.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return None
    limits: list[float] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            limits += _limits(mount, path, _limit_v2)
        elif "cpu" in controllers.split(","):
            limits += _limits(mount / "cpu", path, _limit_v1)
    return min(limits, default=None)


def _limits(mount: Path, path: str, limit_of: Callable[[Path], float | None]) -> list[float]:
    """The limits of the group at `path` and of all groups above it.

    A container may see its own group as the root of the mount while `path` is the host's name for it: then
    only the mount's root exists.
    """
    group = mount / path.lstrip("/")
    found = [limit_of(g) for g in (group, *group.parents) if g.is_relative_to(mount)]
    return [limit for limit in found if limit is not None]


def _limit_v2(group: Path) -> float | None:
    """`cpu.max` is "$QUOTA $PERIOD" in microseconds, or "max $PERIOD"."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _limit_v1(group: Path) -> float | None:
    """`cpu.cfs_quota_us` is -1 where there is no limit."""
    try:
        quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
