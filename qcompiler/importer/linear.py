"""Conv, ConvTranspose, Gemm, MatMul and BatchNormalization."""

import numpy as np

from qcompiler.errors import ModelError
from qcompiler.importer.known import Known
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.importer.registry import importer
from qcompiler.importer.windows import read_transposed_window, read_window
from qcompiler.ir import Value, ops


@importer("Conv")
def import_conv(node: NodeReader) -> Value:
    x, weight, kernel = _activation_and_filters(node)
    window = read_window(node, x.type.shape[2:], kernel)
    op = ops.Conv(window.strides, window.pads, window.dilations, node.attr_int("group", 1))
    bias = (node.value(2),) if node.has(2) else ()
    return node.emit(op, x, weight, *bias)


@importer("ConvTranspose")
def import_conv_transpose(node: NodeReader) -> Value:
    """pads, auto_pad and output_shape all become pads and output_padding."""
    x, weight, kernel = _activation_and_filters(node)
    window, padding = read_transposed_window(node, x.type.shape[2:], kernel)
    if not weight.is_constant:
        raise Unsupported("its weight is computed at run time; only constant weights are supported")
    op = ops.ConvTranspose(window.strides, window.pads, window.dilations, padding, node.attr_int("group", 1))
    bias = (node.value(2),) if node.has(2) else ()
    return node.emit(op, x, weight, *bias)


@importer("Gemm")
def import_gemm(node: NodeReader) -> Value:
    """``alpha · A' B' + beta · C``; with a constant B, alpha and beta go into weight and bias."""
    x = _transposed(node, node.value(0)) if node.attr_int("transA", 0) else node.value(0)
    alpha, beta = np.float32(node.attr_float("alpha", 1.0)), np.float32(node.attr_float("beta", 1.0))
    b = node.operand(1)
    if x.type.rank != 2:
        raise ModelError(f"{node.label}: A has shape {list(x.type.shape)}, expected two axes")
    if not isinstance(b, Known):
        right = _transposed(node, b) if node.attr_int("transB", 0) else b
        return _add_c(node, node.emit(ops.MatMul(float(alpha)), x, right), beta)
    if b.array.ndim != 2:
        raise ModelError(f"{node.label}: B has shape {list(b.array.shape)}, expected two axes")
    if node.attr_int("transB", 0) and alpha == 1:
        weight = node.value(1)
    else:
        rows = b.array if node.attr_int("transB", 0) else b.array.T
        weight = node.constant(np.ascontiguousarray(np.multiply(rows, alpha), dtype=np.float32), "weight")
    outputs = weight.type.shape[0]
    c = node.operand(2) if node.has(2) else None
    if isinstance(c, Known) and (c.array.size == 1 or c.array.shape in ((outputs,), (1, outputs))):
        if beta == 1 and c.array.shape == (outputs,):
            return node.emit(ops.Gemm(), x, weight, node.value(2))
        scaled = np.multiply(c.array.reshape(-1), beta, dtype=np.float32)
        bias = np.broadcast_to(scaled, (b.array.shape[0 if node.attr_int("transB", 0) else 1],))
        return node.emit(ops.Gemm(), x, weight, node.constant(bias, "bias"))
    return _add_c(node, node.emit(ops.Gemm(), x, weight), beta)


@importer("MatMul")
def import_matmul(node: NodeReader) -> Value:
    """Vectors become matrices and lose the extra axis afterwards."""
    a, b = node.value(0), node.value(1)
    if not (a.type.rank and b.type.rank):
        raise ModelError(f"{node.label}: an operand is a scalar")
    rows, columns = a.type.rank > 1, b.type.rank > 1
    if not rows:
        a = node.emit(ops.Reshape((1, *a.type.shape)), a)
    if not columns:
        b = node.emit(ops.Reshape((*b.type.shape, 1)), b)
    y = node.emit(ops.MatMul(), a, b)
    shape = y.type.shape
    if not columns:
        shape = shape[:-1]
    if not rows:
        shape = shape[:-1] if not columns else (*shape[:-2], shape[-1])
    return y if rows and columns else node.emit(ops.Reshape(shape), y)


@importer("BatchNormalization")
def import_batch_normalization(node: NodeReader) -> Value:
    if node.attr_int("training_mode", 0):
        raise Unsupported("training_mode=1; export the model in evaluation mode")
    if not node.attr_int("spatial", 1):
        raise Unsupported("spatial=0 (statistics per position)")
    return node.emit(ops.BatchNormalization(node.attr_float("epsilon", 1e-5)), *node.values())


def _activation_and_filters(node: NodeReader) -> tuple[Value, Value, tuple[int, ...]]:
    """Operands 0 and 1 of a convolution, and the kernel's size."""
    x, weight = node.value(0), node.value(1)
    if x.type.rank < 3 or weight.type.rank != x.type.rank:
        raise ModelError(
            f"{node.label}: input {list(x.type.shape)} and weight {list(weight.type.shape)} differ in rank"
        )
    kernel = weight.type.shape[2:]
    declared = node.attr_ints("kernel_shape")
    if declared is not None and declared != kernel:
        raise ModelError(
            f"{node.label}: kernel_shape {list(declared)} contradicts the weight {list(weight.type.shape)}"
        )
    return x, weight, tuple(d for d in kernel if isinstance(d, int))


def _transposed(node: NodeReader, x: Value) -> Value:
    return node.emit(ops.Transpose((1, 0)), x)


def _add_c(node: NodeReader, y: Value, beta: np.float32) -> Value:
    if not node.has(2) or beta == 0:
        return y
    c = node.value(2)
    if beta != 1:
        c = node.emit(ops.Mul(), c, node.constant(np.array(beta), "beta"))
    return node.emit(ops.Add(), y, c)
