"""What a pass is, the registry of passes, and the manager that runs a pipeline.

A pass is a frozen dataclass whose fields are its options; its specification ``name{option=value,...}`` is derived from
them, both ways. Passes keep no state between runs: what they need besides the graph is in the `PassContext`.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TypeVar

from qcompiler.errors import PluginError, UsageError
from qcompiler.ir import Graph, Node, Stage

if TYPE_CHECKING:
    from qcompiler.calibration.data import CalibrationSource


@dataclass(frozen=True, slots=True)
class Remark:
    """Why a rewrite did not fire (or what it could not do exactly), for `--remarks`."""

    pass_name: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name}: {self.node}: {self.reason}"


@dataclass
class PassContext:
    """What a compilation gives to its passes and collects from them.

    Attributes:
        calibration: the samples, or None when the user gave none.
        calibration_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        allow_float: whether nodes without an integer form may stay float.
        integer_io: whether inputs and outputs are the quantized tensors themselves (`--io integer`).
        threads: threads for running the observed graph; None for the default.
        remarks, warnings: collected on the way.
    """

    calibration: "CalibrationSource | None" = None
    calibration_method: str = "minmax"
    allow_float: bool = False
    integer_io: bool = False
    threads: int | None = None
    progress: Callable[[str, int, int], None] | None = None
    """Called with (what, done, total) by anything that takes over a second."""
    remarks: list[Remark] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def remark(self, by: "Pass", node: Node, reason: str) -> None:
        """Record why `by` left `node` as it is."""
        self.remarks.append(Remark(by.name, node.name, reason))

    def warn(self, message: str) -> None:
        """Record a warning for the user, once."""
        if message not in self.warnings:
            self.warnings.append(message)


@dataclass(frozen=True)
class Pass:
    """Base of all passes. Subclasses are frozen dataclasses decorated with `register_pass`."""

    name: ClassVar[str] = ""
    stages: ClassVar[frozenset[Stage]] = frozenset(Stage)
    """Stages in which the pass may run."""
    result_stage: ClassVar[Stage | None] = None
    """The stage of the graph afterwards, if the pass changes it."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Rewrite `graph` in place; return whether anything changed."""
        raise PluginError(f"pass class {type(self).__name__} defines no run() method")


_REGISTRY: dict[str, type[Pass]] = {}
_PassClass = TypeVar("_PassClass", bound=type[Pass])


def register_pass(cls: _PassClass) -> _PassClass:
    """Class decorator: put a frozen dataclass deriving from `Pass` into the registry.

    Raises:
        PluginError: the class is not a frozen dataclass of its own, has no name, or the name is taken.
    """
    if "__dataclass_params__" not in cls.__dict__ or not dataclasses.is_dataclass(cls):
        raise PluginError(f"pass class {cls.__name__} must be decorated with @dataclass(frozen=True) first")
    if not cls.name:
        raise PluginError(f"pass class {cls.__name__} has no name")
    if cls.name in _REGISTRY:
        raise PluginError(f"pass name {cls.name!r} is taken by {_REGISTRY[cls.name].__qualname__}")
    _REGISTRY[cls.name] = cls
    return cls


def pass_class(name: str) -> type[Pass]:
    """The registered pass class of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in _REGISTRY:
        raise UsageError(f"there is no pass named {name!r}; `qcompile passes` lists them")
    return _REGISTRY[name]
