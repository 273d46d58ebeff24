"""Walks a graph of any stage, node by node.

An op on real numbers is computed in float64 and rounded once: to float32 (float and observed stage) or half up
to the result's quantization parameters (quantized stage). Convolutions and products take each sample by itself,
so that no result depends on the batch. Integer ops are exact. Infinities and NaN are numbers like others: NumPy's
warnings about them are off.
"""

from collections.abc import Callable, Mapping

import numpy as np

from qcompiler.errors import InternalError, RuntimeInputError
from qcompiler.ir import Graph, Node, TensorType, Value
from qcompiler.ir.types import AnyArray, DType, bind_shape, format_shape, split_dim
from qcompiler.runtime.reference.real import from_real, to_real
from qcompiler.runtime.reference.registry import Domain, Types, implementation

OnValue = Callable[[Value, AnyArray], None]


def run(graph: Graph, feeds: Mapping[str, AnyArray], *, on_value: OnValue | None = None) -> dict[str, AnyArray]:
    """Execute a graph of any stage on one set of inputs.

    Args:
        graph: a graph that its verifier accepts.
        feeds: an array for each graph input by name, of the input's dtype and a shape that fits.
        on_value: called with each graph input and each node's result, in execution order, as they come into being;
            `to_real` gives the real numbers that an array means.

    Returns:
        The outputs by their public names. An array may be an input's own, or a constant's and then read-only.

    Raises:
        RuntimeInputError: an input is missing, unknown, or of the wrong dtype or shape.
    """
    symbols = bind_feeds(graph, feeds)
    environment: dict[Value, AnyArray] = {}
    last_use = _last_uses(graph)
    for value in graph.inputs:
        environment[value] = feeds[value.name]
        if on_value is not None:
            on_value(value, environment[value])
    for node in graph.nodes():
        operands = [environment[v] if v.data is None else v.data for v in node.operands]
        for value, array in zip(node.results, _execute(node, operands, symbols), strict=True):
            environment[value] = array
            if on_value is not None:
                on_value(value, array)
        for value in last_use.get(node, ()):
            del environment[value]
    return {
        name: environment[v] if v.data is None else v.data
        for name, v in zip(graph.output_names, graph.outputs, strict=True)
    }


def run_all(graph: Graph, feeds: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Every graph input and every node's result by the value's name; arguments and errors as `run`."""
    values: dict[str, AnyArray] = {}
    run(graph, feeds, on_value=lambda value, array: values.update({value.name: array}))
    return values


def bind_feeds(graph: Graph, feeds: Mapping[str, AnyArray]) -> dict[str, int]:
    """Check the arrays given for a graph's inputs and read the sizes of its symbolic dimensions off them.

    Raises:
        RuntimeInputError: an input is missing, unknown, or of the wrong dtype or shape.
    """
    names = [value.name for value in graph.inputs]
    expected = ", ".join(map(repr, names))
    for name in feeds:
        if name not in names:
            raise RuntimeInputError(f"graph '{graph.name}' has no input {name!r}; its inputs are {expected}")
    symbols: dict[str, int] = {}
    for value in graph.inputs:
        if value.name not in feeds:
            raise RuntimeInputError(f"input {value.name!r} is missing; graph '{graph.name}' takes {expected}")
        _bind_feed(value, feeds[value.name], symbols)
    return symbols


def _bind_feed(value: Value, array: object, symbols: dict[str, int]) -> None:
    wanted = value.type
    if not isinstance(array, np.ndarray):
        raise RuntimeInputError(f"input {value.name!r} is a {type(array).__name__}, not a NumPy array")
    if array.dtype != wanted.dtype.numpy:
        raise RuntimeInputError(f"input {value.name!r} is {array.dtype}, expected {wanted.dtype.numpy}")
    if wanted.dtype is DType.S4 and array.size and (array.min() < -8 or array.max() > 7):
        raise RuntimeInputError(f"input {value.name!r} holds values outside [-8, 7], the range of s4")
    shape = f"input {value.name!r} has shape {format_shape(array.shape)}, expected {format_shape(wanted.shape)}"
    if array.ndim != wanted.rank:
        raise RuntimeInputError(shape)
    for size, dim in zip(array.shape, wanted.shape, strict=True):
        coefficient, symbol = split_dim(dim)
        if symbol is None:
            if size != coefficient:
                raise RuntimeInputError(shape)
        elif size % coefficient:
            raise RuntimeInputError(f"{shape}: {size} is no multiple of {coefficient}")
        elif symbols.setdefault(symbol, size // coefficient) != size // coefficient:
            raise RuntimeInputError(f"{shape}: {symbol} is {symbols[symbol]} elsewhere")


@np.errstate(all="ignore")
def _execute(node: Node, operands: list[AnyArray], symbols: Mapping[str, int]) -> tuple[AnyArray, ...]:
    found = implementation(type(node.op))
    types = Types(
        tuple(v.type.with_shape(a.shape) for v, a in zip(node.operands, operands, strict=True)),
        tuple(v.type.with_shape(bind_shape(v.type.shape, symbols)) for v in node.results),
    )
    real = found.domain is Domain.REAL or (found.domain is Domain.EITHER and not _share_parameters(types))
    arrays = [_to_real(node, t, a) for t, a in zip(types.operands, operands, strict=True)] if real else operands
    outcome = found.function(node.op, *([types] if found.typed else []), *arrays)
    results = outcome if isinstance(outcome, tuple) else (outcome,)
    if real:
        results = tuple(from_real(t, r) for t, r in zip(types.results, results, strict=True))
    for result_type, result in zip(types.results, results, strict=True):
        _check_result(node, result_type, result)
    return results


def _to_real(node: Node, value_type: TensorType, array: AnyArray) -> AnyArray:
    try:
        return to_real(value_type, array)
    except InternalError as error:
        raise InternalError(f"node '{node.name}' ({node.op.name}): {error}") from error


def _share_parameters(types: Types) -> bool:
    return len({(t.dtype, t.quant) for t in (*types.operands, *types.results)}) == 1


def _check_result(node: Node, expected: TensorType, result: AnyArray) -> None:
    if result.dtype != expected.dtype.numpy or result.shape != expected.shape:
        raise InternalError(
            f"node '{node.name}' ({node.op.name}): the reference gave {result.dtype}{list(result.shape)}, "
            f"the graph says {expected.dtype}{format_shape(expected.shape)}"
        )


def _last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """The values that nothing needs after each node."""
    kept = set(graph.outputs)
    last: dict[Value, Node] = {}
    for node in graph.nodes():
        for value in (*node.operands, *node.results):
            if value.data is None and value not in kept:
                last[value] = node
    freed: dict[Node, list[Value]] = {}
    for value, node in last.items():
        freed.setdefault(node, []).append(value)
    return freed
