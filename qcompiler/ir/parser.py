"""The text form of a graph, read. The grammar is in docs/ir.md; `qcompiler.ir.printer` writes it.

Parsing checks names, operands, attributes and constants, but not the rules of the IR: `qcompiler.ir.verify` does that.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from qcompiler.errors import UsageError, VerifyError
from qcompiler.ir.attributes import Annotation, coerce, describe
from qcompiler.ir.content import ContentStore, content_digest
from qcompiler.ir.graph import Graph, Value
from qcompiler.ir.lexer import TokenStream
from qcompiler.ir.op import AttributeValue, Op, Stage, attribute_types, op_class, op_classes
from qcompiler.ir.printer import FORMAT_VERSION
from qcompiler.ir.types import AnyArray, Dim, DType, QuantParams, TensorType, join_dim
from qcompiler.suggestions import did_you_mean

_DTYPES = {dtype.value: dtype for dtype in DType}
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_KEYWORDS: dict[str, bool | None] = {"true": True, "false": False, "none": None}


def parse_graph(text: str, constants: Mapping[str, AnyArray] | None = None) -> Graph:
    """The graph that `text` describes.

    Args:
        text: as `qcompiler.ir.print_graph` writes it. Result types may be left out where the op's rule gives them.
        constants: arrays of the constants that `text` refers to by content hash; their content is checked, unless a
            `ContentStore` computed the hashes.

    Raises:
        ParseError: the text does not follow the grammar, names something that does not exist, or a constant is missing
            or has another content; with line and column.
    """
    return _Parser(text, constants or {}).graph()


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, AnyArray]) -> None:
        self._tokens = TokenStream(text)
        self._constants = constants

    def graph(self) -> Graph:
        tokens = self._tokens
        tokens.expect("qir")
        if (version := tokens.integer("the format version")) != FORMAT_VERSION:
            tokens.reject(f"format version {version} cannot be read, only {FORMAT_VERSION}", tokens.position - 1)
        tokens.expect("graph")
        name = tokens.name("the graph's name")
        if tokens.current not in tuple(Stage):
            tokens.fail(f"expected a stage: {', '.join(Stage)}")
        stage = Stage(tokens.advance())
        graph = Graph(name, stage, allow_float=tokens.take("allow_float"))
        tokens.expect("{")
        while not tokens.take("}"):
            self._statement(graph)
        if not tokens.at_end:
            tokens.fail("expected the end")
        return graph

    def _statement(self, graph: Graph) -> None:
        tokens = self._tokens
        if tokens.take("input"):
            name = self._new_value(graph)
            tokens.expect(":")
            graph.add_input(name, self._type())
        elif tokens.take("const"):
            self._constant(graph)
        elif tokens.take("output"):
            name = tokens.name("the output's name")
            tokens.expect("=")
            graph.add_output(self._value(graph), name)
        elif tokens.current == "%":
            self._node(graph)
        else:
            tokens.fail("expected 'input', 'const', 'output', a node or '}'")

    # ---- names and types ---------------------------------------------------------------------------------------

    def _new_value(self, graph: Graph) -> str:
        self._tokens.expect("%")
        position = self._tokens.position
        name = self._tokens.name("the value's name")
        if graph.get_value(name) is not None:
            self._tokens.reject("a second value of that name", position)
        return name

    def _value(self, graph: Graph) -> Value:
        self._tokens.expect("%")
        position = self._tokens.position
        value = graph.get_value(self._tokens.name("the value's name"))
        if value is None:
            self._tokens.reject("no value of that name is defined before this line", position)
        return value

    def _type(self) -> TensorType:
        tokens = self._tokens
        position = tokens.position
        dtype = _DTYPES.get(tokens.current)
        if dtype is None:
            tokens.fail(f"expected a dtype: {', '.join(DType)}")
        tokens.advance()
        tokens.expect("[")
        dims: list[Dim] = []
        while not tokens.take("]"):
            dims.append(self._dim())
            if tokens.current != "]":
                tokens.expect(",")
        try:
            return TensorType(dtype, tuple(dims), self._quant() if tokens.take("<") else None)
        except VerifyError as error:
            tokens.reject(str(error), position)

    def _dim(self) -> Dim:
        tokens = self._tokens
        if _SYMBOL.match(tokens.current):
            return tokens.advance()
        coefficient = tokens.integer("a dimension")
        if not tokens.take("*"):
            return coefficient
        if not _SYMBOL.match(tokens.current) or coefficient < 2:
            tokens.fail("expected a symbol, multiplied by 2 or more")
        return join_dim(coefficient, tokens.advance())

    def _quant(self) -> QuantParams:
        """What follows ``<``: ``scale=..., zero_point=...>``, with ``axis=..., `` first if per channel."""
        tokens = self._tokens
        axis = None
        if tokens.take("axis"):
            tokens.expect("=")
            axis = tokens.integer("the axis")
            tokens.expect(",")
        tokens.expect("scale")
        tokens.expect("=")
        scale = self._literal_of(float if axis is None else tuple[float, ...], "the scale")
        tokens.expect(",")
        tokens.expect("zero_point")
        tokens.expect("=")
        zero_point = self._literal_of(int if axis is None else int | tuple[int, ...], "the zero point")
        tokens.expect(">")
        scales = scale if isinstance(scale, tuple) else (scale,)
        zero_points = zero_point if isinstance(zero_point, tuple) else (zero_point,) * len(scales)
        return QuantParams(scales, zero_points, axis)

    # ---- constants ---------------------------------------------------------------------------------------------

    def _constant(self, graph: Graph) -> None:
        tokens = self._tokens
        name = self._new_value(graph)
        tokens.expect(":")
        constant_type = self._type()
        if not constant_type.is_static:
            tokens.fail("a constant has no symbolic dimension")
        tokens.expect("=")
        position, digest = tokens.position, None
        if tokens.take("sha256"):
            tokens.expect(":")
            digest = tokens.current
            array = self._referenced(constant_type)
        elif tokens.take("["):
            array = self._elements(constant_type, position)
        else:
            tokens.fail("expected '[' or 'sha256'")
        graph.add_constant(array, name, dtype=constant_type.dtype, quant=constant_type.quant, digest=digest)

    def _referenced(self, constant_type: TensorType) -> AnyArray:
        tokens = self._tokens
        position = tokens.position
        digest = tokens.advance()
        array = self._constants.get(digest)
        if array is None:
            tokens.reject("the constant's content is missing", position)
        if array.shape != constant_type.shape or array.dtype != constant_type.dtype.numpy:
            tokens.reject(f"the constant's content is {array.dtype}{list(array.shape)}", position)
        is_checked = isinstance(self._constants, ContentStore) and (
            self._constants.dtype_of(digest) is constant_type.dtype
        )
        if not is_checked and content_digest(constant_type, array) != digest:
            tokens.reject("the constant's content has another hash: it was altered", position)
        return array

    def _elements(self, constant_type: TensorType, position: int) -> AnyArray:
        elements = self._list()
        dtype = constant_type.dtype
        kind = bool if dtype is DType.BOOL else float if dtype.is_float else int
        try:
            converted = coerce(tuple(elements), tuple[kind, ...])  # type: ignore[valid-type]  # read at run time
            with np.errstate(over="raise"):
                array = np.array(converted, dtype.numpy).reshape([int(d) for d in constant_type.shape])
        except (ValueError, OverflowError, FloatingPointError) as error:
            count = math.prod(int(d) for d in constant_type.shape)
            self._tokens.reject(f"{len(elements)} elements do not make {count} of {dtype} ({error})", position)
        return array

    # ---- nodes -------------------------------------------------------------------------------------------------

    def _node(self, graph: Graph) -> None:
        tokens = self._tokens
        start = tokens.position
        names: list[str] = []
        types: list[TensorType] = []
        while True:
            names.append(self._new_value(graph))
            if tokens.take(":"):
                types.append(self._type())
            if not tokens.take(","):
                break
        if (types and len(types) != len(names)) or len(set(names)) != len(names):
            tokens.reject("each result has a name of its own, and all have a type or none", start)
        tokens.expect("=")
        cls = self._op_class()
        tokens.expect("(")
        operands: list[Value] = []
        while not tokens.take(")"):
            operands.append(self._value(graph))
            if tokens.current != ")":
                tokens.expect(",")
        op = self._op(cls, start)
        name = names[0]
        if tokens.take("@"):
            name = tokens.name("the node's name")
        elif len(names) > 1:
            tokens.reject("a node with several results needs a name: @name", start)
        if graph.has_node_named(name):
            tokens.reject(f"a second node named '{name}'", tokens.position - 1)
        try:
            graph.add_node(op, operands, name=name, result_types=types or None, result_names=names)
        except (VerifyError, ValueError) as error:
            tokens.reject(str(error), start)

    def _op_class(self) -> type[Op]:
        tokens = self._tokens
        position = tokens.position
        name = tokens.name("an op")
        try:
            return op_class(name)
        except UsageError as error:
            tokens.reject(f"{error}{did_you_mean(name, (cls.name for cls in op_classes()))}", position)

    def _op(self, cls: type[Op], start: int) -> Op:
        tokens = self._tokens
        annotations = attribute_types(cls)
        attributes: dict[str, AttributeValue] = {}
        if tokens.take("{"):
            while not tokens.take("}"):
                position = tokens.position
                name = tokens.name("an attribute")
                if name not in annotations or name in attributes:
                    has = ", ".join(annotations) or "none"
                    tokens.reject(f"{cls.name} has the attributes {has}, each at most once", position)
                tokens.expect("=")
                attributes[name] = self._literal_of(annotations[name], f"attribute {name} of {cls.name}")
                if tokens.current != "}":
                    tokens.expect(",")
        required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
        if missing := [name for name in required if name not in attributes]:
            tokens.reject(f"{cls.name} needs the attribute {missing[0]}", start)
        return cls(**attributes)

    # ---- literals ----------------------------------------------------------------------------------------------

    def _literal_of(self, annotation: Annotation, what: str) -> Any:  # noqa: ANN401  # what the annotation says
        position = self._tokens.position
        try:
            return coerce(self._literal(), annotation)
        except ValueError:
            self._tokens.reject(f"{what}: expected {describe(annotation)}", position)

    def _literal(self) -> AttributeValue:
        if self._tokens.take("["):
            return tuple(self._list())  # type: ignore[return-value]  # coerce checks the elements' types
        return self._scalar()

    def _list(self) -> list[AttributeValue]:
        """What follows ``[``: elements that are no lists themselves."""
        elements: list[AttributeValue] = []
        while not self._tokens.take("]"):
            elements.append(self._scalar())
            if self._tokens.current != "]":
                self._tokens.expect(",")
        return elements

    def _scalar(self) -> AttributeValue:
        tokens = self._tokens
        token = tokens.current
        if token in _KEYWORDS:
            tokens.advance()
            return _KEYWORDS[token]
        if token in _DTYPES:
            tokens.advance()
            return _DTYPES[token]
        if token.startswith('"'):
            return tokens.string()
        number = tokens.number()
        if number is None:
            tokens.fail("expected a number, a string, a dtype, true, false or none")
        return number
