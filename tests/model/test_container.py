import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.container import pack_sections, unpack_sections, write_atomically
from qcompiler.errors import ArtifactError, UsageError

SECTIONS = {"graph": b"text", "constants": bytes(range(256)) * 3, "empty": b""}


@given(st.dictionaries(st.text("abcxyz", min_size=1, max_size=16), st.binary(max_size=200), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_unpack_gives_back_what_was_packed(sections):
    unpacked = unpack_sections(pack_sections(sections), "x")
    assert {name: bytes(view) for name, view in unpacked.items()} == sections
    assert list(unpacked) == list(sections)


def test_sections_are_aligned_and_the_bytes_are_deterministic():
    data = pack_sections(SECTIONS)
    assert data == pack_sections(dict(SECTIONS))
    assert len(data) % 64 == 0
    assert data.index(SECTIONS["constants"]) % 64 == 0


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
    with pytest.raises(ArtifactError, match="x has format version 99, this release reads 1"):
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
