import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from qcompiler.errors import AccumulatorOverflowError
from qcompiler.integer_proofs import prove
from qcompiler.ir import DType, Graph, QuantParams, Stage, TensorType, ops
from qcompiler.numerics import accumulator_bound, fold_bias
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline


def integer_gemm(weight: np.ndarray, bias: list[int], zp: int, *, clamp: tuple[int, int] | None = None) -> Graph:
    """x: u8 -> int.gemm -> s32; with `clamp` the operand comes out of an int.rescale."""
    graph = Graph(stage=Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, (1, weight.shape[1])))
    if clamp is not None:
        op = ops.IntRescale(DType.U8, 0, 2**30, 30, 0, *clamp)
        x = graph.add_node(op, [x]).result
    folded = [fold_bias(b, zp, row) for b, row in zip(bias, weight.tolist(), strict=True)]
    operands = [x, graph.add_constant(weight.astype(np.int8)), graph.add_constant(np.array(folded, np.int32))]
    graph.add_output(graph.add_node(ops.IntGemm(zp_in=zp), operands, name="fc").result, "y")
    return graph


@settings(max_examples=40)
@given(
    weight=st.lists(st.lists(st.integers(-128, 127), min_size=3, max_size=3), min_size=1, max_size=4),
    bias=st.integers(-(2**31), 2**31 - 1),
    zp=st.integers(0, 255),
)
def test_the_bound_is_that_of_the_definition(weight: list[list[int]], bias: int, zp: int) -> None:
    (proof,) = prove(integer_gemm(np.array(weight), [bias] * len(weight), zp))
    assert proof.channels == len(weight)
    assert proof.bound == max(accumulator_bound(DType.U8, zp, row, bias) for row in weight)
    assert proof.is_proven == (proof.bound <= 2**31 - 1)


def test_the_producers_clamp_narrows_the_operand():
    weight = np.full((1, 4), 100)
    (proof,) = prove(integer_gemm(weight, [0], 10, clamp=(10, 13)))
    assert proof.bound == 3 * 400


def test_pools_and_means_are_proven_by_their_size():
    graph = Graph(stage=Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, (1, 8, 8, 3)))
    mean = ops.IntMean(
        (1, 2), keepdims=False, dtype=DType.U8, zp_in=5, multiplier=2**30, shift=36, zp_out=0, lo=0, hi=255
    )
    graph.add_output(graph.add_node(mean, [x]).result, "y")
    multiplier, shift = (graph.add_constant(np.full(5, v, np.int32)) for v in (2**30, 30))
    pool = ops.IntAveragePool(
        (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), ceil_mode=False, count_include_pad=False, dtype=DType.U8,
        zp_in=255, zp_out=0, lo=0, hi=255, layout="nhwc",
    )  # fmt: skip
    graph.add_output(graph.add_node(pool, [x, multiplier, shift]).result, "z")
    assert [(p.channels, p.bound) for p in prove(graph)] == [(1, 64 * 250), (1, 4 * 255)]
    assert prove(graph)[0].headroom_bits == 31 - 14


def integer_matmul(terms: int, zps: tuple[int, int], *, clamp: tuple[int, int] = (0, 255)) -> Graph:
    """a: u8 clamped by what makes it, then transposed; b: s8."""
    graph = Graph(stage=Stage.INTEGER)
    a, b = (
        graph.add_input("a", TensorType(DType.U8, (terms, 2))),
        graph.add_input("b", TensorType(DType.S8, (terms, 3))),
    )
    a = graph.add_node(ops.IntRescale(DType.U8, 0, 2**30, 30, 0, *clamp), [a]).result
    a = graph.add_node(ops.Transpose((1, 0)), [a]).result
    op = ops.IntMatMul(DType.U8, *zps, 2**30, 40, 0, 0, 255)
    graph.add_output(graph.add_node(op, [a, b], name="product").result, "y")
    return graph


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 255), st.integers(-128, 127))
def test_the_bound_of_a_product_is_its_largest_sum(terms: int, zp_a: int, zp_b: int) -> None:
    (proof,) = prove(integer_matmul(terms, (zp_a, zp_b)))
    assert proof.channels == 1
    assert proof.bound == max(abs((a - zp_a) * (b - zp_b) * terms) for a in (0, 255) for b in (-128, 127))


def test_clamps_in_front_of_data_movement_narrow_a_product():
    (proof,) = prove(integer_matmul(7, (10, 0), clamp=(10, 13)))
    assert proof.bound == 7 * 3 * 128


def test_a_product_that_could_overflow_is_refused():
    PassManager(parse_pipeline("prove-accumulators")).run(integer_matmul(65_793, (0, 0)))
    message = r"'product' \(bound 2147516160\): a product of two activations has to sum fewer terms"
    with pytest.raises(AccumulatorOverflowError, match=message):
        PassManager(parse_pipeline("prove-accumulators")).run(integer_matmul(65_794, (0, 0)))


def test_what_could_overflow_is_refused_in_the_integer_stage():
    graph = integer_gemm(np.full((1, 70_000), 127), [0], 0)
    with pytest.raises(AccumulatorOverflowError, match=r"'fc' \(bound 2266950000\)"):
        PassManager(parse_pipeline("prove-accumulators")).run(graph)


def test_a_proven_program_stays_as_it_is():
    graph = integer_gemm(np.full((1, 60_000), 127), [0], 0)
    (result,) = PassManager(parse_pipeline("prove-accumulators"), check_claims=True).run(graph)
    assert not result.changed


def quantized_gemm(rows: np.ndarray, bias: list[int], dtype: DType) -> Graph:
    graph = Graph(stage=Stage.QUANTIZED)
    x = graph.add_input("x", TensorType(DType.F32, (1, rows.shape[1])))
    quant = QuantParams.per_tensor(0.5)
    q = graph.add_node(ops.Quantize(), [x], result_types=[TensorType(DType.U8, x.type.shape, quant)]).result
    scales = [0.25] * len(rows)
    weight = graph.add_constant(rows.astype(np.int8), "w", quant=QuantParams.per_channel(scales, [0] * len(rows), 0))
    bias_quant = QuantParams.per_channel([0.125] * len(rows), [0] * len(rows), 0)
    constant = graph.add_constant(np.array(bias, np.int32), "b", quant=bias_quant)
    result = QuantParams.per_channel([0.125] * len(rows), [0] * len(rows), 1)
    if dtype is not DType.S32:
        result = QuantParams.per_tensor(1e5)
    y = graph.add_node(
        ops.Gemm(), [q, weight, constant], name="fc", result_types=[TensorType(dtype, (1, len(rows)), result)]
    ).result
    graph.add_output(graph.add_node(ops.Dequantize(), [y]).result, "y")
    return graph


@pytest.mark.parametrize("dtype", [DType.S32, DType.U8])
def test_the_quantized_stage_repairs_the_channel_that_could_overflow(dtype: DType) -> None:
    rows = np.array([[127] * 70_000, [1] * 70_000])
    graph = quantized_gemm(rows, [1000, 7], dtype)
    context = PassContext()
    manager = PassManager(parse_pipeline("prove-accumulators"), check_claims=True)
    assert manager.run(graph, context)[0].changed
    weight, bias = graph.node("fc").operands[1:]
    assert weight.type.quant is not None
    assert weight.type.quant.scale == (0.5, 0.25)
    assert weight.data is not None
    assert weight.data[:, 0].tolist() == [64, 1]
    assert bias.type.quant is not None
    assert bias.type.quant.scale == (0.25, 0.125)
    assert bias.data is not None
    assert bias.data.tolist() == [500, 7]
    if dtype is DType.S32:
        assert graph.node("fc").result.type.quant == QuantParams.per_channel([0.25, 0.125], [0, 0], 1)
    assert [r.node for r in context.remarks] == ["fc"]

    (second,) = manager.run(graph)
    assert not second.changed
    PassManager(parse_pipeline("lower-to-integer,prove-accumulators")).run(graph)


def test_channels_that_cannot_overflow_are_left_alone():
    graph = quantized_gemm(np.full((2, 60_000), 127), [5, 5], DType.U8)
    (result,) = PassManager(parse_pipeline("prove-accumulators"), check_claims=True).run(graph)
    assert not result.changed
