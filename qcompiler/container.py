r"""The file format of a compiled model: a fixed header and named sections, each with its SHA-256.

    offset  size  field (little-endian)
    0       8     magic  b"QCMODEL\n"
    8       4     format version
    12      4     number of sections n
    16      8     size of the whole file in bytes
    24      32    SHA-256 of bytes 0..23 and of the section table
    56      76·n  section table: name (16 bytes, zero padded), offset u64, stored size u64, size u64,
                  CRC-32 of the stored bytes, SHA-256 of the contents (32 bytes)
    ...           the sections in table order, each at a multiple of 8, zero padding between them

A section that is stored in fewer bytes than it has is a zlib stream (RFC 1950) of its contents; any other is stored as
it is, and its view is the file's own memory. The writer compresses what shrinks by `_WORTHWHILE` at least, within
limits that the reader holds to: no more than `COMPRESSIBLE_BYTES` in a section, and `MAX_RATIO` times the stored bytes.
So a small file cannot ask for much memory.

There is nothing else in the file: no code, no pickle, no archive. Writing is deterministic and atomic. Another build of
zlib may write another stream, so what identifies a model is the SHA-256 of each section's contents, which stays the
same; the CRC-32 and the checksum of the header only tell damage. Reading checks every number against the real file size
and the limits before anything is allocated.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from qcompiler.errors import ArtifactError, UsageError

MAGIC = b"QCMODEL\n"
VERSION = 2
ALIGNMENT = 8
COMPRESSIBLE_BYTES = 2**28
"""Of a section; larger ones are stored as they are, which also lets them be mapped."""
MAX_RATIO = 128
"""Contents to stored bytes. Text shrinks 2 to 12 times; deflate itself would allow 1032."""
_WORTHWHILE = 1 / 32
"""Of a section's bytes. Trained 8-bit weights have uneven upper bits and save up to 12 %, pruned ones far more."""
_PIECES, _PIECE = 16, 1 << 14
_REPEATS = 0.01
"""What repeated strings have to save of a part, 16 pieces of 16 kB, for the whole to be searched for them."""
_HEADER = struct.Struct("<8sIIQ32s")
_ENTRY = struct.Struct("<16sQQQI32s")
_MAX_SECTIONS = 64


@dataclass(frozen=True, slots=True)
class Section:
    """The contents of a section as they are stored.

    Attributes:
        stored: a zlib stream of the contents, or the contents.
        size: bytes of the contents.
        sha256: of the contents.
    """

    stored: bytes
    size: int
    sha256: bytes

    @staticmethod
    def of(data: bytes, *, compressed: bool = True) -> "Section":
        """Compress, if allowed and worthwhile, and hash `data`: most of the work of packing, without the GIL."""
        return Section(_smaller(data) if compressed else data, len(data), hashlib.sha256(data).digest())


def pack_sections(sections: Mapping[str, bytes | Section]) -> bytes:
    """The whole file as bytes, sections in the given order."""
    packed = {name: data if isinstance(data, Section) else Section.of(data) for name, data in sections.items()}
    offset = _aligned(_HEADER.size + _ENTRY.size * len(sections))
    table = b""
    for name, section in packed.items():
        kept = section.stored
        table += _ENTRY.pack(name.encode("ascii"), offset, len(kept), section.size, zlib.crc32(kept), section.sha256)
        offset = _aligned(offset + len(kept))
    fields = (MAGIC, VERSION, len(sections), offset)
    digest = hashlib.sha256(_HEADER.pack(*fields, b"")[:24] + table).digest()
    parts = [_HEADER.pack(*fields, digest), table]
    size = _HEADER.size + len(table)
    for section in packed.values():
        padding = _aligned(size) - size
        parts += [b"\0" * padding, section.stored]
        size += padding + len(section.stored)
    parts.append(b"\0" * (offset - size))
    return b"".join(parts)


def _smaller(data: bytes) -> bytes:
    """A zlib stream of `data` if that is worthwhile and within the limits, else `data`."""
    if len(data) > COMPRESSIBLE_BYTES:
        return data
    stream = _compress(data, zlib.Z_RLE if _has_no_repeats(data) else zlib.Z_DEFAULT_STRATEGY)
    worthwhile = len(stream) < len(data) * (1 - _WORTHWHILE)
    return stream if worthwhile and len(data) <= MAX_RATIO * len(stream) else data


def _has_no_repeats(data: bytes) -> bool:
    """Whether looking for strings that occur again is a waste of time, as in trained weights: judged by a part."""
    if len(data) < 4 * _PIECES * _PIECE:  # the whole takes little longer than the part
        return False
    step = len(data) // _PIECES
    pieces = b"".join(data[start : start + _PIECE] for start in range(0, step * _PIECES, step))
    with_strings, without = (len(_compress(pieces, how)) for how in (zlib.Z_DEFAULT_STRATEGY, zlib.Z_RLE))
    return with_strings > without * (1 - _REPEATS)


def _compress(data: bytes, strategy: int) -> bytes:
    compressor = zlib.compressobj(9, strategy=strategy)
    return compressor.compress(data) + compressor.flush()


@dataclass(frozen=True, slots=True)
class _Entry:
    """A row of the section table that fits the file."""

    name: str
    stored: memoryview
    size: int
    crc32: int
    sha256: bytes


def unpack_sections(data: bytes | mmap.mmap, origin: str) -> dict[str, memoryview]:
    """Name to contents of every section, after all checks.

    The views of sections that are not compressed share the memory of `data`.

    Raises:
        ArtifactError: `data` is not a compiled model, is of another version, truncated or altered.
    """
    return {entry.name: _contents(entry, origin) for entry in _table(memoryview(data).toreadonly(), origin)}


def _table(view: memoryview, origin: str) -> list[_Entry]:
    """The section table; every byte of the file belongs to the header, the table, a section or the zeros between."""
    if len(view) < _HEADER.size or view[:8] != MAGIC:
        raise ArtifactError(
            f"{origin} is not a compiled model: it does not start as one; compile a model with `qcompile`"
        )
    _, version, count, size, digest = _HEADER.unpack_from(view)
    if version != VERSION:
        raise ArtifactError(
            f"{origin} has format version {version}, this release reads {VERSION}; compile the model again"
        )
    if size != len(view):
        raise ArtifactError(f"{origin} has {len(view)} bytes instead of {size}: it is truncated or was appended to")
    table_end = _HEADER.size + count * _ENTRY.size
    if not 0 < count <= _MAX_SECTIONS or table_end > size:
        raise ArtifactError(f"{origin} is damaged: {count} sections do not fit into {size} bytes")
    if hashlib.sha256(bytes(view[:24]) + bytes(view[_HEADER.size : table_end])).digest() != digest:
        raise ArtifactError(f"{origin} is damaged: the header does not match its checksum")
    entries: dict[str, _Entry] = {}
    position = table_end
    for index in range(count):
        raw, offset, stored, length, crc32, expected = _ENTRY.unpack_from(view, _HEADER.size + index * _ENTRY.size)
        name = raw.rstrip(b"\0").decode("ascii", "replace")
        if offset != _aligned(position) or offset + stored > size or name in entries:
            raise ArtifactError(f"{origin} is damaged: section {name!r} is out of place")
        if any(view[position:offset]):
            raise ArtifactError(f"{origin} is damaged: there are bytes between its sections")
        if stored != length and not stored < length <= min(COMPRESSIBLE_BYTES, MAX_RATIO * stored):
            raise ArtifactError(f"{origin} is damaged: section {name!r} claims {length} bytes, stored in {stored}")
        position = offset + stored
        entries[name] = _Entry(name, view[offset:position], length, crc32, expected)
    if any(view[position:]) or _aligned(position) != size:
        raise ArtifactError(f"{origin} is damaged: there are bytes behind its last section")
    return list(entries.values())


def _contents(entry: _Entry, origin: str) -> memoryview:
    """What a section holds, decompressed if it is stored in fewer bytes than it has."""
    section = f"{origin} is damaged: section {entry.name!r}"
    if zlib.crc32(entry.stored) != entry.crc32:
        raise ArtifactError(f"{section} does not match its checksum")
    contents = entry.stored
    if len(entry.stored) < entry.size:
        contents = memoryview(_decompressed(entry.stored, entry.size, section))
    if hashlib.sha256(contents).digest() != entry.sha256:
        raise ArtifactError(f"{section} does not match its hash")
    return contents


def _decompressed(stream: memoryview, size: int, section: str) -> bytes:
    """The contents of a zlib stream of `size` bytes; never more than one byte beyond is produced."""
    decompressor = zlib.decompressobj()
    try:
        contents = decompressor.decompress(stream, size + 1)
    except zlib.error as error:
        raise ArtifactError(f"{section} cannot be decompressed: {error}") from error
    if len(contents) > size:
        raise ArtifactError(f"{section} holds more than the {size} bytes that it claims")
    if not decompressor.eof:
        raise ArtifactError(f"{section} ends in the middle of its compressed contents")
    if len(contents) < size:
        raise ArtifactError(f"{section} holds {len(contents)} bytes instead of the {size} that it claims")
    if decompressor.unused_data:
        raise ArtifactError(f"{section} has {len(decompressor.unused_data)} bytes behind its compressed contents")
    return contents


def read_file(path: Path, *, map_file: bool = False) -> bytes | mmap.mmap:
    """The contents of a file, read or memory-mapped.

    Raises:
        ArtifactError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            if map_file and os.fstat(file.fileno()).st_size:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return file.read()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds either what it held before or all of `data`, whatever happens.

    Raises:
        UsageError: the file cannot be written (no such directory, no permission, disk full).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}; nothing was changed there") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
