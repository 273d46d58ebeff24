import pytest

CONV = "conv(%p, %w) {strides=[2, 1], pads=[0, 1, 2, 0], dilations=[1, 1]}"
WINDOW = "kernel=[3, 2], strides=[1, 2], dilations=[1, 1]"
BORDER = "pads=[0, 0, 1, 2, 0, 0, 3, 4]"


def test_into_a_conv(apply):
    outcome = apply(
        "fold-pad",
        f"""
        input %x: f32[N,1,4,4]
        const %w: f32[2,1,1,2] = [1, 2, 3, 4]
        %p = pad(%x) {{{BORDER}}}
        %c = {CONV}
        output y = %c
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,1,4,4]
        const %w: f32[2,1,1,2] = [1, 2, 3, 4]
        %c = conv(%x, %w) {strides=[2, 1], pads=[1, 3, 5, 4], dilations=[1, 1]}
        output y = %c
    """)


def test_other_users_keep_the_border(apply):
    outcome = apply(
        "fold-pad",
        f"""
        input %x: f32[N,1,4,4]
        const %w: f32[2,1,1,2] = [1, 2, 3, 4]
        %p = pad(%x) {{{BORDER}}}
        %c = {CONV}
        output y = %c
        output p = %p
        """,
    )
    assert outcome.ops == ["pad", "conv"]
    assert outcome.graph.node("c").operands[0].name == "x"


@pytest.mark.parametrize(
    ("pads", "count"), [("[0, 0, 0, 0]", "false"), ("[0, 0, 0, 0]", "true"), ("[1, 0, 1, 1]", "true")]
)
def test_into_an_average(apply, pads, count):
    outcome = apply(
        "fold-pad",
        f"""
        input %x: f32[N,2,4,4]
        %p = pad(%x) {{pads=[0, 0, 1, 0, 0, 0, 1, 2]}}
        %y = average_pool(%p) {{{WINDOW}, pads={pads}, count_include_pad={count}}}
        output y = %y
        """,
    )
    assert outcome.ops == ["average_pool"]
    assert outcome.graph.node("y").op.count_include_pad


@pytest.mark.parametrize("producer", ["relu(%x)", "clip(%x) {low=0.5}", "add(%x, %x) {clamp=[0.0, 6.0]}"])
def test_into_a_maximum_of_non_negative_elements(apply, producer):
    outcome = apply(
        "fold-pad",
        f"""
        input %x: f32[N,2,4,4]
        %r = {producer}
        %p = pad(%r) {{pads=[0, 0, 1, 1, 0, 0, 1, 1]}}
        %y = max_pool(%p) {{kernel=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]}}
        output y = %y
        """,
    )
    assert outcome.ops == [producer.partition("(")[0], "max_pool"]


POOL = "kernel=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], dilations=[1, 1]"


@pytest.mark.parametrize(
    ("border", "line", "remark"),
    [
        ("pads=[0, 0, 1, 1, 0, 0, 1, 1], value=1.0", CONV, "'p' pads with 1.0, not with 0"),
        ("pads=[0, 0, 1, 1, 1, 0, 1, 1]", CONV, "'p' also pads the batch or channel axis"),
        (BORDER, f"average_pool(%p) {{{POOL}}}", "it counts the border of 'p' but not its own padding"),
        (
            BORDER,
            f"average_pool(%p) {{{POOL}, ceil_mode=true, count_include_pad=true}}",
            "with ceil_mode windows that start in the border of 'p' would be dropped",
        ),
        (BORDER, f"max_pool(%p) {{{POOL}}}", "a window may lie in the border of 'p' alone"),
    ],
)
def test_near_misses(apply, border, line, remark):
    outcome = apply(
        "fold-pad",
        f"""
        input %x: f32[2,1,4,4]
        const %w: f32[2,1,1,2] = [1, 2, 3, 4]
        %r = relu(%x)
        %p = pad(%r) {{{border}}}
        %y = {line}
        output y = %y
        output w = %w
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == [f"y: {remark}"]


def test_a_maximum_of_elements_of_either_sign(apply):
    outcome = apply(
        "fold-pad",
        """
        input %x: f32[N,2,4,4]
        %p = pad(%x) {pads=[0, 0, 1, 1, 0, 0, 1, 1]}
        %y = max_pool(%p) {kernel=[3, 3], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]}
        output y = %y
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == ["y: an element of %x below 0 would win where a zero of 'p' does now"]
