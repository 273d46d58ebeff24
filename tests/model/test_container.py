import hashlib
import os
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.container import (
    _ENTRY,
    _HEADER,
    ALIGNMENT,
    COMPRESSIBLE_BYTES,
    MAGIC,
    MAX_RATIO,
    VERSION,
    Section,
    _compress,
    pack_sections,
    unpack_sections,
    write_atomically,
)
from qcompiler.errors import ArtifactError, UsageError

SECTIONS = {"graph": b"text", "constants": bytes(range(256)) * 3, "empty": b""}
TEXT = b"%t1: u8[N,32,32,16] = int.conv(%t0, %t1w_s8, %t1_bias) " * 6


_contents = st.binary(max_size=200) | st.builds(bytes.__mul__, st.binary(max_size=9), st.integers(0, 200))


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=16), _contents, min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_unpack_gives_back_what_was_packed(sections):
    unpacked = unpack_sections(pack_sections(sections), "x")
    assert {name: bytes(view) for name, view in unpacked.items()} == sections
    assert list(unpacked) == list(sections)


def test_the_bytes_are_deterministic_and_sections_aligned():
    plain = {name: Section.of(contents, compressed=False) for name, contents in SECTIONS.items()}
    data = pack_sections(plain)
    assert data == pack_sections(dict(plain))
    assert pack_sections(SECTIONS) == pack_sections(dict(SECTIONS))
    assert len(data) % ALIGNMENT == 0
    assert data.index(SECTIONS["constants"]) % ALIGNMENT == 0


def test_what_shrinks_is_compressed_and_the_rest_shares_the_memory_of_the_file():
    noise = os.urandom(1000)
    data = pack_sections({"text": TEXT, "noise": noise, "kept": Section.of(TEXT, compressed=False)})
    assert len(data) < len(noise) + len(TEXT) + 500
    assert data.count(TEXT) == 1
    assert data.index(noise) < data.index(TEXT)
    sections = unpack_sections(data, "x")
    assert [sections[name].obj is data for name in ("text", "noise", "kept")] == [False, True, True]
    assert sections["text"] == sections["kept"] == TEXT


def test_strings_are_looked_for_where_they_occur_again():
    rng = np.random.default_rng(1)
    weights = np.clip(np.rint(rng.normal(0, 20, 2**20)), -128, 127).astype(np.int8).tobytes()
    assert Section.of(weights).stored == _compress(weights, zlib.Z_RLE)
    assert len(Section.of(weights).stored) < len(zlib.compress(weights, 9)) * 1.01
    again = weights[: 2**12] * 2**8
    assert Section.of(again).stored == zlib.compress(again, 9)
    assert len(again) // len(Section.of(again).stored) > 20
    for data in (weights, again):
        assert unpack_sections(pack_sections({"s": data}), "x")["s"] == data


def test_a_section_beyond_what_the_reader_allows_is_stored_as_it_is(monkeypatch):
    zeros = bytes(1 << 20)
    assert len(zlib.compress(zeros)) * MAX_RATIO < len(zeros)
    data = pack_sections({"zeros": zeros})
    assert len(data) > len(zeros)
    assert unpack_sections(data, "x")["zeros"] == zeros
    monkeypatch.setattr("qcompiler.container.COMPRESSIBLE_BYTES", len(TEXT) - 1)
    data = pack_sections({"text": TEXT})
    assert TEXT in data
    assert unpack_sections(data, "x")["text"] == TEXT


def test_another_zlib_changes_the_file_but_not_the_hashes_of_the_contents(monkeypatch):
    usual = pack_sections({"text": TEXT})
    compressor = zlib.compressobj
    monkeypatch.setattr(
        "qcompiler.container.zlib.compressobj", lambda level, strategy: compressor(level - 8, strategy=strategy)
    )
    other = pack_sections({"text": TEXT})
    assert usual != other
    assert unpack_sections(usual, "x") == unpack_sections(other, "x") == {"text": TEXT}
    digest = hashlib.sha256(TEXT).digest()
    assert digest in usual
    assert digest in other


def forged(stored: bytes, size: int, contents: bytes = TEXT) -> bytes:
    """A file of one section whose checksums are right, whatever is in it."""
    offset = aligned(_HEADER.size + _ENTRY.size)
    end = aligned(offset + len(stored))
    entry = _ENTRY.pack(b"s", offset, len(stored), size, zlib.crc32(stored), hashlib.sha256(contents).digest())
    fields = (MAGIC, VERSION, 1, end)
    digest = hashlib.sha256(_HEADER.pack(*fields, b"")[:24] + entry).digest()
    return ((_HEADER.pack(*fields, digest) + entry).ljust(offset, b"\0") + stored).ljust(end, b"\0")


def aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


STREAM = zlib.compress(TEXT)


def test_a_forged_file_that_is_right_is_read():
    assert unpack_sections(forged(STREAM, len(TEXT)), "x") == {"s": TEXT}


def with_dictionary() -> bytes:
    compressor = zlib.compressobj(zdict=TEXT)
    return compressor.compress(TEXT) + compressor.flush()


@pytest.mark.parametrize(
    ("stored", "size", "message"),
    [
        (STREAM, len(TEXT) - 1, f"holds more than the {len(TEXT) - 1} bytes that it claims"),
        (STREAM, len(TEXT) + 1, f"holds {len(TEXT)} bytes instead of the {len(TEXT) + 1} that it claims"),
        (STREAM, len(STREAM), "does not match its hash"),
        (STREAM, len(STREAM) - 1, f"claims {len(STREAM) - 1} bytes, stored in {len(STREAM)}"),
        (STREAM, MAX_RATIO * len(STREAM) + 1, r"claims \d+ bytes, stored in"),
        (bytes(COMPRESSIBLE_BYTES // MAX_RATIO + 1), COMPRESSIBLE_BYTES + 1, r"claims \d+ bytes, stored in"),
        (b"", 1, "claims 1 bytes, stored in 0"),
        (STREAM, 2**64 - 1, r"claims \d+ bytes, stored in"),
        (STREAM + b"\0", len(TEXT), "has 1 bytes behind its compressed contents"),
        (STREAM + STREAM, len(TEXT), f"has {len(STREAM)} bytes behind its compressed contents"),
        (STREAM[:-1], len(TEXT), "ends in the middle"),
        (STREAM[:-4], len(TEXT), "ends in the middle"),
        (STREAM[:20], len(TEXT), "ends in the middle"),
        (STREAM[:-1] + bytes([STREAM[-1] ^ 1]), len(TEXT), "cannot be decompressed: .*incorrect data check"),
        (b"junk", len(TEXT), "cannot be decompressed: .*incorrect header check"),
        (STREAM[2:], len(TEXT), "cannot be decompressed"),
        (with_dictionary(), len(TEXT), "cannot be decompressed"),
        (zlib.compress(TEXT.upper()), len(TEXT), "does not match its hash"),
    ],
    ids=lambda value: f"{len(value)} bytes" if isinstance(value, bytes) else None,
)
def test_a_compressed_section_that_is_not_what_it_claims_is_refused(stored, size, message):
    with pytest.raises(ArtifactError, match=f"x is damaged: section 's' {message}"):
        unpack_sections(forged(stored, size), "x")


def test_a_decompression_bomb_is_not_decompressed():
    bomb = zlib.compress(bytes(1 << 26), level=9)  # 64 MiB in 65 kB
    data = forged(bomb, len(bomb) + 1)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="holds more than"):
            unpack_sections(data, "x")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_every_truncation_is_refused():
    data = pack_sections(SECTIONS)
    for size in range(len(data)):
        with pytest.raises(ArtifactError):
            unpack_sections(data[:size], "x")


def test_every_flipped_bit_is_refused():
    data = pack_sections(SECTIONS)
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= 1 << position % 8
        with pytest.raises(ArtifactError):
            unpack_sections(bytes(altered), "x")


def test_appended_bytes_are_refused():
    with pytest.raises(ArtifactError, match="truncated or was appended to"):
        unpack_sections(pack_sections(SECTIONS) + b"\0", "x")


def test_another_version_says_so():
    data = bytearray(pack_sections(SECTIONS))
    data[8] = 99
    with pytest.raises(ArtifactError, match="x has format version 99, this release reads 2"):
        unpack_sections(bytes(data), "x")


def test_write_replaces_the_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "out.qc"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["out.qc"]


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.qc"
    path.write_bytes(b"old")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"cannot write .*out\.qc: No space left on device; nothing was changed"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.qc"]


def test_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "out.qc"
    path.write_bytes(b"old")

    def interrupt(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.qc"]


def test_a_directory_cannot_be_written(tmp_path):
    with pytest.raises(UsageError, match="Is a directory"):
        write_atomically(tmp_path, b"new")
