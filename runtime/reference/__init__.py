"""The NumPy reference executor: slow, obvious, exact on integers; runs a graph of any stage.

`executor` walks the graph, `registry` maps op classes to functions, the other modules hold the functions by
family.
"""

from qcompiler.runtime.reference import (  # noqa: F401  # importing a family registers its functions
    boundary,
    elementwise,
    integer_elementwise,
    integer_linear,
    integer_reduction,
    linear,
    movement,
    pooling,
    unary,
)
from qcompiler.runtime.reference.executor import bind_feeds, run, run_all
from qcompiler.runtime.reference.real import to_real
from qcompiler.runtime.reference.registry import Domain, Types, reference
from qcompiler.runtime.reference.unary import real_function

__all__ = ["Domain", "Types", "bind_feeds", "real_function", "reference", "run", "run_all", "to_real"]
