"""What an op is, and the registry of all ops.

An op is a frozen dataclass: its fields are the attributes, its class variables say what it takes and means, its
`infer` method is the type and shape rule. An instance is "this op with these attributes", so passes match with
``case Conv(group=1):`` and a node holds one instance. The reference implementation, the lowering and the kernels
register against the class from elsewhere.
"""

import abc
import dataclasses
import enum
import inspect
import typing
from collections.abc import Sequence
from typing import ClassVar

from qcompiler.errors import PluginError, UsageError, VerifyError
from qcompiler.ir.types import AnyArray, DType, TensorType

AttributeValue = int | float | bool | str | DType | None | tuple[int | str, ...] | tuple[float, ...]


class Stage(enum.StrEnum):
    """How far a graph has come; each stage has a spec of legal ops and dtypes (`qcompiler.ir.stages`)."""

    FLOAT = "float"
    OBSERVED = "observed"
    QUANTIZED = "quantized"
    INTEGER = "integer"


REAL = frozenset({Stage.FLOAT, Stage.OBSERVED, Stage.QUANTIZED})
EVERY = frozenset(Stage)
INTEGER_ONLY = frozenset({Stage.INTEGER})


class Quantization(enum.Enum):
    """What an op does to quantization parameters."""

    PASSTHROUGH = "passthrough"
    """Moves data only: result and first operand share one scale and zero point (reshape, transpose, slice)."""
    UNIFIED = "unified"
    """Several operands become one result without arithmetic: all share one scale and zero point (concat)."""
    SELECTS = "selects"
    """Picks among values: commutes with quantization, so the parameters pass through (max pooling)."""
    FIXED_RANGE = "fixed range"
    """The range of the result is known without data (sigmoid, softmax); see `Op.result_range`."""
    ACCUMULATES = "accumulates"
    """Multiply-accumulate with constant weights in int32 (conv, gemm)."""
    ARITHMETIC = "arithmetic"
    """Any other function of real numbers: the result has a scale of its own (add, mul, hard-swish)."""
    NONE = "none"
    """Quantization has no meaning for it (quantize, integer ops, shape arithmetic)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Argument:
    """One operand in the signature of an op: ``x``, ``bias?`` (may be missing), ``xs*`` (any number, at least one)."""

    name: str
    optional: bool = False
    variadic: bool = False


class Operands(Sequence[TensorType]):
    """The types of a node's operands, with the arrays of those that are constants, as `Op.infer` sees them."""

    __slots__ = ("_constants", "_types")

    def __init__(self, operand_types: Sequence[TensorType], constants: Sequence[AnyArray | None]) -> None:
        self._types = tuple(operand_types)
        self._constants = tuple(constants)

    @typing.overload
    def __getitem__(self, index: int) -> TensorType: ...
    @typing.overload
    def __getitem__(self, index: slice) -> Sequence[TensorType]: ...
    def __getitem__(self, index: int | slice) -> TensorType | Sequence[TensorType]:
        return self._types[index]

    def __len__(self) -> int:
        return len(self._types)

    def constant(self, index: int) -> AnyArray | None:
        """The array of operand `index` if it is a constant."""
        return self._constants[index]


@dataclasses.dataclass(frozen=True)
class Op(abc.ABC):
    """Base of all ops. Subclasses are frozen dataclasses decorated with `register_op`."""

    name: ClassVar[str] = ""
    signature: ClassVar[str] = ""
    """Operand names separated by spaces, in the notation of `Argument`."""
    stages: ClassVar[frozenset[Stage]] = REAL
    quantization: ClassVar[Quantization] = Quantization.ARITHMETIC
    arguments: ClassVar[tuple[Argument, ...]] = ()
    elementwise_unary: ClassVar[bool] = False
    """One operand, each result element a function of the same operand element: can become a table."""

    @abc.abstractmethod
    def infer(self, operands: Operands) -> tuple[TensorType, ...]:
        """Types of the results, without quantization parameters.

        A result whose dtype is free in the quantized stage (that of real ops) gets the first operand's dtype. There
        the verifier compares dtypes only where `Op.fixes_dtype` says so; shapes it compares always.

        Raises:
            VerifyError: operands and attributes do not fit together. The caller adds the node's name.
        """

    fixes_dtype: ClassVar[bool] = True

    def result_range(self) -> tuple[float, float] | None:
        """The analytic range of the result, for ops with `Quantization.FIXED_RANGE` (and other bounded ones)."""
        return None

    def attributes(self) -> dict[str, AttributeValue]:
        """Attribute names and values in declaration order."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


_REGISTRY: dict[str, type[Op]] = {}
_OpClass = typing.TypeVar("_OpClass", bound=type[Op])


def register_op(cls: _OpClass) -> _OpClass:
    """Class decorator: put a frozen dataclass deriving from `Op` into the registry.

    Raises:
        PluginError: the class is not a frozen dataclass, has no type rule or no name, or the name is taken.
    """
    params = getattr(cls, "__dataclass_params__", None)
    if params is None or not params.frozen or "__dataclass_params__" not in cls.__dict__:
        raise PluginError(f"op class {cls.__name__} must be decorated with @dataclass(frozen=True) first")
    if inspect.isabstract(cls):
        raise PluginError(f"op class {cls.__name__} defines no infer() method; add its type and shape rule")
    if not cls.name:
        raise PluginError(f"op class {cls.__name__} has no name")
    if cls.name in _REGISTRY:
        raise PluginError(f"op name {cls.name!r} is taken by {_REGISTRY[cls.name].__qualname__}")
    cls.arguments = parse_signature(cls.signature)
    _REGISTRY[cls.name] = cls
    return cls


def parse_signature(signature: str) -> tuple[Argument, ...]:
    """``"x weight bias?"`` to arguments."""
    return tuple(
        Argument(word.rstrip("?*"), optional=word.endswith("?"), variadic=word.endswith("*"))
        for word in signature.split()
    )


def op_class(name: str) -> type[Op]:
    """The op class of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in _REGISTRY:
        raise UsageError(f"there is no op named {name!r}")
    return _REGISTRY[name]


def op_classes() -> list[type[Op]]:
    """All registered op classes by name."""
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


_ATTRIBUTE_TYPES: dict[type[Op], dict[str, typing.Any]] = {}


def attribute_types(cls: type[Op]) -> dict[str, typing.Any]:
    """The annotated type of each attribute, resolved, in declaration order."""
    if cls not in _ATTRIBUTE_TYPES:
        hints = typing.get_type_hints(cls)
        _ATTRIBUTE_TYPES[cls] = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    return _ATTRIBUTE_TYPES[cls]


def check_operand_count(op: Op, count: int) -> None:
    """Raise VerifyError unless `count` operands fit the signature of `op`."""
    required = sum(not a.optional for a in op.arguments)
    most = None if any(a.variadic for a in op.arguments) else len(op.arguments)
    if count < required or (most is not None and count > most):
        raise VerifyError(f"{op.name} takes the operands ({op.signature}), got {count}")
