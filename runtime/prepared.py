"""Programs that are ready to run, kept between processes: neither lowering nor packing nor LLVM when one starts.

A file holds a program for one set of input shapes with its packed constants and the images of its kernels. It is mapped
into memory, so processes share the constants. What decides its contents is in its name: the graph, the sizes of its
symbolic dimensions, our own sources, the versions, the CPU and the environment variables that choose instructions. It
starts with the SHA-256 of the rest, is in a directory that only its user can write, and the program is verified again.

The rest is the length of a JSON header in 4 bytes, the header, and blocks at multiples of 64 bytes. None of this is
used in a process that has Numba already: it may be configured in other ways, and there is less to gain.
"""

import hashlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler.ir import AnyArray, DType, Graph
from qcompiler.ir.printer import print_graph
from qcompiler.runtime import isa
from qcompiler.runtime.interpreter import Code
from qcompiler.runtime.kernels import images
from qcompiler.runtime.kernels.cache import program_directory
from qcompiler.runtime.program import ALIGNMENT, Buffer, Instruction, Operand, Port, Program
from qcompiler.runtime.threads import use_loops
from qcompiler.version import __version__

KEPT_BYTES = 512 << 20
"""Of all files together, least recently used ones dropped."""
LARGEST_BYTES = 256 << 20
LOOPS = ("call", "help")

_STARTED = time.time()
_FORMAT = 2
_DIGEST_BYTES = hashlib.sha256().digest_size
_PACKAGE = Path(sys.modules["qcompiler"].__file__ or "").parent
_OURS = "qcompiler."


@dataclass(frozen=True)
class Kept:
    """A program with its code, and the primitive of the latter."""

    program: Program
    words: Mapping[str, tuple[str, ...]]
    code: Mapping[str, images.Image]  # loops included
    isa: str


class ProgramStore:
    """The kept programs of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def load(self, symbols: Mapping[str, int]) -> tuple[Program, Code] | None:
        """The program for these sizes, its kernels mapped; None if there is none that can be used here."""
        if "numba" in sys.modules or (path := self._path(symbols)) is None:
            return None
        kept = read(path)
        if kept is None:
            with suppress(OSError):  # damaged, or not there; `save` leaves what is there alone
                path.unlink()
            return None
        if kept.isa == "amx" and not isa.request_amx():
            return None
        try:
            addresses = {name: images.load(image) for name, image in kept.code.items()}
            os.utime(path)
        except OSError:
            return None
        use_loops(*(addresses[name] for name in LOOPS))
        return kept.program, Code(kept.words, addresses)

    def save(self, symbols: Mapping[str, int], program: Program) -> None:
        """Keep a program whose kernels are compiled; nothing happens if that is not possible."""
        if not is_configured_by_environment() or program.constant_bytes > LARGEST_BYTES:
            return
        path = self._path(symbols)
        if path is None:
            return
        try:
            if path.exists():
                os.utime(path)
                return
            kept = _with_code(program)
            if kept is None:
                return
            images.write(path, to_bytes(kept))
            _prune(path.parent)
        except OSError:  # the disk is full: the next process lowers again
            return

    def _path(self, symbols: Mapping[str, int]) -> Path | None:
        if any(not type(node.op).__module__.startswith(_OURS) for node in self._graph.nodes()):
            return None  # a plug-in decides how its ops are lowered
        found, directory = machine(), program_directory()
        if found is None or directory is None:
            return None
        parts = (found, print_graph(self._graph), sorted(symbols.items()), choices())
        return directory / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.program"


def choices() -> tuple[tuple[str, str], ...]:
    """The environment variables that decide what code is made."""
    names = (name for name in os.environ if name.startswith("NUMBA_") or name == isa.ENVIRONMENT_VARIABLE)
    return tuple((name, os.environ[name]) for name in sorted(names))


def to_bytes(kept: Kept) -> bytes:
    """The contents of a file."""
    blocks = bytearray()

    def block(data: bytes) -> tuple[int, int]:
        blocks.extend(bytes(-len(blocks) % ALIGNMENT))
        blocks.extend(data)
        return len(blocks) - len(data), len(data)

    program = kept.program
    header = {
        "isa": kept.isa,
        "words": dict(kept.words),
        "code": {
            name: [*block(image.code), image.entry, image.own, image.imports] for name, image in kept.code.items()
        },
        "buffers": [
            [b.name, b.dtype, b.shape, b.nbytes, None if b.parent is None else b.parent.id, b.offset, b.pitch]
            for b in program.buffers
        ],
        "constants": [
            [key, array.dtype.str, array.shape, block(array.tobytes())[0]] for key, array in program.constants.items()
        ],
        "ports": [[[p.name, p.buffer.id] for p in ports] for ports in (program.inputs, program.outputs)],
        "instructions": [
            [
                i.kernel,
                {word: [o.id] if isinstance(o, Buffer) else o for word, o in i.operands.items()},
                i.writes,
                i.scratch,
                dict(i.overwrites),
                i.pitched,
                i.shares,
                i.cost,
                i.label,
            ]
            for i in program.instructions
        ],
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    body = len(text).to_bytes(4, "little") + text
    body += bytes(-(_DIGEST_BYTES + len(body)) % ALIGNMENT) + bytes(blocks)
    return hashlib.sha256(body).digest() + body


def read(path: Path) -> Kept | None:
    """What `to_bytes` wrote, its constants in the file's pages; None if the file is missing or damaged."""
    try:
        with path.open("rb") as file:
            data = memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))
    except (OSError, ValueError):  # missing or empty
        return None
    if len(data) < _DIGEST_BYTES + 4 or hashlib.sha256(data[_DIGEST_BYTES:]).digest() != data[:_DIGEST_BYTES]:
        return None
    end = _DIGEST_BYTES + 4 + int.from_bytes(data[_DIGEST_BYTES : _DIGEST_BYTES + 4], "little")
    header = json.loads(bytes(data[_DIGEST_BYTES + 4 : end]))
    blocks = data[end + -end % ALIGNMENT :]
    code = {
        name: images.Image(
            bytes(blocks[start : start + size]), entry, tuple(own), {name: tuple(at) for name, at in imports.items()}
        )
        for name, (start, size, entry, own, imports) in header["code"].items()
    }
    words = {name: tuple(each) for name, each in header["words"].items()}
    return Kept(_program(header, blocks), words, code, header["isa"])


def _program(header: Mapping[str, Any], blocks: memoryview) -> Program:
    buffers: list[Buffer] = []
    for name, dtype, shape, nbytes, parent, offset, pitch in header["buffers"]:
        owner = None if parent is None else buffers[parent]
        buffers.append(Buffer(len(buffers), name, DType(dtype), tuple(shape), nbytes, owner, offset, pitch))

    def operand(given: list[int] | int) -> Operand:
        return buffers[given[0]] if isinstance(given, list) else given

    constants: dict[int, AnyArray] = {
        key: np.ndarray(tuple(shape), np.dtype(dtype), blocks, start)
        for key, dtype, shape, start in header["constants"]
    }
    instructions = tuple(
        Instruction(
            kernel,
            {word: operand(given) for word, given in operands.items()},
            tuple(writes),
            tuple(scratch),
            overwrites,
            pitched=tuple(pitched),
            shares=shares,
            cost=cost,
            label=label,
        )
        for kernel, operands, writes, scratch, overwrites, pitched, shares, cost, label in header["instructions"]
    )
    inputs, outputs = (tuple(Port(name, buffers[key]) for name, key in ports) for ports in header["ports"])
    return Program(instructions, tuple(buffers), constants, inputs, outputs)


def _with_code(program: Program) -> Kept | None:
    """The program with the images of its kernels; None if it has states, or a kernel without image or of a plug-in."""
    if program.states:
        return None
    from qcompiler.runtime.kernels.registry import kernel_named
    from qcompiler.runtime.walk_loops import CALL, HELP

    chosen = isa.current()
    kernels = {name: kernel_named(name) for name in dict.fromkeys(i.kernel for i in program.instructions)}
    words = {name: kernel.words for name, kernel in kernels.items()}
    code: dict[str, images.Image] = {}
    for name, kernel in (kernels | {CALL.name: CALL, HELP.name: HELP}).items():
        image = kernel.image_for(chosen)
        if image is None or not kernel.function.__module__.startswith(_OURS):
            return None
        code[name] = image
    return Kept(program, words, code, chosen)


def is_configured_by_environment() -> bool:
    """Whether Numba's target is what the environment says: a program may have changed it."""
    if "numba" not in sys.modules:
        return True
    from numba.core import config

    known = vars(config)
    return (
        known["CPU_NAME"] == os.environ.get("NUMBA_CPU_NAME")
        and known["CPU_FEATURES"] == os.environ.get("NUMBA_CPU_FEATURES")
        and "NUMBA_ENABLE_AVX" not in os.environ
        and isa.target.cache_info().currsize == 1
    )


@cache
def machine() -> str | None:
    """Hash of what is the same for all graphs: our sources, versions and the CPU; None where it cannot be told."""
    if not images.SUPPORTED or Path(".numba_config.yaml").exists():
        return None
    sources = _source_stamps()
    if sources is None:
        return None
    versions = [__version__, sys.version, platform.machine(), np.__version__]
    for package in ("numba", "llvmlite"):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            return None
        try:
            status = Path(spec.origin).with_name("_version.py").stat()
        except OSError:
            return None
        versions.append(f"{spec.origin} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            first = file.read(16384).split(b"\n\n")[0].decode()
    except OSError:
        return None
    fields = dict(line.split("\t", 1) for line in first.splitlines() if "\t" in line)
    cpu = [fields.get(name, "") for name in ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")]
    return hashlib.sha256(repr((_FORMAT, sources, versions, cpu)).encode()).hexdigest()


def _source_stamps() -> list[tuple[str, int, int, int]] | None:
    """Name, size and times of change of every module of ours; None if one is newer than this process."""
    found: list[tuple[str, int, int, int]] = []
    if not _PACKAGE.is_dir():  # in a zip archive
        return None
    waiting = [str(_PACKAGE)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    waiting.append(entry.path)
                elif entry.name.endswith(".py"):
                    status = entry.stat()
                    if status.st_mtime > _STARTED:
                        return None
                    found.append((entry.path, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return sorted(found)


def _prune(directory: Path) -> None:
    """Drop what was used least recently."""
    total = 0
    files = [(path.stat(), path) for path in directory.iterdir()]
    for status, path in sorted(files, key=lambda each: each[0].st_mtime, reverse=True):
        total += status.st_size
        if total > KEPT_BYTES:
            path.unlink(missing_ok=True)
