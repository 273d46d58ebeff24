"""Compiled kernels as images: machine code that a process maps and calls, with neither Numba nor LLVM.

Initialising Numba takes a second or more of processor time in all and 60 MB; a kernel's code takes neither. It calls
nothing but a few functions of the C library, and LLVM emits all of it for addresses that are only known in the
process: the one relocation is "add the address of this to the 8 bytes there" (R_X86_64_64 of the System V ABI, AMD64
supplement, section 4.4.1). So `link` lays an object's sections out once, and `load` adds addresses.

An image is the SHA-256 of the rest, the length of a JSON header in 4 bytes, the header, the code. An image that only
has a reason why the kernel cannot have one stands for code that Numba keeps in its own cache.
"""

import ctypes
import hashlib
import json
import mmap
import os
import platform
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

SUPPORTED = sys.platform == "linux" and platform.machine() == "x86_64" and sys.maxsize > 2**32
"""Whether objects here have the format that `link` knows."""

_WRITABLE, _ALLOCATED = 0x1, 0x2  # flags of a section
_PROGRAM_BITS, _SYMBOLS, _RELOCATIONS = 1, 2, 4  # kinds of section
_ADD_ADDRESS = 1  # R_X86_64_64
_UNDEFINED = 0  # SHN_UNDEF
_REPORTS = ("numba_", "NRT_", "Py")
_TRAP = b"\x0f\x0b"  # ud2
_DIGEST_BYTES = hashlib.sha256().digest_size
_mapped: list[mmap.mmap] = []  # forever: whoever has an address may call it
_addresses: dict[bytes, int] = {}
_mapping = threading.Lock()
if hasattr(os, "register_at_fork"):  # else a child could find it taken by a thread that it has not
    os.register_at_fork(before=_mapping.acquire, after_in_parent=_mapping.release, after_in_child=_mapping.release)


class CannotLinkError(Exception):
    """The object needs what an image does not have."""


@dataclass(frozen=True)
class Image:
    """Code laid out from address 0.

    Attributes:
        code: its bytes.
        entry: offset of the kernel.
        own: offsets of the 8-byte words that the image's own address is added to.
        imports: function of the C library -> offsets of the words that its address is added to.
    """

    code: bytes
    entry: int
    own: tuple[int, ...]
    imports: dict[str, tuple[int, ...]]

    def to_bytes(self) -> bytes:
        """The file's contents."""
        header = asdict(self)
        del header["code"]
        return _sealed(header, self.code)


def refusal(reason: str) -> bytes:
    """The contents of a file that says why there is no image."""
    return _sealed({"refused": reason}, b"")


def read(path: Path) -> Image | str | None:
    """The image of a file, or why there can be none; None if the file is missing or damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    body = memoryview(data)[_DIGEST_BYTES:]
    if len(body) < 4 or hashlib.sha256(body).digest() != data[:_DIGEST_BYTES]:
        return None
    start = 4 + int.from_bytes(body[:4], "little")
    header = json.loads(bytes(body[4:start]))
    if "refused" in header:
        return str(header["refused"])
    imports = {name: tuple(offsets) for name, offsets in header["imports"].items()}
    return Image(bytes(body[start:]), header["entry"], tuple(header["own"]), imports)


def write(path: Path, data: bytes) -> None:
    """Write a file that is there completely or not at all; raises OSError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    try:
        with partial.open("xb") as file:
            file.write(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def load(image: Image) -> int:
    """Map an image for good, once for the process; returns the kernel's address.

    Raises:
        OSError: memory cannot be made executable, or the C library lacks a function.
    """
    identity = image.to_bytes()[:_DIGEST_BYTES]
    with _mapping:
        if identity not in _addresses:
            _addresses[identity] = _map(image)
        return _addresses[identity]


def _map(image: Image) -> int:
    memory = mmap.mmap(-1, len(image.code), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    memory.write(image.code)
    for address, offsets in ((base, image.own), *((_function(name), at) for name, at in image.imports.items())):
        for offset in offsets:
            (addend,) = _WORD.unpack_from(memory, offset)
            _WORD.pack_into(memory, offset, (addend + address) % 2**64)
    if _library().mprotect(ctypes.c_void_p(base), ctypes.c_size_t(len(memory)), _READ | _EXECUTE) != 0:
        raise OSError("memory cannot be made executable")
    _mapped.append(memory)
    return base + image.entry


def link(code: bytes, entry: str, *, address_of: Callable[[str], int | None], may_raise: bool = True) -> Image:
    """The image of an ELF relocatable object (x86-64).

    Args:
        code: the object.
        entry: the symbol of the kernel.
        address_of: where the JIT would find a function: an image must find the same.
        may_raise: whether a kernel that has code for an exception is refused. If not, what Numba calls to report
            one is replaced by an instruction that ends the process, better than going on with a part of the result.

    Raises:
        CannotLinkError: the object has something that an image cannot have.
    """
    sections = _Sections(code)
    starts: dict[int, int] = {}
    laid_out = bytearray()
    for index, section in enumerate(sections.all):
        if not section.flags & _ALLOCATED or not section.size or sections.name(section) == ".eh_frame":
            continue  # nobody unwinds a kernel
        if section.kind != _PROGRAM_BITS or section.flags & _WRITABLE:
            raise CannotLinkError(f"section {sections.name(section)} is neither code nor constants")
        laid_out += bytes(-len(laid_out) % max(section.alignment, 1))
        starts[index] = len(laid_out)
        laid_out += code[section.offset : section.offset + section.size]
    trap = len(laid_out)
    laid_out += _TRAP
    own: list[int] = []
    imports: dict[str, list[int]] = {}
    for section in sections.all:
        if section.kind != _RELOCATIONS or section.info not in starts:
            continue
        for at, info, addend in struct.iter_unpack("<QQq", code[section.offset : section.offset + section.size]):
            if info & 0xFFFFFFFF != _ADD_ADDRESS:
                raise CannotLinkError(f"relocation {info & 0xFFFFFFFF} is unknown")
            symbol = sections.symbols[info >> 32]
            where = starts[section.info] + at
            target = addend
            if symbol.section in starts:
                target += starts[symbol.section] + symbol.value
                own.append(where)
            elif symbol.section == _UNDEFINED and symbol.name.startswith(_REPORTS) and not may_raise:
                target += trap
                own.append(where)
            elif symbol.section == _UNDEFINED and symbol.name.startswith(_REPORTS):
                raise CannotLinkError(f"the kernel may raise: it has a call of {symbol.name}")
            elif symbol.section == _UNDEFINED and _is_in_library(symbol.name, address_of):
                imports.setdefault(symbol.name, []).append(where)
            else:
                raise CannotLinkError(f"symbol {symbol.name!r} is not in the C library")
            _WORD.pack_into(laid_out, where, target % 2**64)
    for symbol in sections.symbols:
        if symbol.name == entry and symbol.section in starts:
            first = starts[symbol.section] + symbol.value
            return Image(bytes(laid_out), first, tuple(own), {name: tuple(at) for name, at in imports.items()})
    raise CannotLinkError(f"there is no symbol {entry!r}")


_READ, _EXECUTE = 1, 4  # of mprotect
_WORD = struct.Struct("<Q")


def _sealed(header: dict[str, object], code: bytes) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    body = len(text).to_bytes(4, "little") + text + code
    return hashlib.sha256(body).digest() + body


def _library() -> ctypes.CDLL:
    """What is loaded in this process, the C library included."""
    return ctypes.CDLL(None)


def _function(name: str) -> int:
    """The address of a function of the C library; raises OSError if it has none."""
    try:
        found = ctypes.cast(getattr(_library(), name), ctypes.c_void_p).value
    except AttributeError as error:
        raise OSError(str(error)) from None
    return found or 0


def _is_in_library(name: str, address_of: Callable[[str], int | None]) -> bool:
    try:
        return _function(name) == address_of(name)
    except OSError:
        return False


@dataclass(frozen=True)
class _Section:
    name: int
    kind: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


@dataclass(frozen=True)
class _Symbol:
    name: str
    section: int
    value: int


class _Sections:
    """The section headers and symbols of an ELF64 object, little-endian (System V ABI, chapter 4)."""

    def __init__(self, code: bytes) -> None:
        self._code = code
        if code[:6] != b"\x7fELF\x02\x01":
            raise CannotLinkError("the object is not ELF64, little-endian")
        (table,) = struct.unpack_from("<Q", code, 0x28)
        size, count, names = struct.unpack_from("<HHH", code, 0x3A)
        self.all: list[_Section] = []
        for index in range(count):
            name, kind, flags, _, offset, length, link_, info, alignment, _ = struct.unpack_from(
                "<IIQQQQIIQQ", code, table + index * size
            )
            self.all.append(_Section(name, kind, flags, offset, length, link_, info, alignment))
        self._names = self.all[names].offset
        self.symbols: list[_Symbol] = []
        for section in self.all:
            if section.kind == _SYMBOLS:
                strings = self.all[section.link].offset
                for name, _, _, index, value, _ in struct.iter_unpack(
                    "<IBBHQQ", code[section.offset : section.offset + section.size]
                ):
                    self.symbols.append(_Symbol(self._text(strings + name), index, value))

    def name(self, section: _Section) -> str:
        return self._text(self._names + section.name)

    def _text(self, start: int) -> str:
        return self._code[start : self._code.index(0, start)].decode()
