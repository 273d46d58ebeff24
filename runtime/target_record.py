"""What Numba and LLVM say of this machine, kept between processes: the names of kernels' images need it.

So a process whose kernels are all in the cache imports neither. The record lies beside the kept programs, under a name
that has all in it that could change the answer, as theirs have (`qcompiler.runtime.prepared`), and like them it is used
only while Numba is not imported: then nobody can have configured it otherwise than by the environment.
"""

import hashlib
import json
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from qcompiler.runtime.kernels import images
from qcompiler.runtime.kernels.cache import program_directory


@dataclass(frozen=True)
class TargetRecord:
    """The CPU that Numba generates code for and this one, as LLVM names them, with the features that matter.

    Attributes:
        cpu: the target.
        features: of the target.
        host_cpu: this machine.
        host_features: of this machine.
        versions: of numba and llvmlite.
    """

    cpu: str
    features: frozenset[str]
    host_cpu: str
    host_features: frozenset[str]
    versions: tuple[str, str]


@cache
def recorded() -> TargetRecord | None:
    """What an earlier process kept, unless this one has Numba already."""
    if "numba" in sys.modules or (path := _path()) is None:
        return None
    try:
        found = json.loads(path.read_bytes())
        return TargetRecord(
            str(found["cpu"]),
            frozenset(map(str, found["features"])),
            str(found["host_cpu"]),
            frozenset(map(str, found["host_features"])),
            (str(found["versions"][0]), str(found["versions"][1])),
        )
    except OSError:
        return None
    except (ValueError, KeyError, IndexError, TypeError):  # damaged
        with suppress(OSError):
            path.unlink()
        return None


def keep(record: TargetRecord) -> None:
    """Keep what was found for later processes; nothing happens if that is not possible."""
    from qcompiler.runtime.prepared import is_configured_by_environment

    if recorded() is not None or not is_configured_by_environment() or (path := _path()) is None or path.exists():
        return
    fields = {
        "cpu": record.cpu,
        "features": sorted(record.features),
        "host_cpu": record.host_cpu,
        "host_features": sorted(record.host_features),
        "versions": record.versions,
    }
    with suppress(OSError):  # the disk is full
        images.write(path, json.dumps(fields).encode())


def _path() -> Path | None:
    from qcompiler.runtime.prepared import choices, machine

    found, directory = machine(), program_directory()
    if found is None or directory is None:
        return None
    return directory / f"{hashlib.sha256(repr((found, choices())).encode()).hexdigest()[:40]}.target"
