"""Numbers that a kernel would take on trust: each rule of the integer ops has a value just inside and just outside."""

import dataclasses
import re
from typing import Any

import numpy as np
import pytest

from qcompiler.errors import VerifyError
from qcompiler.ir import AnyArray, DType, Graph, Op, Stage, TensorType, Value, ops

RESULT: dict[str, Any] = {"dtype": DType.U8, "zp_out": 0, "lo": 0, "hi": 255}
RESCALE = ops.IntRescale(zp_in=0, multiplier=2**30, shift=31, **RESULT)
MUL = ops.IntMul(zp_a=0, zp_b=0, multiplier=2**30, shift=31, **RESULT)
MATMUL = ops.IntMatMul(zp_a=0, zp_b=0, multiplier=2**30, shift=31, **RESULT)
TALL = TensorType(DType.S8, (4, 3))
ADD = ops.IntAdd(zp_a=0, zp_b=0, multiplier_a=1, multiplier_b=1, shift=1, **RESULT)
DIV = ops.IntDiv(zp_a=0, zp_b=0, multiplier=1, shift=2, **RESULT)
AVERAGE = ops.IntAveragePool(
    (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), ceil_mode=False, count_include_pad=False, zp_in=0, **RESULT
)
MEAN = ops.IntMean(axes=(1,), keepdims=False, zp_in=0, multiplier=2**30, shift=31, **RESULT)
SOFTMAX = ops.IntSoftmax(axis=1, dtype=DType.U8, one=256, hi=255)
GEMM = ops.IntGemm(zp_in=0, **RESULT)
PRELU = ops.IntPRelu(axis=1, zp_in=0, positive_multiplier=2**30, positive_shift=31, **RESULT)
QUANTIZE = ops.IntQuantize(DType.U8, (0.5,), (0,))
EXP = np.arange(2**30, 2**30 - 256, -1).astype(np.int32)


def infer(op: Op, *operands: DType | TensorType | AnyArray) -> TensorType:
    """The result type on operands [2, 4] of a dtype, others, or constants."""
    graph = Graph("g", Stage.INTEGER)
    values: list[Value] = []
    for i, operand in enumerate(operands):
        if isinstance(operand, DType | TensorType):
            x_type = operand if isinstance(operand, TensorType) else TensorType(operand, (2, 4))
            values.append(graph.add_input(f"x{i}", x_type))
        else:
            values.append(graph.add_constant(operand))
    return graph.add_node(op, values).result.type


def s32(*elements: int) -> AnyArray:
    return np.array(elements, np.int32)


@pytest.mark.parametrize(
    ("op", "operands", "good", "bad", "reason"),
    [
        (RESCALE, [DType.S32], {"multiplier": 2**31 - 1}, {"multiplier": 2**31}, "multiplier 2147483648 is neither 0"),
        (RESCALE, [DType.S32], {"multiplier": -(2**30)}, {"multiplier": 1}, "multiplier 1 is neither 0"),
        (RESCALE, [DType.S32], {"multiplier": 0}, {"multiplier": 2**30 - 1}, "is neither 0"),
        (RESCALE, [DType.S32], {"shift": 2}, {"shift": 1}, "shift 1 lies outside [2, 62]"),
        (RESCALE, [DType.S32], {"shift": 62}, {"shift": 63}, "shift 63 lies outside [2, 62]"),
        (RESCALE, [DType.S8], {"zp_in": -128}, {"zp_in": 128}, "zero point 128 lies outside [-128, 127] of s8"),
        (
            RESCALE,
            [DType.S8],
            {"zp_out": 255},
            {"zp_out": -1},
            "zero point -1 of the result lies outside [0, 255] of u8",
        ),
        (RESCALE, [DType.S8], {"lo": 5, "hi": 5}, {"lo": 5, "hi": 4}, "clamp [5, 4] is no range within [0, 255]"),
        (RESCALE, [DType.S8], {"hi": 255}, {"hi": 256}, "clamp [0, 256] is no range within [0, 255] of u8"),
        (ADD, [DType.U8, DType.S8], {"multiplier_a": 2**21 - 1}, {"multiplier_a": 2**21}, "(-2097152, 2097152)"),
        (ADD, [DType.U8, DType.S8], {"shift": 31}, {"shift": 32}, "shift 32 of a sum lies outside [1, 31]"),
        (ADD, [DType.U8, DType.S16], {"multiplier_b": 1 - 2**31}, {"multiplier_b": -(2**31)}, "of a sum lies outside"),
        (ADD, [DType.U8, DType.S16], {"shift": 62}, {"shift": 0}, "shift 0 of a sum lies outside [1, 62]"),
        (ADD, [DType.U8, DType.S8], {"zp_b": -1}, {"zp_b": 200}, "zero point 200 lies outside [-128, 127] of s8"),
        (DIV, [DType.U8, DType.U8], {"shift": 53}, {"shift": 54}, "shift 54 of a division is out of range"),
        (DIV, [DType.U8, DType.S16], {"shift": 45}, {"shift": 46}, "shift 46 of a division is out of range"),
        (DIV, [DType.U8, DType.U8], {"multiplier": 0}, {"multiplier": -1}, "multiplier -1 or shift"),
        (MEAN, [DType.S16], {"zp_in": 1}, {"zp_in": 40000}, "zero point 40000 lies outside"),
        (MUL, [DType.S16, DType.S16], {"zp_a": 32767}, {"zp_a": 32767, "zp_b": 1}, "can reach 2147516415, and a"),
        (MUL, [DType.S16, DType.U8], {"zp_a": -32768, "zp_b": 255}, {"multiplier": 3}, "multiplier 3 is neither"),
        (MATMUL, [DType.U8, TALL], {"zp_a": 255}, {"zp_a": 256}, "zero point 256 lies outside [0, 255] of u8"),
        (MATMUL, [DType.U8, TALL], {"zp_b": -128}, {"zp_b": 128}, "zero point 128 lies outside [-128, 127] of s8"),
        (MATMUL, [DType.U8, TALL], {"multiplier": -(2**30)}, {"multiplier": 9}, "multiplier 9 is neither 0"),
        (MATMUL, [DType.U8, TALL], {"shift": 62}, {"shift": 1}, "shift 1 lies outside [2, 62]"),
        (MATMUL, [DType.U8, TALL], {"dtype": DType.S16}, {"dtype": DType.S32}, "the result has dtype s32, expected u8"),
        (MATMUL, [DType.U8, TALL], {"lo": 7, "hi": 7}, {"lo": 8, "hi": 7}, "clamp [8, 7] is no range"),
        (RESCALE, [DType.S32], {"zp_in": 0}, {"zp_in": 1}, "the difference can reach 2147483649, and a rescale"),
        (RESCALE, [DType.S16], {"dtype": DType.S32}, {"dtype": DType.S64}, "the result has dtype s64, expected u8"),
        (QUANTIZE, [DType.F32], {"dtype": DType.S16}, {"dtype": DType.S32}, "the result has dtype s32, expected u8"),
        (SOFTMAX, [DType.U8, EXP], {"hi": 255}, {"hi": 256}, "clamp [0, 256] is no range"),
        (SOFTMAX, [DType.U8, EXP], {"one": 1}, {"one": 0}, "one=0 cannot stand for 1.0"),
        (SOFTMAX, [DType.U8, EXP], {"one": 2**30}, {"one": 2**30 + 1}, "one=1073741825 cannot stand for 1.0"),
        (ops.IntPad((0, 0, 0, 1), 0), [DType.U8], {"value": 255}, {"value": 256}, "zero point 256 lies outside"),
        (QUANTIZE, [DType.F32], {"zero_point": (255,)}, {"zero_point": (256,)}, "a zero point lies outside [0, 255]"),
        (QUANTIZE, [DType.F32], {"scale": (1e-30,)}, {"scale": (0.0,)}, "a scale must be finite and positive"),
        (
            QUANTIZE,
            [DType.F32],
            {"scale": (1.0,) * 4, "zero_point": (0,) * 4, "axis": 1},
            {"axis": 1},
            "do not fit shape",
        ),
    ],
)
def test_attributes(
    op: Op, operands: list[DType | TensorType | AnyArray], good: dict[str, object], bad: dict[str, object], reason: str
):
    infer(dataclasses.replace(op, **good), *operands)
    with pytest.raises(VerifyError, match=re.escape(reason)):
        infer(dataclasses.replace(op, **bad), *operands)


WEIGHT = np.ones((3, 4), np.int8)
BIAS = s32(1, 2, 3)
GOOD_M, GOOD_SHIFT = s32(2**30, 0, 2**31 - 1), s32(2, 31, 62)
DEQUANTIZE = ops.IntDequantize((0.5,), (0,))
IMAGE = TensorType(DType.U8, (1, 2, 3, 3))


@pytest.mark.parametrize(
    ("op", "operands", "reason"),
    [
        (GEMM, [DType.S16, WEIGHT, BIAS, GOOD_M, GOOD_SHIFT], "operand 0 has dtype s16, expected u8 or s8"),
        (GEMM, [DType.U8, WEIGHT.astype(np.uint8), BIAS, GOOD_M, GOOD_SHIFT], "operand 1 has dtype u8, expected s8"),
        (GEMM, [DType.U8, WEIGHT, BIAS.astype(np.int64), GOOD_M, GOOD_SHIFT], "operand 2 has dtype s64, expected s32"),
        (GEMM, [DType.U8, WEIGHT, s32(1, 2), GOOD_M, GOOD_SHIFT], "operand 2 has shape [2], expected [3]"),
        (GEMM, [DType.U8, WEIGHT, BIAS, s32(2**30, 5, 2**30), GOOD_SHIFT], "multiplier 5 is neither 0"),
        (GEMM, [DType.U8, WEIGHT, BIAS, GOOD_M, s32(2, 63, 4)], "shift 63 lies outside [2, 62]"),
        (GEMM, [DType.U8, WEIGHT, BIAS, GOOD_M, s32(2, 3, 1)], "shift 1 lies outside [2, 62]"),
        (GEMM, [DType.U8, WEIGHT, BIAS, GOOD_M], "a multiplier needs a shift"),
        (GEMM, [DType.U8, WEIGHT, BIAS], "result dtype u8: s32 goes without multiplier and shift"),
        (ops.IntGemm(zp_in=0), [DType.U8, WEIGHT, BIAS, GOOD_M, GOOD_SHIFT], "result dtype s32: s32 goes without"),
        (MATMUL, [DType.U8, DType.U8], "shapes [2,4] and [2,4] do not multiply"),
        (MATMUL, [DType.S16, TALL], "operand 0 has dtype s16, expected u8 or s8"),
        (MATMUL, [DType.U8, TensorType(DType.S16, (4, 3))], "operand 1 has dtype s16, expected u8 or s8"),
        (MATMUL, [TensorType(DType.U8, (2, 0)), TensorType(DType.U8, (0, 3))], "there are no products to sum"),
        (
            MATMUL,
            [TensorType(DType.U8, (2, "N")), TensorType(DType.U8, ("N", 3))],
            "summed is the symbolic dimension N",
        ),
        (PRELU, [DType.U8, s32(2**30, 2**30, 1, 0), s32(2, 2, 2, 2)], "multiplier 1 is neither 0"),
        (ADD, [DType.S32, DType.U8], "operand 0 has dtype s32, expected u8 or s8 or s16"),
        (RESCALE, [DType.F32], "operand 0 has dtype f32, expected u8 or s8 or s16 or s32"),
        (RESCALE, [DType.S64], "operand 0 has dtype s64, expected u8 or s8 or s16 or s32"),
        (DEQUANTIZE, [DType.S64], "operand 0 has dtype s64, expected u8 or s8 or s16 or s32"),
        (PRELU, [DType.U8, TensorType(DType.S32, (4,)), s32(2, 2, 2, 2)], "operand 1 has to be a constant"),
        (AVERAGE, [IMAGE, s32(2**30, 2**30), TensorType(DType.S32, (2,))], "operand 2 has to be a constant"),
        (ops.IntGemm(zp_in=0), [TensorType(DType.U8, (2, 0)), WEIGHT[:, :0], BIAS], "weight [3,0] has no products"),
        (ops.IntLut(), [DType.U8, np.zeros(256, np.float32)], "operand 1 has dtype f32, expected u8 or s8 or s16"),
        (ops.IntLut(), [DType.U8, np.zeros(255, np.uint8)], "a table of [255] cannot be indexed by u8"),
        (SOFTMAX, [DType.U8, EXP - 1], "operand 1 is no table of exponentials: entries of [0, 2^30], the first one"),
        (SOFTMAX, [DType.S16, EXP, EXP - 2**30], "operand 2 is no table of exponentials"),
        (SOFTMAX, [DType.U8, TensorType(DType.S32, (256,))], "operand 1 has to be a constant"),
        (SOFTMAX, [DType.S16, EXP], "exp_low goes with 16-bit operands and only with them"),
        (QUANTIZE, [DType.U8], "operand 0 has dtype u8, expected f32"),
    ],
)
def test_operands(op: Op, operands: list[DType | TensorType | AnyArray], reason: str):
    with pytest.raises(VerifyError, match=re.escape(reason)):
        infer(op, *operands)


def test_the_sum_of_a_mean_fits_32_bits():
    for dtype, most in ((DType.U8, 8421504), (DType.S8, 16777215), (DType.S16, 65535)):
        infer(MEAN, TensorType(dtype, (1, most)))
        with pytest.raises(VerifyError, match=f"the sum of {most + 1} elements can reach .* not fit 32 bits"):
            infer(MEAN, TensorType(dtype, (1, most + 1)))


def test_the_sum_of_a_pool_fits_32_bits():
    def pool(count: int) -> None:
        op, x = dataclasses.replace(AVERAGE, kernel=(count, 1)), TensorType(DType.S16, (1, 1, count, 1))
        infer(op, x, np.zeros(count + 1, np.int32), np.full(count + 1, 2, np.int32))

    pool(65535)
    with pytest.raises(VerifyError, match="the sum of 65536 elements can reach 2147483648, which does not fit"):
        pool(65536)


def test_a_mean_over_a_symbolic_axis_is_refused():
    with pytest.raises(VerifyError, match="an axis of a mean is the symbolic dimension N"):
        infer(MEAN, TensorType(DType.U8, (2, "N")))


def test_the_batches_of_a_product_broadcast():
    a, b = TensorType(DType.U8, ("N", 1, 3, 4)), TensorType(DType.S8, (7, 4, "M"))
    assert infer(MATMUL, a, b) == TensorType(DType.U8, ("N", 7, 3, "M"))


def test_a_good_gemm():
    assert infer(GEMM, DType.U8, WEIGHT, BIAS, GOOD_M, GOOD_SHIFT) == TensorType(DType.U8, (2, 3))
