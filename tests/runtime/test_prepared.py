import os
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import qcompiler
from qcompiler.ir import Graph
from qcompiler.runtime import isa, prepared
from qcompiler.runtime.interpreter import compile_code
from qcompiler.runtime.kernels import images
from qcompiler.runtime.kernels.cache import PROGRAMS, cache_root
from qcompiler.runtime.lowering import PackedModel, lower
from qcompiler.runtime.program import ALIGNMENT, Program
from qcompiler.runtime.threads import compile_loops

pytestmark = pytest.mark.skipif(not images.SUPPORTED, reason="images are for Linux on x86-64")

RUN = """
import sys
import numpy as np
import qcompiler

session = qcompiler.InferenceSession(sys.argv[1])
images = np.load(sys.argv[2])
for n in (3, 1, 2):
    (logits,) = session.run(None, {"image": images[:n]})
    print(logits.tolist())
print([name for name in ("numba", "llvmlite", "onnx", "networkx") if name in sys.modules])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, assets: Path, calibration_images: npt.NDArray[np.float32]) -> Path:
    """An artifact, an image for it, and a cache that knows it."""
    found = tmp_path_factory.mktemp("prepared")
    known = cache_root() / "kernels"
    if known.is_dir():  # that code is compiled, and kept, is what other tests see to
        ignored = shutil.ignore_patterns(PROGRAMS, "*.image.*")
        shutil.copytree(known, found / "cache" / "kernels", ignore=ignored, copy_function=copy_if_there)
    model = qcompiler.compile(assets / "digits_dsnet.onnx", calibration=[{"image": calibration_images[:32]}])
    model.save(found / "model.qc")
    np.save(found / "images.npy", calibration_images[:3])
    start(found)
    return found


def copy_if_there(source: str, target: str) -> None:
    """Copy a file of a cache that another process may be writing: its temporary files vanish."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def start(folder: Path, **environment: str) -> tuple[list[str], str]:
    """Outputs, and the heavy packages that were imported, of a process of its own."""
    command = [sys.executable, "-c", RUN, str(folder / "model.qc"), str(folder / "images.npy")]
    variables = {**os.environ, "QCOMPILER_CACHE_DIR": str(folder / "cache"), **environment}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    printed = subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.splitlines()
    return printed[:-1], printed[-1]


def kept_files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").rglob("*.program"))


@pytest.fixture
def program(folder: Path) -> Program:
    graph = qcompiler.load(folder / "model.qc").graph
    made = lower(PackedModel(graph), {"N": 3} if any("N" in v.type.shape for v in graph.inputs) else {})
    compile_loops()
    compile_code(made)
    return made


def test_what_is_kept_already_is_not_written_again(folder, program, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "program_directory", lambda: tmp_path)
    store = prepared.ProgramStore(qcompiler.load(folder / "model.qc").graph)
    for again in (False, True):
        store.save({"N": 3}, program)
        (kept,) = tmp_path.iterdir()
        assert not again or kept.read_bytes() == b"left alone"
        kept.write_bytes(b"left alone")


def test_a_program_with_states_is_not_kept(folder, program, tmp_path, monkeypatch):
    monkeypatch.setattr(prepared, "program_directory", lambda: tmp_path)
    store = prepared.ProgramStore(qcompiler.load(folder / "model.qc").graph)
    store.save({"N": 3}, replace(program, states=frozenset(list(program.constants)[:1])))
    assert not [*tmp_path.iterdir()]
    store.save({"N": 3}, program)
    assert [*tmp_path.iterdir()]


def test_a_second_process_needs_neither_numba_nor_llvm(folder: Path):
    expected = [
        qcompiler.load(folder / "model.qc").session(1).run({"image": np.load(folder / "images.npy")[:n]})["logits"]
        for n in (3, 1, 2)
    ]
    (kept,) = kept_files(folder)
    other_shapes = RUN.replace("(3, 1, 2)", "(3,)")
    command = [sys.executable, "-c", other_shapes, str(folder / "model.qc"), str(folder / "images.npy")]
    variables = {**os.environ, "QCOMPILER_CACHE_DIR": str(folder / "cache")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [str(expected[0].tolist()), "[]"]
    outputs, imported = start(folder)
    assert outputs == [str(array.tolist()) for array in expected]
    assert imported == "['llvmlite']"  # for the other two batch sizes: the generators of its IR, not the library
    assert kept_files(folder) == [kept]


COMPILE = """
import sys
import numpy as np
import qcompiler

model = qcompiler.compile(sys.argv[1], calibration=[{"image": np.load(sys.argv[2])}])
model.save(sys.argv[3])
print([name for name in ("numba", "llvmlite.binding") if name in sys.modules])
"""


def compile_in_own_process(folder: Path, assets: Path, **environment: str) -> tuple[bytes, str]:
    """The artifact, and what was imported."""
    arguments = str(assets / "digits_dsnet.onnx"), str(folder / "images.npy"), str(folder / "compiled.qc")
    variables = {**os.environ, "QCOMPILER_CACHE_DIR": str(folder / "cache"), **environment}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *arguments], env=variables, capture_output=True, text=True, check=True
    )
    return (folder / "compiled.qc").read_bytes(), done.stdout.splitlines()[-1]


def test_a_second_compilation_imports_no_numba(folder: Path, assets: Path):
    artifact, _ = compile_in_own_process(folder, assets)
    assert compile_in_own_process(folder, assets) == (artifact, "[]")
    (record,) = (folder / "cache").rglob("*.target")
    for damaged in (b"", b"[]", b'{"cpu": "x"}'):
        record.write_bytes(damaged)
        assert compile_in_own_process(folder, assets) == (artifact, "['numba', 'llvmlite.binding']")
        assert compile_in_own_process(folder, assets) == (artifact, "[]")
    for image in (folder / "cache").rglob("float_conv-*.image"):
        image.unlink()
    assert compile_in_own_process(folder, assets) == (artifact, "['numba', 'llvmlite.binding']")


@pytest.mark.parametrize("place", [0.0, 0.01, 0.5, 0.999])
def test_a_damaged_file_is_made_anew(folder: Path, place: float):
    (kept,) = kept_files(folder)
    content = kept.read_bytes()
    changed = bytearray(content)
    changed[int(len(content) * place)] ^= 4
    kept.write_bytes(changed)
    assert prepared.read(kept) is None
    outputs, imported = start(folder)
    assert imported == "['llvmlite']"
    assert outputs == start(folder)[0]
    assert prepared.read(kept) is not None


def test_another_primitive_has_another_file(folder: Path):
    before = kept_files(folder)
    assert start(folder)[0] == start(folder, QCOMPILER_ISA="generic")[0]
    (new,) = set(kept_files(folder)) - set(before)
    new.unlink()


def test_a_file_holds_the_whole_program(tmp_path: Path, program: Program):
    kept = prepared._with_code(program)
    assert kept is not None
    path = tmp_path / "x.program"
    path.write_bytes(prepared.to_bytes(kept))
    read = prepared.read(path)
    assert read is not None
    assert (read.words, read.code, read.isa) == (kept.words, kept.code, isa.current())
    assert read.program.text() == program.text()
    for one, other in zip(read.program.instructions, program.instructions, strict=True):
        assert [getattr(one, name) for name in one.__slots__] == [getattr(other, name) for name in other.__slots__]
    assert read.program.buffers == program.buffers
    assert read.program.constants.keys() == program.constants.keys()
    for key, array in program.constants.items():
        assert read.program.constants[key].dtype == array.dtype
        assert np.array_equal(read.program.constants[key], array)
        assert read.program.constants[key].ctypes.data % ALIGNMENT == 0


@pytest.mark.parametrize("length", [0, 20, 40, 4000])
def test_a_short_file_is_none(tmp_path: Path, program: Program, length: int):
    kept = prepared._with_code(program)
    assert kept is not None
    (tmp_path / "x.program").write_bytes(prepared.to_bytes(kept)[:length])
    assert prepared.read(tmp_path / "x.program") is None


def test_the_name_depends_on_graph_sizes_and_instructions(folder: Path, monkeypatch: pytest.MonkeyPatch):
    graph = qcompiler.load(folder / "model.qc").graph
    store = prepared.ProgramStore(graph)
    names = [store._path({"N": 1}), store._path({"N": 2}), prepared.ProgramStore(Graph("other"))._path({"N": 1})]
    monkeypatch.setenv("QCOMPILER_ISA", "generic")
    names.append(store._path({"N": 1}))
    monkeypatch.setenv("NUMBA_OPT", "1")
    names.append(store._path({"N": 1}))
    assert None not in names
    assert len(set(names)) == len(names)


def test_ops_of_plug_ins_are_lowered_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    graph = qcompiler.load(folder / "model.qc").graph
    node = next(iter(graph.nodes()))
    monkeypatch.setattr(type(node.op), "__module__", "plugin")
    assert prepared.ProgramStore(graph)._path({}) is None


def test_nothing_is_kept_for_a_target_that_the_environment_does_not_name(
    folder: Path, program: Program, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("QCOMPILER_CACHE_DIR", str(tmp_path))
    store = prepared.ProgramStore(qcompiler.load(folder / "model.qc").graph)
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")  # after Numba read it
    store.save({"N": 1}, program)
    assert list(tmp_path.rglob("*.program")) == []


def test_changed_sources_are_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "a.py").write_text("x = 1\n")
    os.utime(tmp_path / "inner" / "a.py", (1, 1))
    monkeypatch.setattr(prepared, "_PACKAGE", tmp_path)
    before = prepared._source_stamps()
    assert before is not None
    os.utime(tmp_path / "inner" / "a.py", (2, 2))
    assert prepared._source_stamps() not in (before, None)
    os.utime(tmp_path / "inner" / "a.py", (prepared._STARTED + 5,) * 2)
    assert prepared._source_stamps() is None


def test_pruning_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(prepared, "KEPT_BYTES", 250)
    for age, name in enumerate("cab"):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    prepared._prune(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"c", "a"}
