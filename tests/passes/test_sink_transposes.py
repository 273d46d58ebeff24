import pytest

TO_LAST, TO_FIRST = "{perm=[0, 2, 3, 1]}", "{perm=[0, 3, 1, 2]}"
SUM = "dtype=u8, zp_a=3, zp_b=128, multiplier_a=700000, multiplier_b=-900000, shift=21, zp_out=7, lo=0, hi=255"
HEAD = """
    input %x: f32[N,2,3,4]
    input %z: f32[N,2,3,4]
    const %channel: f32[2] = [1, 2]
    const %row: f32[3,1,2] = [1, 2, 3, 4, 5, 6]
    const %one: f32[] = [0.5]
"""


def test_a_pair_around_an_op_cancels(apply):
    outcome = apply(
        "sink-transposes",
        f"{HEAD}%t = transpose(%x) {TO_LAST}\n%r = relu(%t)\n%y = transpose(%r) {TO_FIRST}\noutput y = %y\n"
        "output c = %channel\noutput r = %row\noutput o = %one",
    )
    assert outcome.changed
    assert outcome.equals(f"{HEAD}%r = relu(%x)\noutput y = %r\noutput c = %channel\noutput r = %row\noutput o = %one")


def test_transposes_in_a_row_are_merged_even_if_shared(apply):
    outcome = apply(
        "sink-transposes",
        """
        input %x: f32[N,2,3]
        %a = transpose(%x) {perm=[0, 2, 1]}
        %b = transpose(%a) {perm=[2, 0, 1]}
        %t = tanh(%a)
        output b = %b
        output t = %t
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,2,3]
        %b = transpose(%x) {perm=[1, 0, 2]}
        %t = tanh(%x)
        %t.transpose = transpose(%t) {perm=[0, 2, 1]}
        output b = %b
        output t = %t.transpose
    """)


def test_transposes_that_several_concatenations_share_sink_through_all(apply):
    outcome = apply(
        "sink-transposes",
        f"{HEAD}%t = transpose(%x) {TO_LAST}\n%u = transpose(%z) {TO_LAST}\n"
        f"%a = concat(%t, %u) {{axis=3}}\n%b = concat(%u, %t, %u) {{axis=3}}\n"
        f"%y = transpose(%a) {TO_FIRST}\n%w = transpose(%b) {TO_FIRST}\noutput y = %y\noutput w = %w\n",
    )
    assert outcome.ops == ["concat", "concat"]


def test_a_transpose_sinks_through_a_squeeze_and_excitation(apply):
    outcome = apply(
        "sink-transposes",
        f"{HEAD}%t = transpose(%x) {TO_LAST}\n%m = reduce_mean(%t) {{axes=[1, 2]}}\n%g = transpose(%m) {TO_FIRST}\n"
        f"%s = sigmoid(%g)\n%u = transpose(%s) {TO_LAST}\n%p = mul(%t, %u)\n%y = transpose(%p) {TO_FIRST}\n"
        "output y = %y\n",
    )
    assert outcome.ops == ["reduce_mean", "sigmoid", "mul"]


@pytest.mark.parametrize(
    "other",
    ['reshape(%u) {shape=["N", 24]}', "add(%u, %u)\noutput u = %u", "concat(%u, %w) {axis=3}"],
    ids=["op", "output", "operand"],
)
def test_transposes_that_others_use_too_stay(apply, other: str):
    outcome = apply(
        "sink-transposes",
        f"{HEAD}input %w: f32[N,3,4,1]\n%t = transpose(%x) {TO_LAST}\n%u = transpose(%z) {TO_LAST}\n"
        f"%a = concat(%t, %u) {{axis=3}}\n%s = {other}\noutput a = %a\noutput s = %s\n",
    )
    assert outcome.ops[:3] == ["transpose", "transpose", "concat"]


@pytest.mark.parametrize(
    "line",
    [
        "hard_swish(%t)",
        "add(%t, %u)",
        "add(%channel, %t)",
        "mul(%t, %row)",
        "sub(%one, %t)",
        "prelu(%t, %channel)",
        "concat(%t, %u) {axis=3}",
        "softmax(%t)",
        "softmax(%t) {axis=1}",
        "slice(%t) {axes=[3, 1], starts=[1, 2], counts=[1, 2], steps=[1, -1]}",
        "pad(%t) {pads=[0, 1, 2, 3, 0, 4, 5, 6], value=1.0}",
        "reduce_mean(%t) {axes=[1, 2]}",
        "reduce_mean(%t) {axes=[3]}",
        "reduce_mean(%t) {axes=[2], keepdims=false}",
    ],
)
def test_behind_an_op(apply, line):
    outcome = apply(
        "sink-transposes",
        f"{HEAD}%t = transpose(%x) {TO_LAST}\n%u = transpose(%z) {TO_LAST}\n%y = {line}\noutput y = %y",
    )
    assert outcome.changed
    assert outcome.ops[0] == line.partition("(")[0]
    assert outcome.ops[1:] == ["transpose"]


def test_behind_each_piece_of_a_split(apply):
    outcome = apply(
        "sink-transposes",
        f"""
        input %x: f32[N,2,3,4]
        %t = transpose(%x) {TO_LAST}
        %a: f32[N,3,1,2], %b: f32[N,3,3,2] = split(%t) {{axis=2, sizes=[1, 3]}} @s
        %c = transpose(%a) {TO_FIRST}
        output a = %c
        output b = %b
        """,
    )
    assert outcome.ops == ["split", "transpose"]
    assert outcome.graph.node("s").op.axis == 3


def test_no_transpose_is_left_where_the_mean_undoes_it(apply):
    outcome = apply(
        "sink-transposes",
        f"{HEAD}%t = transpose(%x) {TO_LAST}\n%y = reduce_mean(%t) {{axes=[1, 2], keepdims=false}}\noutput y = %y",
    )
    assert outcome.ops == ["reduce_mean"]


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        ("%y = add(%t, %z)", "y: its operand %z is not transposed"),
        ("%u = transpose(%z) {perm=[0, 3, 2, 1]}\n%y = mul(%t, %u)", None),
        ("%y = relu(%t)\noutput t = %t", "y: its transposed operand 't' is also used by an output of the graph"),
        ("%y = mul(%t, %big)", "y: its constant %big has more axes than the transposed operand"),
    ],
)
def test_near_misses(apply, body, remark):
    outcome = apply(
        "sink-transposes",
        f"""
        input %x: f32[3,3,3,3]
        input %z: f32[3,3,3,3]
        const %big: f32[1,1,1,1,1] = [2]
        %t = transpose(%x) {TO_LAST}
        {body}
        output y = %y
        output big = %big
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == [remark or "y: its operands are transposed by [0, 2, 3, 1] and [0, 3, 2, 1]"]


def test_nothing_moves_through_a_reshape(apply):
    outcome = apply(
        "sink-transposes",
        f'{HEAD}%t = transpose(%x) {TO_LAST}\n%y = reshape(%t) {{shape=["N", 24]}}\noutput y = %y',
    )
    assert not outcome.changed


def test_integer_graphs_keep_their_bits(apply):
    outcome = apply(
        "sink-transposes",
        f"""
        input %x: u8[N,2,3,4]
        input %z: u8[N,2,3,4]
        const %table: u8[256] = {list(range(255, -1, -1))}
        %t = transpose(%x) {TO_LAST}
        %u = transpose(%z) {TO_LAST}
        %l = int.lut(%t, %table)
        %a = int.add(%l, %u) {{{SUM}}}
        %p = int.pad(%a) {{pads=[0, 1, 0, 0, 0, 0, 2, 0], value=9}}
        %y = transpose(%p) {TO_FIRST}
        output y = %y
        """,
        stage="integer",
    )
    assert outcome.ops == ["int.lut", "int.add", "int.pad"]
