"""`CompiledModel`: an integer graph with the facts about it; saved to and loaded from one file."""

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qcompiler.artifact import decode, encode
from qcompiler.container import read_file, write_atomically
from qcompiler.errors import ArtifactError
from qcompiler.ir import Graph
from qcompiler.summary import check_stored

if TYPE_CHECKING:
    from qcompiler.pass_manager import Remark
    from qcompiler.runtime.session import Session


class CompiledModel:
    """What `compile` returns and `load` reads.

    Attributes:
        graph: the integer graph; `qcompiler.reference.run(model.graph, feeds)` is what a session must equal.
        summary: the facts of the closing summary (see `qcompiler.summary`).
        provenance: hashes, versions, pipeline and calibration that made the model.
        remarks: why rewrites did not fire; empty for a loaded model.
    """

    def __init__(
        self,
        graph: Graph,
        summary: Mapping[str, Any],
        provenance: Mapping[str, Any],
        remarks: tuple["Remark", ...] = (),
        artifact: bytes | None = None,
    ) -> None:
        self.graph = graph
        self.summary: Mapping[str, Any] = MappingProxyType(dict(summary))
        self.provenance: Mapping[str, Any] = MappingProxyType(dict(provenance))
        self.remarks = remarks
        self._artifact = artifact

    def to_bytes(self, *, mappable: bool = False) -> bytes:
        """The artifact; the same model gives the same bytes, with the same build of zlib.

        Args:
            mappable: store the weights uncompressed, so that `load` with ``mmap=True`` can leave them in the file.
        """
        if self._artifact is not None and not mappable:
            return self._artifact
        return encode(self.graph, self.summary, self.provenance, mappable=mappable)

    def save(self, path: str | os.PathLike[str], *, mappable: bool = False) -> None:
        """Write the artifact; an existing file is replaced only when the new one is complete.

        Args:
            path: of the new file.
            mappable: as in `to_bytes`.

        Raises:
            UsageError: the file cannot be written.
        """
        write_atomically(Path(path), self.to_bytes(mappable=mappable))

    def session(self, threads: int | None = None) -> "Session":
        """A session that runs the model on `threads` threads (None: the usable physical cores)."""
        from qcompiler.runtime.session import Session

        return Session(self.graph, threads=threads, keep=True)


def load(
    path_or_bytes: str | os.PathLike[str] | bytes | bytearray | memoryview, *, mmap: bool = False
) -> CompiledModel:
    """Read a compiled model. Everything is checked: checksums, the graph, the overflow proof.

    Args:
        path_or_bytes: a ``.qc`` file or its contents.
        mmap: map the file instead of reading it. Weights that are stored uncompressed (``save(path, mappable=True)``,
            or where compressing them would save little) then stay in the file's pages, which processes share.

    Raises:
        ArtifactError: the file cannot be read, is truncated, altered or of another version.
    """
    if isinstance(path_or_bytes, bytes | bytearray | memoryview):
        origin = "the given bytes"
        graph, summary, provenance = decode(bytes(path_or_bytes), origin)
    else:
        origin, path = os.fspath(path_or_bytes), Path(path_or_bytes)
        graph, summary, provenance = decode(read_file(path, map_file=mmap), origin)
    try:
        check_stored(summary)
    except ArtifactError as error:
        raise ArtifactError(f"{origin} is not a valid compiled model: {error}") from error
    return CompiledModel(graph, summary, provenance)
