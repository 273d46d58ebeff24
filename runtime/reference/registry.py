"""Which NumPy function is the meaning of which op."""

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from qcompiler.errors import PluginError
from qcompiler.ir import Op, TensorType

Function = Callable[..., Any]
"""Returns the only result or a tuple of results."""
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Domain(enum.Enum):
    """What a reference function is given and returns."""

    REAL = "real"
    """float64 arrays of real numbers; the executor dequantizes operands and rounds or quantizes results."""
    STORED = "stored"
    """Arrays as the IR's types have them."""
    EITHER = "either"
    """Only moves or selects elements: stored arrays where all share their parameters, else real numbers."""


@dataclass(frozen=True, slots=True)
class Types:
    """Types of a node's operands and results under the shapes of this run."""

    operands: tuple[TensorType, ...]
    results: tuple[TensorType, ...]


@dataclass(frozen=True, slots=True)
class Implementation:
    """A registered function; `typed` ones take `Types` as their second argument."""

    function: Function
    domain: Domain
    typed: bool


_IMPLEMENTATIONS: dict[type[Op], Implementation] = {}


def reference(op: type[Op], domain: Domain = Domain.REAL, *, typed: bool = False) -> Callable[[_Function], _Function]:
    """Decorator: make a function ``f(op, [types,] *operands)`` the meaning of an op class.

    Raises:
        PluginError: the op class has one already.
    """

    def register(function: _Function) -> _Function:
        if op in _IMPLEMENTATIONS:
            raise PluginError(f"op {op.name!r} already has a reference function")
        _IMPLEMENTATIONS[op] = Implementation(function, domain, typed)
        return function

    return register


def implementation(op: type[Op]) -> Implementation:
    """The registered function of an op class.

    Raises:
        PluginError: there is none.
    """
    found = _IMPLEMENTATIONS.get(op)
    if found is None:
        raise PluginError(f"op {op.name!r} has no reference function; decorate one with @reference({op.__name__})")
    return found
