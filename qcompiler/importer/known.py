"""Tensors whose elements are known at import: constants, and shapes with symbolic entries.

Exporters compute shapes with tensor ops (Shape, Gather, Concat, ...). Those are evaluated here over arrays of
dimensions, so that a Reshape to ``[N, -1]`` stays dynamic. A concrete array has its NumPy dtype; an array with a
symbolic entry has dtype object and holds ints and symbols such as ``"N"`` or ``"49*N"``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.ir import AnyArray, Dim
from qcompiler.ir.types import divide_dim, join_dim, multiply_dims, split_dim


@dataclass(frozen=True, eq=False, slots=True)
class Known:
    """A tensor known at import; `name` is the ONNX value's and names the constant it may become."""

    array: AnyArray
    name: str

    @property
    def is_symbolic(self) -> bool:
        return self.array.dtype == np.dtype(object)

    @property
    def symbol(self) -> str | None:
        """One symbol that the elements depend on."""
        if self.is_symbolic:
            for element in self.array.flat:
                if isinstance(element, str):
                    return split_dim(element)[1]
        return None


def settle(array: AnyArray) -> AnyArray:
    """An object array without symbols as int64; any other array as it is."""
    if array.dtype != np.dtype(object) or any(isinstance(element, str) for element in array.flat):
        return array
    return array.astype(np.int64)


def elementwise(dim_function: Callable[[Dim, Dim], Dim | bool], a: AnyArray, b: AnyArray) -> AnyArray:
    """Apply a function of two dimensions with broadcasting."""
    result = np.frompyfunc(dim_function, 2, 1)(a.astype(object), b.astype(object))
    return settle(np.asarray(result, dtype=object))


def add_dims(a: Dim, b: Dim) -> Dim:
    """The sum a + b.

    Raises:
        VerifyError: the sum is not a dimension.
    """
    (p, s), (q, t) = split_dim(a), split_dim(b)
    if s != t and p and q:
        raise VerifyError(f"the sum {a} + {b} is not a dimension")
    return _join(p + q, s or t)


def subtract_dims(a: Dim, b: Dim) -> Dim:
    """The difference a − b.

    Raises:
        VerifyError: the difference is not a dimension.
    """
    (p, s), (q, t) = split_dim(a), split_dim(b)
    if s != t and p and q:
        raise VerifyError(f"the difference {a} - {b} is not a dimension")
    return _join(p - q, s or t)


def multiply_two_dims(a: Dim, b: Dim) -> Dim:
    """The product a · b.

    Raises:
        VerifyError: the product is not a dimension.
    """
    if isinstance(a, str) and isinstance(b, int) and b < 0:
        raise VerifyError(f"the product {a} * {b} is not a dimension")
    if isinstance(b, str) and isinstance(a, int) and a < 0:
        raise VerifyError(f"the product {a} * {b} is not a dimension")
    return multiply_dims((a, b))


def divide_dims(a: Dim, b: Dim) -> Dim:
    """The quotient a / b where it is exact.

    Raises:
        VerifyError: the quotient is not a dimension.
    """
    quotient = divide_dim(a, b)
    if quotient is None:
        raise VerifyError(f"the quotient {a} / {b} is not a dimension")
    return quotient


def equal_dims(a: Dim, b: Dim) -> bool:
    """Whether a == b; a symbol is at least 1, so it differs from numbers below 1.

    Raises:
        VerifyError: that depends on the value of a symbol.
    """
    if a == b:
        return True
    (p, s), (q, t) = split_dim(a), split_dim(b)
    if s == t or (s is None and p < q) or (t is None and q < p):
        return False
    raise VerifyError(f"whether {a} equals {b} depends on the value of a symbolic dimension")


def _join(coefficient: int, symbol: str | None) -> Dim:
    if symbol is not None and coefficient < 0:
        raise VerifyError(f"{coefficient}*{symbol} is negative and no dimension")
    return join_dim(coefficient, symbol)
