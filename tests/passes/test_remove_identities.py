import pytest


@pytest.mark.parametrize(
    "line",
    [
        "identity(%x)",
        'reshape(%x) {shape=["N", 3, 4, 1]}',
        "transpose(%x) {perm=[0, 1, 2, 3]}",
        "slice(%x) {axes=[1], starts=[0], counts=[3], steps=[1]}",
        "split(%x) {axis=1, sizes=[3]}",
        "pad(%x) {pads=[0, 0, 0, 0, 0, 0, 0, 0], value=3.0}",
        "concat(%x) {axis=1}",
        "depth_to_space(%x) {blocks=[1, 1]}",
        "max_pool(%x) {kernel=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[2, 2]}",
        "average_pool(%x) {kernel=[1, 1], strides=[1, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}",
        "reduce_mean(%x) {axes=[3]}",
        "reduce_mean(%x) {axes=[]}",
        "clip(%x)",
        "power(%x) {exponent=1.0}",
        "add(%x, %zero)",
        "add(%zero, %x)",
        "sub(%x, %zero)",
        "mul(%ones, %x)",
        "div(%x, %ones)",
    ],
)
def test_gives_back_its_operand(apply, line):
    outcome = apply(
        "remove-identities",
        f"""
        input %x: f32[N,3,4,1]
        const %zero: f32[] = [0]
        const %ones: f32[3,1,1] = [1, 1, 1]
        %a = {line}
        %y = tanh(%a)
        output y = %y
        output a = %a
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,3,4,1]
        %y = tanh(%x)
        output y = %y
        output a = %x
    """)


@pytest.mark.parametrize(
    "line",
    [
        'reshape(%x) {shape=["N", 12]}',
        "transpose(%x) {perm=[0, 2, 1, 3]}",
        "slice(%x) {axes=[1], starts=[2], counts=[3], steps=[-1]}",
        "max_pool(%x) {kernel=[1, 1], strides=[2, 1], pads=[0, 0, 0, 0], dilations=[1, 1]}",
        "clip(%x) {low=0.0}",
        "add(%x, %ones)",
        "mul(%x, %ones) {clamp=[0.0, 1.0]}",
        "sub(%zero, %x)",
        "div(%ones, %x)",
        "reduce_mean(%x) {axes=[2]}",
    ],
)
def test_other_forms_are_kept(apply, line):
    outcome = apply(
        "remove-identities",
        f"""
        input %x: f32[N,3,4,1]
        const %zero: f32[] = [0]
        const %ones: f32[3,1,1] = [1, 1, 1]
        %a = {line}
        output a = %a
        output b = %zero
        output c = %ones
        """,
    )
    assert not outcome.changed


def test_a_chain_of_reshapes_becomes_one(apply):
    outcome = apply(
        "remove-identities",
        """
        input %x: f32[N,3,4]
        %a = reshape(%x) {shape=["N", 12]}
        %b = reshape(%a) {shape=["3*N", 4]}
        %c = reshape(%b) {shape=["N", 2, 6]}
        %t = tanh(%a)
        output y = %c
        output t = %t
        """,
    )
    assert outcome.equals("""
        input %x: f32[N,3,4]
        %a = reshape(%x) {shape=["N", 12]}
        %c = reshape(%x) {shape=["N", 2, 6]}
        %t = tanh(%a)
        output y = %c
        output t = %t
    """)


def test_reshapes_that_undo_each_other_vanish(apply):
    outcome = apply(
        "remove-identities",
        """
        input %x: f32[N,3,4]
        %a = reshape(%x) {shape=["N", 12]}
        %b = reshape(%a) {shape=["N", 3, 4]}
        %y = tanh(%b)
        output y = %y
        """,
    )
    assert outcome.ops == ["tanh"]


@pytest.mark.parametrize("line", ["transpose(%x) {perm=[2, 0, 1, 3]}", "reduce_mean(%x) {axes=[2, 3], keepdims=false}"])
def test_moving_axes_of_one_is_a_reshape(apply, line):
    outcome = apply(
        "remove-identities",
        f"""
        input %x: f32[N,3,1,1]
        %y = {line}
        output y = %y
        """,
    )
    assert outcome.changed
    assert outcome.ops == ["reshape"]


def test_neutral_arithmetic_that_broadcasts_is_kept_and_says_so(apply):
    outcome = apply(
        "remove-identities",
        """
        input %x: f32[N,1]
        const %ones: f32[4] = [1, 1, 1, 1]
        %y = mul(%x, %ones)
        output y = %y
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == ["y: it also broadcasts %x from [N,1] to [N,4]"]


def test_quantized_neutral_elements_are_not_taken_at_face_value(apply):
    outcome = apply(
        "remove-identities",
        """
        input %x: u8[N,4]<scale=0.5, zero_point=3>
        const %one: u8[4]<scale=0.5, zero_point=0> = [1, 1, 1, 1]
        %y: u8[N,4]<scale=0.5, zero_point=3> = mul(%x, %one)
        output y = %y
        """,
        stage="quantized",
    )
    assert not outcome.changed


def test_integer_data_movement(apply):
    outcome = apply(
        "remove-identities",
        """
        input %x: u8[N,4]
        %a = reshape(%x) {shape=["N", 4]}
        %y = int.pad(%a) {pads=[0, 0, 0, 0], value=7}
        output y = %y
        """,
        stage="integer",
    )
    assert outcome.ops == []
