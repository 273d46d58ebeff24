"""Pooling and reductions."""

from qcompiler.errors import ModelError
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.importer.registry import importer
from qcompiler.importer.windows import Window, check_spatial_axes, empty_window, read_window
from qcompiler.ir import Value, ops


@importer("MaxPool")
def import_max_pool(node: NodeReader) -> Value:
    window = _pool_window(node)
    op = ops.MaxPool(window.kernel, window.strides, window.pads, window.dilations, bool(node.attr_int("ceil_mode", 0)))
    y = _emit_pool(node, op)
    _refuse_maximum_of_nothing(node, op, y)
    return y


@importer("AveragePool")
def import_average_pool(node: NodeReader) -> Value:
    window = _pool_window(node)
    op = ops.AveragePool(
        window.kernel,
        window.strides,
        window.pads,
        window.dilations,
        bool(node.attr_int("ceil_mode", 0)),
        bool(node.attr_int("count_include_pad", 0)),
    )
    return _emit_pool(node, op)


@importer("GlobalAveragePool")
def import_global_average_pool(node: NodeReader) -> Value:
    x = node.value(0)
    return node.emit(ops.ReduceMean(tuple(range(2, x.type.rank))), x)


@importer("GlobalMaxPool")
def import_global_max_pool(node: NodeReader) -> Value:
    x = node.value(0)
    kernel = tuple(d for d in x.type.shape[2:] if isinstance(d, int))
    n = x.type.rank - 2
    check_spatial_axes(n)
    if len(kernel) != n:
        raise Unsupported(f"the spatial size {list(x.type.shape[2:])} is symbolic; fix it with --dim NAME=SIZE")
    return node.emit(ops.MaxPool(kernel, (1,) * n, (0,) * (2 * n), (1,) * n), x)


@importer("ReduceMean")
def import_reduce_mean(node: NodeReader) -> Value:
    """No axes means all of them, or none at all with noop_with_empty_axes."""
    x = node.value(0)
    given = node.axes(1, since=18) or ()
    if not given and node.attr_int("noop_with_empty_axes", 0):
        return x
    axes = sorted({node.axis(a, x.type.rank) for a in given}) or range(x.type.rank)
    return node.emit(ops.ReduceMean(tuple(axes), bool(node.attr_int("keepdims", 1))), x)


def _pool_window(node: NodeReader) -> Window:
    kernel = node.attr_ints("kernel_shape")
    if kernel is None:
        raise ModelError(f"{node.label}: attribute kernel_shape is missing")
    return read_window(node, node.value(0).type.shape[2:], kernel)


def _refuse_maximum_of_nothing(node: NodeReader, op: ops.MaxPool, y: Value) -> None:
    """A window over padding alone has no maximum that ONNX defines.

    onnxruntime refuses pads that reach a whole kernel; where dilated taps step over the input it gives the least float.
    """
    for i, (size, windows) in enumerate(zip(node.value(0).type.shape[2:], y.type.shape[2:], strict=True)):
        if isinstance(size, int) and isinstance(windows, int):
            kernel, dilation, pads = op.kernel[i], op.dilations[i], op.pads[i :: len(op.kernel)]
            position = empty_window(size, windows, kernel, op.strides[i], dilation, pads[0])
            if position is not None:
                raise Unsupported(
                    f"window {position} along spatial axis {i} holds nothing but padding (size {size}, "
                    f"kernel {kernel}, dilation {dilation}, pads {pads[0]} and {pads[1]}), and that has no maximum"
                )


def _emit_pool(node: NodeReader, op: ops.MaxPool | ops.AveragePool) -> Value:
    """Emit the pool; note a last window of ceil_mode that starts in the end padding and is therefore dropped.

    onnxruntime and PyTorch drop it, some versions of ONNX's own shape inference count it.
    """
    x = node.value(0)
    y = node.emit(op, x)
    n = len(op.kernel)
    for i, (size, windows) in enumerate(zip(x.type.shape[2:], y.type.shape[2:], strict=True)):
        if op.ceil_mode and isinstance(size, int) and isinstance(windows, int):
            room = size + op.pads[i] + op.pads[n + i] - (op.kernel[i] - 1) * op.dilations[i] - 1
            if windows < -(-room // op.strides[i]) + 1:
                node.note_dropped_window()
    return y
