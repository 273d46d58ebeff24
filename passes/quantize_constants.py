"""Quantization of constants: weights, biases and the constant operands of arithmetic."""

import numpy as np
import numpy.typing as npt

from qcompiler.ir import AnyArray, DType, Graph, Node, QuantParams, Value, ops
from qcompiler.numerics import SMALLEST_SCALE, choose_params
from qcompiler.passes.row_blocks import row_blocks
from qcompiler.runtime.reference.real import quantize_real

LARGEST_BIAS = 2**30
"""Quantized biases stay below this, so that half of an accumulator is left for the products."""
_BIAS_OF_DEAD_CHANNEL = 2**24  # a channel without weights is its bias: 24 bits lose nothing of a float32


class ConstantQuantizer:
    """Makes quantized constants in a graph, one for each constant and parameters.

    Args:
        graph: the graph.
        reduce_range: see `passes.quantize.Quantize`.
    """

    def __init__(self, graph: Graph, *, reduce_range: bool = False) -> None:
        self._graph = graph
        self._reduce_range = reduce_range
        self._made: dict[tuple[Value, DType, QuantParams], Value] = {}

    def quantized(self, constant: Value, dtype: DType, quant: QuantParams) -> Value:
        """The constant in `dtype` with those parameters, half up."""
        key = (constant, dtype, quant)
        if key not in self._made:
            data = _quantized(constant.data, dtype, quant)
            self._made[key] = self._graph.add_constant(data, f"{constant.name}_{dtype}", quant=quant)
        return self._made[key]

    def quantize_operands(self, node: Node) -> None:
        """Constant float operands of an op become s16, symmetric: their rounding is then of no account.

        Those of a product of matrices become s8, as its kernels multiply bytes.
        """
        dtype = DType.S8 if isinstance(node.op, ops.MatMul) else DType.S16
        for index, operand in enumerate(node.operands):
            if operand.is_constant and operand.type.dtype.is_float:
                elements = _elements(operand)
                quant = choose_params(float(elements.min()), float(elements.max()), dtype)
                self._graph.set_operand(node, index, self.quantized(operand, dtype, quant))

    def quantize_layer(self, node: Node) -> tuple[float, ...]:
        """Weight and bias of a convolution or fully connected layer; returns the weight's scale per channel."""
        x, weight, *bias = node.operands
        input_scale = 1.0 if x.type.quant is None else x.type.quant.scale[0]
        if not weight.is_constant:
            scales = (1.0,) if weight.type.quant is None else weight.type.quant.scale
            axis = None
        else:
            biases = _elements(bias[0]) if bias else None
            scales = weight_scales(_data(weight), biases, input_scale, reduce_range=self._reduce_range)
            axis = 0
            quant = QuantParams(scales, (0,) * len(scales), axis)
            self._graph.set_operand(node, 1, self.quantized(weight, DType.S8, quant))
        if bias and bias[0].is_constant:
            quant = QuantParams(tuple(input_scale * s for s in scales), (0,) * len(scales), axis)
            self._graph.set_operand(node, 2, self.quantized(bias[0], DType.S32, quant))
        return scales


def weight_scales(
    weight: AnyArray, bias: AnyArray | None, input_scale: float, *, reduce_range: bool = False
) -> tuple[float, ...]:
    """The scale of each output channel (axis 0): max |w| / 127, larger where the bias would not fit s32.

    A channel whose weights are tiny beside its bias needs few bits for them: ``s_w >= |b| / (s_x · 2^30)``.
    A channel without weights takes the scale from its bias.

    With `reduce_range` the largest sum of two neighbours of one sign takes the place of max |w|: rounded, they are
    no more than 128 together.
    """
    largest = (_largest_pairs if reduce_range else _largest)(weight)
    scales = symmetric_scales(largest, DType.S8)
    if bias is not None:
        biases = np.abs(bias) / input_scale
        alone = (largest == 0) & (biases > 0)
        scales[alone] = _float32(biases[alone] / _BIAS_OF_DEAD_CHANNEL)
        scales = np.maximum(scales, _float32(biases / LARGEST_BIAS))
    scales[scales == 0] = 1.0
    return tuple(scales.tolist())


def symmetric_scales(largest: npt.NDArray[np.float64], dtype: DType) -> npt.NDArray[np.float64]:
    """`choose_symmetric_scale` of each element."""
    scales = np.maximum(_float32(largest / dtype.limits[1]), SMALLEST_SCALE)
    scales[largest / 255 < SMALLEST_SCALE] = 1.0
    return scales


def _float32(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The float32 nearest to each, overflow to infinity."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


def _largest(weight: AnyArray) -> npt.NDArray[np.float64]:
    """The largest |w| of each output channel."""
    rows = weight.reshape(len(weight), -1)
    largest = np.maximum(rows.max(axis=1), -rows.min(axis=1)) if rows.shape[1] else np.zeros(len(rows))
    return largest.astype(np.float64)


def _largest_pairs(weight: AnyArray) -> npt.NDArray[np.float64]:
    """The largest |w0 + w1| of two neighbours of one sign, of each output channel.

    A convolution's kernel has the input channels innermost, and may go on with those of the next column: both orders
    count. Layers with one input channel (of a group), depthwise ones above all, have no such sums. A pass may still
    reorder the inputs of a fully connected layer, so that any two of its weights count.
    """
    weight = weight.astype(np.float64)
    if weight.ndim == 2:
        ordered = np.sort(weight, axis=1)
        return _largest(np.stack([ordered[:, :2].clip(max=0).sum(axis=1), ordered[:, -2:].clip(0).sum(axis=1)], 1))
    if weight.shape[1] == 1:
        return _largest(weight)
    innermost = np.moveaxis(weight, 1, -1)
    channels, columns = innermost.shape[-1], innermost.shape[-2]
    orders = (innermost.reshape(len(weight), -1, size) for size in (channels, columns * channels))
    return np.maximum(*map(_largest_neighbours, orders))


def _largest_neighbours(runs: AnyArray) -> npt.NDArray[np.float64]:
    padded = np.pad(runs, ((0, 0), (0, 0), (0, runs.shape[2] % 2)))
    pairs = padded.reshape(len(runs), -1, 2)
    return np.maximum(*(_largest(np.maximum(sign * pairs, 0).sum(axis=2)) for sign in (1, -1)))


def _quantized(data: AnyArray | None, dtype: DType, quant: QuantParams) -> AnyArray:
    """The elements in `dtype`, half up; some output channels at a time, so that temporaries stay in the cache."""
    if data is None:
        return np.zeros(0, dtype.numpy)
    if quant.axis != 0:
        return np.asarray(quantize_real(data.astype(np.float64), dtype, quant))
    result = np.empty(data.shape, dtype.numpy)
    for part in row_blocks(data):
        own = QuantParams(quant.scale[part], quant.zero_point[part], 0)
        result[part] = quantize_real(data[part].astype(np.float64), dtype, own)
    return result


def _elements(constant: Value) -> npt.NDArray[np.float64]:
    return _data(constant).astype(np.float64)


def _data(constant: Value) -> AnyArray:
    return np.zeros(0) if constant.data is None else constant.data
