"""Functions for kernels that are written as LLVM IR.

`emitted` turns `emit(builder, *values)` into a Numba intrinsic, and is the one place that knows Numba's
protocol for it. Use it at module level, so that kernels that call the result are found again in the cache.
"""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.base import BaseContext
from numba.extending import intrinsic

Emit = Callable[..., ir.Value | None]


def emitted(result: types.Type, *parameters: types.Type) -> Callable[[Emit], Any]:
    """Decorator: an intrinsic of these Numba types from a function that emits its body.

    The function gets the IR builder, positioned where the call is, and one IR value for each parameter; it
    returns the value of the result (None for void). It may add basic blocks if it leaves the builder at the end
    of the last.
    """

    def make(emit: Emit) -> Any:  # noqa: ANN401 - a Numba intrinsic
        def define(_typing_context: object, *_arguments: types.Type) -> tuple[object, Callable[..., ir.Value]]:
            return result(*parameters), generate

        def generate(
            context: BaseContext, builder: ir.IRBuilder, _signature: object, values: list[ir.Value]
        ) -> ir.Value:
            value = emit(builder, *values)
            if value is None:
                return context.get_dummy_value()
            return value

        # Numba reads the names and the number of the parameters from the signature.
        names = ["typing_context", *list(inspect.signature(emit).parameters)[1:]]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
        define.__dict__["__signature__"] = signature
        define.__name__, define.__doc__, define.__module__ = emit.__name__, emit.__doc__, emit.__module__
        return intrinsic(define)

    return make
