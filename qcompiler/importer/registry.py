"""Which function imports which ONNX op, by operator set version.

An entry turns one ONNX node into IR nodes; an evaluator computes a node whose operands are all known at import.
"""

from collections.abc import Callable
from typing import TypeVar

from qcompiler.errors import PluginError
from qcompiler.importer.known import Known
from qcompiler.importer.node_reader import NodeReader
from qcompiler.ir import Value

Imported = Value | Known
Entry = Callable[[NodeReader], Imported | tuple[Imported, ...]]

_IMPORTERS: dict[str, dict[int, Entry]] = {}
_EVALUATORS: dict[str, dict[int, Entry]] = {}
_Function = TypeVar("_Function", bound=Entry)


def importer(*op_types: str, since: int = 1) -> Callable[[_Function], _Function]:
    """Register an entry for ops of the default ONNX domain, from operator set version `since` on.

    The newest entry that is not newer than the model's version is used.
    """
    return _register(_IMPORTERS, op_types, since)


def evaluator(*op_types: str, since: int = 1) -> Callable[[_Function], _Function]:
    """Register a function that computes such nodes when all their operands are known at import."""
    return _register(_EVALUATORS, op_types, since)


def find_importer(op_type: str, version: int) -> Entry | None:
    """The entry for an op at an operator set version."""
    return _find(_IMPORTERS, op_type, version)


def find_evaluator(op_type: str, version: int) -> Entry | None:
    """The evaluator for an op at an operator set version."""
    return _find(_EVALUATORS, op_type, version)


def _register(
    table: dict[str, dict[int, Entry]], op_types: tuple[str, ...], since: int
) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        for op_type in op_types:
            versions = table.setdefault(op_type, {})
            if since in versions:
                raise PluginError(f"{op_type} since {since} has two entries: {versions[since]} and {function}")
            versions[since] = function
        return function

    return decorate


def _find(table: dict[str, dict[int, Entry]], op_type: str, version: int) -> Entry | None:
    versions = table.get(op_type, {})
    eligible = [since for since in versions if since <= version]
    return versions[max(eligible)] if eligible else None
