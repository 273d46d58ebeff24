"""The registry of integer forms: one lowering for each op of the quantized stage.

A lowering is a function decorated with `lowers(OpClass)`. It gets the node and a `Lowering` and returns the
integer op and operands that the node is to have; what has to come before (a reshape, constants) it inserts.
The driver (`qcompiler.passes.lower_to_integer`) changes the node in place, so that names stay. A lowering
that cannot express its node raises `Unlowerable`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict, TypeVar

from qcompiler.errors import PluginError
from qcompiler.ir import AnyArray, DType, Graph, Node, Op, QuantParams, Value
from qcompiler.numerics import quantize_real


class Unlowerable(Exception):  # noqa: N818  # it is no fault: a node may stay float
    """The node has no integer form; the message says why. The driver turns it into a proper error."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """An operand or result of the node being lowered: its integers and what they mean.

    Attributes:
        value: the IR value.
        dtype: of the integers.
        quant: their scale and zero point.
    """

    value: Value
    dtype: DType
    quant: QuantParams

    @property
    def scale(self) -> float:
        """The scale of a per-tensor value.

        Raises:
            Unlowerable: it has a scale per channel.
        """
        if not self.quant.is_per_tensor:
            raise Unlowerable(f"%{self.value.name} has a scale per channel")
        return self.quant.scale[0]

    @property
    def zero_point(self) -> int:
        return self.quant.zero_point[0]

    @property
    def is_8_bit(self) -> bool:
        return self.dtype.is_8_bit

    @property
    def data(self) -> AnyArray | None:
        """The integers of a constant."""
        return self.value.data


class ResultFields(TypedDict):
    """Attributes that the integer ops have in common: the result's dtype, zero point and clamp."""

    dtype: DType
    zp_out: int
    lo: int
    hi: int


class Lowering:
    """The graph being lowered, and what its integers mean.

    Attributes:
        absorbed: nodes whose work other nodes do as well, since what uses them has been lowered.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.absorbed: list[Node] = []
        self._meaning: dict[Value, tuple[DType, QuantParams]] = {}

    def define(self, value: Value, dtype: DType, quant: QuantParams) -> None:
        """Record what the integers of `value` mean."""
        self._meaning[value] = (dtype, quant)

    def absorb(self, layer: Node) -> None:
        """Record that the node being lowered does the work of `layer` too, which nothing else uses."""
        self.absorbed.append(layer)

    def has_meaning(self, value: Value) -> bool:
        return value in self._meaning

    def operand(self, node: Node, index: int) -> Quantized:
        """Operand `index`, as integers.

        Raises:
            Unlowerable: it is not quantized.
        """
        value = node.operands[index]
        if value not in self._meaning:
            raise Unlowerable(f"its operand %{value.name} is not quantized")
        return Quantized(value, *self._meaning[value])

    @staticmethod
    def result(node: Node, index: int = 0) -> Quantized:
        """Result `index` and the parameters that it is to have.

        Raises:
            Unlowerable: it is not quantized.
        """
        value = node.results[index]
        if value.type.quant is None:
            raise Unlowerable(f"its result %{value.name} is not quantized")
        return Quantized(value, value.type.dtype, value.type.quant)

    def emit(self, node: Node, op: Op, operands: Sequence[Value], what: str) -> Value:
        """Insert `op` before the node."""
        return self.graph.add_node(op, operands, name=f"{node.name}_{what}", before=node).result

    def constant(self, node: Node, data: AnyArray, what: str) -> Value:
        """Add a constant that belongs to the node."""
        return self.graph.add_constant(data, f"{node.name}_{what}")


def result_fields(result: Quantized, clamp: tuple[float, float] | None = None) -> ResultFields:
    """dtype, zero point and clamp of a result: the dtype's limits, cut to a fused activation's bounds."""
    lo, hi = result.dtype.limits
    if clamp is not None:
        low, high = (quantize_real(bound, result.scale, result.zero_point, lo, hi) for bound in clamp)
        lo, hi = low, high
    return ResultFields(dtype=result.dtype, zp_out=result.zero_point, lo=lo, hi=hi)


Lowered = tuple[Op, Sequence[Value]]
Lower = Callable[[Node, Lowering], Lowered]
_LOWERINGS: dict[type, Lower] = {}
_Function = TypeVar("_Function", bound=Lower)


def lowers(*classes: type) -> Callable[[_Function], _Function]:
    """Function decorator: the integer form of ops of these classes.

    Raises:
        PluginError: a class has one already.
    """

    def register(function: _Function) -> _Function:
        for cls in classes:
            if cls in _LOWERINGS:
                raise PluginError(f"op class {cls.__name__} has a lowering already")
            _LOWERINGS[cls] = function
        return function

    return register


def lowering_of(op: Op) -> Lower | None:
    """The lowering of the op's class or of its nearest base class that has one."""
    return next((_LOWERINGS[cls] for cls in type(op).__mro__ if cls in _LOWERINGS), None)
