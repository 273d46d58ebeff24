"""A compiled model as bytes: the IR text, its constants and where it came from.

Sections of the container: ``graph`` (the text form, UTF-8), ``index`` (JSON: ``[dtype, shape, width]`` of each constant
that the text names by its hash, in the order of the section that follows), ``constants`` (their elements, each
constant at a multiple of 8), ``summary`` and ``provenance`` (JSON). Integers are stored in `width` bytes, as many as
the widest of them needs: most biases need three, shifts one. The container compresses what shrinks. Loading
recomputes every checksum and hash, parses and verifies the graph, and finds the verdict and the proof of every
accumulator anew, so a file that was altered with matching checksums is still either refused or a valid integer program.
"""

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.container import Section, pack_sections, unpack_sections
from qcompiler.errors import ArtifactError, QCompilerError
from qcompiler.integer_proofs import AccumulatorProof, prove
from qcompiler.ir import AnyArray, DType, Graph, Stage, TensorType
from qcompiler.ir.content import ContentStore
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import is_inline, print_graph
from qcompiler.ir.verifier import verify
from qcompiler.summary import reproducible, structure_facts

_ALIGNMENT = 8
"""Of a constant within its section. Programs pack weights into their own layout, so this only keeps loads aligned."""
_SECTIONS = ("graph", "index", "constants", "summary", "provenance")


def encode(
    graph: Graph,
    summary: Mapping[str, Any],
    provenance: Mapping[str, Any],
    *,
    mappable: bool = False,
    packed: Mapping[str, Section] | None = None,
) -> bytes:
    """The artifact of an integer graph; deterministic.

    `mappable` leaves the constants uncompressed; `packed` is what `pack_graph` made of the graph, if it was called.
    """
    sections: dict[str, bytes | Section] = dict(pack_graph(graph, mappable=mappable) if packed is None else packed)
    sections["summary"] = _to_json(reproducible(summary))
    sections["provenance"] = _to_json(dict(provenance))
    return pack_sections(sections)


def pack_graph(graph: Graph, *, mappable: bool = False) -> dict[str, Section]:
    """The sections that hold the graph itself. Takes long, mostly without the GIL: for a thread beside others."""
    index: list[tuple[str, tuple[int, ...], int]] = []
    blob = bytearray()
    for value in _referenced_constants(graph):
        data, width = _narrow(value.data)
        index.append((value.type.dtype, value.data.shape, width))
        blob += data
        blob += bytes(-len(blob) % _ALIGNMENT)
    return {
        "graph": Section.of(print_graph(graph).encode()),
        "index": Section.of(_to_json(index)),
        "constants": Section.of(bytes(blob), compressed=not mappable),
    }


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
        summary = dict(_from_json(sections["summary"])) | structure_facts(graph, _prove_again(graph))
        return graph, summary, dict(_from_json(sections["provenance"]))
    except (QCompilerError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{origin} is not a valid compiled model: {error}") from error


@dataclass(frozen=True, slots=True)
class _Referenced:
    """A constant that the text names by its hash."""

    type: TensorType
    data: AnyArray


def _referenced_constants(graph: Graph) -> list[_Referenced]:
    """Every constant that is not written out in the text, each content once."""
    found = {
        value.digest: _Referenced(value.type, value.data)
        for value in graph.constants()
        if value.data is not None and not is_inline(value.data)
    }
    return list(found.values())


def _narrow(array: AnyArray) -> tuple[bytes, int]:
    """The elements, little-endian, without the upper bytes that only repeat the sign; and the bytes kept of each."""
    size = array.dtype.itemsize
    plain = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if array.dtype.kind != "i" or size == 1 or not array.size:
        return plain.tobytes(), size
    extremes = int(array.max()), int(array.min())
    width = max(v.bit_length() if v >= 0 else (-v - 1).bit_length() for v in extremes) // 8 + 1
    return plain.reshape(-1, 1).view(np.uint8)[:, :width].tobytes(), width


def _widen(stored: memoryview, dtype: np.dtype[Any], width: int) -> AnyArray:
    """The inverse of `_narrow`; without a copy where nothing was left out."""
    little = dtype.newbyteorder("<")
    if width == dtype.itemsize:
        return np.frombuffer(stored, little).astype(dtype, copy=False)
    kept = np.frombuffer(stored, np.uint8).reshape(-1, width)
    sign = np.where(kept[:, -1:] & 0x80, np.uint8(0xFF), np.uint8(0))
    parts = (kept, np.repeat(sign, dtype.itemsize - width, axis=1))
    return np.ascontiguousarray(np.concatenate(parts, axis=1)).view(little)[:, 0].astype(dtype, copy=False)


def _prove_again(graph: Graph) -> list[AccumulatorProof]:
    """The proof of every accumulator, none of which may fail."""
    proofs = prove(graph)
    for proof in proofs:
        if proof.headroom_bits < 0:
            raise ArtifactError(f"an accumulator of node '{proof.node}' can overflow; the file was altered")
    return proofs


def _constants(index: Any, blob: memoryview) -> ContentStore:  # noqa: ANN401  # parsed JSON, not yet checked
    """Arrays by content hash."""
    constants = ContentStore()
    offset = 0
    for name, dims, width in index:
        dtype, shape = DType(name), tuple(dims)
        if not all(isinstance(d, int) and d >= 0 for d in shape) or width not in range(1, dtype.itemsize + 1):
            raise ArtifactError(f"a constant has dtype {dtype}, shape {shape} and {width} bytes an element")
        if width < dtype.itemsize and dtype not in (DType.S16, DType.S32, DType.S64):
            raise ArtifactError(f"{width} bytes cannot hold an element of {dtype}")
        size = math.prod(shape) * width
        if offset + size > len(blob):
            raise ArtifactError(f"a constant of shape {shape} lies outside its section")
        constants.add(dtype, _widen(blob[offset : offset + size], dtype.numpy, width).reshape(shape))
        offset += size + -size % _ALIGNMENT
    return constants


def _to_json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _from_json(data: memoryview) -> Any:  # noqa: ANN401  # whatever the section holds
    return json.loads(bytes(data))
