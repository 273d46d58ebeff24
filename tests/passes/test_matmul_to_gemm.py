import pytest

from qcompiler.ir import ops


def test_matmul_and_add(apply):
    outcome = apply(
        "matmul-to-gemm",
        """
        input %x: f32[N,5,2]
        const %w: f32[2,3] = [1, 2, 3, 4, 5, 6]
        const %b: f32[3] = [7, 8, 9]
        %p = matmul(%x, %w)
        %y = add(%b, %p) {clamp=[0.0, 40.0]}
        output y = %y
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,5,2]
        const %w: f32[3,2] = [1, 4, 2, 5, 3, 6]
        const %p.bias: f32[3] = [7, 8, 9]
        %p = gemm(%x, %w, %p.bias) {clamp=[0.0, 40.0]}
        output y = %p
    """)


def test_a_stack_of_one_matrix(apply):
    outcome = apply(
        "matmul-to-gemm",
        """
        input %x: f32[1,N,2]
        const %w: f32[1,2,1] = [1, 2]
        %y = matmul(%x, %w)
        output y = %y
        """,
    )
    assert outcome.ops == ["gemm"]


def test_a_constant_on_the_left(apply):
    outcome = apply(
        "matmul-to-gemm",
        """
        input %x: f32[N,2,5]
        const %c: f32[3,2] = [1, 2, 3, 4, 5, 6]
        %y = matmul(%c, %x)
        output y = %y
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,2,5]
        const %c: f32[3,2] = [1, 2, 3, 4, 5, 6]
        %y.columns = transpose(%x) {perm=[0, 2, 1]}
        %y.gemm = gemm(%y.columns, %c)
        %y = transpose(%y.gemm) {perm=[0, 2, 1]}
        output y = %y
    """)


@pytest.mark.parametrize(
    "product", ["matmul(%x, %c) {alpha=0.5}", "matmul(%c, %x) {alpha=0.5}"], ids=["on the right", "on the left"]
)
def test_alpha_goes_into_the_weights(apply, product):
    outcome = apply(
        "matmul-to-gemm",
        f"input %x: f32[2,2]\nconst %c: f32[2,2] = [2, 4, 6, 8]\n%y = {product}\noutput y = %y",
    )
    weight = next(n for n in outcome.graph.nodes() if isinstance(n.op, ops.Gemm)).operands[1].data
    assert sorted(weight.ravel().tolist()) == [1, 2, 3, 4]


@pytest.mark.parametrize(("shape", "constant"), [("2,N", "2,2"), ("1,N,2,3", "1,2,2"), ("N,4,2,1", "1,1,2,2")])
def test_constants_of_any_rank_on_the_left(apply, shape, constant):
    outcome = apply(
        "matmul-to-gemm",
        f"""
        input %x: f32[{shape}]
        const %c: f32[{constant}] = [1, 2, 3, 4]
        %y = matmul(%c, %x)
        output y = %y
        """,
    )
    assert outcome.ops == ["transpose", "gemm", "transpose"]


@pytest.mark.parametrize(
    ("body", "remark"),
    [
        ("const %c: f32[2,1,2] = [1, 2, 3, 4]\n%y = matmul(%c, %x)", "y: its constant %c is a stack of matrices"),
        ("const %c: f32[2,2,1] = [1, 2, 3, 4]\n%y = matmul(%x, %c)", "y: its constant %c is a stack of matrices"),
    ],
)
def test_other_constant_operands(apply, body, remark):
    outcome = apply("matmul-to-gemm", f"input %x: f32[2,2]\n{body}\noutput y = %y")
    assert not outcome.changed
    assert outcome.remarks == [remark]


@pytest.mark.parametrize(
    ("gemm", "bias", "more", "remark"),
    [
        ("gemm(%x, %w)", "f32[2,1] = [1, 2]", "", "its constant is not one number for each of the 3 outputs of 'p'"),
        ("gemm(%x, %w)", "f32[] = [1]", "", "its constant is not one number for each of the 3 outputs of 'p'"),
        ("gemm(%x, %w)", "f32[3] = [1, 2, 3]", "%z = tanh(%p)\noutput z = %z", "its input 'p' is also used by 'z'"),
        ("gemm(%x, %w)", "f32[3] = [1, 2, 3]", "output z = %p", "its input 'p' is also used by an output of the graph"),
        ("gemm(%x, %w) {clamp=[0.0, 1.0]}", "f32[3] = [1, 2, 3]", "", "its input 'p' has a clamp before the addition"),
        ("gemm(%x, %w)", "f32[1,1,3] = [1, 2, 3]", "", "it also broadcasts the result of 'p'"),
    ],
)
def test_sums_that_are_no_bias(apply, gemm, bias, more, remark):
    outcome = apply(
        "matmul-to-gemm",
        f"""
        input %x: f32[2,2]
        const %w: f32[3,2] = [1, 2, 3, 4, 5, 6]
        const %b: {bias}
        %p = {gemm}
        %y = add(%p, %b)
        output y = %y
        {more}
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == [f"y: {remark}"]
