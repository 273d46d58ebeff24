"""The text form of a graph, written. The grammar is in docs/ir.md; `qcompiler.ir.parser` reads it back.

Attributes that have their default value are left out. Constants of up to `INLINE_ELEMENTS` elements are
written out, the others as a reference by content hash: the text alone then says *which* constants, and a
`.qir` file (`qcompiler.ir.qir_file`) has them beside it.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

import numpy as np

from qcompiler.ir.graph import Graph, Node, Value
from qcompiler.ir.op import AttributeValue, Op
from qcompiler.ir.types import AnyArray, DType, QuantParams, TensorType, format_shape

FORMAT_VERSION = 1
INLINE_ELEMENTS = 16
_ABBREVIATED_ELEMENTS = 8
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def print_graph(graph: Graph, *, abbreviate: bool = False) -> str:
    """The text of a graph; the same graph always gives the same text.

    Args:
        graph: of any stage; it need not verify.
        abbreviate: cut lists of many numbers (per-channel scales) short, for people; such text cannot be parsed.
    """
    allow_float = " allow_float" if graph.allow_float else ""
    lines = [f"qir {FORMAT_VERSION}", f"graph {format_name(graph.name)} {graph.stage}{allow_float} {{"]
    lines += (f"  {line}" for line in _body(graph, abbreviate=abbreviate))
    lines.append("}\n")
    return "\n".join(lines)


def _body(graph: Graph, *, abbreviate: bool) -> Iterator[str]:
    for value in graph.inputs:
        yield format_input(value, abbreviate=abbreviate)
    for value in graph.constants():
        yield format_constant(value, abbreviate=abbreviate)
    for node in graph.nodes():
        yield format_node(node, abbreviate=abbreviate)
    for name, value in zip(graph.output_names, graph.outputs, strict=True):
        yield f"output {format_name(name)} = {format_value(value)}"


def format_input(value: Value, *, abbreviate: bool = False) -> str:
    """The line of a graph input."""
    return f"input {format_value(value)}: {format_type(value.type, abbreviate=abbreviate)}"


def format_constant(value: Value, *, abbreviate: bool = False) -> str:
    """The line of a constant: the elements in row-major order if they are few, else the content hash."""
    data = value.data
    if data is None:
        text = "missing"
    elif is_inline(data):
        text = _elements(data, abbreviate=abbreviate)
    else:
        text = f"sha256:{value.digest[:8] + '...' if abbreviate else value.digest}"
    return f"const {format_value(value)}: {format_type(value.type, abbreviate=abbreviate)} = {text}"


def _elements(data: AnyArray, *, abbreviate: bool) -> str:
    shown = (
        data.ravel()[: _ABBREVIATED_ELEMENTS // 2] if abbreviate and data.size > _ABBREVIATED_ELEMENTS else data.ravel()
    )
    more = f", ... {data.size} in all" if len(shown) < data.size else ""
    return f"[{', '.join(map(format_element, shown))}{more}]"


def format_node(node: Node, *, abbreviate: bool = False) -> str:
    """The line of a node. Its name is left out where it is that of the only result."""
    results = ", ".join(f"{format_value(r)}: {format_type(r.type, abbreviate=abbreviate)}" for r in node.results)
    operands = ", ".join(format_value(operand) for operand in node.operands)
    same_name = len(node.results) == 1 and node.results[0].name == node.name
    name = "" if same_name else f" @{format_name(node.name)}"
    return f"{results} = {node.op.name}({operands}){format_attributes(node.op, abbreviate=abbreviate)}{name}"


def format_attributes(op: Op, *, abbreviate: bool = False) -> str:
    """`` {strides=[1, 1], group=8}``, or nothing if every attribute has its default."""
    shown = [
        f"{name}={_list(value, abbreviate=True) if abbreviate and isinstance(value, tuple) else text}"
        for name, default in _attribute_defaults(type(op))
        if (text := format_attribute(value := getattr(op, name))) != default
    ]
    return f" {{{', '.join(shown)}}}" if shown else ""


_DEFAULTS: dict[type[Op], tuple[tuple[str, str | None], ...]] = {}


def _attribute_defaults(cls: type[Op]) -> tuple[tuple[str, str | None], ...]:
    """Name of each attribute and the text of its default, None where there is no default."""
    if cls not in _DEFAULTS:
        _DEFAULTS[cls] = tuple(
            (f.name, None if f.default is dataclasses.MISSING else format_attribute(f.default))
            for f in dataclasses.fields(cls)
        )
    return _DEFAULTS[cls]


def format_attribute(value: AttributeValue) -> str:
    """The text of an attribute value; equal text means equal value and type."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case DType():
            return value.value
        case str():
            return quote(value)
        case float():
            return float.__repr__(value)
        case tuple():
            return _list(value)
        case _:
            return str(value)


def _list(values: Iterable[AttributeValue], *, abbreviate: bool = False) -> str:
    items = tuple(values)
    if abbreviate and len(items) > _ABBREVIATED_ELEMENTS:
        shown = ", ".join(map(format_attribute, items[: _ABBREVIATED_ELEMENTS // 2]))
        return f"[{shown}, ... {len(items)} in all]"
    return f"[{', '.join(map(format_attribute, items))}]"


def format_type(tensor_type: TensorType, *, abbreviate: bool = False) -> str:
    """``f32[N,3,8,8]``, and with quantization ``u8[N,8]<scale=0.5, zero_point=128>``."""
    quant = tensor_type.quant
    text = f"{tensor_type.dtype}{format_shape(tensor_type.shape)}"
    return text if quant is None else text + format_quant(quant, abbreviate=abbreviate)


def format_quant(quant: QuantParams, *, abbreviate: bool = False) -> str:
    """Quantization parameters in angle brackets; a zero point that is the same along the axis is written once."""
    if quant.axis is None:
        return f"<scale={quant.scale[0]!r}, zero_point={quant.zero_point[0]}>"
    uniform = len(set(quant.zero_point)) == 1
    zero_point = str(quant.zero_point[0]) if uniform else _list(quant.zero_point, abbreviate=abbreviate)
    return f"<axis={quant.axis}, scale={_list(quant.scale, abbreviate=abbreviate)}, zero_point={zero_point}>"


def format_value(value: Value) -> str:
    """``%name``."""
    return f"%{format_name(value.name)}"


def format_name(name: str) -> str:
    """The name itself if it is plain, else quoted."""
    return name if _PLAIN_NAME.match(name) else quote(name)


def quote(text: str) -> str:
    """A string literal with JSON's escapes; everything printable stays as it is."""
    return '"' + "".join(_ESCAPES.get(c) or (c if c.isprintable() else _escape(c)) for c in text) + '"'


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def is_inline(data: AnyArray) -> bool:
    """Whether the elements of a constant are written out; NaN is not, since its text does not keep its bits."""
    return data.size <= INLINE_ELEMENTS and not (data.dtype.kind == "f" and bool(np.isnan(data).any()))


def format_element(element: np.generic) -> str:
    """One element of a constant: the shortest decimal that reads back, by way of float64, as the same bits."""
    if element.dtype.kind != "f":
        return format_attribute(element.item())
    shortest = str(element)
    exact = element.dtype.type(float(shortest)) == element
    return shortest if exact else float.__repr__(element.item())
