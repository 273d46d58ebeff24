"""Integer forms mean what the quantized ops mean: at most one step apart, since multipliers have 31 bits."""

import re
from collections.abc import Sequence

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.errors import MultiplierRangeError, PluginError, UnsupportedOpError
from qcompiler.ir import DType, Graph, Stage, ops, parse_graph
from qcompiler.numerics import quantize_multiplier
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline
from qcompiler.passes.integer_lowering import lowering_of, lowers
from qcompiler.passes.lower_linear import multipliers_of

U8 = "u8[{}]<scale=0.04, zero_point=90>"
WINDOW = "strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1]"
POOL = "kernel=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], dilations=[1, 1]"
POOL_1D = "kernel=[3], strides=[2], pads=[1, 1], dilations=[1]"


def numbers(count: int, seed: int = 0) -> str:
    return ", ".join(map(str, np.random.default_rng(seed).integers(-127, 128, count).tolist()))


def lowered(graph: Graph, context: PassContext | None = None) -> Graph:
    (result,) = PassManager(parse_pipeline("lower-to-integer"), check_claims=True).run(graph, context)
    assert result.changed
    assert graph.stage is Stage.INTEGER
    return graph


def check(shapes: Sequence[str], body: str, *, result: str = "%r", step: float = 0.0) -> Graph:
    """Lower a graph of quantized inputs %a, %b, ... and compare results; returns the integer graph."""
    lines = []
    for name, shape in zip("abc", shapes, strict=False):
        lines += [f"input %{name}f: f32[{shape}]", f"%{name}: {U8.format(shape)} = quantize(%{name}f)"]
    text = "\n".join(
        ["qir 1", "graph test quantized {", *lines, body, f"%out = dequantize({result})", "output r = %out", "}"]
    )
    random = np.random.default_rng(1)
    graph = parse_graph(text)
    feeds = {
        v.name: random.uniform(-4, 7, [d if isinstance(d, int) else 3 for d in v.type.shape]).astype(np.float32)
        for v in graph.inputs
    }
    meant = reference.run(graph, feeds)["r"]
    names = {node.name for node in graph.nodes()}
    lowered(graph)
    assert names <= {node.name for node in graph.nodes()}
    got = reference.run(graph, feeds)["r"]
    assert got.shape == meant.shape
    assert np.ptp(meant) > 0
    assert np.abs(got - meant).max() <= step * 1.001
    # Where the two differ at all, the real value was at the border between two integers.
    assert np.mean(got != meant) < 0.02
    return graph


R = "{dtype}[{shape}]<scale={scale}, zero_point={zp}>"


@pytest.mark.parametrize(
    ("shapes", "body", "step"),
    [
        (["N,4", "N,4"], "%r: u8[N,4]<scale=0.07, zero_point=70> = add(%a, %b)", 0.07),
        (["N,4", "1,4"], "%r: u8[N,4]<scale=0.07, zero_point=0> = sub(%a, %b) {clamp=[0.0, 6.0]}", 0.07),
        (["N,4", "N,4"], "%r: s16[N,4]<scale=0.001, zero_point=0> = mul(%a, %b)", 0.001),
        (["N,4", "N,4"], "%r: u8[N,4]<scale=0.2, zero_point=70> = mul(%a, %b) {clamp=[-4.0, inf]}", 0.2),
        (["N,4", "N,4"], "%r: u8[N,4]<scale=0.1, zero_point=128> = div(%a, %b)", 0.1),
        (["N,4"], ("const %k: s16[4]<scale=0.0001, zero_point=0> = [3, -20000, 32767, 500]\n"
                  "%r: u8[N,4]<scale=0.05, zero_point=99> = add(%a, %k)"), 0.05),
        (["N,4"], "%r: s16[N,4]<scale=0.003, zero_point=0> = requantize(%a)", 0.003),
        (["N,4"], "%r: u8[N,4]<scale=0.03, zero_point=11> = hard_swish(%a)", 0.0),
        (["N,4"], "%r: s16[N,4]<scale=0.0001, zero_point=0> = sigmoid(%a)", 0.0),
        (["N,4"], "%r: u8[N,4]<scale=0.02, zero_point=60> = leaky_relu(%a) {alpha=0.3}", 0.0),
        (["N,3,2"], ("const %k: s16[3,1]<scale=0.0001, zero_point=0> = [1000, -2000, 9000]\n"
                    "%r: u8[N,3,2]<scale=0.05, zero_point=40> = prelu(%a, %k)"), 0.05),
        (["N,3,2"], ("const %k: s16[1]<scale=0.0001, zero_point=0> = [2500]\n"
                    "%r: u8[N,3,2]<scale=0.05, zero_point=40> = prelu(%a, %k)"), 0.05),
        (["N,5"], "%r: u8[N,5]<scale=0.00390625, zero_point=0> = softmax(%a)", 1 / 256),
        (["N,5"], ("%w: s16[N,5]<scale=0.0005, zero_point=0> = requantize(%a)\n"
                  "%r: s16[N,5]<scale=3.0517578125e-05, zero_point=0> = softmax(%w) {axis=1}"), 1 / 32768),
        (["N,4"], ("%w: s16[N,4]<scale=0.001, zero_point=0> = requantize(%a)\n"
                  "%r: s16[N,4]<scale=0.0005, zero_point=0> = relu(%w)"), 0.001),
        (["N,4"], ("%w: s16[N,4]<scale=0.001, zero_point=0> = requantize(%a)\n"
                  "%r: s16[N,4]<scale=0.001, zero_point=0> = neg(%w)"), 0.001),
        (["N,4"], ("%w: s16[N,4]<scale=0.001, zero_point=0> = requantize(%a)\n"
                  "%r: s16[N,4]<scale=0.0002, zero_point=0> = clip(%w) {low=-1.0, high=2.5}"), 0.001),
    ],
)  # fmt: skip
def test_elementwise(shapes, body, step):
    check(shapes, body, step=step)


@pytest.mark.parametrize(
    ("shape", "layer", "weight", "result"),
    [
        ("N,3,5,5", f"conv(%a, %w, %k) {{{WINDOW}}}", "4,3,3,3", "N,4,5,5"),
        ("N,4,5,5", f"conv(%a, %w, %k) {{{WINDOW}, group=4, clamp=[0.0, 6.0]}}", "4,1,3,3", "N,4,5,5"),
        ("N,3,9", "conv(%a, %w, %k) {strides=[2], pads=[1, 0], dilations=[1]}", "4,3,3", "N,4,4"),
        ("N,7", "gemm(%a, %w, %k)", "4,7", "N,4"),
        ("N,2,7", "gemm(%a, %w) {clamp=[-1.0, inf]}", "4,7", "N,2,4"),
    ],
)
@pytest.mark.parametrize("dtype", ["u8", "s16"])
def test_layers(shape, layer, weight, result, dtype):
    count = int(np.prod([int(n) for n in weight.split(",")]))
    quant = "<scale=0.3, zero_point=50>" if dtype == "u8" else "<scale=0.01, zero_point=0>"
    check(
        [shape],
        f"""
        const %w: s8[{weight}]<axis=0, scale=[0.01, 0.002, 0.03, 0.004], zero_point=0> = [{numbers(count)}]
        const %k: s32[4]<axis=0, scale=[0.0004, 0.00008, 0.0012, 0.00016], zero_point=0> = [100, -2000, 7000, 40]
        %r: {dtype}[{result}]{quant} = {layer} @layer
        """,
        step=0.3 if dtype == "u8" else 0.01,
    )


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        (["N,3,7", "N,7,5"], "u8[N,3,5]<scale=0.3, zero_point=50>"),
        (["N,2,3,7", "7,5"], "s16[N,2,3,5]<scale=0.01, zero_point=0>"),
        (["1,3,7", "N,2,7,5"], "u8[N,2,3,5]<scale=0.2, zero_point=128>"),
    ],
)
def test_products_of_activations(shapes, result):
    graph = check(shapes, f"%r: {result} = matmul(%a, %b)", step=0.01 if "s16" in result else 0.3)
    assert isinstance(graph.node("r").op, ops.IntMatMul)


@pytest.mark.parametrize(
    ("shapes", "dtype", "reason"),
    [
        (("2,N", "N,3"), "u8", "it sums over the axis N of unknown size: fix it with --dim"),
        (("2,0", "0,3"), "u8", "there are no products to sum"),
        (("2,80000", "80000,3"), "u8", "its sums of 80000 products can reach 2178000000, which does not fit 32 bits"),
        (("2,4", "4,3"), "s32", "a product of activations cannot be s32"),
    ],
)
def test_products_that_cannot_be_proven_are_refused_by_name(shapes, dtype, reason):
    operands = [f"%{n}: {U8.format(s)} = quantize(%{n}f)" for n, s in zip("ab", shapes, strict=True)]
    graph = parse_graph(f"""qir 1 graph g quantized {{
      input %af: f32[{shapes[0]}]  input %bf: f32[{shapes[1]}]
      {operands[0]}  {operands[1]}
      %p: {dtype}[2,3]<scale=4.0, zero_point=0> = matmul(%a, %b) @product
      %y = dequantize(%p)  output y = %y }}""")
    with pytest.raises(UnsupportedOpError, match=re.escape(f"node 'product' (matmul): {reason}")):
        lowered(graph)


def test_accumulators_are_exact():
    graph = check(
        ["N,7"],
        f"""
        const %w: s8[2,7]<axis=0, scale=[0.01, 0.002], zero_point=0> = [{numbers(14)}]
        %r: s32[N,2]<axis=1, scale=[0.0004, 0.00008], zero_point=0> = gemm(%a, %w) @layer
        """,
    )
    assert len(graph.node("layer").operands) == 3
    assert graph.node("layer").operands[1].name == "w"  # weights are taken over, not copied


@pytest.mark.parametrize(
    ("shape", "op", "result", "step"),
    [
        ("N,2,6,5", f"max_pool(%a) {{{POOL}}}", "u8[N,2,3,3]<scale=0.04, zero_point=90>", 0),
        ("N,2,7", f"max_pool(%a) {{{POOL_1D}}}", "u8[N,2,4]<scale=0.04, zero_point=90>", 0),
        ("N,2,6,5", f"average_pool(%a) {{{POOL}}}", "u8[N,2,3,3]<scale=0.03, zero_point=80>", 0.03),
        (
            "N,2,6,5",
            f"average_pool(%a) {{{POOL}, count_include_pad=true}}",
            "u8[N,2,3,3]<scale=0.03, zero_point=80>",
            0.03,
        ),
        ("N,2,7", f"average_pool(%a) {{{POOL_1D}}}", "s16[N,2,4]<scale=0.0005, zero_point=0>", 0.0005),
        ("N,2,6,5", "reduce_mean(%a) {axes=[2, 3]}", "u8[N,2,1,1]<scale=0.01, zero_point=80>", 0.01),
        ("N,6,5", "reduce_mean(%a) {axes=[1], keepdims=false}", "u8[N,5]<scale=0.01, zero_point=80>", 0.01),
    ],
)
def test_pooling(shape, op, result, step):
    check([shape], f"%r: {result} = {op}", step=step)


def test_movement():
    check(
        ["N,2,4,4", "N,2,4,4"],
        f"""
        %c: {U8.format("N,4,4,4")} = concat(%a, %b) {{axis=1}}
        %p: {U8.format("N,4,6,4")} = pad(%c) {{pads=[0, 0, 1, 0, 0, 0, 1, 0], value=1.5}}
        %d: {U8.format("N,1,12,8")} = depth_to_space(%p) {{blocks=[2, 2]}}
        %s: {U8.format("N,1,12,3")}, %t: {U8.format("N,1,12,5")} = split(%d) {{axis=3, sizes=[3, 5]}} @halves
        %u: {U8.format("N,1,5,12")} = transpose(%t) {{perm=[0, 1, 3, 2]}}
        %r: {U8.format("N,60")} = reshape(%u) {{shape=["N", 60]}}
        """,
    )


def test_no_scale_is_left():
    graph = check(["N,4"], "%r: u8[N,4]<scale=0.03, zero_point=11> = silu(%a)")
    assert all(value.type.quant is None for value in graph.values())


MIXED = """qir 1
graph mixed quantized {
  input %x: f32[N,2,2]
  const %k: s16[2,2]<scale=0.0001, zero_point=0> = [1, 2, 3, 4]
  %a: u8[N,2,2]<scale=0.04, zero_point=90> = quantize(%x)
  %p: s16[N,2,2]<scale=0.001, zero_point=0> = requantize(%a) @precise
  %m: u8[N,2,2]<scale=0.1, zero_point=120> = matmul(%p, %a) @product
  %s: u8[N,2,2]<scale=0.1, zero_point=0> = abs(%m) @magnitude
  %w: s16[N,2,2]<scale=0.001, zero_point=0> = requantize(%s) @wide
  %e: u8[N,2,2]<scale=0.1, zero_point=0> = sqrt(%w) @root
  %y = dequantize(%e)
  output y = %y
}
"""


def test_all_nodes_without_an_integer_form_are_named_at_once():
    with pytest.raises(UnsupportedOpError) as caught:
        lowered(parse_graph(MIXED))
    message = str(caught.value)
    assert "2 of the nodes of 'mixed' cannot be computed in integers" in message
    assert "node 'product' (matmul): it needs operands of 8 bits, not s16 and u8" in message
    assert "node 'root' (sqrt): sqrt of a s16 operand would need a table of 65536 entries" in message
    assert "'magnitude'" not in message
    assert "--allow-float" in message


def test_allowed_float_nodes_stay_between_boundary_ops():
    context = PassContext(allow_float=True)
    graph = parse_graph(MIXED)
    x = np.random.default_rng(0).uniform(-3, 3, (20, 2, 2)).astype(np.float32)
    meant = reference.run(graph, {"x": x})["y"]
    lowered(graph, context)
    assert graph.allow_float
    assert [node.op.name for node in graph.nodes()] == [
        "int.quantize", "int.rescale", "int.dequantize", "int.dequantize", "matmul", "int.quantize", "int.lut",
        "int.rescale", "int.dequantize", "sqrt",
    ]  # fmt: skip
    assert np.abs(reference.run(graph, {"x": x})["y"] - meant).max() <= 0.1 * 1.001
    assert sorted(r.node for r in context.remarks) == ["product", "root"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("%r: u8[N,4]<scale=0.003, zero_point=0> = softmax(%a)", "does not count parts of one"),
        ("%r: s32[N,4]<scale=0.003, zero_point=0> = silu(%a)", "a table of s32 is not supported"),
        ("%r: u8[N,4]<scale=1e-12, zero_point=0> = requantize(%a)", "the multiplier"),
        ("%r: u8[N,4]<scale=0.1, zero_point=0> = prelu(%a, %a)", "its slope is not a constant"),
        ("%r: u8[1,4]<scale=0.1, zero_point=0> = reduce_mean(%a) {axes=[0]}", "symbolic size N"),
        (("const %s: s8[2,2]<scale=0.1, zero_point=0> = [1, 2, 3, 4]\n"
         f"%v: {U8.format('N,2,2')} = reshape(%a) {{shape=[\"N\", 2, 2]}}\n"
         "%r: u8[N,2,2]<scale=0.1, zero_point=0> = prelu(%v, %s)"), "differs along more than one axis"),
        (("%w: s16[N,4]<scale=0.1, zero_point=0> = requantize(%a)\n"
         "const %k: s8[1,4]<axis=0, scale=[0.1], zero_point=0> = [1, 2, 3, 4]\n"
         "%r: u8[N,1]<scale=0.1, zero_point=0> = gemm(%w, %k)"), "8-bit operand"),
    ],
)  # fmt: skip
def test_reasons(body, reason):
    start = f"qir 1\ngraph test quantized {{\ninput %x: f32[N,4]\n%a: {U8.format('N,4')} = quantize(%x)\n"
    text = f"{start}{body}\noutput r = %r\n}}\n"
    with pytest.raises(UnsupportedOpError, match=reason):
        lowered(parse_graph(text))


def test_a_float_node_cannot_give_an_accumulator():
    graph = parse_graph(f"""qir 1
    graph test quantized {{
      input %x: f32[1,1,2,2,2]
      const %w: s8[1,1,1,1,1]<axis=0, scale=[0.01], zero_point=0> = [100]
      %a: {U8.format("1,1,2,2,2")} = quantize(%x)
      %y: s32[1,1,2,2,2]<axis=1, scale=[0.0004], zero_point=0> = conv(%a, %w) {{strides=[1, 1, 1],
        pads=[0, 0, 0, 0, 0, 0], dilations=[1, 1, 1]}} @solid
      %q: {U8.format("1,1,2,2,2")} = requantize(%y)
      %r = dequantize(%q)
      output r = %r
    }}
    """)
    with pytest.raises(UnsupportedOpError, match=r"'solid' .* stays float, but its result %y is an s32"):
        lowered(graph, PassContext(allow_float=True))


def test_a_float_node_at_an_output_gives_its_result_directly():
    graph = parse_graph(f"""qir 1
    graph test quantized {{
      input %x: f32[1,1,2,2,2]
      const %w: s8[1,1,1,1,1]<axis=0, scale=[0.01], zero_point=0> = [100]
      %a: {U8.format("1,1,2,2,2")} = quantize(%x)
      %y: s32[1,1,2,2,2]<axis=1, scale=[0.0004], zero_point=0> = conv(%a, %w) {{strides=[1, 1, 1],
        pads=[0, 0, 0, 0, 0, 0], dilations=[1, 1, 1]}} @solid
      %r = dequantize(%y)
      output r = %r
    }}
    """)
    lowered(graph, PassContext(allow_float=True))
    assert [node.op.name for node in graph.nodes()] == ["int.quantize", "int.dequantize", "conv"]
    assert graph.outputs[0].producer is graph.node("solid")


def test_a_lowering_is_found_by_the_nearest_base_class_and_registered_once():
    assert lowering_of(ops.Relu()) is lowering_of(ops.Exp())
    assert lowering_of(ops.Pad((0, 0))) is not lowering_of(ops.Identity())
    assert lowering_of(ops.BatchNormalization()) is None
    with pytest.raises(PluginError, match="op class Conv has a lowering already"):
        lowers(ops.Conv)(lambda node, _: (node.op, node.operands))


def test_a_table_has_the_dtype_of_the_result():
    graph = check(["N,4"], "%r: s8[N,4]<scale=0.05, zero_point=-3> = tanh(%a)")
    assert graph.node("r").operands[1].type.dtype is DType.S8


def test_multipliers_of_channels_are_those_of_the_numerics_page():
    random = np.random.default_rng(8)
    reals = np.ldexp(random.uniform(0.5, 1, 2000), random.integers(-40, 29, 2000))
    edges = [0.5, 1 - 2**-53, 2**-32, 2**-33, np.nextafter(2**-31, 1), 0.49999999999999994, 1 - 2**-33, 2.0**28]
    for values in (reals, np.array(edges), np.array([0.25, 0.0, -0.3])):
        M, shift = multipliers_of(values)
        assert list(zip(M.tolist(), shift.tolist(), strict=True)) == [quantize_multiplier(v) for v in values.tolist()]
    for bad in (2.0**30, 2**29 * (1 - 2**-40), np.inf, np.nan):
        with pytest.raises(MultiplierRangeError):
            multipliers_of(np.array([0.5, bad]))
