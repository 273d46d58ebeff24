import numpy as np
import pytest

from qcompiler import reference
from qcompiler.ir import Graph, parse_graph
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline

X = "<scale=0.1, zero_point=100>"
Y = "<scale=0.05, zero_point=20>"
Z = "<scale=0.2, zero_point=7>"
STEP = 0.2
"""The coarsest step in these graphs."""


def folded(body: str, *, changes: bool = True) -> tuple[Graph, list[str]]:
    """Run the pass twice; the numbers stay within two steps."""
    graph = parse_graph(f"qir 1\ngraph test quantized {{\n{body}\n}}\n")
    random = np.random.default_rng(2)
    feeds = {
        v.name: random.uniform(-3, 6, [d if isinstance(d, int) else 3 for d in v.type.shape]).astype(np.float32)
        for v in graph.inputs
    }
    before = reference.run(graph, feeds)
    context = PassContext()
    manager = PassManager(parse_pipeline("fold-requantization"), check_claims=True)
    (first,) = manager.run(graph, context)
    assert first.changed == changes
    (second,) = manager.run(graph)
    assert not second.changed
    for name, after in reference.run(graph, feeds).items():
        assert np.abs(after - before[name]).max() <= 2 * STEP
    return graph, [f"{r.node}: {r.reason}" for r in context.remarks]


def ops_of(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes()]


START = f"input %x: f32[N,4]\n%q: u8[N,4]{X} = quantize(%x)\n"
END = "%y = dequantize(%r)\noutput y = %y"


@pytest.mark.parametrize(
    ("middle", "left"),
    [
        # quantize∘dequantize
        (f"%d = dequantize(%q)\n%r: u8[N,4]{X} = quantize(%d)", []),
        (f"%a: u8[N,4]{Y} = silu(%q)\n%d = dequantize(%a)\n%r: u8[N,4]{Z} = quantize(%d)", ["silu"]),
        # requantize to the same, and two in a row
        (f"%r: u8[N,4]{X} = requantize(%q)", []),
        (("%a: u8[N,4]<scale=0.05, zero_point=120> = requantize(%q)\n"
         "%r: s16[N,4]<scale=0.001, zero_point=0> = requantize(%a)"), []),
        # into the op that computes the value
        (f"%a: u8[N,4]{Y} = silu(%q)\n%r: s16[N,4]<scale=0.001, zero_point=0> = requantize(%a)", ["silu"]),
        (f"%a: u8[N,4]{Y} = add(%q, %q)\n%r: u8[N,4]{Z} = requantize(%a)", ["add"]),
        # through movement
        ((f'%a: u8[N,4]{Y} = silu(%q)\n%b: u8[N,2,2]{Y} = reshape(%a) {{shape=["N", 2, 2]}}\n'
         f'%c: u8[N,2,2]{Z} = requantize(%b)\n%r: u8[N,4]{Z} = reshape(%c) {{shape=["N", 4]}}'),
         ["silu", "reshape", "reshape"]),
        # through a concatenation
        ((f"%a: u8[N,4]{Y} = silu(%q)\n%b: u8[N,4]{Y} = tanh(%q)\n%c: u8[N,8]{Y} = concat(%a, %b) {{axis=1}}\n"
         f"%r: u8[N,8]{Z} = requantize(%c)"), ["silu", "tanh", "concat"]),
        # a clamp becomes saturation
        (f"%a: u8[N,4]{X} = add(%q, %q)\n%r: u8[N,4]<scale=0.05, zero_point=0> = relu(%a)", ["add"]),
        (f"%a: u8[N,4]{X} = mul(%q, %q) {{clamp=[-2.0, 3.0]}}\n%r: u8[N,4]{Y} = clip(%a) {{low=-1.0, high=6.0}}",
         ["mul"]),
        # a clamp without effect: the operand cannot leave it
        ("%a: u8[N,4]<scale=0.02, zero_point=0> = sigmoid(%q)\n%r: u8[N,4]<scale=0.02, zero_point=0> = relu(%a)",
         ["sigmoid"]),
    ],
)  # fmt: skip
def test_it_disappears(middle, left):
    graph, _ = folded(START + middle + "\n" + END)
    assert ops_of(graph) == ["quantize", *left, "dequantize"]


def test_the_result_takes_the_parameters_that_the_user_wanted():
    graph, _ = folded(START + f"%a: u8[N,4]{Y} = silu(%q)\n%r: u8[N,4]{Z} = requantize(%a)\n" + END)
    quant = graph.value("a").type.quant
    assert quant is not None
    assert (quant.scale, quant.zero_point) == ((0.2,), (7,))


def test_merged_clamps_intersect():
    graph, _ = folded(
        START
        + f"%a: u8[N,4]{X} = mul(%q, %q) {{clamp=[-2.0, 3.0]}}\n%r: u8[N,4]{Y} = clip(%a) {{low=-1.0, high=6.0}}\n"
        + END
    )
    assert graph.node("a").op.clamp == (-1.0, 3.0)  # type: ignore[attr-defined]  # it is a product


@pytest.mark.parametrize(
    ("middle", "remark"),
    [
        (f"%a: u8[N,4]{Y} = silu(%q)\n%r: u8[N,4]{Z} = requantize(%a)\n%e = dequantize(%a)\noutput a = %e",
         "r: its input 'a' is also used by 'e'"),
        (f"%a: u8[N,4]{Y} = add(%q, %q)\n%r: u8[N,4]{Y} = relu(%a)\n%e = dequantize(%a)\noutput a = %e",
         "r: its input 'a' is also used by 'e'"),
        ((f'%a: u8[N,2,2]{X} = reshape(%q) {{shape=["N", 2, 2]}}\n%r: u8[N,2,2]{Z} = requantize(%a)\n'
         "%e = dequantize(%q)\noutput a = %e"), "r: %q is also used by 'e'"),
        ((f'%a: u8[N,4]{X} = reshape(%q) {{shape=["N", 4]}}\n%b: u8[N,4]{X} = silu(%q)\n'
         f"%c: u8[N,8]{X} = concat(%a, %b) {{axis=1}}\n%r: u8[N,8]{Z} = requantize(%c)"),
         "r: %q is also used by 'b'"),
        (("%a: u8[N,4]<scale=0.00390625, zero_point=0> = softmax(%q)\n"
         '%b: u8[N,2,2]<scale=0.00390625, zero_point=0> = reshape(%a) {shape=["N", 2, 2]}\n'
         f"%r: u8[N,2,2]{Z} = requantize(%b)"), "r: 'a' (softmax) cannot give other parameters"),
    ],
)  # fmt: skip
def test_it_stays_and_says_why(middle, remark):
    graph, remarks = folded(START + middle + "\n" + END, changes=False)
    assert "relu" in ops_of(graph) or "requantize" in ops_of(graph)
    assert remarks == [remark]


def test_a_clamp_that_cuts_and_cannot_be_merged_stays():
    graph, _ = folded(START + f"%a: u8[N,4]{X} = tanh(%q)\n%r: u8[N,4]{X} = relu(%a)\n" + END, changes=False)
    assert ops_of(graph) == ["quantize", "tanh", "relu", "dequantize"]


@pytest.mark.parametrize("producer", ["quantize(%x)", "silu(%q)", "prelu(%q, %slope)"])
def test_a_clamp_that_is_done_by_saturation_of_its_operand_stays(producer):
    """Its operand may get the parameters of the result, which does not saturate there."""
    graph, _ = folded(
        "const %slope: f32[1] = [-0.5]\n"
        + START
        + f"%a: u8[N,4]<scale=0.02, zero_point=0> = {producer}\n%r: s16[N,4]<scale=0.0002, zero_point=0> = relu(%a)\n"
        + END,
        changes=False,
    )
    assert "relu" in ops_of(graph)


def test_a_clamp_after_movement_of_what_is_bounded_goes():
    graph, _ = folded(
        START
        + f'%a: u8[N,4]{X} = relu(%q)\n%b: u8[N,2,2]{X} = reshape(%a) {{shape=["N", 2, 2]}}\n'
        + f"%r: u8[N,2,2]{X} = clip(%b) {{low=-1.0}}\n"
        + END
    )
    assert ops_of(graph) == ["quantize", "relu", "reshape", "dequantize"]
