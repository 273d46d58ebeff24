import os
import shutil
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from qcompiler.runtime.kernels import cache, images

# A kernel in a plug-in's own module: out[i] = a[i] + b[i] modulo 256.
PLUGIN = """
from qcompiler.runtime.kernels.memory import load_s64, load_u8, store_u8
from qcompiler.runtime.kernels.registry import kernel


@kernel("wrapping_add", words=("a", "b", "out", "count"))
def wrapping_add(operands, share, shares):
    a, b = load_s64(operands, 0), load_s64(operands, 1)
    out, count = load_s64(operands, 2), load_s64(operands, 3)
    for i in range(count * share // shares, count * (share + 1) // shares):
        store_u8(out, i, load_u8(a, i) + load_u8(b, i))
"""

RUN = """
import ctypes, sys
import numpy as np
import wrapping
from qcompiler.runtime.kernels import images
from qcompiler.runtime.kernels.registry import addresses_of, kernel_named
import numba.core.config

images.SUPPORTED = images.SUPPORTED and sys.argv[1] == "image"
asked = []
address = addresses_of([kernel_named("wrapping_add")], lambda *step: asked.append(step))["wrapping_add"]
call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(address)
a, b = (np.arange(n, n + 300).astype(np.uint8) for n in (0, 7))
out = np.zeros(300, np.uint8)
words = np.array([x.ctypes.data for x in (a, b, out)] + [300], np.int64)
for share in range(7):
    call(words.ctypes.data, share, 7)
kernel = kernel_named("wrapping_add")
hits = sum(c.cache_hits for c in kernel._compiled.values()) + (not kernel._compiled)
print(np.array_equal(out, a + b), hits, asked, repr(numba.core.config.CACHE_DIR))
"""


def run_plugin(folder: Path, cache_dir: Path, form: str) -> str:
    """What a process printed that ran the plug-in's kernel: right? found in the cache? what was compiled, ...

    `form` is "image" for code of our own format, "numba" for code in Numba's cache.
    """
    folder.mkdir(exist_ok=True)
    (folder / "wrapping.py").write_text(PLUGIN)
    environment = {**os.environ, "QCOMPILER_CACHE_DIR": str(cache_dir)}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", RUN, form], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


FORMS = ["numba", *(["image"] if images.SUPPORTED else [])]


@pytest.mark.parametrize("form", FORMS)
def test_second_process_finds_the_kernel_in_the_cache(tmp_path: Path, form: str):
    first = run_plugin(tmp_path / "plugin", tmp_path / "cache", form)
    assert first == "True 0 [('wrapping_add', 0, 1)] ''"
    second = run_plugin(tmp_path / "plugin", tmp_path / "cache", form)
    assert second == "True 1 [] ''"
    assert stat.S_IMODE((tmp_path / "cache" / "kernels").stat().st_mode) == 0o700


@pytest.fixture(scope="module", params=FORMS)
def sealed_cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plug-in and a cache with its kernel, in a folder named after the form of its code."""
    folder = tmp_path_factory.mktemp("sealed") / str(request.param)
    folder.mkdir()
    run_plugin(folder / "plugin", folder / "cache", folder.name)
    return folder


def _truncate(path: Path) -> None:
    os.truncate(path, 40)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES: dict[str, list[tuple[str, Callable[[Path], None]]]] = {
    "numba": [
        ("*.nbi", _truncate),
        ("*.nbi", _empty),
        ("*.nbc", _flip_a_bit),
        ("*.nbc", Path.unlink),
        ("*.sha256", _empty),
    ],
    "image": [("*.image", damage) for damage in (_truncate, _empty, _flip_a_bit, Path.unlink)],
}


def test_damaged_files_are_compiled_again(tmp_path: Path, sealed_cache: Path):
    """Code with a flipped bit would crash the process, a short pickle raise what no caller expects."""
    form = sealed_cache.name
    for number, (pattern, damage) in enumerate(DAMAGES[form]):
        copy = tmp_path / str(number)
        shutil.copytree(sealed_cache, copy)
        (damaged,) = (copy / "cache").rglob(pattern)
        damage(damaged)
        assert run_plugin(copy / "plugin", copy / "cache", form) == "True 0 [('wrapping_add', 0, 1)] ''"
        assert run_plugin(copy / "plugin", copy / "cache", form) == "True 1 [] ''"


def test_hash_covers_what_a_module_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "qcplug").mkdir()
    (tmp_path / "qcplug" / "__init__.py").write_text("")
    (tmp_path / "qcplug" / "kernel.py").write_text("import os\nfrom qcplug.inner import f\n")
    inner = tmp_path / "qcplug" / "inner.py"
    monkeypatch.syspath_prepend(str(tmp_path))

    def hash_with(source: str, *, modified: float = 1.0) -> str | None:
        inner.write_text(source)
        for path in (tmp_path / "qcplug").iterdir():
            os.utime(path, (modified, modified))
        cache.source_hash.cache_clear()
        cache._read_source.cache_clear()
        return cache.source_hash("qcplug.kernel")

    before = hash_with("f = 1\n")
    assert before is not None
    assert hash_with("f = 1\n") == before
    assert hash_with("f = 2\n") != before
    assert hash_with("f = 1\n", modified=cache._STARTED + 5) is None  # may not be what this process imported


def test_a_relative_directory_is_checked_in_each_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QCOMPILER_CACHE_DIR", "relative")
    for name in ("one", "two"):
        (tmp_path / name / "relative" / "kernels").mkdir(parents=True)
        (tmp_path / name / "relative" / "kernels").chmod(0o777)
        monkeypatch.chdir(tmp_path / name)
        directory = cache.kernel_directory("qcompiler.runtime.kernels.cache", "generic")
        assert directory is not None
        assert directory.is_relative_to(tmp_path / name)
        assert stat.S_IMODE((tmp_path / name / "relative" / "kernels").stat().st_mode) == 0o700


def test_key_depends_on_the_primitive():
    assert cache.environment_key("avx2") != cache.environment_key("generic")


def test_loose_permissions_are_tightened(tmp_path: Path):
    loose = tmp_path / "c" / "kernels"
    loose.mkdir(parents=True)
    loose.chmod(0o755)
    assert cache._private_root(str(tmp_path / "c")) == loose
    assert stat.S_IMODE(loose.stat().st_mode) == 0o700


def test_code_that_others_could_have_put_there_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    loose = tmp_path / "c" / "kernels"
    loose.mkdir(parents=True)
    (loose / "planted").write_text("")
    loose.chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="others could write to"):
        assert cache._private_root(str(tmp_path / "c")) != loose


def test_unusable_directory_falls_back_with_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.warns(RuntimeWarning, match="set QCOMPILER_CACHE_DIR"):
        root = cache._private_root(str(tmp_path / "file"))
    assert root is not None
    assert root.parent == tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert cache._private_root(str(tmp_path / "file")) == root


def test_a_directory_that_cannot_be_written_to_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, _mode: tmp_path / "c" not in Path(path).parents)
    with pytest.warns(RuntimeWarning, match="kernels cannot be written to"):
        root = cache._private_root(str(tmp_path / "c"))
    assert root is not None
    assert root.parent == tmp_path


def test_a_directory_of_someone_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(PermissionError, match="not a directory of this user"):
        cache._refuse_unless_private(tmp_path)


def test_pruning_keeps_the_recent_and_the_current(tmp_path: Path):
    current = tmp_path / "environment" / "module-0"
    for n in range(cache.KEPT_SOURCES + 3):
        version = tmp_path / "environment" / f"module-{n}"
        version.mkdir(parents=True)
        if n:
            os.utime(version, (n, n))
    (tmp_path / "environment" / "other-1").mkdir()
    os.utime(tmp_path / "environment" / "other-1", (1, 1))
    cache._prune(tmp_path, current)
    left = {d.name for d in (tmp_path / "environment").iterdir()}
    newest = {f"module-{cache.KEPT_SOURCES + 2 - n}" for n in range(cache.KEPT_SOURCES - 1)}
    assert left == {"module-0", "other-1"} | newest
