"""Where compiled kernels are kept between processes.

Numba's cache is pickle, so it must be a directory that only its user can write. And Numba notices a change
in the file of the cached function alone, so the directory's name has a hash of everything else that decides
the code: the modules of ours that the kernel's module imports, the versions, the CPU and the primitive.
"""

import ast
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import llvmlite
import numba
import numpy as np
from llvmlite import binding

from qcompiler.runtime import isa

KEPT_ENVIRONMENTS = 8  # combinations of versions, CPU and primitive
KEPT_SOURCES = 3  # versions of one module within each
PRUNE_AGE_S = 3600.0  # an entry used within the last hour may be in use right now


def cache_root() -> Path:
    """`$QCOMPILER_CACHE_DIR`, else `$XDG_CACHE_HOME/qcompiler`, else `~/.cache/qcompiler`."""
    if chosen := os.environ.get("QCOMPILER_CACHE_DIR"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "qcompiler"


def kernel_directory(module_name: str, isa_name: str) -> Path | None:
    """The private directory for the kernels of one module, made and touched; None if there can be none."""
    root = _private_root(str(cache_root()))
    if root is None:
        return None
    sources = source_hash(module_name)
    if sources is None:
        return None
    directory = root / environment_key(isa_name) / f"{module_name}-{sources}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for used in (directory, directory.parent):
            os.utime(used)
        _prune(root, directory)
    except OSError as error:
        warnings.warn(f"compiled kernels are not cached: {error}", RuntimeWarning, stacklevel=2)
        return None
    return directory


def environment_key(isa_name: str) -> str:
    """Hash of the versions, the CPU and the primitive that compiled code depends on."""
    parts = (numba.__version__, llvmlite.__version__, np.__version__, sys.version, isa_name)
    cpu = isa.target()
    return _digest("\n".join([*parts, cpu.cpu, binding.get_host_cpu_name(), *sorted(cpu.features)]).encode())


@cache
def source_hash(module_name: str) -> str | None:
    """Hash of the source of a module and of the modules of ours (or of its own package) that it imports.

    None if a source cannot be read, as when it is in a zip archive: such code is not cached.
    """
    digests: dict[str, str] = {}
    waiting = [module_name]
    families = {"qcompiler", module_name.partition(".")[0]}
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        path = _source_file(name)
        if path is None:
            return None
        source = path.read_bytes()
        digests[name] = _digest(source)
        waiting += [i for i in _imports(source) if i.partition(".")[0] in families]
    return _digest(repr(sorted(digests.items())).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


def _source_file(module_name: str) -> Path | None:
    module = sys.modules.get(module_name)
    origin = getattr(module, "__file__", None)
    if origin is None and module is None:
        spec = find_spec(module_name)
        origin = spec.origin if spec else None
    path = Path(origin) if origin else None
    return path if path and path.is_file() else None


def _imports(source: bytes) -> Iterator[str]:
    """Names of the modules that a source imports by absolute name, in whatever form."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            for alias in node.names:  # `from package import module`
                if f"{node.module}.{alias.name}" in sys.modules:
                    yield f"{node.module}.{alias.name}"


@cache
def _private_root(wanted: str) -> Path | None:
    """`wanted`/kernels if it is ours alone, else a directory for this process under the temporary one."""
    try:
        root = Path(wanted) / "kernels"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_unless_private(root)
        tempfile.TemporaryFile(dir=root).close()
        return root
    except OSError as error:
        try:
            fallback = Path(tempfile.gettempdir()) / f"qcompiler-{_user()}"
            fallback.mkdir(mode=0o700, exist_ok=True)
            _refuse_unless_private(fallback)
            tempfile.TemporaryFile(dir=fallback).close()
        except OSError:
            fallback = None
        where = f"are kept in {fallback}" if fallback else "are compiled anew in each process"
        warnings.warn(
            f"kernels {where} because {wanted} is not usable ({error}); "
            "set QCOMPILER_CACHE_DIR to a directory of your own",
            RuntimeWarning,
            stacklevel=2,
        )
        return fallback


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0


def _refuse_unless_private(directory: Path) -> None:
    """Raise PermissionError if anyone else could have put a pickle there."""
    status = directory.lstat()
    if hasattr(os, "getuid"):
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a directory of this user")
        if status.st_mode & 0o077:
            directory.chmod(0o700)


def _prune(root: Path, current: Path) -> None:
    """Drop what was used least recently: environments, and versions of the current directory's module."""
    module = current.name.rpartition("-")[0]
    versions = [d for d in current.parent.iterdir() if d.name.rpartition("-")[0] == module]
    for siblings, kept in ((versions, KEPT_SOURCES), (list(root.iterdir()), KEPT_ENVIRONMENTS)):
        for _, old in sorted(((_used(d), d) for d in siblings), reverse=True)[kept:]:
            if time.time() - _used(old) > PRUNE_AGE_S:
                shutil.rmtree(old, ignore_errors=True)


def _used(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:  # another process pruned it
        return 0.0
