"""Shapes of graph inputs: which dimensions are symbolic, under which names, and which the user fixes."""

import re
from collections.abc import Mapping

from onnx import ValueInfoProto

from qcompiler.errors import ModelError, UsageError
from qcompiler.ir import Dim, Shape
from qcompiler.ir.types import join_dim, split_dim

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
_MULTIPLE = re.compile(r"[1-9][0-9]*\*[A-Za-z_][A-Za-z0-9_.]*\Z")


class InputDims:
    """Names the symbolic dimensions of a model's inputs, and replaces those that have a given size.

    A name that the IR's grammar does not allow is spelled with underscores; different names stay different. An
    unnamed first dimension is the batch ``N``, any other unnamed one ``<input>_<axis>``.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            if type(size) is not int or size < 1:
                raise UsageError(f"dimension {name}={size!r}: expected a size of at least 1")
        self._sizes = dict(sizes)
        self._used: set[str] = set()
        self._symbols: dict[str, str] = {}

    def shape(self, info: ValueInfoProto, label: str) -> Shape:
        """The shape of a graph input.

        Raises:
            ModelError: it has a negative size.
        """
        dims = info.type.tensor_type.shape.dim
        return tuple(self._dim(d, axis, info.name, label) for axis, d in enumerate(dims))

    def check_all_used(self, label: str) -> None:
        """Raise UsageError if a size was given for a dimension that the model does not have."""
        unknown = sorted(self._sizes.keys() - self._used)
        if unknown:
            have = ", ".join(sorted(self._symbols)) or "none"
            raise UsageError(f"{label}: there is no symbolic dimension {unknown[0]!r}; the model has: {have}")

    def _dim(self, dim: object, axis: int, input_name: str, label: str) -> Dim:
        value: int = getattr(dim, "dim_value", 0)
        param: str = getattr(dim, "dim_param", "")
        if value > 0:
            return value
        if value < -1:
            raise ModelError(f"{label}: input '{input_name}' declares size {value} for axis {axis}; export it again")
        name = param or ("N" if axis == 0 else f"{input_name}_{axis}")
        coefficient = 1
        if _MULTIPLE.match(name):
            coefficient, symbol = split_dim(name)
            name = symbol or name
        symbol = self._symbol(name)
        for alias in (name, symbol):
            if alias in self._sizes:
                self._used.add(alias)
                return coefficient * self._sizes[alias]
        return join_dim(coefficient, symbol)

    def _symbol(self, name: str) -> str:
        if name not in self._symbols:
            spelled = name if _SYMBOL.match(name) else "_" + re.sub(r"[^A-Za-z0-9_.]", "_", name).lstrip("_")
            base, suffix = spelled, 0
            while spelled in self._symbols.values():
                suffix += 1
                spelled = f"{base}_{suffix}"
            self._symbols[name] = spelled
        return self._symbols[name]
