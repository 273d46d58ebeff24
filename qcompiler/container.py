r"""The file format of a compiled model: a fixed header and named sections, each with its SHA-256.

    offset  size  field (little-endian)
    0       8     magic  b"QCMODEL\n"
    8       4     format version
    12      4     number of sections n
    16      8     size of the whole file in bytes
    24      32    SHA-256 of bytes 0..23 and of the section table
    56      64·n  section table: name (16 bytes, zero padded), offset u64, size u64, SHA-256 (32 bytes)
    ...           the sections in table order, each at a multiple of 64, zero padding between them

There is nothing else in the file: no code, no pickle, no compression. Writing is deterministic and atomic; reading
checks every number against the real file size before anything is allocated.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import struct
import threading
from collections.abc import Mapping
from pathlib import Path

from qcompiler.errors import ArtifactError, UsageError

MAGIC = b"QCMODEL\n"
VERSION = 1
ALIGNMENT = 64
_HEADER = struct.Struct("<8sIIQ32s")
_ENTRY = struct.Struct("<16sQQ32s")
_MAX_SECTIONS = 64


def pack_sections(sections: Mapping[str, bytes]) -> bytes:
    """The whole file as bytes, sections in the given order."""
    offset = _aligned(_HEADER.size + _ENTRY.size * len(sections))
    table = b""
    for name, data in sections.items():
        table += _ENTRY.pack(name.encode("ascii"), offset, len(data), hashlib.sha256(data).digest())
        offset = _aligned(offset + len(data))
    fields = (MAGIC, VERSION, len(sections), offset)
    digest = hashlib.sha256(_HEADER.pack(*fields, b"")[:24] + table).digest()
    parts = [_HEADER.pack(*fields, digest), table]
    size = _HEADER.size + len(table)
    for data in sections.values():
        padding = _aligned(size) - size
        parts += [b"\0" * padding, data]
        size += padding + len(data)
    parts.append(b"\0" * (offset - size))
    return b"".join(parts)


def unpack_sections(data: bytes | mmap.mmap, origin: str) -> dict[str, memoryview]:
    """Name to contents of every section, after all checks; the views share the memory of `data`.

    Raises:
        ArtifactError: `data` is not a compiled model, is of another version, truncated or altered.
    """
    view = memoryview(data).toreadonly()
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
    sections: dict[str, memoryview] = {}
    position = table_end
    for index in range(count):
        raw, offset, length, expected = _ENTRY.unpack_from(view, _HEADER.size + index * _ENTRY.size)
        name = raw.rstrip(b"\0").decode("ascii", "replace")
        if offset % ALIGNMENT or offset != _aligned(position) or offset + length > size or name in sections:
            raise ArtifactError(f"{origin} is damaged: section {name!r} is out of place")
        if any(view[position:offset]):
            raise ArtifactError(f"{origin} is damaged: there are bytes between its sections")
        position = offset + length
        sections[name] = view[offset:position]
        if hashlib.sha256(sections[name]).digest() != expected:
            raise ArtifactError(f"{origin} is damaged: section {name!r} does not match its checksum")
    if any(view[position:]) or _aligned(position) != size:
        raise ArtifactError(f"{origin} is damaged: there are bytes behind its last section")
    return sections


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
