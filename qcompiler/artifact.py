"""A compiled model as bytes: the IR text, its constants and where it came from.

Sections of the container: ``graph`` (the text form, UTF-8), ``index`` (JSON: SHA-256, dtype, shape, offset of every
constant), ``constants`` (their bytes, each at a multiple of 64), ``summary`` and ``provenance`` (JSON). Loading
recomputes every checksum, parses and verifies the graph, and proves again that no accumulator overflows, so a file
that was altered with matching checksums is still either refused or a valid integer program.
"""

import json
import mmap
from collections.abc import Mapping
from typing import Any

import numpy as np

from qcompiler.container import ALIGNMENT, pack_sections, unpack_sections
from qcompiler.errors import ArtifactError, QCompilerError
from qcompiler.ir import AnyArray, DType, Graph, Stage
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import is_inline, print_graph
from qcompiler.ir.verifier import verify
from qcompiler.summary import reproducible

_SECTIONS = ("graph", "index", "constants", "summary", "provenance")


def encode(graph: Graph, summary: Mapping[str, Any], provenance: Mapping[str, Any]) -> bytes:
    """The artifact of an integer graph; deterministic."""
    index: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    offset = 0
    for digest, (value_type, array) in _referenced_constants(graph).items():
        data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        index.append({"sha256": digest, "dtype": value_type, "shape": array.shape, "offset": offset})
        padding = -len(data) % ALIGNMENT
        blobs += [data, b"\0" * padding]
        offset += len(data) + padding
    return pack_sections(
        {
            "graph": print_graph(graph).encode(),
            "index": _to_json(index),
            "constants": b"".join(blobs),
            "summary": _to_json(reproducible(summary)),
            "provenance": _to_json(dict(provenance)),
        }
    )


def decode(data: bytes | mmap.mmap, origin: str) -> tuple[Graph, dict[str, Any], dict[str, Any]]:
    """Graph, summary and provenance of an artifact; `origin` names it in messages.

    Raises:
        ArtifactError: anything about it is not as `encode` makes it.
    """
    sections = unpack_sections(data, origin)
    if missing := [name for name in _SECTIONS if name not in sections]:
        raise ArtifactError(f"{origin} is damaged: it has no section {missing[0]!r}")
    try:
        constants = _constants(_from_json(sections["index"]), sections["constants"])
        graph = parse_graph(bytes(sections["graph"]).decode(), constants)
        if graph.stage is not Stage.INTEGER:
            raise ArtifactError(f"the graph is in the {graph.stage} stage, not integer")
        verify(graph)
        _prove_again(graph)
        return graph, dict(_from_json(sections["summary"])), dict(_from_json(sections["provenance"]))
    except (QCompilerError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{origin} is not a valid compiled model: {error}") from error


def _referenced_constants(graph: Graph) -> dict[str, tuple[DType, AnyArray]]:
    """The dtype and array of every constant that the text names by its hash, each once."""
    return {
        value.digest: (value.type.dtype, value.data)
        for value in graph.constants()
        if value.data is not None and not is_inline(value.data)
    }


def _prove_again(graph: Graph) -> None:
    from qcompiler.passes.prove_accumulators import prove

    for proof in prove(graph):
        if proof.headroom_bits < 0:
            raise ArtifactError(f"an accumulator of node '{proof.node}' can overflow; the file was altered")


def _constants(index: list[dict[str, Any]], blob: memoryview) -> dict[str, AnyArray]:
    """Arrays over the memory of `blob`, by content hash."""
    constants: dict[str, AnyArray] = {}
    for entry in index:
        dtype, shape, offset = DType(entry["dtype"]).numpy, tuple(entry["shape"]), entry["offset"]
        if not all(isinstance(d, int) and d >= 0 for d in (*shape, offset)):
            raise ArtifactError(f"constant {entry['sha256']} has shape {shape} at offset {offset}")
        count = 1
        for dim in shape:
            count *= dim
        if offset % ALIGNMENT or offset + count * dtype.itemsize > len(blob):
            raise ArtifactError(f"constant {entry['sha256']} of shape {shape} lies outside its section")
        array = np.frombuffer(blob, dtype.newbyteorder("<"), count, offset).reshape(shape)
        constants[entry["sha256"]] = array.astype(dtype, copy=False)
    return constants


def _to_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _from_json(data: memoryview) -> Any:  # noqa: ANN401  # whatever the section holds
    return json.loads(bytes(data))
