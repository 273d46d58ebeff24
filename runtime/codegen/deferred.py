"""What kernels are made of, named without Numba: it is imported when the first kernel has to be compiled.

Importing Numba takes longer than all else that a process does before it runs a model, and most processes find every
kernel's image in the cache. Numba asks an object that it does not know for its type: `Deferred` then makes the object
that it stands for.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., object])


class Deferred:
    """Numba's object, made when Numba or a call first wants it."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make

    @cached_property
    def made(self) -> Any:  # noqa: ANN401 - Numba's
        """The object itself."""
        return self._make()

    @cached_property
    def _numba_type_(self) -> object:
        from numba.core.registry import cpu_target

        context = cpu_target.typing_context
        made = self.made
        context.refresh()  # knows the intrinsics made since
        return context.resolve_value_type(made)

    def __call__(self, *arguments: object) -> object:
        return self.made(*arguments)


class NumbaType:
    """A type of Numba's by its name, or made of others."""

    def __init__(self, name: str, *arguments: "_Argument") -> None:
        self._name, self._arguments = name, arguments

    def __call__(self, *arguments: "_Argument") -> "NumbaType":
        return NumbaType(self._name, *arguments)

    def resolve(self) -> Any:  # noqa: ANN401 - Numba's
        """The type itself."""
        from numba import types

        found = getattr(types, self._name)
        return found(*map(_resolved, self._arguments)) if self._arguments else found


_Argument = NumbaType | int | list[NumbaType]


def _resolved(argument: _Argument) -> Any:  # noqa: ANN401 - Numba's
    if isinstance(argument, list):
        return [each.resolve() for each in argument]
    return argument.resolve() if isinstance(argument, NumbaType) else argument


class _Types:
    """Stands for the module `numba.types`."""

    def __getattr__(self, name: str) -> NumbaType:
        return NumbaType(name)


types = _Types()


def compiled(function: _Function) -> _Function:
    """Decorator: a function that kernels call, and that cannot raise."""
    return _jit(function, {"boundscheck": False})


def inlined(function: _Function) -> _Function:
    """Decorator: a function that disappears in the kernels that call it, and cannot raise."""
    return _jit(function, {"forceinline": True})


def _jit(function: _Function, options: dict[str, Any]) -> _Function:
    def make() -> object:
        import numba

        return numba.njit(error_model="numpy", **options)(function)

    return cast("_Function", Deferred(make))
