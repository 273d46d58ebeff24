"""Walks an ONNX graph and builds the float graph."""

from collections.abc import Iterable, Mapping
from os import PathLike

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from qcompiler.errors import ModelError, UnsupportedOpError, VerifyError
from qcompiler.importer import elementwise, linear, movement, pooling, shape_arithmetic
from qcompiler.importer.dimensions import InputDims
from qcompiler.importer.known import Known
from qcompiler.importer.model_file import ModelSource, describe, qualified_op, read_model
from qcompiler.importer.node_reader import ImportState, NodeReader, Unsupported
from qcompiler.importer.registry import Imported, find_evaluator, find_importer
from qcompiler.importer.tensors import UnsupportedDType, decode, dtype_name
from qcompiler.ir import DType, Graph, Stage, TensorType, Value

FAMILIES = (elementwise, linear, movement, pooling, shape_arithmetic)
"""The modules that register importer entries; importing them fills the registry."""

_QUANTIZED = frozenset({
    "Quant", "BipolarQuant", "Trunc", "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv",
    "QLinearMatMul", "ConvInteger", "MatMulInteger", "QLinearAdd", "QLinearMul", "QLinearConcat",
    "QLinearGlobalAveragePool", "QGemm",
})  # fmt: skip
_NOT_YET = "quantized models are not accepted yet"
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


def import_model(model: str | PathLike[str] | bytes | ModelProto, *, dims: Mapping[str, int] | None = None) -> Graph:
    """Import an ONNX model.

    Float16, bfloat16 and float64 constants become float32. Symbolic dimensions stay symbolic, also through the shape
    arithmetic that exporters emit; an unnamed first dimension of an input is called ``N``.

    Args:
        model: path of a file, its content, or the message itself.
        dims: sizes for symbolic dimensions of the inputs, by name.

    Returns:
        A graph of stage ``float``; its inputs and outputs have the model's names.

    Raises:
        ModelError: the model cannot be read or contradicts itself.
        UnsupportedOpError: it uses what the compiler does not have; all such nodes are named at once.
        UsageError: `dims` names an unknown dimension or gives an impossible size.
    """
    return _GraphImport(read_model(model), InputDims(dims or {})).run()


class _GraphImport:
    """One import: the graph so far and what each ONNX name stands for."""

    def __init__(self, source: ModelSource, dims: InputDims) -> None:
        self._source = source
        self._proto = source.model.graph
        self._dims = dims
        self._graph = Graph(self._proto.name or "graph", Stage.FLOAT)
        self._state = ImportState(self._graph, source.opset, source.folder)
        self._environment = self._state.environment
        self._used = {name for node in self._proto.node for name in node.input} | {o.name for o in self._proto.output}
        self._initializers = {t.name: t for t in self._proto.initializer}
        self._poisoned: set[str] = {t.values.name for t in self._proto.sparse_initializer}
        self._unsupported: dict[tuple[str, str], list[str]] = {}
        for name in sorted(self._poisoned):
            self._refuse("initializer", name, "sparse tensors are not supported; store it densely")

    def run(self) -> Graph:
        for info in self._proto.input:
            if info.name not in self._initializers:
                self._add_input(info)
        self._dims.check_all_used(self._source.label)
        for node in self._proto.node:
            self._import_node(node)
        for info in self._proto.output:
            self._add_output(info)
        if self._unsupported:
            self._raise_unsupported()
        self._graph.erase_unused_constants()
        return self._graph

    # ---- inputs and outputs -------------------------------------------------------------------------------------

    def _add_input(self, info: ValueInfoProto) -> None:
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            what = str(kind).removesuffix("_type").replace("_", " ")
            self._refuse("input", info.name, f"it is a {what}, not a tensor", [info.name])
            return
        element = info.type.tensor_type.elem_type
        if element != TensorProto.FLOAT:
            reason = f"dtype {dtype_name(element)} is not supported for inputs; export the model with float32 inputs"
            self._refuse("input", info.name, reason, [info.name])
            return
        shape = self._dims.shape(info, self._source.label)
        self._environment[info.name] = self._graph.add_input(info.name, TensorType(DType.F32, shape))

    def _add_output(self, info: ValueInfoProto) -> None:
        self._define_initializer(info.name)
        if info.name in self._poisoned:
            return
        output = self._environment[info.name]
        if isinstance(output, Known):
            if output.is_symbolic:
                self._refuse("output", info.name, f"it is the symbolic dimension {output.symbol}")
                return
            output = self._graph.add_constant(output.array, output.name)
        declared = info.type.tensor_type
        if declared.HasField("shape"):
            sizes = [d.dim_value if d.dim_value > 0 else "?" for d in declared.shape.dim]
            actual = output.type.shape
            if len(sizes) != len(actual) or any(
                isinstance(s, int) and isinstance(a, int) and s != a and not (s > a and self._state.drops_windows)
                for s, a in zip(sizes, actual, strict=True)
            ):
                raise ModelError(
                    f"{self._source.label}: output '{info.name}' is declared as {sizes} but its nodes compute "
                    f"{list(actual)}; export the model again"
                )
        self._graph.add_output(output, info.name)

    # ---- nodes --------------------------------------------------------------------------------------------------

    def _import_node(self, node: NodeProto) -> None:
        version = self._source.opset
        entry, evaluate = find_importer(node.op_type, version), find_evaluator(node.op_type, version)
        if node.domain not in ("", "ai.onnx") or (entry is None and evaluate is None):
            self._refuse_node(node, _missing_reason(node))
            return
        for name in node.input:
            self._define_initializer(name)
        if any(name in self._poisoned for name in node.input):
            self._poisoned.update(node.output)
            return
        try:
            reader = NodeReader(node, self._state)
            if evaluate is not None and reader.all_known:
                entry = evaluate
            self._define_results(node, reader, (entry or _needs_known_operands)(reader))
        except (Unsupported, UnsupportedDType) as reason:
            self._refuse_node(node, str(reason))
        except VerifyError as error:
            text = str(error)
            place = "" if text.startswith("node ") else f"{describe(node)}: "
            raise ModelError(f"{self._source.label}: {place}{text}") from error
        except ModelError as error:
            raise ModelError(f"{self._source.label}: {error}") from error

    def _define_results(self, node: NodeProto, reader: NodeReader, results: Imported | tuple[Imported, ...]) -> None:
        if not isinstance(results, tuple):
            results = (results,)
        for index, name in enumerate(node.output[len(results) :], len(results)):
            if name in self._used:
                raise Unsupported(f"its result {index} ('{name}') is used, only the first {len(results)} can be had")
        for name, result in zip(node.output, results, strict=False):
            if isinstance(result, Value) and result in reader.emitted and name:
                self._graph.rename(result, name)
            self._environment[name] = result

    def _define_initializer(self, name: str) -> None:
        if name not in self._initializers or name in self._environment or name in self._poisoned:
            return
        try:
            array = decode(self._initializers[name], self._source.folder, self._source.label)
        except UnsupportedDType as error:
            self._refuse("initializer", name, str(error), [name])
            return
        self._environment[name] = Known(np.asarray(array), name)

    # ---- what is not supported ----------------------------------------------------------------------------------

    def _refuse(self, kind: str, name: str, reason: str, poisoned: Iterable[str] = ()) -> None:
        """Note what is not supported and go on; nodes that depend on it are not looked at."""
        self._unsupported.setdefault((kind, reason), []).append(name)
        self._poisoned.update(filter(None, poisoned))

    def _refuse_node(self, node: NodeProto, reason: str) -> None:
        name = node.name or next(iter(node.output), "")
        self._refuse(qualified_op(node), name, f"{reason} ({self._version(node)})", node.output)

    def _version(self, node: NodeProto) -> str:
        if node.domain in ("", "ai.onnx"):
            return f"opset {self._source.opset}"
        return f"domain {node.domain} version {self._source.domains.get(node.domain, 'not imported')}"

    def _raise_unsupported(self) -> None:
        count = sum(map(len, self._unsupported.values()))
        lines = [f"{self._source.label}: {count} part{'s' * (count > 1)} of this model cannot be compiled:"]
        for (kind, reason), names in self._unsupported.items():
            lines.append(f"  {kind} {', '.join(map(repr, names))}: {reason}")
        if any(reason.startswith(_NOT_YET) for _, reason in self._unsupported):
            lines.append("  Give the float model it was made from, before quantization: qcompiler quantizes it itself.")
        raise UnsupportedOpError("\n".join(lines))


def _missing_reason(node: NodeProto) -> str:
    if node.op_type in _QUANTIZED:
        return _NOT_YET
    if node.op_type in _CONTROL_FLOW:
        return "control flow is not supported; export the model with fixed control flow"
    return "there is no such operator in this compiler"


def _needs_known_operands(node: NodeReader) -> Imported:
    raise Unsupported(f"{node.op_type} is supported only where all operands are constants or shapes")
