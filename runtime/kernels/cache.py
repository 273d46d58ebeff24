"""Where compiled kernels are kept between processes.

What is loaded from there is run, so it must be a directory that only its user can write. Its name has a hash of
everything that decides the code: the kernel's module and those of ours that it imports, the versions, the CPU and the
primitive. Most kernels are kept as images (`qcompiler.runtime.kernels.images`), which have a hash in them. The others
are in Numba's own cache, pickles that notice a change in the file of the function alone, and no damage: each function's
files are sealed with a hash.
"""

import hashlib
import os
import re
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

_STARTED = time.time()
Function = Callable[..., object]
KEPT_ENVIRONMENTS = 8  # combinations of versions, CPU and primitive
PROGRAMS = "programs"  # the directory of `qcompiler.runtime.prepared` among those
KEPT_SOURCES = 3  # versions of one module within each
PRUNE_AGE_S = 3600.0  # an entry used within the last hour may be in use right now


def cache_root() -> Path:
    """`$QCOMPILER_CACHE_DIR`, else `$XDG_CACHE_HOME/qcompiler`, else `~/.cache/qcompiler`; absolute.

    What is said of a relative one, that it is private, would not hold of its namesake in another working directory.
    """
    if chosen := os.environ.get("QCOMPILER_CACHE_DIR"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "qcompiler"


def program_directory() -> Path | None:
    """The private directory for programs that are ready to run, made; None if there can be none."""
    root = _private_root(str(cache_root()))
    if root is None:
        return None
    directory = root / PROGRAMS
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except OSError:
        return None
    return directory


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
        if not directory.is_dir():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _prune(root, directory)
        for used in (directory, directory.parent):
            os.utime(used)
    except OSError as error:
        warnings.warn(f"compiled kernels are not cached: {error}", RuntimeWarning, stacklevel=2)
        return None
    return directory


def environment_key(isa_name: str) -> str:
    """Hash of the versions, the CPU and the primitive that compiled code depends on."""
    from qcompiler.runtime import isa

    found, cpu = isa.machine(), isa.target()
    parts = (*found.versions, np.__version__, sys.version, isa_name)
    return _digest("\n".join([*parts, cpu.cpu, found.host_cpu, *sorted(cpu.features)]).encode())


def is_intact(directory: Path, function: Function) -> bool:
    """Whether the directory has the function's code as `sealed` left it: neither damaged nor half written."""
    files = _cached_files(directory, function)
    try:
        return bool(files) and _seal(directory, function).read_text() == _digest_of(files)
    except OSError:  # not sealed yet, or another process pruned the directory
        return False


@contextmanager
def sealed(directory: Path, function: Function) -> Iterator[None]:
    """While Numba reads or writes the function's code: it sees none that is damaged, and what it wrote is sealed.

    Two processes may write at once. Should the seal not fit then, the next process compiles and seals again.
    """
    if not is_intact(directory, function):
        for path in _cached_files(directory, function):
            path.unlink(missing_ok=True)
    yield
    if not is_intact(directory, function):
        with suppress(OSError):  # the disk is full, or another process pruned the directory
            _seal(directory, function).write_text(_digest_of(_cached_files(directory, function)))


def _cached_files(directory: Path, function: Function) -> list[Path]:
    """Numba's index, <module>.<function>-<line>.<python>.nbi, and the numbered .nbc with code beside it."""
    return sorted(directory.glob(f"*/*.{_stem(function)}.*.nb[ic]"))


def _seal(directory: Path, function: Function) -> Path:
    return directory / f"{_stem(function)}.sha256"


def _stem(function: Function) -> str:
    return f"{function.__name__}-{function.__code__.co_firstlineno}"


def _digest_of(files: list[Path]) -> str:
    return _digest(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in files))


@cache
def source_hash(module_name: str) -> str | None:
    """Hash of the source of a module and of the modules of ours (or of its own package) that it imports.

    None if a source cannot be read, as when it is in a zip archive, or changed since this process began: such code
    is not cached.
    """
    digests: dict[str, str] = {}
    families = {"qcompiler", module_name.partition(".")[0]}
    waiting = [module_name]
    while waiting:
        name = waiting.pop()
        if name in digests:
            continue
        found = _read_source(name)
        if found is None:
            return None
        digests[name], imports = found
        waiting += [other for other in imports if other.partition(".")[0] in families and _is_module(other)]
    return _digest(repr(sorted(digests.items())).encode())


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:20]


_IMPORT = re.compile(
    r"^[ \t]*from[ \t]+(?P<base>[\w.]+)[ \t]+import[ \t]+(?P<names>\([^)]*\)|[^\n#]+)"
    r"|^[ \t]*import[ \t]+(?P<plain>[^\n#]+)",
    re.MULTILINE,
)


@cache
def _read_source(module_name: str) -> tuple[str, tuple[str, ...]] | None:
    """Hash of a module's source and the names that it imports, whether they are modules or not."""
    module = sys.modules.get(module_name)
    spec = module.__spec__ if module else find_spec(module_name)
    if module is None and spec is None:
        return None
    path = Path(getattr(module, "__file__", None) or (spec and spec.origin) or "")
    if not path.is_file() or path.stat().st_mtime > _STARTED:  # what was imported may be another version
        return None
    source = path.read_bytes()
    names: list[str] = []
    for found in _IMPORT.finditer(source.decode()):
        if found["plain"]:
            names += [part.split()[0] for part in found["plain"].split(",")]
        else:
            inner = [part.split()[0] for part in found["names"].strip("()").split(",") if part.strip()]
            names += [found["base"], *(f"{found['base']}.{name}" for name in inner)]
    return _digest(source), tuple(names)


@cache
def _is_module(name: str) -> bool:
    if name in sys.modules:
        return True
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module and not a package
        return False


@cache
def _private_root(wanted: str) -> Path | None:
    """`wanted`/kernels if it is ours alone, else a directory for this process under the temporary one."""
    try:
        root = Path(wanted) / "kernels"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_unless_private(root)
        _refuse_unless_writable(root)
        return root
    except OSError as error:
        import tempfile

        try:
            fallback = Path(tempfile.gettempdir()) / f"qcompiler-{_user()}"
            fallback.mkdir(mode=0o700, exist_ok=True)
            _refuse_unless_private(fallback)
            _refuse_unless_writable(fallback)
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
    """Raise PermissionError if anyone else could have put code there, in a pickle or an image."""
    status = directory.lstat()
    if hasattr(os, "getuid"):
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
            raise PermissionError(f"{directory} is not a directory of this user")
        if status.st_mode & 0o022 and any(directory.iterdir()):
            raise PermissionError(f"others could write to {directory}")
        if status.st_mode & 0o077:
            directory.chmod(0o700)


def _refuse_unless_writable(directory: Path) -> None:
    if not os.access(directory, os.W_OK | os.X_OK):
        raise PermissionError(f"{directory} cannot be written to")


def _prune(root: Path, current: Path) -> None:
    """Drop what was used least recently: environments, and versions of the current directory's module."""
    import shutil

    module = current.name.rpartition("-")[0]
    versions = [d for d in current.parent.iterdir() if d.name.rpartition("-")[0] == module]
    environments = [d for d in root.iterdir() if d.name != PROGRAMS]
    for siblings, kept in ((versions, KEPT_SOURCES), (environments, KEPT_ENVIRONMENTS)):
        for _, old in sorted(((_used(d), d) for d in siblings), reverse=True)[kept:]:
            if time.time() - _used(old) > PRUNE_AGE_S:
                shutil.rmtree(old, ignore_errors=True)


def _used(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:  # another process pruned it
        return 0.0
