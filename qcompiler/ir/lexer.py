"""Tokens of the text form: atoms (names, numbers, keywords), quoted strings and punctuation marks."""

import json
import re
from typing import NoReturn

from qcompiler.errors import ParseError

# Nothing here gives back what it took: a match takes time linear in its length, and a comment makes no tokens. So the
# end and a string that is not closed are tokens too.
_TOKEN = re.compile(r'(?:\s|#[^\n]*+)*+([A-Za-z0-9_.+\-]++|"(?:[^"\\\n]|\\.)*+"?|[^\s#]|\Z)')
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.]*\Z")
_INTEGER = re.compile(r"-?[0-9]+\Z")
_FLOAT = re.compile(r"(?:-?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?|inf)|nan)\Z")
_END = ""


class TokenStream:
    """The tokens of a text with a position; a failure names line and column of the current token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens: list[str] = _TOKEN.findall(text)
        self._tokens.append(_END)
        self._position = 0

    @property
    def current(self) -> str:
        """The current token; empty at the end."""
        return self._tokens[self._position]

    @property
    def at_end(self) -> bool:
        return self.current == _END

    @property
    def position(self) -> int:
        """Number of the current token, for `reject`."""
        return self._position

    def advance(self) -> str:
        """The current token, which is then behind."""
        token = self._tokens[self._position]
        if token != _END:
            self._position += 1
        return token

    def take(self, token: str) -> bool:
        """Whether the current token is `token`, which is then behind."""
        if self._tokens[self._position] != token:
            return False
        self._position += 1
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            self.fail(f"expected {token!r}")

    def name(self, what: str) -> str:
        """A plain or quoted name."""
        token = self.current
        if token.startswith('"'):
            return self.string()
        if not _PLAIN_NAME.match(token):
            self.fail(f"expected {what}")
        return self.advance()

    def string(self) -> str:
        """A quoted string."""
        token = self.current
        try:
            decoded = json.loads(token)
        except ValueError:
            decoded = None
        if not isinstance(decoded, str):
            self.fail("expected a string in double quotes, with JSON's escapes")
        self.advance()
        return decoded

    def number(self) -> int | float | None:
        """An integer or float literal, or None if the current token is something else."""
        token = self.current
        try:
            if _INTEGER.match(token):
                value: int | float = int(token)
            elif _FLOAT.match(token):
                value = float(token)
            else:
                return None
        except ValueError:
            self.fail("the number has too many digits")
        self.advance()
        return value

    def integer(self, what: str) -> int:
        value = self.number() if _INTEGER.match(self.current) else None
        if not isinstance(value, int):
            self.fail(f"expected {what}, an integer")
        return value

    def fail(self, message: str) -> NoReturn:
        """Raise ParseError because the current token is not what the grammar wants."""
        token = self.current
        found = f"'{token[:40]}'" if token != _END else "the end"
        self.reject(f"{message}; found {found}", self._position)

    def reject(self, message: str, at: int) -> NoReturn:
        """Raise ParseError about what starts at token number `at`."""
        offset = len(self._text)
        for index, match in enumerate(_TOKEN.finditer(self._text)):
            if index == at:
                offset = match.start(1)
                break
        line = self._text.count("\n", 0, offset) + 1
        column = offset - (self._text.rfind("\n", 0, offset) + 1) + 1
        raise ParseError(f"line {line}, column {column}: {message}")
