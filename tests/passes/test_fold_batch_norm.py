import numpy as np
import pytest

BATCH_NORM = """
    const %gamma: f32[2] = [2, 3]
    const %beta: f32[2] = [10, 20]
    const %mean: f32[2] = [1, -1]
    const %variance: f32[2] = [4, 0.25]
    %n = batch_normalization(%c, %gamma, %beta, %mean, %variance) {epsilon=0.0}
"""  # scale = [1, 6], shift = [9, 26]


def test_into_a_conv(apply):
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,2,4,4]
        const %w: f32[2,1,1,2] = [1, 2, 3, 4]
        const %b: f32[2] = [1, 2]
        %c = conv(%x, %w, %b) {{strides=[1, 1], pads=[0, 1, 0, 1], dilations=[1, 1], group=2}}
        {BATCH_NORM}
        output y = %n
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,2,4,4]
        const %w: f32[2,1,1,2] = [1, 2, 18, 24]
        const %b: f32[2] = [10, 38]
        %c = conv(%x, %w, %b) {strides=[1, 1], pads=[0, 1, 0, 1], dilations=[1, 1], group=2}
        output y = %c
    """)


@pytest.mark.parametrize(
    ("group", "weight", "folded"), [(1, "f32[2,2,1]", [1, 12, 3, 24]), (2, "f32[2,1,2]", [1, 2, 18, 24])]
)
def test_into_a_transposed_convolution(apply, group, weight, folded):
    """Output channels are the weight's second axis, in each group."""
    line = (
        f"conv_transpose(%x, %w{{}}) {{{{strides=[2], pads=[0, 0], dilations=[1], output_padding=[0], group={group}}}}}"
    )
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,2,3]
        const %w: {weight} = [1, 2, 3, 4]
        %c = {line.format("")}
        {BATCH_NORM}
        output y = %n
        """,
    )
    assert outcome.equals(f"""
        input %x: f32[N,2,3]
        const %w: {weight} = {folded}
        const %c.bias: f32[2] = [9, 26]
        %c = {line.format(", %c.bias")}
        output y = %c
    """)


def test_into_a_gemm_without_bias(apply):
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 2, 3, 4]
        %c = gemm(%x, %w)
        {BATCH_NORM}
        output y = %n
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 2, 18, 24]
        const %c.bias: f32[2] = [9, 26]
        %c = gemm(%x, %w, %c.bias)
        output y = %c
    """)


def test_a_chain_of_arithmetic_and_its_last_clamp(apply):
    outcome = apply(
        "fold-batch-norm",
        """
        input %x: f32[N,1,3]
        const %w: f32[2,1,1] = [1, 2]
        const %scale: f32[2,1] = [2, 4]
        const %shift: f32[1,2,1] = [1, 2]
        const %four: f32[] = [4]
        %c = conv(%x, %w) {strides=[1], pads=[0, 0], dilations=[1]}
        %m = mul(%scale, %c)
        %a = add(%m, %shift)
        %d = div(%a, %four)
        %s = sub(%four, %d)
        %t = sub(%s, %scale) {clamp=[0.0, 2.0]}
        output y = %t
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,1,3]
        const %w: f32[2,1,1] = [-0.5, -2]
        const %c.bias: f32[2] = [1.75, -0.5]
        %c = conv(%x, %w, %c.bias) {strides=[1], pads=[0, 0], dilations=[1], clamp=[0.0, 2.0]}
        output y = %c
    """)


def test_along_the_last_axis_of_a_gemm(apply):
    outcome = apply(
        "fold-batch-norm",
        """
        input %x: f32[N,5,2]
        const %w: f32[2,2] = [1, 2, 3, 4]
        const %s: f32[2] = [2, 3]
        %c = gemm(%x, %w)
        %y = mul(%c, %s)
        output y = %y
        """,
    )
    assert outcome.ops == ["gemm"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("%c = conv(%x, %w) {A}\n%z = tanh(%c)\noutput z = %z", "its input 'c' is also used by 'z'"),
        ("%c = conv(%x, %w) {A}\noutput z = %c", "its input 'c' is also used by an output of the graph"),
        ("%c = conv(%x, %w) {A, clamp=[0.0, 6.0]}", "its input 'c' has a clamp in between"),
        ("%c = conv(%x, %v) {A}", "the weight or bias of its input 'c' is computed at run time"),
        ("%c = tanh(%x)", "its input %c is no result of a conv or gemm"),
    ],
)
def test_what_cannot_be_folded_becomes_a_depthwise_conv(apply, body, reason):
    body = body.replace("A", "strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]", 1)
    first, *rest = body.splitlines()
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,2,4,4]
        input %v: f32[2,2,1,1]
        const %w: f32[2,2,1,1] = [1, 2, 3, 4]
        {first}
        {BATCH_NORM}
        %y = tanh(%n)
        output y = %y
        {"".join(rest[:1])}
        {"".join(rest[1:])}
        """,
    )
    assert outcome.changed
    assert outcome.remarks == [f"n: not folded but made a depthwise conv: {reason}"]
    conv = outcome.graph.node("n")
    assert conv.op.group == 2
    weight, bias = (operand.data for operand in conv.operands[1:])
    assert weight.shape == (2, 1, 1, 1)
    assert (weight.ravel().tolist(), bias.tolist()) == ([1, 6], [9, 26])


@pytest.mark.parametrize(
    ("shape", "ops"),
    [
        ("[N,2]", ["reshape", "conv", "reshape"]),
        ("[N,2,5]", ["conv"]),
        ("[N,2,3,4,5]", ["reshape", "conv", "reshape"]),
        ("[N,2,3,1,4,5]", ["reshape", "conv", "reshape"]),
        ("[N,2,4,W]", ["batch_normalization"]),
        ("[N,2,3,H,5]", ["batch_normalization"]),
    ],
)
def test_alone_on_other_ranks(apply, shape, ops):
    outcome = apply("fold-batch-norm", f"input %c: f32{shape}\n{BATCH_NORM}\noutput y = %n")
    assert outcome.ops == ops


def test_what_follows_a_converted_one_is_folded_into_it(apply):
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %c: f32[N,2,4,4]
        {BATCH_NORM}
        const %half: f32[] = [0.5]
        %y = mul(%n, %half)
        output y = %y
        """,
    )
    assert outcome.ops == ["conv"]
    assert outcome.graph.node("n").operands[2].data.tolist() == [4.5, 13]


@pytest.mark.parametrize(
    ("line", "remark"),
    [
        ("add(%c, %row)", "y: its constants are not one number per output channel of 'c'"),
        ("div(%c, %zero)", "y: its constants are not one number per output channel of 'c'"),
        ("mul(%c, %wide)", "y: its constants are not one number per output channel of 'c'"),
    ],
)
def test_other_arithmetic_stays(apply, line, remark):
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,2,1,1]
        const %w: f32[2,2,1,1] = [1, 2, 3, 4]
        const %row: f32[2] = [1, 2]
        const %zero: f32[] = [0]
        const %wide: f32[2,1,2] = [1, 2, 3, 4]
        %c = conv(%x, %w) {{strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}}
        %y = {line}
        output y = %y
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == [remark]


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")  # by the reference, before and after
def test_a_negative_variance_is_left_alone(apply):
    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 2, 3, 4]
        %c = gemm(%x, %w)
        {BATCH_NORM.replace("[4, 0.25]", "[4, -1]")}
        output y = %n
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == [
        "n: its scale or shift is not finite: a variance is negative, or a parameter NaN or infinite"
    ]


def test_random_parameters(apply):
    generator = np.random.default_rng(5)

    def const(name, *shape):
        values = generator.uniform(0.25, 1.0, shape).astype(np.float32).ravel().tolist()
        return f"const %{name}: f32[{','.join(map(str, shape))}] = {values}"

    outcome = apply(
        "fold-batch-norm",
        f"""
        input %x: f32[N,3,5,5]
        {const("w", 4, 3, 3, 3)}
        {const("b", 4)}
        {const("g", 4)}
        {const("t", 4)}
        {const("m", 4)}
        {const("v", 4)}
        %c = conv(%x, %w, %b) {{strides=[1, 1], pads=[1, 1, 1, 1], dilations=[1, 1]}}
        %n = batch_normalization(%c, %g, %t, %m, %v) {{epsilon=0.001}}
        output y = %n
        """,
    )
    assert outcome.ops == ["conv"]
