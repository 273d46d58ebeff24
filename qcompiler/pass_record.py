"""What a pass is, and the registry of passes.

A pass is a frozen dataclass whose fields are its options; its specification ``name{option=value,...}`` is derived from
them, both ways (`qcompiler.pass_specs`). Passes keep no state between runs: what they need besides the graph is in the
`PassContext`.
"""

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Generic, TypeVar

from qcompiler.errors import PluginError, QCompilerError, UsageError
from qcompiler.ir import Graph, Node, Stage
from qcompiler.ir.rewrite import Refusal, apply_rewrite
from qcompiler.suggestions import did_you_mean

if TYPE_CHECKING:
    from qcompiler.calibration.data import CalibrationSource
    from qcompiler.calibration.outputs import FloatOutputs

ENTRY_POINT_GROUP = "qcompiler.passes"


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
        calibration_digest: SHA-256 of the statistics, set by the calibrating pass.
        float_outputs: collects the graph's outputs on the samples while they are calibrated on; None: unwanted.
        batch_norm_ranges: estimated range of the result of each normalized conv or gemm, by the node's name.
        allow_float: whether nodes without an integer form may stay float.
        threads: threads for running the observed graph; None for the default.
        remarks, warnings: collected on the way.
    """

    calibration: "CalibrationSource | None" = None
    calibration_method: str = "mse"
    calibration_digest: str | None = None
    float_outputs: "FloatOutputs | None" = None
    batch_norm_ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    allow_float: bool = False
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
class Pass(ABC):
    """Base of all passes. Subclasses are frozen dataclasses decorated with `register_pass`."""

    name: ClassVar[str] = ""
    stages: ClassVar[frozenset[Stage]] = frozenset(Stage)
    """Stages in which the pass may run."""
    result_stage: ClassVar[Stage | None] = None
    """The stage of the graph afterwards, if the pass changes it."""

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> bool:
        """Rewrite `graph` in place; return whether anything changed."""


_Match = TypeVar("_Match")


@dataclass(frozen=True)
class RewritePass(Pass, Generic[_Match]):
    """A pass that is one rewrite, split in match, check and rewrite (see `qcompiler.ir.rewrite`).

    Nodes that the rewrite leaves without users, and constants, are cleared away afterwards.
    """

    @abstractmethod
    def match(self, node: Node) -> _Match | None:
        """The pattern that ends at `node`, or None if there is none."""

    @abstractmethod
    def check(self, graph: Graph, match: _Match) -> str | None:
        """Why the pattern must stay as it is, in words that name the hindrance, or None."""

    @abstractmethod
    def rewrite(self, graph: Graph, match: _Match) -> None:
        """Replace the pattern; afterwards it must not match again."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed, settled = False, False
        refusals: list[Refusal] = []
        while not settled:
            refusals.clear()
            applied = apply_rewrite(graph, self, refusals.append)
            changed = changed or applied > 0
            # A dead node counts as another user until it is gone.
            settled = not applied or not graph.erase_unused_nodes()
        for refusal in refusals:
            context.remark(self, refusal.node, refusal.reason)
        if changed:
            graph.erase_unused_constants()
        return changed


_REGISTRY: dict[str, type[Pass]] = {}
_PassClass = TypeVar("_PassClass", bound=type[Pass])


def register_pass(cls: _PassClass) -> _PassClass:
    """Class decorator: put a frozen dataclass deriving from `Pass` into the registry.

    Raises:
        PluginError: the class is not a frozen dataclass of its own, leaves a method out, has no name, or the name is
            taken.
    """
    params = cls.__dict__.get("__dataclass_params__")
    if params is None or not params.frozen:
        raise PluginError(f"pass class {cls.__name__} must be decorated with @dataclass(frozen=True) first")
    if missing := sorted(cls.__abstractmethods__):
        raise PluginError(f"pass class {cls.__name__} defines no {missing[0]}() method")
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
        PluginError: a plug-in that might bring it cannot be loaded.
    """
    if name not in _REGISTRY:
        load_passes()
    if name not in _REGISTRY:
        hint = did_you_mean(name, _REGISTRY)
        raise UsageError(f"there is no pass named {name!r}; `qcompile passes` lists them{hint}")
    return _REGISTRY[name]


def pass_classes() -> list[type[Pass]]:
    """All pass classes by name, those of plug-ins too.

    Raises:
        PluginError: a plug-in cannot be loaded.
    """
    load_passes()
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


@functools.cache
def load_passes() -> None:
    """Import every module of `qcompiler.passes` and what the entry points of ``qcompiler.passes`` name.

    Raises:
        PluginError: a plug-in cannot be loaded; the message names it and its distribution.
    """
    package = importlib.import_module("qcompiler.passes")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    from importlib.metadata import entry_points  # it imports the e-mail package: 15 ms

    for entry_point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as error:
            distribution = entry_point.dist.name if entry_point.dist is not None else "an unknown distribution"
            detail = error if isinstance(error, QCompilerError) else f"{type(error).__name__}: {error}"
            raise PluginError(
                f"plug-in '{entry_point.name}' ({entry_point.value}) of {distribution} cannot be loaded: {detail}; "
                f"repair it or uninstall {distribution}"
            ) from error
