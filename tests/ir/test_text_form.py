"""The text form: print, parse, compare."""

import re
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import ParseError
from qcompiler.ir import (
    AnyArray,
    DType,
    Graph,
    QuantParams,
    Stage,
    TensorType,
    first_difference,
    graphs_equal,
    op_classes,
    ops,
    parse_graph,
    print_graph,
    verify,
)
from qcompiler.ir.content import ContentStore, content_digest
from tests.ir.strategies import CASES, graphs, names

LENET = """\
qir 1
graph lenet float {
  input %image: f32[N,1,4,4]
  const %w: f32[2,1,3,3] = sha256:HASH
  const %b: f32[2] = [0.5, -1e-07]
  %conv: f32[N,2,2,2] = conv(%image, %w, %b) {strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1], clamp=[0.0, inf]}
  %left: f32[N,1,2,2], %"/right:0": f32[N,1,2,2] = split(%conv) {axis=1, sizes=[1, 1]} @"/split"
  %sum: f32[N,1,2,2] = add(%left, %"/right:0") @Add_7
  output "the sum" = %sum
}
"""


def lenet() -> tuple[str, dict[str, AnyArray]]:
    """The text and its one large constant."""
    graph = Graph()
    weights = graph.add_constant(np.arange(18, dtype=np.float32).reshape(2, 1, 3, 3))
    assert weights.data is not None
    return LENET.replace("HASH", weights.digest), {weights.digest: weights.data}


def large_constants(graph: Graph) -> dict[str, AnyArray]:
    return {value.digest: value.data for value in graph.constants() if value.data is not None}


def test_text_is_what_the_grammar_says():
    text, constants = lenet()
    graph = parse_graph(text, constants)
    verify(graph)
    assert print_graph(graph) == text
    assert [n.name for n in graph.nodes()] == ["conv", "/split", "Add_7"]
    assert graph.output_names == ("the sum",)
    assert graph.node("conv").op == ops.Conv((1, 1), (0, 0, 0, 0), (1, 1), clamp=(0.0, np.inf))


def test_the_strategy_covers_every_op():
    assert set(CASES) == set(op_classes())


@settings(max_examples=150)
@given(graphs())
def test_parse_inverts_print(graph: Graph):
    verify(graph)
    text = print_graph(graph)
    parsed = parse_graph(text, large_constants(graph))
    assert first_difference(graph, parsed) is None
    assert print_graph(parsed) == text
    verify(parsed)


@settings(max_examples=50)
@given(graphs())
def test_clone_is_equal_and_independent(graph: Graph):
    text = print_graph(graph)
    copy = graph.clone()
    assert graphs_equal(graph, copy)
    copy.add_input("a new input", TensorType(DType.S32, (1,)))
    assert not graphs_equal(graph, copy)
    assert print_graph(graph) == text


@given(names, names)
def test_any_string_is_a_name(graph_name: str, value_name: str):
    graph = Graph(graph_name)
    graph.add_output(graph.add_input(value_name, TensorType(DType.F32, ())))
    assert graphs_equal(parse_graph(print_graph(graph)), graph)


@pytest.mark.parametrize("dtype", list(DType))
@given(data=st.data())
def test_inline_constants_keep_every_bit(data: st.DataObject, dtype: DType):
    elements: st.SearchStrategy[float]
    if dtype.is_float:
        elements = st.floats(width=16 if dtype is DType.F16 else 32, allow_nan=False)
    else:
        elements = st.booleans() if dtype is DType.BOOL else st.integers(*dtype.limits)
    array = np.array(data.draw(st.lists(elements, max_size=8)), dtype.numpy)
    graph = Graph()
    graph.add_output(graph.add_constant(array, "c", dtype=dtype))
    text = print_graph(graph)
    assert "sha256" not in text
    parsed = parse_graph(text).value("c").data
    assert parsed is not None
    assert parsed.dtype == array.dtype
    assert parsed.tobytes() == array.tobytes()


def test_nan_goes_by_reference_because_its_text_loses_its_bits():
    graph = Graph()
    array = np.array([0x7FC00001, 0xFFC00000], np.uint32).view(np.float32)
    value = graph.add_constant(array, "c")
    assert f"sha256:{value.digest}" in print_graph(graph)
    assert graphs_equal(parse_graph(print_graph(graph), {value.digest: array}), graph)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32)),
        (np.zeros(4, np.int8), np.zeros(4, np.uint8)),
        (np.zeros(4, np.float32), -np.zeros(4, np.float32)),
    ],
    ids=["shape", "dtype", "sign of zero"],
)
def test_digest_covers_dtype_shape_and_bits(a: AnyArray, b: AnyArray):
    graph = Graph()
    assert graph.add_constant(a).digest != graph.add_constant(b).digest


def test_digest_ignores_byte_order():
    array = np.arange(40, dtype=np.float32)
    assert content_digest(TensorType(DType.F32, (40,)), array.astype(">f4")) == Graph().add_constant(array).digest


def test_result_types_may_be_left_out():
    body = "input %x: f32[N,4] %y = relu(%x) %a, %b = split(%y) {axis=1, sizes=[1, 3]} @s output b = %b"
    graph = parse_graph(f"qir 1 graph g float {{ {body} }}")
    verify(graph)
    assert graph.value("b").type == TensorType(DType.F32, ("N", 3))


def test_comments_and_white_space_mean_nothing():
    text = "qir 1 # version\ngraph g integer allow_float{input%x:f32[]#]\n\n\toutput y=%x}"
    graph = parse_graph(text)
    assert (graph.stage, graph.allow_float, graph.inputs[0].type.shape) == (Stage.INTEGER, True, ())


@pytest.mark.parametrize("end", ["# relu", "\n# a b\n", "\n" + "#" * 60, "\n \n#\n \n"])
def test_a_comment_may_end_the_text(end: str):
    assert parse_graph("qir 1 graph g float {}" + end).name == "g"


@pytest.mark.parametrize("filling", [" ", "#", '"', '\\"', "# a\n", "-", "\\", "\r"])
def test_hostile_text_takes_linear_time(filling: str):
    """Any backtracking over these 400,000 characters would take minutes at least."""
    with pytest.raises(ParseError):
        parse_graph("qir 1 graph " + filling * (400_000 // len(filling)))


def test_quantization_parameters_read_back():
    graph = Graph("g", Stage.QUANTIZED)
    graph.add_input("a", TensorType(DType.U8, (2,), QuantParams.per_tensor(1 / 3, 7)))
    graph.add_input("b", TensorType(DType.S8, (2, 3), QuantParams.per_channel([0.1, 5e-324, 1e300], [0, 0, 0], 1)))
    graph.add_input("c", TensorType(DType.S8, (2, 3), QuantParams.per_channel([0.1, 0.2], [0, -128], 0)))
    text = print_graph(graph)
    assert "s8[2,3]<axis=1, scale=[0.1, 5e-324, 1e+300], zero_point=0>" in text
    assert graphs_equal(parse_graph(text), graph)


def test_abbreviated_text_is_short():
    graph = Graph("g", Stage.QUANTIZED)
    graph.add_input("a", TensorType(DType.S8, (500,), QuantParams.per_channel([0.25] * 500, [0] * 500, 0)))
    assert "scale=[0.25, 0.25, 0.25, 0.25, ... 500 in all]" in print_graph(graph, abbreviate=True)


def in_graph(body: str) -> str:
    return f"qir 1\ngraph g float {{\n  input %x: f32[N,4]\n  {body}\n}}\n"


ERRORS = [
    ("", "line 1, column 1", "expected 'qir'; found the end"),
    ("qir 2 graph g float {}", "line 1, column 5", "format version 2 cannot be read, only 1"),
    ("qir 1 graph g flot {}", "line 1, column 15", "expected a stage: float, observed, quantized, integer"),
    ("qir 1 graph g float {} x", "line 1, column 24", "expected the end; found 'x'"),
    ("qir 1 graph g float {", "line 1, column 22", "expected 'input', 'const', 'output', a node or '}'"),
    (in_graph("%y = rleu(%x)"), "line 4, column 8", "no op named 'rleu'; did you mean 'relu'?"),
    (in_graph("%y = relu(%z)"), "line 4, column 14", "no value of that name is defined before this line"),
    (in_graph("%x = relu(%x)"), "line 4, column 4", "a second value of that name"),
    (in_graph("%y = relu(%x) @n %z = relu(%x) @n"), "line 4, column 35", "a second node named 'n'"),
    (in_graph("%y = relu(%x, %x)"), "line 4, column 3", "relu takes the operands (x), got 2"),
    (in_graph("%y = relu(%x) {alpha=1.0}"), "line 4, column 18", "relu has the attributes none"),
    (in_graph("%y = leaky_relu(%x) {alpha=true}"), "line 4, column 30", "alpha of leaky_relu: expected float"),
    (in_graph("%y = transpose(%x) {perm=[0, 1.5]}"), "line 4, column 28", "perm of transpose: expected list of int"),
    (in_graph("%y = transpose(%x)"), "line 4, column 3", "transpose needs the attribute perm"),
    (in_graph("%a, %b: f32[1] = relu(%x)"), "line 4, column 3", "all have a type or none"),
    (in_graph("%a, %b = split(%x) {axis=1, sizes=[1, 3]}"), "line 4, column 3", "needs a name: @name"),
    (in_graph("input %i: f33[1]"), "line 4, column 13", "expected a dtype"),
    (in_graph("input %i: f32[N,1099511627776,0,1099511627776]"), "line 4, column 13", "more than 2^48 elements"),
    (in_graph("%y = reduce_mean(%x) {axes=[0, -2], keepdims=true}"), "line 4, column 3", "name an axis twice"),
    (in_graph("input %i: f32[-1]"), "line 4, column 13", "dimension -1 of shape [-1] is negative"),
    (in_graph("input %i: f32[0*N]"), "line 4, column 19", "expected a symbol, multiplied by 2 or more"),
    (in_graph("input %i: u8[1]<scale=0, zero_point=0>"), "line 4, column 13", "finite and positive, not 0.0"),
    (in_graph("input %i: u8[1]<scale=1, zero_point=256>"), "line 4, column 13", "lies outside [0, 255] of u8"),
    (in_graph("input %i: u8[2]<scale=[1, 2], zero_point=0>"), "line 4, column 25", "the scale: expected float"),
    (in_graph("input %i: u8[2]<scale=1, zero_point=[0, 1]>"), "line 4, column 39", "the zero point: expected int"),
    (in_graph(f"input %i: u8[2]<scale={10**400}, zero_point=0>"), "line 4, column 25", "the scale: expected float"),
    (in_graph("const %c: s8[2] = [1, 128]"), "line 4, column 21", "2 elements do not make 2 of s8"),
    (in_graph("const %c: s8[2] = [1]"), "line 4, column 21", "1 elements do not make 2 of s8"),
    (in_graph("const %c: f16[1] = [1e6]"), "line 4, column 22", "1 elements do not make 1 of f16"),
    (in_graph("const %c: f32[N] = [1]"), "line 4, column 20", "a constant has no symbolic dimension"),
    (in_graph("const %c: f32[1] = sha256:00"), "line 4, column 29", "the constant's content is missing"),
    (in_graph('output "a = %x'), "line 4, column 10", "in double quotes, with JSON's escapes"),
    (in_graph("output = %x"), "line 4, column 10", "expected the output's name; found '='"),
    (in_graph(r'output "\q" = %x'), "line 4, column 10", "expected a string in double quotes"),
    (in_graph("input %i: f32[" + "9" * 5000 + "]"), "line 4, column 17", "the number has too many digits"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "place", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_errors_name_line_and_column(text: str, place: str, message: str):
    with pytest.raises(ParseError, match=re.escape(message)) as caught:
        parse_graph(text)
    assert str(caught.value).startswith(f"{place}: ")


def test_altered_constants_are_refused():
    text, constants = lenet()
    ((digest, array),) = constants.items()
    with pytest.raises(ParseError, match="another hash: it was altered"):
        parse_graph(text, {digest: array + 1})
    with pytest.raises(ParseError, match="content is float32"):
        parse_graph(text, {digest: array.reshape(18)})


@settings(max_examples=200)
@given(st.data())
def test_damaged_text_is_a_parse_error_or_another_graph(data: st.DataObject):
    text, constants = lenet()
    position = data.draw(st.integers(0, len(text) - 1))
    damaged = text[:position] + data.draw(st.text(max_size=2)) + text[position + data.draw(st.integers(0, 3)) :]
    message = "line 1, column 1: "
    try:
        parse_graph(damaged, constants)
    except ParseError as error:
        message = str(error)
    assert re.match(r"line \d+, column \d+: ", message)


def test_hashes_that_a_store_computed_are_not_computed_again():
    data = np.arange(-4, 4, dtype=np.int8).repeat(4)
    store = ContentStore()
    store.add(DType.S8, data)
    (digest,) = store
    assert digest == content_digest(TensorType(DType.S8, (32,)), data)
    text = f"qir 1\ngraph g quantized {{\n  const %c: s8[32]<scale=1.0, zero_point=0> = sha256:{digest}\n}}\n"
    with mock.patch("qcompiler.ir.parser.content_digest") as computed, mock.patch("qcompiler.ir.graph.content_digest"):
        graph = parse_graph(text, store)
        assert print_graph(graph) == text
    computed.assert_not_called()
    with pytest.raises(ParseError, match="another hash"):  # the same bytes, but the hash is not that of s4
        parse_graph(text.replace("s8", "s4"), store)
