import pytest

LAYER = """
    const %w: s8[2,{k}] = [{weights}]
    const %b: s32[2] = [5, -6]
    %f = reshape(%t) {{shape=["N", {k}]}}
    %y = int.gemm(%f, %w, %b) {{zp_in=3}}
    output y = %y
"""


def layer(k: int) -> str:
    return LAYER.format(k=k, weights=", ".join(str((i * 11) % 255 - 127) for i in range(2 * k)))


@pytest.mark.parametrize(
    ("shape", "perm"),
    [
        ("N,2,3,4", [0, 3, 1, 2]),
        ("N,2,3,4", [0, 2, 3, 1]),
        ("N,2,3,4", [0, 3, 2, 1]),
        ("N,4,6", [0, 2, 1]),
        ("N,1,1,24", [0, 3, 1, 2]),
    ],
)
def test_the_weights_are_permuted_instead(apply, shape, perm):
    outcome = apply(
        "absorb-transposes", f"input %x: u8[{shape}]\n%t = transpose(%x) {{perm={perm}}}\n{layer(24)}", stage="integer"
    )
    assert outcome.changed
    assert outcome.ops == ["reshape", "int.gemm"]


def test_a_transpose_of_the_batch_stays(apply):
    body = "input %x: u8[6,N,4]\n%t = transpose(%x) {perm=[1, 0, 2]}\n" + layer(24)
    outcome = apply("absorb-transposes", body, stage="integer")
    assert not outcome.changed
    assert outcome.remarks == ["y: 'f' does not flatten exactly the axes after the first"]


def test_a_transpose_or_flatten_with_other_users_stays(apply):
    body = "input %x: u8[N,6,4]\n%t = transpose(%x) {perm=[0, 2, 1]}\n" + layer(24)
    outcome = apply("absorb-transposes", body + "\noutput t = %t", stage="integer")
    assert outcome.remarks == ["y: %t is also used by an output of the graph"]
    outcome = apply("absorb-transposes", body + "\noutput f = %f", stage="integer")
    assert outcome.remarks == ["y: %f is also used by an output of the graph"]


def test_a_layer_without_a_transpose_is_no_match(apply):
    assert apply("absorb-transposes", "input %t: u8[N,6,4]\n" + layer(24), stage="integer").remarks == []
