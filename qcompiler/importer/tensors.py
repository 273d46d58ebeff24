"""ONNX tensors to NumPy arrays, with every declared size checked before anything is allocated."""

import math
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from qcompiler.errors import ModelError
from qcompiler.importer.external_data import read_external
from qcompiler.ir import AnyArray

MAX_ELEMENTS = 2**31 - 1
"""Most elements of one tensor: beyond it a file is damaged or malicious."""

BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16, TensorProto.INT16: 16,
    TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8, TensorProto.FLOAT16: 16,
    TensorProto.DOUBLE: 64, TensorProto.UINT32: 32, TensorProto.UINT64: 64, TensorProto.BFLOAT16: 16,
}  # fmt: skip
"""Of an element of each dtype that constants may have."""

_NARROWED_TO_FLOAT32 = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_TYPED_FIELD: dict[int, str] = {
    TensorProto.FLOAT: "float_data", TensorProto.INT64: "int64_data", TensorProto.DOUBLE: "double_data",
    TensorProto.UINT32: "uint64_data", TensorProto.UINT64: "uint64_data",
}  # fmt: skip


class UnsupportedDType(Exception):  # noqa: N818  # a signal to the importer, which reports all of them together
    """A tensor of a dtype that the compiler does not have."""


def dtype_name(data_type: int) -> str:
    """``float32``-like name of an ONNX element type, as in the ONNX specification."""
    if data_type not in TensorProto.DataType.values():
        return f"element type {data_type}"
    return str(TensorProto.DataType.Name(data_type)).lower()


def decode(tensor: TensorProto, folder: Path | None, label: str) -> AnyArray:
    """The array of a tensor.

    float16, bfloat16 and float64 become float32 (the first two exactly, the last by rounding); uint16, uint32 and
    uint64 become int64.

    Args:
        tensor: the ONNX tensor.
        folder: where external data may lie; None if the model did not come from a file.
        label: file and place for error messages.

    Raises:
        ModelError: declared shape and data do not fit, or external data cannot be had.
        UnsupportedDType: strings, complex, 4-bit and 8-bit floats and the like.
    """
    name = f"{label}: tensor '{tensor.name}'" if tensor.name else label
    if tensor.data_type not in BITS:
        raise UnsupportedDType(f"dtype {dtype_name(tensor.data_type)} is not supported for constants")
    if tensor.HasField("segment"):
        raise ModelError(f"{name} is a segment of a larger one, which no exporter writes; export the model again")
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{name} declares the negative shape {list(shape)}; the file is damaged, export it again")
    elements = math.prod(shape)
    if elements > MAX_ELEMENTS:
        raise ModelError(
            f"{name} declares the shape {list(shape)}: {elements} elements, more than the {MAX_ELEMENTS} of the "
            "largest tensor; the file is damaged, export it again"
        )
    size = elements * BITS[tensor.data_type] // 8
    raw = None
    if tensor.data_location == TensorProto.EXTERNAL:
        raw = read_external(tensor, folder, size, name)
    elif tensor.HasField("raw_data"):
        raw = tensor.raw_data  # a copy with each access
        _check_stored_size(tensor, len(raw), size, "bytes", name)
    if raw is not None:
        stored = np.frombuffer(raw, onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).newbyteorder("<"))
        array: AnyArray = stored.reshape(shape)
    else:
        typed = getattr(tensor, _TYPED_FIELD.get(tensor.data_type, "int32_data"))
        _check_stored_size(tensor, len(typed), elements, "elements", name)
        array = numpy_helper.to_array(tensor)
    return _to_ir_dtype(array, tensor.data_type, name)


def _check_stored_size(tensor: TensorProto, have: int, want: int, unit: str, name: str) -> None:
    if have != want:
        raise ModelError(
            f"{name} declares the shape {list(tensor.dims)} of {dtype_name(tensor.data_type)}, which is {want} "
            f"{unit}, but stores {have}; the file is damaged, export it again"
        )


def _to_ir_dtype(array: AnyArray, data_type: int, name: str) -> AnyArray:
    if data_type in _NARROWED_TO_FLOAT32:
        with np.errstate(over="ignore"):
            narrow = array.astype(np.float32)
        if not np.array_equal(np.isinf(narrow), np.isinf(array.astype(np.float64))):
            raise ModelError(f"{name} holds float64 values beyond the range of float32; export the model in float32")
        return narrow
    if data_type in (TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64):
        wide = array.astype(np.int64)
        if (wide < 0).any():
            raise ModelError(f"{name} holds uint64 values beyond the range of int64")
        return wide
    return array
