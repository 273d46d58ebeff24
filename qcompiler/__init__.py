"""qcompiler: an ahead-of-time compiler from ONNX to integer-only programs, and the interpreter that runs them.

    model = qcompiler.compile("model.onnx", calibration=images)
    model.save("model.qc")
    session = qcompiler.InferenceSession("model.qc")
    logits = session.run(None, {"input": images})[0]

Importing the package is cheap; the parts that need onnx or numba load when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompiler import errors, ir, reference
    from qcompiler.compiler import compile
    from qcompiler.errors import QCompilerError
    from qcompiler.inference import InferenceSession
    from qcompiler.model import CompiledModel, load
    from qcompiler.version import __version__

__all__ = [
    "CompiledModel",
    "InferenceSession",
    "QCompilerError",
    "__version__",
    "compile",
    "errors",
    "ir",
    "load",
    "reference",
]

_HOMES = {
    "CompiledModel": "qcompiler.model",
    "InferenceSession": "qcompiler.inference",
    "QCompilerError": "qcompiler.errors",
    "__version__": "qcompiler.version",
    "compile": "qcompiler.compiler",
    "load": "qcompiler.model",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever the public name is
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"qcompiler.{name}")
    raise AttributeError(f"module 'qcompiler' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
