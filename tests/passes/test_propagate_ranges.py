import pytest

from qcompiler.ir import Graph, ops, parse_graph
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline


def propagated(body: str, *, changes: bool = True) -> tuple[dict[str, tuple[float | None, float | None]], PassContext]:
    graph = parse_graph(f"qir 1\ngraph test observed {{\n{body}\n}}\n")
    context = PassContext()
    manager = PassManager(parse_pipeline("propagate-ranges"), check_claims=True)
    (first,) = manager.run(graph, context)
    assert first.changed == changes
    (second,) = manager.run(graph)
    assert not second.changed
    return _ranges(graph), context


def _ranges(graph: Graph) -> dict[str, tuple[float | None, float | None]]:
    return {n.op.key: (n.op.low, n.op.high) for n in graph.nodes() if isinstance(n.op, ops.Observe)}


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        ("sigmoid(%x1)", (0.0, 1.0)),
        ("hard_sigmoid(%x1)", (0.0, 1.0)),
        ("tanh(%x1)", (-1.0, 1.0)),
        ("softmax(%x1)", (0.0, 1.0)),
        ("erf(%x1)", (-1.0, 1.0)),
    ],
)
def test_bounded_functions_need_no_data(op, expected):
    found, _ = propagated(f"""
        input %x: f32[N,4]
        %x1 = observe(%x) {{key="x", low=-9.0, high=9.0}}
        %y = {op}
        %y1 = observe(%y) {{key="y"}}
        output y = %y1
    """)
    assert found["y"] == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(
    ("op", "expected"),
    [("tanh(%x1)", (-0.0997, 0.0997)), ("sigmoid(%x1)", (0.4750, 0.5250)), ("softmax(%x1)", (0.0, 1.0))],
)
def test_bounded_functions_of_short_ranges_have_short_ranges(op, expected):
    found, _ = propagated(f"""
        input %x: f32[N,4]
        %x1 = observe(%x) {{key="x", low=-0.1, high=0.1}}
        %y = {op}
        %y1 = observe(%y) {{key="y"}}
        output y = %y1
    """)
    assert found["y"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("op", "low", "high", "expected"),
    [
        ("relu(%x1)", -1.0, 5.0, (0.0, 5.0)),
        ("clip(%x1) {low=-0.5, high=4.0}", -1.0, 5.0, (-0.5, 4.0)),
        ("add(%x1, %x1) {clamp=[0.0, 6.0]}", -1.0, 7.0, (0.0, 6.0)),
        ("sigmoid(%x1)", -0.5, 0.5, (0.0, 0.5)),
    ],
)
def test_observed_ranges_are_cut_to_what_the_op_can_give(op, low, high, expected):
    found, _ = propagated(f"""
        input %x: f32[N,4]
        %x1 = observe(%x) {{key="x", low=-1.0, high=1.0}}
        %y = {op}
        %y1 = observe(%y) {{key="y", low={low}, high={high}}}
        output x = %x1
        output y = %y1
    """)
    assert found["y"] == expected
    assert found["x"] == (-1.0, 1.0)


def test_ranges_that_nothing_limits_stay():
    propagated(
        """
        input %x: f32[N,4]
        %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
        %y = add(%x1, %x1)
        %y1 = observe(%y) {key="y", low=-1.5, high=1.5}
        output y = %y1
        """,
        changes=False,
    )


def test_without_an_observed_range_intervals_give_one():
    found, _ = propagated("""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, -2, 3, 0]
        const %b: f32[2] = [10, 0]
        %x1 = observe(%x) {key="x", low=-1.0, high=2.0}
        %y = gemm(%x1, %w, %b)
        %y1 = observe(%y) {key="y"}
        output y = %y1
    """)
    assert found["y"] == (-3.0, 14.0)  # channel 0 is in [10-1-4, 10+2+2], channel 1 in [-3, 6]


def test_a_range_that_cannot_be_told_is_a_remark():
    _, context = propagated(
        """
        input %x: f32[N,2]
        %x1 = observe(%x) {key="x"} @observe_x
        output y = %x1
        """,
        changes=False,
    )
    assert [str(r) for r in context.remarks] == [
        "propagate-ranges: observe_x: no range can be told: give calibration data"
    ]


CONCAT = """
    input %x: f32[N,4,4,4]
    %x1 = observe(%x) {{key="x", low=-1.0, high=1.0}}
    %a = relu(%x1)
    %a1 = observe(%a) {{key="a", low=0.0, high=1.0}}
    %p = max_pool(%a1) {{kernel=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}}
    %b = leaky_relu(%x1)
    %b1 = observe(%b) {{key="b", low=-0.25, high=2.0}}
    %c = concat(%p, %b1) {{axis=1}}
    %c1 = observe(%c) {{key="c", low=-0.25, high=1.5}}
    output c = %c1
    {more}
"""


def test_operands_of_a_concatenation_share_the_union():
    found, _ = propagated(CONCAT.format(more=""))
    assert found["a"] == found["b"] == found["c"] == (-0.25, 2.0)


def test_an_operand_with_another_user_keeps_its_range():
    found, _ = propagated(CONCAT.format(more="output b = %b1"))
    assert found["b"] == (-0.25, 2.0)
    assert found["a"] == found["c"] == (-0.25, 2.0)
    found, _ = propagated(CONCAT.format(more="output a = %a1"))
    assert found["a"] == (0.0, 1.0)
    assert found["b"] == found["c"] == (-0.25, 2.0)


def test_operands_that_several_concatenations_share_agree():
    more = """%d = concat(%b1, %p, %b1) {axis=1}
    %d1 = observe(%d) {key="d", low=-0.25, high=3.0}
    output d = %d1"""
    found, _ = propagated(CONCAT.format(more=more))
    assert {found[key] for key in "abcd"} == {(-0.25, 3.0)}


def test_concatenations_of_concatenations_agree():
    found, _ = propagated("""
        input %x: f32[N,2]
        %x1 = observe(%x) {key="x", low=-1.0, high=1.0}
        %a = relu(%x1)
        %a1 = observe(%a) {key="a", low=0.0, high=1.0}
        %b = abs(%x1)
        %b1 = observe(%b) {key="b", low=0.0, high=0.5}
        %c = concat(%a1, %b1) {axis=1}
        %c1 = observe(%c) {key="c", low=0.0, high=1.0}
        %n = neg(%x1)
        %n1 = observe(%n) {key="n", low=-4.0, high=0.0}
        %d = concat(%c1, %n1) {axis=1}
        %d1 = observe(%d) {key="d", low=-4.0, high=1.0}
        output d = %d1
    """)
    assert {found[key] for key in "abcnd"} == {(-4.0, 1.0)}


def test_values_are_cut_to_what_their_users_tell_apart():
    found, _ = propagated("""
        input %x: f32[N,2]
        %x1 = observe(%x) {key="x", low=-9.0, high=4.0}
        %y = hard_swish(%x1)
        %y1 = observe(%y) {key="y", low=-0.375, high=4.0}
        output y = %y1
    """)
    low, high = found["x"]
    assert low == pytest.approx(-3, abs=0.03)
    assert high == 4.0


@pytest.mark.parametrize(
    "more", ["output x = %x1", '%z = add(%x1, %x1)\n%z1 = observe(%z) {key="z", low=-9.0, high=9.0}']
)
def test_values_with_a_user_that_tells_all_apart_are_not_cut(more):
    found, _ = propagated(
        f"""
        input %x: f32[N,2]
        %x1 = observe(%x) {{key="x", low=-9.0, high=4.0}}
        %y = hard_swish(%x1)
        %y1 = observe(%y) {{key="y", low=-0.375, high=4.0}}
        output y = %y1
        {more}
        """,
        changes=False,
    )
    assert found["x"] == (-9.0, 4.0)
