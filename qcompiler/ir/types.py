"""Types of IR values: dtype, shape with symbolic dimensions, quantization parameters.

A dimension is an `int` or a string: a symbol such as ``"N"`` or an integer multiple of one such as ``"49*N"``.
That is all a dynamic batch needs: reshapes multiply and divide it, nothing else touches it.
"""

import enum
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from qcompiler.errors import VerifyError

Dim = int | str
Shape = tuple[Dim, ...]
AnyArray = npt.NDArray[Any]

_MOST_ELEMENTS = 2**48
"""Of a tensor, symbols counted as 1: what could never be held in memory, while counts of bytes stay below 2^63."""
_DIM = re.compile(r"(?:([1-9][0-9]*)\*)?([A-Za-z_][A-Za-z0-9_.]*)\Z")


class DType(enum.StrEnum):
    """Element types. `s4` is stored one element per int8 byte until a program packs it."""

    F32 = "f32"
    F16 = "f16"
    U8 = "u8"
    S8 = "s8"
    S16 = "s16"
    S32 = "s32"
    S64 = "s64"
    BOOL = "bool"
    S4 = "s4"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy dtype that holds one element."""
        return _NUMPY[self]

    @property
    def itemsize(self) -> int:
        """Bytes of one element in memory."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> bool:
        return self in (DType.F32, DType.F16)

    @property
    def is_integer(self) -> bool:
        return not self.is_float and self is not DType.BOOL

    @property
    def is_8_bit(self) -> bool:
        """Whether it is u8 or s8."""
        return self in (DType.U8, DType.S8)

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of an integer dtype."""
        found = _LIMITS.get(self)
        if found is None:
            raise VerifyError(f"dtype {self} has no integer limits")
        return found

    @staticmethod
    def from_numpy(dtype: npt.DTypeLike) -> "DType":
        """The IR dtype of a NumPy dtype.

        Raises:
            VerifyError: the IR has no such dtype (float64, complex, strings, ...).
        """
        found = _FROM_NUMPY.get(np.dtype(dtype))
        if found is None:
            raise VerifyError(f"dtype {np.dtype(dtype)} is not one of the IR's: {', '.join(DType)}")
        return found


_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.F32: np.dtype(np.float32),
    DType.F16: np.dtype(np.float16),
    DType.U8: np.dtype(np.uint8),
    DType.S8: np.dtype(np.int8),
    DType.S16: np.dtype(np.int16),
    DType.S32: np.dtype(np.int32),
    DType.S64: np.dtype(np.int64),
    DType.BOOL: np.dtype(np.bool_),
    DType.S4: np.dtype(np.int8),
}
_FROM_NUMPY = {numpy: dtype for dtype, numpy in _NUMPY.items() if dtype is not DType.S4}
_WIDTHS = {DType.S4: 4, DType.S8: 8, DType.S16: 16, DType.S32: 32, DType.S64: 64}
_LIMITS = {dtype: (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) for dtype, bits in _WIDTHS.items()} | {DType.U8: (0, 255)}


@dataclass(frozen=True, slots=True)
class QuantParams:
    """Affine quantization: real = scale · (q − zero_point).

    `scale` and `zero_point` have one entry (per tensor, `axis` None) or one per index along `axis`.
    Scales are float64, exist at compile time only and never reach the integer stage.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def __post_init__(self) -> None:
        if len(self.scale) != len(self.zero_point) or not self.scale:
            raise VerifyError(f"{len(self.scale)} scales do not match {len(self.zero_point)} zero points")
        if self.axis is None and len(self.scale) != 1:
            raise VerifyError(f"per-tensor quantization has one scale, not {len(self.scale)}")
        # The sum tells of a NaN, which the others may miss. A layer has thousands of scales.
        if not (min(self.scale) > 0 and max(self.scale) < math.inf) or math.isnan(sum(self.scale)):
            bad = next(s for s in self.scale if not (math.isfinite(s) and s > 0))
            raise VerifyError(f"a scale must be finite and positive, not {bad}")

    @staticmethod
    def per_tensor(scale: float, zero_point: int = 0) -> "QuantParams":
        return QuantParams((float(scale),), (int(zero_point),))

    @staticmethod
    def per_channel(scale: Iterable[float], zero_point: Iterable[int], axis: int) -> "QuantParams":
        return QuantParams(tuple(float(s) for s in scale), tuple(int(z) for z in zero_point), axis)

    @property
    def is_per_tensor(self) -> bool:
        return self.axis is None


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype, shape and, once quantized, quantization parameters of a value."""

    dtype: DType
    shape: Shape
    quant: QuantParams | None = None

    def __post_init__(self) -> None:
        elements = 1
        for dim in self.shape:
            size = split_dim(dim)[0]
            if size < 0:
                raise VerifyError(f"dimension {dim} of shape {format_shape(self.shape)} is negative")
            elements *= size or 1
        if elements > _MOST_ELEMENTS:
            raise VerifyError(f"shape {format_shape(self.shape)} has more than 2^48 elements")
        if self.quant is not None:
            if not self.dtype.is_integer:
                raise VerifyError(f"a value of dtype {self.dtype} cannot have quantization parameters")
            low, high = self.dtype.limits
            if not low <= min(self.quant.zero_point) <= max(self.quant.zero_point) <= high:
                raise VerifyError(f"a zero point lies outside [{low}, {high}] of {self.dtype}: {self.quant.zero_point}")
            axis = self.quant.axis
            if axis is not None and (not 0 <= axis < self.rank or self.shape[axis] != len(self.quant.scale)):
                raise VerifyError(
                    f"{len(self.quant.scale)} scales along axis {axis} do not fit shape {format_shape(self.shape)}"
                )

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether no dimension is symbolic."""
        return all(isinstance(d, int) for d in self.shape)

    def with_shape(self, shape: Iterable[Dim]) -> "TensorType":
        return TensorType(self.dtype, tuple(shape), self.quant)

    def with_dtype(self, dtype: DType, quant: QuantParams | None = None) -> "TensorType":
        return TensorType(dtype, self.shape, quant)

    def with_quant(self, quant: QuantParams | None) -> "TensorType":
        return TensorType(self.dtype, self.shape, quant)


def format_shape(shape: Shape) -> str:
    """``[N,3,224,224]``, as the text form has it."""
    return "[" + ",".join(str(d) for d in shape) + "]"


def split_dim(dim: Dim) -> tuple[int, str | None]:
    """Coefficient and symbol of a dimension: ``7 -> (7, None)``, ``"N" -> (1, "N")``, ``"49*N" -> (49, "N")``."""
    if isinstance(dim, int):
        return dim, None
    match = _DIM.match(dim)
    if match is None:
        raise VerifyError(f"{dim!r} is not a dimension: expected an integer, a name or k*name")
    return int(match[1] or 1), match[2]


def join_dim(coefficient: int, symbol: str | None) -> Dim:
    """The inverse of `split_dim`."""
    if symbol is None or coefficient == 0:
        return coefficient
    return symbol if coefficient == 1 else f"{coefficient}*{symbol}"


def multiply_dims(dims: Iterable[Dim]) -> Dim:
    """Product of dimensions.

    Raises:
        VerifyError: two factors are symbolic; the IR has no such dimension.
    """
    coefficient, symbol = 1, None
    for dim in dims:
        k, s = split_dim(dim)
        coefficient *= k
        if s is not None:
            if symbol is not None:
                raise VerifyError(f"the product of the symbolic dimensions {symbol} and {s} is not a dimension")
            symbol = s
    return join_dim(coefficient, symbol)


def divide_dim(dim: Dim, divisor: Dim) -> Dim | None:
    """`dim / divisor` if it is a dimension again (``49*N / N == 49``, ``49*N / 7 == 7*N``), else None."""
    (a, s), (b, t) = split_dim(dim), split_dim(divisor)
    if b == 0 or a % b or (t is not None and s != t):
        return None
    return join_dim(a // b, None if t is not None else s)


def bind_shape(shape: Shape, symbols: Mapping[str, int]) -> tuple[int, ...]:
    """The concrete shape under values of the symbols.

    Raises:
        VerifyError: a symbol has no value.
    """
    bound: list[int] = []
    for dim in shape:
        k, symbol = split_dim(dim)
        if symbol is not None:
            if symbol not in symbols:
                raise VerifyError(f"dimension {symbol} of shape {format_shape(shape)} has no value")
            k *= symbols[symbol]
        bound.append(k)
    return tuple(bound)
