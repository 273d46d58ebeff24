import os
import signal
import threading
from unittest import mock

import pytest

from qcompiler.errors import InternalError, PluginError, UsageError
from qcompiler.runtime import isa
from qcompiler.runtime.kernels import images, registry
from qcompiler.runtime.kernels.registry import addresses_of, kernel, kernel_named


@kernel("test_registry.nothing", words=("a", "b"))
def nothing(operands: int, share: int, shares: int) -> None:
    """Do nothing."""


def forget_code() -> None:
    found = kernel_named("test_registry.nothing")
    found._compiled.clear()
    found._addresses.clear()


def test_kernel_is_found_by_name():
    found = kernel_named("test_registry.nothing")
    assert found.words == ("a", "b")
    assert "test_registry.nothing" in registry.registered_kernels()


def test_unknown_kernel_is_an_internal_error():
    with pytest.raises(InternalError, match=r"no kernel 'nothing'; registered: .*test_registry\.nothing"):
        kernel_named("nothing")


def test_name_may_be_taken_once():
    with pytest.raises(PluginError, match=r"'test_registry\.nothing' is defined twice"):
        kernel("test_registry.nothing", words=())(nothing)


def test_closure_is_refused():
    def inner(operands: int, share: int, shares: int) -> None:
        pass

    with pytest.raises(PluginError, match="must be a module-level function"):
        kernel("test_registry.inner", words=())(inner)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_forked_while_another_thread_compiles_can_compile():
    compiling, finish = threading.Event(), threading.Timer(0.2, lambda: None)

    def compile_slowly() -> None:
        with registry._compile_lock:
            compiling.set()
            finish.start()
            finish.join()

    thread = threading.Thread(target=compile_slowly)
    thread.start()
    compiling.wait(20)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that waits for the lock of a thread that is not there
        with registry._compile_lock:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


def test_address_is_that_of_the_one_compilation():
    addresses = addresses_of([kernel_named("test_registry.nothing")] * 2)
    assert addresses == {"test_registry.nothing": kernel_named("test_registry.nothing").address}
    assert addresses["test_registry.nothing"] != 0


def test_code_is_made_for_each_primitive_only_where_it_depends_on_it():
    same = kernel_named("test_registry.nothing")
    assert same.compiled_for("avx2") is same.compiled_for("generic")
    with isa.emitting(isa.ANY), pytest.raises(InternalError, match="registered with per_isa=True"):
        isa.emitted()


def test_progress_counts_only_what_has_to_be_compiled(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, int, int]] = []

    def note(name: str, done: int, total: int) -> None:
        asked.append((name, done, total))

    addresses_of([kernel_named("test_registry.nothing")])
    addresses_of([kernel_named("test_registry.nothing")], progress=note)
    assert asked == []
    forget_code()
    monkeypatch.setattr(registry, "kernel_directory", lambda *_: None)  # no cache either
    addresses_of([kernel_named("test_registry.nothing")], progress=note)
    assert asked == [("test_registry.nothing", 0, 1)]


@pytest.mark.skipif(not images.SUPPORTED, reason="images are for Linux on x86-64")
def test_the_cache_is_read_once():
    addresses_of([kernel_named("test_registry.nothing")])
    kernel_named("test_registry.nothing").compiled_for(isa.current())  # the image is written, if it was not
    forget_code()
    with mock.patch.object(images, "read", wraps=images.read) as read:
        addresses_of([kernel_named("test_registry.nothing")])
    assert read.call_count == 1


def test_disabled_jit_is_refused(monkeypatch: pytest.MonkeyPatch):
    forget_code()
    monkeypatch.setitem(registry._configuration(), "DISABLE_JIT", 1)
    with pytest.raises(UsageError, match="NUMBA_DISABLE_JIT is set"):
        _ = kernel_named("test_registry.nothing").address
