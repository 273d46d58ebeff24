"""Functions for kernels that are written as LLVM IR.

`emitted` turns `emit(builder, *values)` into a Numba intrinsic, and is the one place that knows Numba's
protocol for it. Use it at module level, so that kernels that call the result are found again in the cache.
"""

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import Deferred, NumbaType

Emit = Callable[..., ir.Value | None]


def emitted(result: NumbaType, *parameters: NumbaType) -> Callable[[Emit], Any]:
    """Decorator: an intrinsic of these Numba types from a function that emits its body.

    The function gets the IR builder, positioned where the call is, and one IR value for each parameter; it
    returns the value of the result (None for void). It may add basic blocks if it leaves the builder at the end
    of the last.
    """
    return lambda emit: Deferred(lambda: _intrinsic(emit, result, parameters))


def _intrinsic(emit: Emit, result: NumbaType, parameters: tuple[NumbaType, ...]) -> Any:  # noqa: ANN401 - Numba's
    from numba.extending import intrinsic

    signature = result.resolve()(*[parameter.resolve() for parameter in parameters])

    def define(_typing_context: object, *_arguments: object) -> tuple[object, Callable[..., ir.Value]]:
        return signature, generate

    def generate(context: Any, builder: ir.IRBuilder, _signature: object, values: list[ir.Value]) -> ir.Value:  # noqa: ANN401 - Numba's
        value = emit(builder, *values)
        return context.get_dummy_value() if value is None else value

    # Numba reads the names and the number of the parameters from the signature.
    names = ["typing_context", *list(inspect.signature(emit).parameters)[1:]]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    define.__dict__["__signature__"] = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    define.__name__, define.__doc__, define.__module__ = emit.__name__, emit.__doc__, emit.__module__
    return intrinsic(define)
