"""Registry and lazy compilation of kernels.

A kernel is a module-level function `def name(operands, share, shares)` of three int64:

- `operands`: address of its int64 words, absolute addresses for buffers and plain integers for the rest;
- `share`, `shares`: it does the `share`-th of `shares` parts of the work, which together are all of it, for
  any `shares` >= 1, even more than there is work.

It must not allocate, raise or check anything: what it is given has been verified. One of ours that raises all the
same ends the process. `@kernel` only notes it; it is compiled, or read from the cache, when its address is first
needed.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from qcompiler.errors import InternalError, PluginError, UsageError
from qcompiler.runtime import isa
from qcompiler.runtime.kernels import images, workers
from qcompiler.runtime.kernels.cache import is_intact, kernel_directory, sealed

if TYPE_CHECKING:
    from numba.core.ccallback import CFunc

KernelFunction = Callable[[int, int, int], None]

_registry: dict[str, "Kernel"] = {}
_compile_lock = threading.RLock()  # Numba's configuration is process-wide
if hasattr(os, "register_at_fork"):  # else a child could find it, and locks of Numba's, taken by a thread it has not
    os.register_at_fork(
        before=_compile_lock.acquire, after_in_parent=_compile_lock.release, after_in_child=_compile_lock.release
    )


class Progress(Protocol):
    """Told before each kernel that has to be compiled because no cache has it."""

    def __call__(self, name: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, eq=False)
class Kernel:
    """A registered kernel.

    Attributes:
        name: unique; programs refer to it.
        words: names of its operand words, in order.
        function: the Python function, callable on raw addresses only once compiled.
        per_isa: its code depends on the primitive, beyond what LLVM makes of the target.
    """

    name: str
    words: tuple[str, ...]
    function: KernelFunction
    per_isa: bool = False
    _compiled: dict[str, "CFunc"] = field(default_factory=dict, repr=False)
    _addresses: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def address(self) -> int:
        """Address of the compiled function for the current primitive; compiles on first use."""
        return self.address_for(isa.current())

    def address_for(self, isa_name: str) -> int:
        """Address of the function compiled for one primitive, `void (int64, int64, int64)` in C.

        Raises:
            UsageError: the JIT's target or the primitive has instructions that cannot run here, or the JIT is off.
        """
        isa.check_runs_here(isa_name)
        emitted = self._emitted(isa_name)
        found = self._addresses.get(emitted)
        if found is not None:
            return found
        with _compile_lock:
            if emitted not in self._addresses:
                self._addresses[emitted] = self._from_image(emitted) or int(self.compiled_for(isa_name).address or 0)
            return self._addresses[emitted]

    def compiled_for(self, isa_name: str) -> "CFunc":
        """Numba's object for one primitive, with its LLVM IR; compiles on first use, even where there is an image."""
        emitted = self._emitted(isa_name)
        found = self._compiled.get(emitted)
        if found is not None:
            return found
        with _compile_lock:
            if emitted not in self._compiled:
                self._compiled[emitted] = self._compile(emitted)
            return self._compiled[emitted]

    def image_for(self, isa_name: str) -> images.Image | None:
        """The image that the cache has for one primitive, if any."""
        directory = kernel_directory(self.function.__module__, self._emitted(isa_name))
        image = None if directory is None else self._image(directory)
        return image if isinstance(image, images.Image) else None

    def load(self) -> bool:
        """Map the image for the current primitive, if the cache has it; whether `address` needs no compilation.

        Raises:
            UsageError: the JIT is off.
        """
        emitted = self._emitted(isa.current())
        if emitted in self._addresses:
            return True
        with _compile_lock:
            if emitted not in self._addresses and (mapped := self._from_image(emitted)) is not None:
                self._addresses[emitted] = mapped
            if emitted in self._addresses:
                return True
        directory = self.directory
        return directory is not None and is_intact(directory, self.function)

    @property
    def directory(self) -> Path | None:
        """Where the cache has, or will have, its code for the current primitive; None if there is no cache."""
        return kernel_directory(self.function.__module__, self._emitted(isa.current()))

    def _emitted(self, isa_name: str) -> str:
        """What the code is made for."""
        return isa_name if self.per_isa else isa.ANY

    def _from_image(self, emitted: str) -> int | None:
        _refuse_disabled_jit()
        directory = kernel_directory(self.function.__module__, emitted)
        image = None if directory is None else self._image(directory)
        if isinstance(image, images.Image):
            with suppress(OSError):  # a system that forbids to make memory executable may allow it to LLVM
                return images.load(image)
        return None

    def _image(self, directory: Path) -> images.Image | str | None:
        return images.read(self._image_path(directory)) if images.SUPPORTED else "the object format is another"

    def _image_path(self, directory: Path) -> Path:
        return directory / f"{self.function.__name__}-{self.function.__code__.co_firstlineno}.image"

    def _compile(self, emitted: str) -> "CFunc":
        _refuse_disabled_jit()
        directory = kernel_directory(self.function.__module__, emitted)
        with isa.emitting(emitted):
            if directory is not None and not isinstance(self._image(directory), str):
                compiled = _compile(self.function, cached=False)
                with suppress(OSError):  # the disk is full, or another process pruned the directory
                    images.write(self._image_path(directory), self._linked(compiled))
                if not isinstance(self._image(directory), str):
                    return compiled
            return self._compile_in(directory)

    def _linked(self, compiled: "CFunc") -> bytes:
        """The contents of the image's file."""
        from llvmlite import binding

        library: Any = vars(compiled)["_library"]  # Numba has no public way to the object
        code: bytes = library._get_compiled_object()  # noqa: SLF001
        may_raise = not self.function.__module__.startswith("qcompiler.")
        try:
            return images.link(
                code, compiled.native_name, address_of=binding.address_of_symbol, may_raise=may_raise
            ).to_bytes()
        except images.CannotLinkError as error:
            return images.refusal(str(error))

    def _compile_in(self, directory: Path | None) -> "CFunc":
        """Compile with Numba's own cache in `directory`."""
        if directory is None:
            return _compile(self.function, cached=False)
        configuration = _configuration()
        saved = configuration["CACHE_DIR"]
        configuration["CACHE_DIR"] = str(directory)
        try:
            with sealed(directory, self.function):
                return _compile(self.function, cached=True)
        except OSError:  # the disk is full, or another process pruned the directory
            return _compile(self.function, cached=False)
        finally:
            configuration["CACHE_DIR"] = saved


def _configuration() -> dict[str, Any]:
    from numba.core import config

    return vars(config)


def _refuse_disabled_jit() -> None:
    imported = "numba" in sys.modules or "NUMBA_DISABLE_JIT" in os.environ
    if imported and _configuration()["DISABLE_JIT"]:
        raise UsageError("NUMBA_DISABLE_JIT is set, and compiled models run on compiled kernels only; unset it")


def _compile(function: KernelFunction, *, cached: bool) -> "CFunc":
    import numba
    from numba import types

    signature = types.void(types.int64, types.int64, types.int64)
    options: dict[str, Any] = {"boundscheck": False}  # whatever NUMBA_BOUNDSCHECK says: kernels cannot raise
    return numba.cfunc(signature, cache=cached, error_model="numpy", **options)(function)


def kernel(name: str, words: Iterable[str], *, per_isa: bool = False) -> Callable[[KernelFunction], KernelFunction]:
    """Register the decorated module-level function as the kernel `name`.

    `per_isa` is for kernels whose intrinsics ask for `isa.emitted()`: they are compiled for each primitive.

    Raises:
        PluginError: the name is taken, or the function is defined inside another (it would never be found in
            the cache: a closure's key differs in every process).
    """

    def register(function: KernelFunction) -> KernelFunction:
        taken = _registry.get(name)
        if taken is not None:
            raise PluginError(
                f"kernel {name!r} is defined twice: in {taken.function.__module__} and in {function.__module__}"
            )
        if "<locals>" in function.__qualname__:
            raise PluginError(f"kernel {name!r}: {function.__qualname__} must be a module-level function")
        _registry[name] = Kernel(name, tuple(words), function, per_isa)
        return function

    return register


def kernel_named(name: str) -> Kernel:
    """The kernel registered under `name`.

    Raises:
        InternalError: there is none; its module was not imported.
    """
    try:
        return _registry[name]
    except KeyError:
        raise InternalError(f"there is no kernel {name!r}; registered: {', '.join(sorted(_registry))}") from None


def registered_kernels() -> tuple[str, ...]:
    """Names of all registered kernels, sorted."""
    return tuple(sorted(_registry))


def addresses_of(kernels: Sequence[Kernel], progress: Progress | None = None) -> dict[str, int]:
    """Compile kernels, or read them from the cache, and return their addresses by name.

    Several processes compile if many are not in the cache: see `qcompiler.runtime.kernels.workers`.

    `progress(name, done, total)` is called before each compilation in this process; not at all if everything is ready.
    """
    missing = [each for each in kernels if not each.load()]
    if missing:
        jobs = [_job(each) for each in missing]
        directory = missing[0].directory
        with closing(workers.divide(jobs, directory and directory.parent)) as mine:
            for index, done in mine:
                if progress is not None:
                    progress(missing[index].name, done, len(missing))
                _ = missing[index].address
    return {each.name: each.address for each in kernels}


def _job(wanted: Kernel) -> workers.Job | None:
    """What a worker has to know; None for a plug-in's kernel, whose module may be one that only this process has."""
    module = wanted.function.__module__
    if not module.startswith("qcompiler."):
        return None
    return workers.Job(module, wanted.function.__name__, wanted.per_isa, isa.current())
