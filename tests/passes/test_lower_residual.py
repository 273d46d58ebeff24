"""Additions that a layer takes over when it is lowered: which, and that what it computes is the sum, rounded once."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.ir import DType, Graph, QuantParams, Stage, TensorType, ops
from qcompiler.pass_manager import PassManager, parse_pipeline
from qcompiler.runtime.lowering import PackedModel, lower

CONV = ops.Conv((1, 1), (1, 1, 1, 1), (1, 1), 1)
ADD = ops.Add()
X, R, Z = QuantParams.per_tensor(0.1, 3), QuantParams.per_tensor(0.05, 100), QuantParams.per_tensor(0.06, 128)
Y = QuantParams.per_tensor(0.06 / 128)


def block(
    layer: ops.Conv | ops.Gemm = CONV,
    *,
    op: ops.Add | ops.Sub = ADD,
    channels: int = 20,
    weight_scale: float = 2.0**-10,
    layer_type: tuple[DType, QuantParams] = (DType.S16, Y),
    result: tuple[DType, QuantParams] = (DType.U8, Z),
    residual: tuple[DType, QuantParams] = (DType.U8, R),
    swapped: bool = False,
    bias: int = 0,
    is_output: bool = False,
) -> Graph:
    """layer(x) and r, added or subtracted."""
    rng = np.random.default_rng(channels)
    graph = Graph("block", Stage.QUANTIZED)
    shape = ("N", channels) if isinstance(layer, ops.Gemm) else ("N", channels, 5, 6)
    x, r = (
        graph.add_node(
            ops.Quantize(),
            [graph.add_input(name, TensorType(DType.F32, shape))],
            name=f"{name}q",
            result_types=[stored],
        ).result
        for name, stored in (("x", TensorType(DType.U8, shape, X)), ("r", TensorType(residual[0], shape, residual[1])))
    )
    kernel = () if isinstance(layer, ops.Gemm) else (3, 3)
    scales = [weight_scale * (1 + c / channels) for c in range(channels)]
    data = rng.integers(-127, 128, (channels, channels // getattr(layer, "group", 1), *kernel), dtype=np.int8)
    weight = graph.add_constant(data, "w", quant=QuantParams.per_channel(scales, [0] * channels, 0))
    biases = rng.integers(bias - 9999, bias + 9999, channels, dtype=np.int32)
    of_bias = QuantParams.per_channel([0.1 * scale for scale in scales], [0] * channels, 0)
    operands = [x, weight, graph.add_constant(biases, "b", quant=of_bias)]
    y = graph.add_node(
        layer, operands, name="layer", result_types=[TensorType(layer_type[0], shape, layer_type[1])]
    ).result
    stored = TensorType(result[0], shape, result[1])
    z = graph.add_node(op, [y, r] if not swapped else [r, y], name="sum", result_types=[stored]).result
    graph.add_output(graph.add_node(ops.Dequantize(), [z], name="zd").result, "z")
    if is_output:
        graph.add_output(graph.add_node(ops.Dequantize(), [y], name="yd").result, "y")
    return graph


def lowered(graph: Graph, passes: str = "lower-to-integer") -> Graph:
    PassManager(parse_pipeline(passes), check_claims=True).run(graph)
    return graph


def layers_and_sums(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes() if node.op.name in ("int.conv", "int.gemm", "int.add")]


def samples(graph: Graph) -> dict[str, Any]:
    rng = np.random.default_rng(5)
    return {
        v.name: rng.uniform(-6, 9, (3, *(int(d) for d in v.type.shape[1:]))).astype(np.float32) for v in graph.inputs
    }


@pytest.mark.parametrize(
    ("change", "layer"),
    [
        ({}, "int.conv"),
        ({"swapped": True}, "int.conv"),
        ({"op": ops.Sub()}, "int.conv"),
        ({"op": ops.Sub(), "swapped": True}, "int.conv"),
        ({"op": ops.Add((0.0, 6.0))}, "int.conv"),
        ({"residual": (DType.S8, QuantParams.per_tensor(0.05, -20))}, "int.conv"),
        ({"result": (DType.S8, QuantParams.per_tensor(0.06, -20))}, "int.conv"),
        ({"layer": ops.Conv((1, 1), (1, 1, 1, 1), (1, 1), 2)}, "int.conv"),
        ({"channels": 3}, "int.conv"),
        ({"layer": ops.Gemm()}, "int.gemm"),
    ],
)
def test_the_layer_adds(change: dict[str, Any], layer: str):
    graph = block(**change)
    feeds = samples(graph)
    before = reference.run(graph, feeds)["z"]
    assert len(np.unique(before)) > 20
    lowered(graph)
    assert layers_and_sums(graph) == [layer]
    assert len(graph.node("sum").operands) == 7
    assert np.abs(reference.run(graph, feeds)["z"] - before).max() <= 0.061  # a step: it is rounded once less


@pytest.mark.parametrize(("op", "swapped", "signs"), [(ops.Add(), False, (1, 1)), (ops.Sub(), True, (-1, 1))])
def test_factors_and_multipliers_are_ratios_of_scales(op: ops.Add | ops.Sub, swapped: bool, signs: tuple[int, int]):
    graph = lowered(block(op=op, swapped=swapped))
    multipliers, shifts, _, factors = (v.data for v in graph.node("sum").operands[3:])
    assert multipliers is not None
    assert shifts is not None
    assert factors is not None
    for c in range(20):
        scale = signs[0] * Fraction(0.1) * Fraction(2.0**-10) * Fraction(20 + c, 20)
        assert abs(int(factors[c]) - signs[1] * Fraction(0.05) / scale) <= Fraction(1, 2) + Fraction(1, 2**40)
        ratio = Fraction(int(multipliers[c]), 2 ** int(shifts[c])) / (scale / Fraction(0.06))
        assert abs(ratio - 1) <= Fraction(1, 2**30)


@pytest.mark.parametrize(
    "change",
    [
        {"weight_scale": 2.0**-7},  # a factor of 64
        {"weight_scale": 2.0**-16},  # one of 32768
        {"bias": 2**31 - 10**4},  # accumulators that could overflow
        {"is_output": True},
        {"layer": ops.Conv((1, 1), (1, 1, 1, 1), (1, 1), 1, (0.0, 6.0))},
        {"layer": ops.Conv((1, 1), (1, 1, 1, 1), (1, 1), 20)},
        {"layer_type": (DType.U8, QuantParams.per_tensor(0.06, 128))},
        {"layer_type": (DType.S16, QuantParams.per_tensor(0.06 / 128, 1))},
        {"result": (DType.S16, Y)},
        {"residual": (DType.S16, Y)},
    ],
)
def test_what_stays_apart(change: dict[str, Any]):
    assert layers_and_sums(lowered(block(**change))) == ["int.conv", "int.add"]


def test_neither_memory_nor_a_transpose_holds_the_layers_own_result():
    pipeline = "lower-to-integer,assign-layout,sink-transposes,remove-identities,dead-code"
    program = lower(PackedModel(lowered(block(), pipeline)), {"N": 1})
    assert [i.kernel for i in program.instructions].count("int_conv") == 1
    assert DType.S16 not in {buffer.dtype for i in program.instructions for buffer in i.writes_of.values()}
