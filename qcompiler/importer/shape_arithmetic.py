"""Nodes whose operands are all known at import, computed on the spot.

Shapes come in as vectors of dimensions (`Known`) and leave as operands of Reshape, Slice and the like. Where an array
has symbolic entries, arithmetic is on dimensions; everywhere else it is NumPy's, with ONNX's dtypes.
"""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import helper

from qcompiler.errors import ModelError
from qcompiler.importer.known import (
    Known,
    add_dims,
    divide_dims,
    elementwise,
    equal_dims,
    multiply_two_dims,
    subtract_dims,
)
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.importer.registry import evaluator, importer
from qcompiler.importer.subscripts import read_slice, split_sizes
from qcompiler.importer.targets import flattened, reshape_target, squeezed, unsqueezed
from qcompiler.importer.tensors import BITS, dtype_name
from qcompiler.ir import AnyArray, Dim, Shape
from qcompiler.ir.types import multiply_dims

_LARGEST_RESULT = 2**24
"""Most elements of a tensor that a few bytes of model can ask for (ConstantOfShape, Range, Expand, Tile)."""

_OBJECT = np.dtype(object)
_ON_DIMS: dict[str, Callable[[Dim, Dim], Dim | bool]] = {
    "Add": add_dims,
    "Sub": subtract_dims,
    "Mul": multiply_two_dims,
    "Div": divide_dims,
    "Equal": equal_dims,
}
_ON_NUMBERS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
    "Mod": operator.mod,
    "Pow": operator.pow,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "And": operator.and_,
    "Or": operator.or_,
    "Min": np.minimum,
    "Max": np.maximum,
}
_ON_ONE: dict[str, Callable[[Any], Any]] = {
    "Abs": np.abs,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Neg": operator.neg,
    "Not": np.logical_not,
    "Sqrt": np.sqrt,
}
_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "ReduceProd": np.prod,
    "ReduceSum": np.sum,
    "ReduceMin": np.min,
    "ReduceMax": np.max,
}


@importer("Constant")
@evaluator("Constant")
def evaluate_constant(node: NodeReader) -> Known:
    """In all its forms but strings and sparse tensors."""
    tensor = node.attr_tensor("value")
    if tensor is not None:
        return node.known_result(tensor)
    for name, kind in (("value_int", np.int64), ("value_float", np.float32)):
        if node.has_attribute(name):
            number = node.attr_int(name, 0) if kind is np.int64 else node.attr_float(name, 0.0)
            return node.known_result(np.array(number, dtype=kind))
    ints, floats = node.attr_ints("value_ints"), node.attr_floats("value_floats")
    if ints is not None:
        return node.known_result(np.array(ints, dtype=np.int64))
    if floats is not None:
        return node.known_result(np.array(floats, dtype=np.float32))
    raise Unsupported("constants that are strings or sparse tensors")


@evaluator("Identity", "Dropout")
def evaluate_identity(node: NodeReader) -> Known:
    return node.known_result(node.array(0))


@evaluator("Shape")
def evaluate_shape(node: NodeReader) -> Known:
    shape = node.array(0).shape
    last = node.attr_int("end", len(shape)) if node.has_attribute("end") else len(shape)
    return node.known_result(np.array(shape[node.attr_int("start", 0) : last], dtype=np.int64))


@evaluator("Size")
def evaluate_size(node: NodeReader) -> Known:
    return node.known_result(np.array(node.array(0).size, dtype=np.int64))


@evaluator("Cast")
def evaluate_cast(node: NodeReader) -> Known:
    """Symbolic entries stay exact; every float type is float32."""
    array, to = node.array(0), node.attr_int("to", 0)
    if to not in BITS:
        raise Unsupported(f"casts to {dtype_name(to)}")
    if array.dtype == _OBJECT:
        return node.known_result(array)
    dtype = helper.tensor_dtype_to_np_dtype(to)
    return node.known_result(array.astype(np.float32 if dtype.kind == "f" else dtype))


@evaluator("Add", "Sub", "Mul", "Mod", "Pow", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or")
def evaluate_binary(node: NodeReader) -> Known:
    a, b = node.array(0), node.array(1)
    return node.known_result(_binary(node, node.op_type, a, b))


@evaluator("Div")
def evaluate_division(node: NodeReader) -> Known:
    """Of integers towards zero."""
    a, b = node.array(0), node.array(1)
    if _OBJECT in (a.dtype, b.dtype):
        return node.known_result(_binary(node, "Div", a, b))
    if a.dtype.kind in "iu":
        if not b.all():
            raise ModelError(f"{node.label}: division of integers by 0")
        quotient = np.abs(a) // np.abs(b)
        return node.known_result((np.sign(a) * np.sign(b) * quotient).astype(a.dtype))
    with np.errstate(divide="ignore", invalid="ignore"):
        return node.known_result(np.divide(a, b))


@evaluator("Min", "Max")
def evaluate_extremum(node: NodeReader) -> Known:
    result, *others = node.arrays()
    for other in others:
        result = _binary(node, node.op_type, result, other)
    return node.known_result(result)


@evaluator(*_ON_ONE)
def evaluate_unary(node: NodeReader) -> Known:
    array = node.array(0)
    if array.dtype == _OBJECT:
        raise _symbolic(node, array)
    if array.dtype.kind in "iub" and node.op_type in ("Ceil", "Floor"):
        return node.known_result(array)
    return node.known_result(np.asarray(_ON_ONE[node.op_type](array), dtype=array.dtype))


@evaluator("Where")
def evaluate_where(node: NodeReader) -> Known:
    condition, a, b = node.arrays()
    return node.known_result(np.where(condition.astype(bool), a, b))


@evaluator("Gather")
def evaluate_gather(node: NodeReader) -> Known:
    array, indices = node.array(0), node.array(1)
    axis = node.axis(node.attr_int("axis", 0), array.ndim)
    size = array.shape[axis]
    if indices.dtype == _OBJECT:
        raise _symbolic(node, indices)
    if indices.size and not (-size <= indices.min() and indices.max() < size):
        raise ModelError(f"{node.label}: indices {indices.tolist()} lie outside axis {axis} of {list(array.shape)}")
    # np.take gives a bare str for one symbolic element.
    return node.known_result(np.asarray(np.take(array, indices.astype(np.int64), axis=axis), dtype=array.dtype))


@evaluator("Concat")
def evaluate_concat(node: NodeReader) -> Known:
    arrays = node.arrays()
    return node.known_result(np.concatenate(arrays, axis=node.axis(node.attr_int("axis", 0), arrays[0].ndim)))


@evaluator("Slice")
def evaluate_slice(node: NodeReader) -> Known:
    array = node.array(0)
    for part in read_slice(node, array.shape):
        places = part.start + part.step * np.arange(part.count)
        array = np.take(array, places, axis=part.axis)
    return node.known_result(array)


@evaluator("Split")
def evaluate_split(node: NodeReader) -> tuple[Known, ...]:
    array = node.array(0)
    axis = node.axis(node.attr_int("axis", 0), array.ndim)
    ends = np.cumsum(split_sizes(node, array.shape[axis]))[:-1]
    return tuple(node.known_result(part, i) for i, part in enumerate(np.split(array, ends, axis=axis)))


@evaluator("Reshape")
def evaluate_reshape(node: NodeReader) -> Known:
    return _reshaped(node, reshape_target(node, node.array(0).shape, node.dims(1)))


@evaluator("Flatten")
def evaluate_flatten(node: NodeReader) -> Known:
    return _reshaped(node, flattened(node, node.array(0).shape))


@evaluator("Squeeze")
def evaluate_squeeze(node: NodeReader) -> Known:
    return _reshaped(node, squeezed(node, node.array(0).shape))


@evaluator("Unsqueeze")
def evaluate_unsqueeze(node: NodeReader) -> Known:
    return _reshaped(node, unsqueezed(node, node.array(0).shape))


@evaluator("Transpose")
def evaluate_transpose(node: NodeReader) -> Known:
    return node.known_result(np.transpose(node.array(0), node.attr_ints("perm")))


@evaluator("ConstantOfShape")
def evaluate_constant_of_shape(node: NodeReader) -> Known:
    fill = node.attr_tensor("value")
    fill = np.zeros(1, np.float32) if fill is None else fill
    return node.known_result(np.full(_checked(node, node.int_list(0)), fill.reshape(-1)[0], dtype=fill.dtype))


@evaluator("Expand")
def evaluate_expand(node: NodeReader) -> Known:
    array = node.array(0)
    shape = np.broadcast_shapes(array.shape, node.int_list(1))
    return node.known_result(np.broadcast_to(array, _checked(node, shape)))


@evaluator("Tile")
def evaluate_tile(node: NodeReader) -> Known:
    array, repeats = node.array(0), node.int_list(1)
    _checked(node, [size * times for size, times in zip(array.shape, repeats, strict=True)])
    return node.known_result(np.tile(array, repeats))


@evaluator("Range")
def evaluate_range(node: NodeReader) -> Known:
    start, limit, step = (_number(node, array) for array in node.arrays())
    if step == 0:
        raise ModelError(f"{node.label}: the step is 0")
    count = max(0, math.ceil((limit - start) / step))
    _checked(node, (count,))
    return node.known_result((start + step * np.arange(count)).astype(node.array(0).dtype))


@evaluator("ReduceProd", "ReduceSum", "ReduceMin", "ReduceMax")
def evaluate_reduction(node: NodeReader) -> Known:
    """A product may have a symbol; `axes` became an operand in operator set 13 (ReduceSum) or 18."""
    array = node.array(0)
    axes = node.axes(1, since=13 if node.op_type == "ReduceSum" else 18)
    if not axes and node.attr_int("noop_with_empty_axes", 0):
        return node.known_result(array)
    over = tuple(node.axis(a, array.ndim) for a in axes or range(array.ndim))
    keep = bool(node.attr_int("keepdims", 1))
    if array.dtype == _OBJECT:
        if node.op_type != "ReduceProd" or len(over) != array.ndim:
            raise _symbolic(node, array)
        product = np.array(multiply_dims(array.reshape(-1).tolist()), dtype=object)
        return node.known_result(product.reshape((1,) * array.ndim) if keep else product)
    reduced = _REDUCTIONS[node.op_type](array, axis=over, keepdims=keep)
    return node.known_result(np.asarray(reduced, dtype=array.dtype))


def _binary(node: NodeReader, op_type: str, a: AnyArray, b: AnyArray) -> AnyArray:
    if _OBJECT in (a.dtype, b.dtype):
        if op_type not in _ON_DIMS:
            raise _symbolic(node, a if a.dtype == _OBJECT else b)
        return elementwise(_ON_DIMS[op_type], a, b)
    _checked(node, np.broadcast_shapes(a.shape, b.shape))
    return np.asarray(_ON_NUMBERS[op_type](a, b))


def _reshaped(node: NodeReader, shape: Shape) -> Known:
    return node.known_result(node.array(0).reshape([int(d) for d in shape]))


def _checked(node: NodeReader, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a result, refused before it is allocated if it is absurdly large or negative."""
    if any(d < 0 for d in shape):
        raise ModelError(f"{node.label}: a result has the negative shape {list(shape)}")
    node.check_size(tuple(shape), _LARGEST_RESULT)
    return tuple(shape)


def _number(node: NodeReader, array: AnyArray) -> Any:  # noqa: ANN401  # an int or a float, as the array has it
    if array.dtype == _OBJECT:
        raise _symbolic(node, array)
    if array.size != 1:
        raise ModelError(f"{node.label}: an operand has shape {list(array.shape)}, expected one number")
    return array.reshape(-1)[0].item()


def _symbolic(node: NodeReader, array: AnyArray) -> Unsupported:
    symbol = Known(array, "").symbol
    return Unsupported(f"{node.op_type} of the symbolic dimension {symbol}; fix it with --dim {symbol}=SIZE")
