import numpy as np
import pytest

from qcompiler import reference
from qcompiler.ir import DType, Graph, parse_graph
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline

BLOCK = """
    input %x: f32[N,2]
    const %w: s8[2,2]<axis=0, scale=[0.01, 0.02], zero_point=0> = [127, -30, 5, 64]
    %q: u8[N,2]<scale=0.05, zero_point=120> = quantize(%x)
    {layer} = gemm(%q, %w) @layer
    %s: u8[N,2]<scale=0.08, zero_point=128> = {add} @sum
    %y = dequantize(%s)
    output y = %y
    {more}
"""
LAYER = "%l: u8[N,2]<scale=0.06, zero_point=128>"


def fused(body: str, *, changes: bool = True) -> tuple[Graph, Graph, list[str]]:
    text = f"qir 1\ngraph test quantized {{\n{body}\n}}\n"
    graph, context = parse_graph(text), PassContext()
    manager = PassManager(parse_pipeline("fuse-residual-add"), check_claims=True)
    (first,) = manager.run(graph, context)
    assert first.changed == changes
    assert not manager.run(graph)[0].changed
    return parse_graph(text), graph, [f"{r.node}: {r.reason}" for r in context.remarks]


@pytest.mark.parametrize("add", ["add(%l, %q)", "add(%q, %l)", "sub(%q, %l)"])
def test_the_layers_result_gets_16_bits_over_the_same_range(add):
    _, graph, _ = fused(BLOCK.format(layer=LAYER, add=add, more=""))
    layer = graph.value("l").type
    assert layer.dtype is DType.S16
    assert layer.quant is not None
    assert layer.quant.scale[0] * 32767 == pytest.approx(0.06 * 128)
    assert graph.value("s").type.dtype is DType.U8


def test_one_operand_of_a_block_with_a_layer_on_the_skip_path_too():
    body = BLOCK.format(layer=LAYER, add="add(%l, %k)", more="").replace(
        "%s:", "%k: u8[N,2]<scale=0.06, zero_point=128> = gemm(%q, %w) @skip\n%s:"
    )
    _, graph, _ = fused(body)
    assert (graph.value("l").type.dtype, graph.value("k").type.dtype) == (DType.S16, DType.U8)


def test_a_skip_path_that_starts_at_a_shared_layer():
    body = BLOCK.format(layer=LAYER, add="add(%k, %l)", more="%e = dequantize(%k)\noutput k = %e").replace(
        "%l:", "%k: u8[N,2]<scale=0.06, zero_point=128> = gemm(%q, %w) @skip\n%l:", 1
    )
    _, graph, remarks = fused(body)
    assert (graph.value("l").type.dtype, graph.value("k").type.dtype) == (DType.S16, DType.U8)
    assert remarks == []


def test_the_sum_is_closer_to_the_real_one():
    before, after, _ = fused(BLOCK.format(layer=LAYER, add="add(%l, %q)", more=""))
    x = np.random.default_rng(4).uniform(-4, 4, (2000, 2)).astype(np.float32)
    q = np.clip(np.rint(x / np.float32(0.05)) + 120, 0, 255).astype(np.float64) - 120
    exact = q * 0.05 + (q @ np.array([[127, 5], [-30, 64]])) * 0.05 * np.array([0.01, 0.02])
    inside = np.abs(exact) < 7
    error = [np.mean((reference.run(g, {"x": x})["y"] - exact)[inside] ** 2) for g in (before, after)]
    assert error[1] < 0.8 * error[0]
    assert error[1] == pytest.approx(0.08**2 / 12, rel=0.1)  # nothing but the one rounding is left


def test_the_integer_form_agrees_with_the_real_meaning():
    _, graph, _ = fused(BLOCK.format(layer=LAYER, add="add(%l, %q)", more=""))
    x = np.random.default_rng(5).uniform(-4, 4, (500, 2)).astype(np.float32)
    meant = reference.run(graph, {"x": x})["y"]
    PassManager(parse_pipeline("lower-to-integer")).run(graph)
    assert np.abs(reference.run(graph, {"x": x})["y"] - meant).max() <= 0.08 * 1.001


def test_a_layer_with_other_users_keeps_8_bits():
    _, graph, remarks = fused(
        BLOCK.format(layer=LAYER, add="add(%l, %q)", more="%e = dequantize(%l)\noutput l = %e"), changes=False
    )
    assert graph.value("l").type.dtype is DType.U8
    assert remarks == ["sum: its input 'layer' is also used by 'e'"]


@pytest.mark.parametrize("add", ["mul(%l, %q)", "add(%q, %q)"])
def test_near_misses(add):
    more = "%e = dequantize(%l)\noutput l = %e" if "%l" not in add else ""
    assert fused(BLOCK.format(layer=LAYER, add=add, more=more), changes=False)[2] == []
