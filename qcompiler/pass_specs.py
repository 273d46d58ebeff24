"""Pass specifications: ``fold-constants,fuse-activation{max-users=1},...`` to passes and back.

    pipeline = [pass {"," pass}]
    pass     = NAME ["{" [option {"," option}] "}"]
    option   = NAME "=" value
    value    = WORD | STRING | "[" [value {"," value}] "]"

NAME is kebab-case. WORD is a run of anything but white space and ``,{}[]="``; STRING is in double quotes
with JSON's escapes. White space between tokens means nothing. An option is a field of the pass's dataclass,
with ``-`` for ``_``; its annotation says what its value may be: int, float, bool (``true``, ``false``),
str, a `Literal` of strings, an enum of strings, `None` (``none``), or a tuple of these.
"""

import dataclasses
import enum
import json
import re
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.errors import UsageError
from qcompiler.ir.attributes import describe
from qcompiler.pass_record import Pass, pass_class
from qcompiler.suggestions import did_you_mean

_TOKEN = re.compile(r'\s*(?:(?P<word>[^\s,{}\[\]="]+)|(?P<string>"(?:[^"\\]|\\.)*")|(?P<mark>[,{}\[\]=]))')
_PLAIN = re.compile(r'[^\s,{}\[\]="]+\Z')


class _MisfitError(ValueError):
    """A value that does not fit the annotation of its option."""


class _Quoted(str):
    """A value that was written in quotes: a string, whatever it looks like."""

    __slots__ = ()


def parse_pipeline(text: str) -> list[Pass]:
    """The passes that a specification names, in order.

    Raises:
        UsageError: the text does not follow the grammar, a pass or option does not exist, or a value does not fit.
    """
    if not text.strip():
        return []
    scanner = _Scanner(text)
    passes = [_parse_pass(scanner)]
    while scanner.take(","):
        passes.append(_parse_pass(scanner))
    scanner.expect_end()
    return passes


def format_pipeline(passes: Sequence[Pass]) -> str:
    """The specification that `parse_pipeline` turns into these passes again."""
    return ",".join(map(format_pass, passes))


def format_pass(instance: Pass) -> str:
    """``name{option=value,...}``, with the options that differ from their defaults."""
    shown = []
    for option in dataclasses.fields(instance):
        value = getattr(instance, option.name)
        if not _is_default(option, value):
            shown.append(f"{_kebab(option.name)}={_format_value(value)}")
    return instance.name + (f"{{{','.join(shown)}}}" if shown else "")


def describe_options(cls: type[Pass]) -> str:
    """The options of a pass with their types and defaults: ``max-users: int = 1, method: minmax|mse``."""
    described = []
    for option in dataclasses.fields(cls):
        text = f"{_kebab(option.name)}: {describe(_annotations(cls)[option.name])}"
        if option.default is not dataclasses.MISSING:
            text += f" = {_format_value(option.default)}"
        described.append(text)
    return ", ".join(described)


@dataclass
class _Scanner:
    text: str
    position: int = 0

    def token(self) -> re.Match[str] | None:
        return _TOKEN.match(self.text, self.position)

    def take(self, mark: str) -> bool:
        match = self.token()
        if match is None or match["mark"] != mark:
            return False
        self.position = match.end()
        return True

    def expect(self, mark: str) -> None:
        if not self.take(mark):
            raise self.error(f"expected {mark!r}")

    def name(self, what: str) -> str:
        match = self.token()
        if match is None or match["word"] is None:
            raise self.error(f"expected {what}")
        self.position = match.end()
        return match["word"]

    def value(self) -> Any:  # noqa: ANN401  # str, _Quoted or a list of values: checked by _convert
        if self.take("["):
            items: list[Any] = []
            if self.take("]"):
                return items
            items.append(self.value())
            while self.take(","):
                items.append(self.value())
            self.expect("]")
            return items
        match = self.token()
        if match is None or match["mark"] is not None:
            raise self.error("expected a value")
        start, self.position = self.position, match.end()
        if match["string"] is None:
            return match["word"]
        try:
            return _Quoted(json.loads(match["string"]))
        except ValueError as error:
            self.position = start
            raise self.error(f"{match['string']} is not a valid string") from error

    def expect_end(self) -> None:
        if self.text[self.position :].strip():
            raise self.error("expected ',' or the end")

    def error(self, message: str) -> UsageError:
        rest = self.text[self.position :].strip()
        found = repr(rest[:20]) if rest else "the end"
        return UsageError(f"pass specification {self.text!r}, character {self.position + 1}: {message}, found {found}")


def _parse_pass(scanner: _Scanner) -> Pass:
    cls = pass_class(scanner.name("a pass name"))
    annotations = _annotations(cls)
    values: dict[str, Any] = {}
    if scanner.take("{") and not scanner.take("}"):
        _parse_option(scanner, cls, annotations, values)
        while scanner.take(","):
            _parse_option(scanner, cls, annotations, values)
        scanner.expect("}")
    required = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
    if missing := [name for name in required if name not in values]:
        raise UsageError(
            f"pass {cls.name} needs the option {_kebab(missing[0])!r}: {cls.name}{{{_kebab(missing[0])}=...}}"
        )
    return cls(**values)


def _parse_option(scanner: _Scanner, cls: type[Pass], annotations: dict[str, Any], values: dict[str, Any]) -> None:
    written = scanner.name("an option name")
    field = written.replace("-", "_")
    if field not in annotations:
        valid = [_kebab(name) for name in annotations]
        has = f"it has {', '.join(valid)}" if valid else "it has no options"
        raise UsageError(f"pass {cls.name} has no option {written!r}; {has}{did_you_mean(written, valid)}")
    if field in values:
        raise UsageError(f"pass {cls.name}: option {written!r} is given twice")
    scanner.expect("=")
    raw = scanner.value()
    try:
        values[field] = _convert(raw, annotations[field])
    except ValueError:
        expected = describe(annotations[field])
        raise UsageError(
            f"pass {cls.name}: option {written}={_format_raw(raw)} does not fit, expected {expected}"
        ) from None


def _annotations(cls: type[Pass]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def _convert(raw: Any, annotation: Any) -> Any:  # noqa: ANN401  # what the annotation says
    """The value that `raw` writes; ValueError if it does not fit the annotation."""
    origin: Any = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin in (types.UnionType, typing.Union):
        for member in sorted(arguments, key=lambda member: member is str):
            try:
                return _convert(raw, member)
            except ValueError:
                continue
        raise _MisfitError
    if isinstance(raw, list) != (origin is tuple):
        raise _MisfitError
    if origin is tuple:
        variadic = len(arguments) == 2 and arguments[1] is Ellipsis
        members = [arguments[0]] * len(raw) if variadic else list(arguments)
        return tuple(_convert(item, member) for item, member in zip(raw, members, strict=True))
    if origin is typing.Literal:
        if raw in arguments:
            return str(raw)
        raise _MisfitError
    if annotation is str:
        return str(raw)
    if isinstance(raw, _Quoted):
        raise _MisfitError
    if annotation is types.NoneType or annotation is bool:
        names = {"none": None} if annotation is types.NoneType else {"true": True, "false": False}
        if raw in names:
            return names[raw]
        raise _MisfitError
    return annotation(raw)  # int, float or an enum of strings


def _format_value(value: Any) -> str:  # noqa: ANN401
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{','.join(map(_format_value, value))}]"
    if isinstance(value, enum.Enum):
        return str(value.value)
    if isinstance(value, str):
        reads_back = _PLAIN.match(value) and value not in ("none", "true", "false") and not _is_number(value)
        return value if reads_back else json.dumps(value)
    return repr(value)


def _format_raw(raw: Any) -> str:  # noqa: ANN401
    if isinstance(raw, list):
        return f"[{','.join(map(_format_raw, raw))}]"
    return json.dumps(raw) if isinstance(raw, _Quoted) else str(raw)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_default(option: dataclasses.Field[Any], value: Any) -> bool:  # noqa: ANN401
    return option.default is not dataclasses.MISSING and _format_value(option.default) == _format_value(value)


def _kebab(name: str) -> str:
    return name.replace("_", "-")
