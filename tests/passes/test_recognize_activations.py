import pytest

HEAD = """
    input %x: f32[N,4]
    const %three: f32[] = [3]
    const %six: f32[1] = [6]
    const %sixth: f32[] = [0.16666667]
"""
CLIPPED = "%a = add(%x, %three)\n%c = clip(%a) {low=0.0, high=6.0}\n"

HARD_SWISH = [
    CLIPPED + "%m = mul(%x, %c)\n%y = div(%m, %six)",
    CLIPPED + "%m = mul(%c, %x)\n%y = mul(%sixth, %m)",
    CLIPPED + "%m = div(%c, %six)\n%y = mul(%x, %m)",
    CLIPPED + "%m = mul(%c, %sixth)\n%y = mul(%m, %x)",
    CLIPPED + "%m = div(%x, %six)\n%y = mul(%m, %c)",
    CLIPPED + "%m = mul(%x, %sixth)\n%y = mul(%c, %m)",
    "%a = add(%three, %x) {clamp=[0.0, 6.0]}\n%m = mul(%x, %a)\n%y = div(%m, %six)",
    "%a = hard_sigmoid(%x) {alpha=0.16666667163372040, beta=0.5}\n%y = mul(%a, %x)",
]


@pytest.mark.parametrize("spelling", HARD_SWISH)
def test_hard_swish(apply, spelling):
    outcome = apply("recognize-activations", f"{HEAD}{spelling}\noutput y = %y")
    assert outcome.changed
    assert outcome.equals("input %x: f32[N,4]\n%y = hard_swish(%x)\noutput y = %y")
    assert outcome.remarks == []


def test_silu(apply):
    outcome = apply("recognize-activations", "input %x: f32[N,4]\n%a = sigmoid(%x)\n%y = mul(%x, %a)\noutput y = %y")
    assert outcome.equals("input %x: f32[N,4]\n%y = silu(%x)\noutput y = %y")


def test_silu_of_a_scaled_value(apply):
    outcome = apply(
        "recognize-activations", f"{HEAD}%s = mul(%x, %six)\n%a = sigmoid(%s)\n%y = mul(%s, %a)\noutput y = %y"
    )
    assert outcome.ops == ["mul", "silu"]


@pytest.mark.parametrize("scaling", ["div(%c, %six)", "mul(%sixth, %c)"])
def test_hard_sigmoid_as_a_gate_of_something_else(apply, scaling):
    body = f"{HEAD}input %z: f32[N,4]\n{CLIPPED}%h = {scaling}\n%y = mul(%z, %h)\noutput y = %y"
    outcome = apply("recognize-activations", body)
    assert outcome.ops == ["hard_sigmoid", "mul"]
    op = outcome.graph.node("h").op
    assert (op.alpha, op.beta) == pytest.approx((1 / 6, 0.5), rel=1e-7)


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        (HARD_SWISH[0] + "\noutput c = %c", "y: its part 'c' is also used by 'm' and an output of the graph"),
        (
            HARD_SWISH[0].replace("add(%x, %three)", "add(%x, %six)"),
            "y: 0.166667 · x · 'c' is neither x · clip(x + 3, 0, 6) / 6 nor x · sigmoid(x)",
        ),
        (
            "%a = hard_sigmoid(%x)\n%y = mul(%x, %a)",
            "y: 1 · x · 'a' is neither x · clip(x + 3, 0, 6) / 6 nor x · sigmoid(x)",
        ),
        (CLIPPED + "%y = div(%c, %three)", "y: 6 · 0.333333 is not 1, as for hard-sigmoid"),
        ("%a = sigmoid(%x)\n%y = mul(%x, %a)\n%z = tanh(%a)\noutput z = %z", "y: its part 'a' is also used by 'z'"),
    ],
)
def test_near_misses(apply, body, remark):
    outcome = apply("recognize-activations", f"{HEAD}{body}\noutput y = %y")
    assert not outcome.changed
    assert remark in outcome.remarks


def test_two_different_activations_are_no_match(apply):
    outcome = apply(
        "recognize-activations",
        "input %x: f32[N,4]\ninput %z: f32[N,4]\n%a = sigmoid(%z)\n%y = mul(%x, %a)\noutput y = %y",
    )
    assert not outcome.changed
    assert outcome.remarks == []


def test_a_constant_that_broadcasts(apply):
    outcome = apply(
        "recognize-activations",
        """
        input %x: f32[4]
        const %three: f32[1,1] = [3]
        const %six: f32[] = [6]
        %a = add(%x, %three)
        %c = clip(%a) {low=0.0, high=6.0}
        %y = div(%c, %six)
        output y = %y
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == ["y: a constant in it also broadcasts %x"]
