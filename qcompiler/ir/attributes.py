"""Annotated fields, of ops and passes: whether a value is what the class declares, and what to call its type."""

import enum
import functools
import types
import typing

from qcompiler.ir.types import DType

Annotation = typing.Any


def matches(value: object, annotation: Annotation) -> bool:
    """Whether `value` is an instance of an attribute annotation, such as ``tuple[int, ...]`` or ``float | None``.

    Exact: a bool is no int, an int is no float, a list is no tuple.
    """
    origin, arguments = _parts(annotation)
    if origin in (types.UnionType, typing.Union):
        return any(matches(value, member) for member in arguments)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return all(matches(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(matches, value, arguments))
    if annotation in (None, types.NoneType):
        return value is None
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation is str:
        return isinstance(value, str) and not isinstance(value, DType)
    return isinstance(value, annotation)


@functools.cache
def _parts(annotation: Annotation) -> tuple[object, tuple[Annotation, ...]]:
    """The generic type, None if it is none, and its arguments."""
    return typing.get_origin(annotation), typing.get_args(annotation)


def describe(annotation: Annotation) -> str:
    """An annotation in words: ``list of int``, ``[float, float] or none``, ``minmax|mse``."""
    origin, arguments = _parts(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(map(describe, arguments))
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"list of {describe(arguments[0])}"
        return f"[{', '.join(map(describe, arguments))}]"
    if origin is typing.Literal:
        return "|".join(arguments)
    if annotation in (None, types.NoneType):
        return "none"
    if issubclass(annotation, enum.Enum) and annotation is not DType:
        return "|".join(str(member.value) for member in annotation)
    return "dtype" if annotation is DType else str(annotation.__name__)


def coerce(value: object, annotation: Annotation) -> typing.Any:  # noqa: ANN401  # what the annotation says
    """`value` as an instance of the annotation: an int may stand for a float, nothing else is converted.

    Raises:
        ValueError: it does not fit.
    """
    if matches(value, annotation):
        return value
    origin, arguments = _parts(annotation)
    if origin in (types.UnionType, typing.Union):
        for member in arguments:
            try:
                return coerce(value, member)
            except ValueError:
                continue
    if origin is tuple and isinstance(value, tuple):
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(coerce(item, arguments[0]) for item in value)
        return tuple(coerce(item, member) for item, member in zip(value, arguments, strict=True))
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{value.bit_length()} bits are too many for a float") from None
    raise ValueError(f"expected {describe(annotation)}, found {value!r}")
