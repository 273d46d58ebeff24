import pytest

from qcompiler.errors import UnsupportedOpError
from qcompiler.integer_proofs import float_nodes
from qcompiler.ir import Graph, parse_graph, verify
from qcompiler.pass_manager import PassContext
from qcompiler.passes.verify_integer import VerifyInteger
from qcompiler.summary import structure_facts

BOUNDARY = "scale=[0.5], zero_point=[0]"


def graph(flags: str, *, floats: bool) -> Graph:
    middle = (
        f"""
        %f = int.dequantize(%q) {{{BOUNDARY}}}
        %g = exp(%f) @grow
        %r = int.quantize(%g) {{dtype=u8, {BOUNDARY}}}
    """
        if floats
        else "%r = reshape(%q) {shape=[4]}"
    )
    return parse_graph(f"""qir 1
    graph test integer {flags} {{
        input %x: f32[2,2]
        %q = int.quantize(%x) {{dtype=u8, {BOUNDARY}}}
        {middle}
        %y = int.dequantize(%r) {{{BOUNDARY}}}
        output y = %y
    }}
    """)


def test_integers_between_the_boundaries_are_confirmed():
    context = PassContext()
    assert VerifyInteger().run(graph("", floats=False), context) is False
    assert context.warnings == []


def test_float_nodes_are_refused_by_name():
    with pytest.raises(UnsupportedOpError, match=r"computes in float at 'grow' \(exp\)"):
        VerifyInteger().run(graph("", floats=True), PassContext())


def test_allowed_float_nodes_are_a_warning():
    context = PassContext()
    mixed = graph("allow_float", floats=True)
    assert VerifyInteger().run(mixed, context) is False
    assert context.warnings == ["node 'grow' (exp) computes in float"]
    assert [node.name for node in float_nodes(mixed)] == ["grow"]


def test_a_change_of_scale_in_float_between_integers_counts():
    text = f"""qir 1
    graph test integer allow_float {{
        input %x: f32[4]
        %q = int.quantize(%x) {{dtype=u8, {BOUNDARY}}}
        %f = int.dequantize(%q) {{{BOUNDARY}}} @middle
        %r = int.quantize(%f) {{dtype=u8, scale=[0.25], zero_point=[0]}}
        %y = int.dequantize(%r) {{scale=[0.25], zero_point=[0]}}
        output y = %y
    }}
    """
    found = parse_graph(text)
    verify(found)
    assert [node.name for node in float_nodes(found)] == ["middle"]
    assert structure_facts(found, [])["integer_only"] is False
