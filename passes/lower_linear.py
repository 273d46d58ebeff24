"""Integer forms of convolution, fully connected layers and products of activations."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qcompiler.integer_proofs import LARGEST_ACCUMULATOR, product_bound
from qcompiler.ir import DType, Node, Value, ops
from qcompiler.numerics import FLUSH, MAX_SHIFT, MIN_SHIFT, quantize_multiplier
from qcompiler.passes.integer_lowering import (
    Lowered,
    Lowering,
    ResultFields,
    Unlowerable,
    lowers,
    result_fields,
)


@lowers(ops.Conv)
def lower_conv(node: Node, lowering: Lowering) -> Lowered:
    """int.conv; a one-dimensional convolution is a two-dimensional one of height 1."""
    match node.op:
        case ops.Conv(strides=strides, pads=pads, dilations=dilations, group=group, clamp=clamp):
            pass
        case _:
            raise Unlowerable("it is no convolution")
    layer = _Layer(node, lowering)
    x, weight = layer.x.value, node.operands[1]
    if len(strides) == 1:
        strides, dilations, pads = (1, *strides), (1, *dilations), (0, pads[0], 0, pads[1])
        weight = layer.constant("weight", layer.weight[:, :, np.newaxis])
        batch, channels, length = x.type.shape
        x = lowering.emit(node, ops.Reshape((batch, channels, 1, length)), [x], "as_2d")
    elif len(strides) != 2:
        raise Unlowerable(f"a {len(strides)}-dimensional convolution has no integer form")
    op = ops.IntConv(
        strides=strides,
        pads=pads,
        dilations=dilations,
        group=group,
        zp_in=layer.x.zero_point,
        **layer.fields(clamp),
    )
    operands = [x, weight, *layer.vectors()]
    if node.result.type.rank == 4:
        return op, operands
    return ops.Reshape(node.result.type.shape), [lowering.emit(node, op, operands, "conv")]


@lowers(ops.Gemm)
def lower_gemm(node: Node, lowering: Lowering) -> Lowered:
    """int.gemm."""
    layer = _Layer(node, lowering)
    op = ops.IntGemm(zp_in=layer.x.zero_point, **layer.fields(getattr(node.op, "clamp", None)))
    return op, [layer.x.value, node.operands[1], *layer.vectors()]


@lowers(ops.MatMul)
def lower_matmul(node: Node, lowering: Lowering) -> Lowered:
    """int.matmul: alpha and the scales of the operands and of the result become one multiplier."""
    alpha = node.op.alpha if isinstance(node.op, ops.MatMul) else 1.0
    a, b, y = lowering.operand(node, 0), lowering.operand(node, 1), lowering.result(node)
    if not (a.is_8_bit and b.is_8_bit):
        raise Unlowerable(f"it needs operands of 8 bits, not {a.dtype} and {b.dtype}")
    if y.dtype not in (DType.U8, DType.S8, DType.S16):
        raise Unlowerable(f"a product of activations cannot be {y.dtype}")
    terms = a.value.type.shape[-1]
    if not isinstance(terms, int):
        raise Unlowerable(f"it sums over the axis {terms} of unknown size: fix it with --dim")
    if terms == 0:
        raise Unlowerable("there are no products to sum")
    bound = product_bound(a.value, b.value, a.zero_point, b.zero_point)
    if bound > LARGEST_ACCUMULATOR:
        raise Unlowerable(f"its sums of {terms} products can reach {bound}, which does not fit 32 bits")
    M, shift = quantize_multiplier(alpha * a.scale * b.scale / y.scale)
    op = ops.IntMatMul(zp_a=a.zero_point, zp_b=b.zero_point, multiplier=M, shift=shift, **result_fields(y))
    return op, [a.value, b.value]


def multipliers_of(reals: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """M s32[n] and shift s32[n] of `quantize_multiplier` for each of f64[n].

    Raises:
        MultiplierRangeError: as there.
    """
    if not (np.isfinite(reals) & (reals > 0)).all():  # NumPy's casts and exponents would say nothing
        each = [quantize_multiplier(real) for real in reals.tolist()]
        return np.array([M for M, _ in each], np.int32), np.array([shift for _, shift in each], np.int32)
    fractions, exponents = np.frexp(reals)
    fractions *= 2.0**31
    below = np.floor(fractions)
    rounded = (below + (fractions - below >= 0.5)).astype(np.int64)
    carried = rounded == 2**31
    rounded[carried] = 2**30
    shifts = 31 - exponents.astype(np.int64) - carried
    flushed = shifts > MAX_SHIFT
    rounded[flushed], shifts[flushed] = FLUSH
    if (shifts < MIN_SHIFT).any():
        quantize_multiplier(float(reals[np.argmin(shifts)]))  # raises
    return rounded.astype(np.int32), shifts.astype(np.int32)


class _Layer:
    """What convolution and fully connected layer have in common: acc = Σ (x − z_x)·w + b, then a RESCALE."""

    def __init__(self, node: Node, lowering: Lowering) -> None:
        self._node, self._lowering = node, lowering
        self.x, self.y = lowering.operand(node, 0), lowering.result(node)
        weight = lowering.operand(node, 1)
        if not self.x.is_8_bit or weight.dtype is not DType.S8 or weight.data is None:
            raise Unlowerable(
                f"it needs an 8-bit operand and constant s8 weights, not {self.x.dtype} and {weight.dtype}"
            )
        if any(weight.quant.zero_point):
            raise Unlowerable("its weights have a zero point")
        self.weight: npt.NDArray[np.int8] = weight.data.astype(np.int8)
        channels = self.weight.shape[0]
        self._bias = np.zeros(channels, np.int64)
        if len(node.operands) > 2:
            bias = lowering.operand(node, 2)
            if bias.data is None:
                raise Unlowerable("its bias is not a constant")
            self._bias = bias.data.astype(np.int64)
        self._multipliers: tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]] | None = None
        if self.y.dtype is not DType.S32:
            accumulator_scales = np.broadcast_to(np.array(weight.quant.scale), (channels,)) * self.x.scale
            self._multipliers = multipliers_of(accumulator_scales / self.y.scale)

    def fields(self, clamp: tuple[float, float] | None) -> ResultFields:
        """Attributes of the result; accumulators have neither zero point nor clamp."""
        if self.y.dtype is not DType.S32:
            return result_fields(self.y, clamp)
        if clamp is not None:
            raise Unlowerable("accumulators cannot be clamped")
        return ResultFields(dtype=DType.S32, zp_out=0, lo=0, hi=0)

    def vectors(self) -> Sequence[Value]:
        """Bias with the zero point folded in, modulo 2^32, then multiplier and shift per channel."""
        sums = self.weight.reshape(len(self.weight), -1).sum(axis=1, dtype=np.int32)  # modulo 2^32 as well
        folded = self._bias - self.x.zero_point * sums.astype(np.int64)
        folded = folded.astype(np.uint64).astype(np.uint32).view(np.int32)
        vectors = [self.constant("bias", folded)]
        if self._multipliers:
            multipliers, shifts = self._multipliers
            vectors += [self.constant("multiplier", multipliers), self.constant("shift", shifts)]
        return vectors

    def constant(self, what: str, data: npt.NDArray[np.int8] | npt.NDArray[np.int32]) -> Value:
        return self._lowering.constant(self._node, data, what)
