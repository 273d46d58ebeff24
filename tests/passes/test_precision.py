import pytest

from qcompiler.ir import parse_graph
from qcompiler.passes.precision import accumulator_outputs, wide_values


def names(values) -> set[str]:
    return {value.name for value in values}


GRAPH = """qir 1
graph test float {{
  input %x: f32[1,2,4,4]
  const %w: f32[2,2,1,1] = [1, 2, 3, 4]
  const %k: f32[1] = [0.5]
  %a = conv(%x, %w) {{strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}}
  %b = conv(%a, %w) {{strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}}
  {tail}
}}
"""


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("output b = %b", {"b"}),
        ("%c = mul(%b, %k)\n%d = add(%c, %c)\noutput d = %d", {"b", "c", "d"}),
        ("%c = reshape(%b) {shape=[1, 32]}\n%d = concat(%c, %c) {axis=1}\noutput d = %d", {"b", "c", "d"}),
        ("%c = softmax(%b) {axis=1}\noutput c = %c", {"b", "c"}),
        ("%c = exp(%b)\noutput c = %c", {"c"}),  # a table is indexed by 8 bits
        ("%c = add(%b, %a)\noutput c = %c", {"b", "c"}),  # a convolution uses %a too
        ("%c = relu(%b)\noutput c = %c", {"b", "c"}),
        (
            "%c = conv(%b, %w) {strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}\noutput c = %c\noutput b = %b",
            {"c"},
        ),
    ],
)
def test_values_that_only_reach_outputs_are_wide(tail, expected):
    assert names(wide_values(parse_graph(GRAPH.format(tail=tail)))) == expected


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("output b = %b", {"b"}),
        ('%o = observe(%b) {key="b"}\noutput b = %o', {"b", "o"}),
        ('%o = observe(%b) {key="b"}\n%c = relu(%o)\noutput b = %o\noutput c = %c', set()),
        ("%c = reshape(%b) {shape=[1, 32]}\noutput c = %c", set()),
        ("output x = %x", set()),
    ],
)
def test_layers_that_are_an_output_and_nothing_else_stay_accumulators(tail, expected):
    assert names(accumulator_outputs(parse_graph(GRAPH.format(tail=tail).replace("float", "observed", 1)))) == expected
