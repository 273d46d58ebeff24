import pytest

from qcompiler.ir import Graph, TensorType, ops
from qcompiler.ir.types import DType
from qcompiler.pass_manager import PassContext, pass_class


def test_equal_nodes_and_constants_are_merged_all_the_way_down(apply):
    outcome = apply(
        "common-subexpressions",
        """
        input %x: f32[N,2]
        const %a: f32[2] = [1, 2]
        const %b: f32[2] = [1, 2]
        %p = add(%x, %a)
        %q = add(%b, %x)
        %r = tanh(%p)
        %s = tanh(%q)
        %y = mul(%r, %s)
        output y = %y
        output z = %s
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,2]
        const %a: f32[2] = [1, 2]
        %p = add(%x, %a)
        %r = tanh(%p)
        %y = mul(%r, %r)
        output y = %y
        output z = %r
    """)


@pytest.mark.parametrize(
    "second",
    ["leaky_relu(%x) {alpha=0.2}", "leaky_relu(%z) {alpha=0.1}", "hard_sigmoid(%x) {alpha=0.1}"],
)
def test_other_attributes_operands_or_ops_are_kept(apply, second):
    outcome = apply(
        "common-subexpressions",
        f"""
        input %x: f32[N,2]
        input %z: f32[N,2]
        %a = leaky_relu(%x) {{alpha=0.1}}
        %b = {second}
        %y = mul(%a, %b)
        output y = %y
        """,
    )
    assert not outcome.changed


def test_a_difference_is_not_commutative(apply):
    outcome = apply(
        "common-subexpressions",
        """
        input %x: f32[N,2]
        input %z: f32[N,2]
        %a = sub(%x, %z)
        %b = sub(%z, %x)
        %y = mul(%a, %b)
        output y = %y
        """,
    )
    assert not outcome.changed


def test_constants_of_equal_bytes_and_other_types_are_kept(apply):
    outcome = apply(
        "common-subexpressions",
        """
        input %x: f32[2,2]
        const %a: f32[2] = [0, 0]
        const %b: f32[2,1] = [0, 0]
        %p = add(%x, %a)
        %y = add(%p, %b)
        output y = %y
        """,
    )
    assert not outcome.changed


def test_a_long_chain_of_duplicates_collapses_in_one_sweep():
    graph = Graph()
    left = right = graph.add_input("x", TensorType(DType.F32, (4,)))
    for _ in range(2000):
        left = graph.add_node(ops.Tanh(), [left]).result
        right = graph.add_node(ops.Tanh(), [right]).result
    graph.add_output(graph.add_node(ops.Add(), [left, right]).result, "y")
    assert pass_class("common-subexpressions")().run(graph, PassContext())
    assert len(graph) == 2001
