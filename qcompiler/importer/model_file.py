"""Getting a checked ModelProto out of a path, bytes or a ModelProto."""

import math
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError, EncodeError, Message
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from qcompiler.errors import ModelError
from qcompiler.importer.external_data import locate_external
from qcompiler.importer.tensors import BITS

OLDEST_OPSET = 7
_LARGE_TENSOR = 4096  # elements
_TYPED_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")
_LARGEST_FILE = 2**31 - 1  # protobuf's limit; larger models keep their weights in external data

_FOREIGN = (
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x89HDF", "an HDF5 file, perhaps a Keras model"),
    (b"\x1f\x8b", "gzip-compressed"),
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """A parsed and checked model.

    Attributes:
        model: the protobuf message, local functions inlined.
        label: what to call it in messages: the path, or "model" where there is none.
        folder: where external data may lie.
        opset: version of the default operator set.
        domains: versions of the other operator sets.
    """

    model: ModelProto
    label: str
    folder: Path | None
    opset: int
    domains: dict[str, int]


def read_model(source: str | PathLike[str] | bytes | ModelProto) -> ModelSource:
    """Read, parse and check a model.

    Raises:
        ModelError: it cannot be read, is not ONNX, is truncated, is malformed, or its operator set is out of range.
    """
    label, folder, data = "model", None, None
    if isinstance(source, ModelProto):
        model = source
    elif isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        model = _parse(data, label)
    else:
        path = Path(source)
        label, folder = str(path), path.absolute().parent
        data = _read(path)
        model = _parse(data, label)
    _check_frame(model, label)
    opset, domains = _opsets(model, label)
    check_structure(model.graph, label)
    _run_checker(model, label, folder)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    return ModelSource(model, label, folder, opset, domains)


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= _LARGEST_FILE else None
    except FileNotFoundError as error:
        raise ModelError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise ModelError(f"{path}: is a directory; give the .onnx file itself") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    if data is None:
        raise ModelError(f"{path}: {size} bytes are more than an ONNX file can have; save its weights as external data")
    return data


def _parse(data: bytes, label: str) -> ModelProto:
    if not data:
        raise ModelError(f"{label}: is empty")
    for magic, what in _FOREIGN:
        if data.startswith(magic):
            raise ModelError(f"{label}: is not an ONNX model but {what}; export the model to ONNX first")
    if data.startswith(b"QCMODEL\n"):
        raise ModelError(f"{label}: is a compiled model already; run it with `qcompile run`, or give the ONNX file")
    if data[4:8] == b"TFL3":
        raise ModelError(f"{label}: is not an ONNX model but a TensorFlow Lite one; convert it to ONNX first")
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        # Field 1 of a ModelProto, `ir_version`, comes first in every file that exporters write.
        what = "is a truncated or damaged ONNX file" if data[:1] == b"\x08" else "is not an ONNX model"
        raise ModelError(f"{label}: {what} ({len(data)} bytes); export or copy it again") from error
    return model


def _check_frame(model: ModelProto, label: str) -> None:
    if not model.ir_version and not model.HasField("graph"):
        raise ModelError(f"{label}: is not an ONNX model: it has neither an IR version nor a graph")
    if not model.HasField("graph") or not model.opset_import or not model.graph.output:
        missing = "graph" if not model.HasField("graph") else "outputs" if not model.graph.output else "opset import"
        raise ModelError(f"{label}: has no {missing}: the ONNX file is truncated or damaged; export or copy it again")


def _opsets(model: ModelProto, label: str) -> tuple[int, dict[str, int]]:
    versions = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    newest = onnx.defs.onnx_opset_version()
    opset = versions.pop("", newest)
    if opset < OLDEST_OPSET:
        raise ModelError(
            f"{label}: uses opset {opset}; supported are {OLDEST_OPSET} to {newest}: export it with a newer opset or "
            "use onnx.version_converter"
        )
    if opset > newest:
        raise ModelError(
            f"{label}: uses opset {opset}, the installed onnx {onnx.__version__} knows {OLDEST_OPSET} to {newest}: "
            "install a newer onnx or export with an older opset"
        )
    return opset, versions


def check_structure(graph: GraphProto, label: str) -> None:
    """Raise ModelError for inputs without rank and values defined twice, never, too late or in a cycle."""
    _check_names(graph, label)
    for info in graph.input:
        if info.type.HasField("tensor_type") and not info.type.tensor_type.HasField("shape"):
            raise ModelError(f"{label}: input '{info.name}' has no shape, not even a rank; export it with one")
    defined = {info.name for info in graph.input} | {t.name for t in graph.initializer}
    defined |= {t.values.name for t in graph.sparse_initializer}
    producer: dict[str, NodeProto] = {}
    for node in graph.node:
        if not node.output:
            raise ModelError(f"{label}: {describe(node)} has no outputs; the file is damaged, export it again")
        for name in filter(None, node.output):
            if name in producer or name in defined:
                raise ModelError(f"{label}: {describe(node)} defines '{name}', which is defined already")
            producer[name] = node
    for node in graph.node:
        for name in filter(None, node.input):
            if name not in defined and name not in producer:
                raise ModelError(f"{label}: {describe(node)} uses '{name}', which nothing defines")
            if name not in defined:
                _explain_order(node, producer, label)
        defined.update(node.output)
    for output in graph.output:
        if output.name not in defined:
            raise ModelError(f"{label}: the graph's output '{output.name}' is defined by nothing")


def _check_names(graph: GraphProto, label: str) -> None:
    """Raise ModelError for names that are no text: protobuf gives bytes that are not UTF-8 as they are."""
    names: list[object] = [item.name for item in (*graph.input, *graph.output, *graph.initializer)]
    names += (dim.dim_param for info in graph.input for dim in info.type.tensor_type.shape.dim)
    for node in graph.node:
        names += (node.name, node.op_type, node.domain, *node.input, *node.output)
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"{label}: the name {name!r} is not UTF-8: the file is damaged; export or copy it again")


def describe(node: NodeProto) -> str:
    """``node 'conv_3' (Conv)``; an unnamed node goes by its output."""
    return f"node '{node.name or next(iter(node.output), '')}' ({qualified_op(node)})"


def qualified_op(node: NodeProto) -> str:
    """The operator, with its domain unless that is ONNX's own."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"


def _explain_order(start: NodeProto, producer: dict[str, NodeProto], label: str) -> None:
    """Raise ModelError: a node uses a value that comes later, in a cycle or just in the wrong order."""
    stack = [(start, iter(start.input))]
    seen = {id(start)}
    while stack:
        _, names = stack[-1]
        name = next(names, None)
        if name is None:
            stack.pop()
            continue
        node = producer.get(name)
        if node is start:
            path = " -> ".join(describe(n) for n, _ in reversed(stack))
            raise ModelError(f"{label}: the graph has a cycle: {path}")
        if node is not None and id(node) not in seen:
            seen.add(id(node))
            stack.append((node, iter(node.input)))
    raise ModelError(
        f"{label}: {describe(start)} comes before a node whose result it uses; ONNX wants topological order: "
        "sort the nodes or export the model again"
    )


def _run_checker(model: ModelProto, label: str, folder: Path | None) -> None:
    """Run ONNX's own checker."""
    if any(not _has_schema(node) for node in model.graph.node):
        return  # the checker stops at the first unknown op; the importer lists them all
    for output in model.graph.output:  # of which the checker says only that something has no shape
        if output.type.HasField("tensor_type") and not output.type.tensor_type.HasField("shape"):
            raise ModelError(
                f"{label}: output '{output.name}' has no shape, not even a rank; export it with one, or save the model "
                "as onnx.shape_inference.infer_shapes(model) gives it"
            )
    external = [t for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]
    for tensor in external:
        locate_external(tensor, folder, f"{label}: tensor '{tensor.name}'")
    try:
        # By path the checker finds external data; without them it needs no file at all.
        onnx.checker.check_model(label if external else _without_elements(model))
    except onnx.checker.ValidationError as error:
        raise ModelError(f"{label}: fails the ONNX checker: {str(error).strip()}") from error
    except (EncodeError, ValueError) as error:
        raise ModelError(
            f"{label}: is too large for the ONNX checker; save its weights as external data ({error})"
        ) from error


def _without_elements(model: ModelProto) -> ModelProto:
    """A copy that has large initializers without elements, which would take longer to copy and parse than all else.

    It is those that nodes use: `tensors.decode` compares the number of their elements with their shape.
    """
    used = {name for node in model.graph.node for name in node.input}
    light = ModelProto()
    _copy_fields(model, light, but="graph")
    _copy_fields(model.graph, light.graph, but="initializer")
    for tensor in model.graph.initializer:
        if tensor.name in used and _is_large(tensor):
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=(0,), raw_data=b"")
        else:
            light.graph.initializer.append(tensor)
    return light


def _is_large(tensor: TensorProto) -> bool:
    """Whether it says that it has many elements, and all of them raw."""
    is_raw = tensor.HasField("raw_data") and not any(getattr(tensor, field) for field in _TYPED_FIELDS)
    return is_raw and tensor.data_type in BITS and math.prod(tensor.dims) > _LARGE_TENSOR


def _copy_fields(source: Message, target: Message, *, but: str) -> None:
    for field, value in source.ListFields():
        if field.name == but:
            continue
        if isinstance(value, int | str | bytes):
            setattr(target, field.name, value.decode(errors="replace") if isinstance(value, bytes) else value)
        else:
            getattr(target, field.name).MergeFrom(value)


def _has_schema(node: NodeProto) -> bool:
    return node.domain not in ("", "ai.onnx") or bool(onnx.defs.has(node.op_type))
