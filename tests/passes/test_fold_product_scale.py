import numpy as np
import pytest

from qcompiler import reference
from qcompiler.ir import ops, parse_graph
from qcompiler.runtime.session import Session

OPERANDS = "input %a: f32[2,3,4]\ninput %b: f32[2,4,5]\nconst %c: f32[] = [0.125]\n"


@pytest.mark.parametrize(
    "body",
    [
        "%p = matmul(%a, %b)\n%y = mul(%p, %c)",
        "%p = matmul(%a, %b)\n%y = mul(%c, %p)",
        "%s = mul(%a, %c)\n%y = matmul(%s, %b)",
        "%s = mul(%b, %c)\n%y = matmul(%a, %s)",
    ],
)
def test_the_factor_becomes_alpha(apply, body):
    outcome = apply("fold-product-scale", f"{OPERANDS}{body}\noutput y = %y")
    assert outcome.changed
    name = "%y" if "%s" in body else "%p"
    assert outcome.equals(f"""
        input %a: f32[2,3,4]
        input %b: f32[2,4,5]
        {name} = matmul(%a, %b) {{alpha=0.125}}
        output y = {name}
    """)


def test_factors_on_both_sides_meet_through_data_movement(apply):
    outcome = apply(
        "fold-product-scale",
        """
        input %q: f32[2,3,8]
        input %k: f32[2,3,8]
        const %c: f32[1] = [0.5]
        %s = mul(%q, %c)
        %r = reshape(%s) {shape=[2, 3, 4, 2]}
        %rt = transpose(%r) {perm=[0, 2, 1, 3]}
        %l = mul(%k, %c)
        %u = reshape(%l) {shape=[2, 3, 4, 2]}
        %ut = transpose(%u) {perm=[0, 2, 3, 1]}
        %p = matmul(%rt, %ut) {alpha=3.0}
        %f = reshape(%p) {shape=[2, 36]}
        %y = mul(%f, %c)
        output y = %y
        """,
    )
    assert outcome.ops == ["reshape", "transpose", "reshape", "transpose", "matmul", "reshape"]
    assert outcome.graph.node("p").op == ops.MatMul(alpha=0.375)


def test_a_factor_of_both_operands_counts_twice(apply):
    outcome = apply(
        "fold-product-scale",
        "input %x: f32[3,3]\nconst %c: f32[] = [0.5]\n%s = mul(%x, %c)\n%y = matmul(%s, %s)\noutput y = %y",
    )
    assert outcome.graph.node("y").op == ops.MatMul(alpha=0.25)


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        ("%p = matmul(%a, %b)\n%y = mul(%p, %c)\noutput p = %p", "y: %p is also used by an output of the graph"),
        ("%p = matmul(%a, %b)\n%y = mul(%p, %c)\n%z = tanh(%p)\noutput z = %z", "y: %p is also used by 'z'"),
        ("%s = mul(%a, %c)\n%y = matmul(%s, %b)\noutput s = %s", "s: %s is also used by an output of the graph"),
        ("%p = matmul(%a, %b)\n%y = mul(%p, %c) {clamp=[0.0, 1.0]}", "y: it has a clamp"),
        (
            "const %d: f32[1,1,1,1] = [2]\n%p = matmul(%a, %b)\n%y = mul(%p, %d)",
            "y: it also broadcasts %p",
        ),
        (
            "const %d: f32[] = [3e38]\n%p = matmul(%a, %b) {alpha=1e300}\n%y = mul(%p, %d)",
            "y: with the alpha 1e+300 of 'p' its factor is not finite",
        ),
        ("const %d: f32[5] = [1, 2, 3, 4, 5]\n%p = matmul(%a, %b)\n%y = mul(%p, %d)", None),
        ("%p = matmul(%a, %b)\n%t = tanh(%p)\n%y = mul(%t, %c)", None),
    ],
)
def test_other_factors_stay(apply, body, remark):
    outcome = apply("fold-product-scale", f"{OPERANDS}{body}\noutput y = %y")
    assert not outcome.changed
    assert outcome.remarks == ([] if remark is None else [remark])


def test_the_float_kernel_multiplies_by_alpha():
    graph = parse_graph(
        "qir 1 graph g float { input %a: f32[2,1,3,70] input %b: f32[4,70,9] "
        "%y = matmul(%a, %b) {alpha=-0.3} output y = %y }"
    )
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.normal(size=[int(d) for d in v.type.shape]).astype(np.float32) for v in graph.inputs}
    expected = reference.run(graph, feeds)["y"]
    assert np.abs(expected).max() > 1
    for threads in (1, 2):
        np.testing.assert_allclose(Session(graph, threads=threads).run(feeds)["y"], expected, rtol=1e-4, atol=1e-5)
