import pytest

PRODUCERS = [
    "conv(%x, %w) {strides=[1], pads=[0, 0], dilations=[1]}",
    "conv_transpose(%x, %w) {strides=[2], pads=[0, 0], dilations=[1], output_padding=[0]}",
    "gemm(%x, %g)",
    "add(%x, %x)",
    "sub(%x, %two)",
    "mul(%x, %two)",
]
HEAD = """
    input %x: f32[N,2,2]
    const %w: f32[2,2,1] = [1, -2, 3, -4]
    const %g: f32[2,2] = [1, -2, 3, -4]
    const %two: f32[] = [2]
"""


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize(
    ("activation", "clamp"),
    [
        ("relu(%a)", (0.0, float("inf"))),
        ("clip(%a) {low=-1.0, high=6.0}", (-1.0, 6.0)),
        ("clip(%a) {high=1.0}", (-float("inf"), 1.0)),
    ],
)
def test_into_its_producer(apply, producer, activation, clamp):
    outcome = apply("fuse-activation", f"{HEAD}\n%a = {producer}\n%y = {activation}\noutput y = %y")
    assert outcome.changed
    assert len(outcome.ops) == 1
    assert outcome.graph.node("a").op.clamp == clamp


def test_the_text(apply):
    outcome = apply(
        "fuse-activation",
        """
        input %x: f32[N,2]
        const %g: f32[2,2] = [1, -2, 3, -4]
        %a = gemm(%x, %g) {clamp=[-1.0, 4.0]}
        %b = clip(%a) {low=0.0, high=6.0}
        %c = relu(%b)
        %y = tanh(%c)
        output y = %y
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,2]
        const %g: f32[2,2] = [1, -2, 3, -4]
        %a = gemm(%x, %g) {clamp=[0.0, 4.0]}
        %y = tanh(%a)
        output y = %y
    """)


@pytest.mark.parametrize(
    ("first", "second", "merged"),
    [
        ("clip(%x) {low=-1.0, high=3.0}", "relu(%a)", "clip(%x) {low=0.0, high=3.0}"),
        ("relu(%x)", "relu(%a)", "relu(%x)"),
        ("relu(%x)", "clip(%a) {high=1.0}", "clip(%x) {low=0.0, high=1.0}"),
        ("clip(%x) {low=2.0, high=3.0}", "clip(%a) {low=-1.0, high=1.0}", "clip(%x) {low=1.0, high=1.0}"),
        ("clip(%x) {low=0.0}", "relu(%a)", "clip(%x) {low=0.0}"),
    ],
)
def test_bounds_are_composed(apply, first, second, merged):
    outcome = apply("fuse-activation", f"input %x: f32[N,2]\n%a = {first}\n%b = {second}\noutput y = %b")
    assert outcome.equals(f"input %x: f32[N,2]\n%a = {merged}\noutput y = %a")


@pytest.mark.parametrize("producer", ["sigmoid(%x)", "softmax(%x)", "add(%x, %x) {clamp=[0.5, 1.0]}"])
def test_bounds_that_hold_anyway_are_dropped_even_if_shared(apply, producer):
    outcome = apply("fuse-activation", f"{HEAD}\n%a = {producer}\n%y = relu(%a)\noutput y = %y\noutput a = %a")
    assert len(outcome.ops) == 1


@pytest.mark.parametrize(
    ("more", "users"), [("output z = %a", "an output of the graph"), ("%z = tanh(%a)\noutput z = %z", "'z'")]
)
def test_a_shared_producer_stays(apply, more, users):
    outcome = apply("fuse-activation", f"{HEAD}\n%a = gemm(%x, %g)\n%y = relu(%a)\noutput y = %y\n{more}")
    assert not outcome.changed
    assert outcome.remarks == [f"y: its input 'a' is also used by {users}"]


def test_ops_without_a_clamp_are_no_match(apply):
    outcome = apply("fuse-activation", f"{HEAD}\n%a = tanh(%x)\n%y = relu(%a)\noutput y = %y")
    assert not outcome.changed
    assert outcome.remarks == []


def test_a_user_that_dies_on_the_way_does_not_count(apply):
    """What the dead sum still reads is fused in the same run, once the sum is gone."""
    outcome = apply(
        "fuse-activation",
        f"{HEAD}%a = gemm(%x, %g)\n%y = relu(%a)\n%d = add(%a, %a)\n%b = gemm(%x, %g)\n%z = relu(%b)\n"
        "output y = %y\noutput z = %z",
    )
    assert outcome.ops == ["gemm", "gemm"]


def test_a_clip_to_all_numbers_leaves_no_clamp(apply):
    outcome = apply("fuse-activation", f"{HEAD}%a = gemm(%x, %g)\n%y = clip(%a)\noutput y = %y")
    assert outcome.ops == ["gemm"]
    assert outcome.graph.node("a").op.clamp is None
