def test_a_chain_of_constants_becomes_one(apply):
    outcome = apply(
        "fold-constants",
        """
        input %x: f32[N,2]
        const %w: f32[2,3] = [1, 2, 3, 4, 5, 6]
        const %two: f32[] = [2]
        %t = transpose(%w) {perm=[1, 0]}
        %d = mul(%t, %two)
        %y = gemm(%x, %d)
        output y = %y
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,2]
        const %d: f32[3,2] = [2, 8, 4, 10, 6, 12]
        %y = gemm(%x, %d)
        output y = %y
    """)


def test_an_op_with_several_results(apply):
    outcome = apply(
        "fold-constants",
        """
        input %x: f32[N,2]
        const %w: f32[4] = [1, 2, 3, 4]
        %a: f32[2], %b: f32[2] = split(%w) {axis=0, sizes=[2, 2]} @s
        %p = add(%x, %a)
        %y = mul(%p, %b)
        output y = %y
        """,
    )
    assert outcome.ops == ["add", "mul"]
    assert [v.data.tolist() for v in outcome.graph.constants()] == [[1, 2], [3, 4]]


def test_integer_graphs_keep_their_bits(apply):
    outcome = apply(
        "fold-constants",
        """
        input %x: s8[N,2]
        const %c: s8[2] = [100, -7]
        %r = int.rescale(%c) {dtype=s8, zp_in=3, multiplier=1431655766, shift=32, zp_out=1, lo=-128, hi=127}
        %y = int.mul(%x, %r) {dtype=s8, zp_a=0, zp_b=0, multiplier=1073741824, shift=36, zp_out=0, lo=-128, hi=127}
        output y = %y
        """,
        stage="integer",
    )
    assert outcome.ops == ["int.mul"]


def test_a_result_that_is_much_larger_than_its_operands_is_not_folded(apply):
    body = (
        """
        input %x: f32[N,40,40]
        const %a: f32[40,1] = %s
        const %b: f32[1,40] = %s
        %%o = add(%%a, %%b)
        %%y = add(%%x, %%o)
        output y = %%y
    """.replace("%s", "LIST")
        .replace("%%", "%")
        .replace("LIST", str(list(range(40))))
    )
    outcome = apply("fold-constants{max-growth=1000}", body)
    assert not outcome.changed
    assert outcome.remarks == ["o: its result would take 6400 bytes, its operands take 320; see max-growth"]
    assert apply("fold-constants", body).ops == ["add"]


def test_an_operand_that_is_no_constant_stops_it(apply):
    outcome = apply(
        "fold-constants",
        """
        input %x: f32[2]
        const %c: f32[2] = [1, 2]
        %y = add(%x, %c)
        output y = %y
        """,
    )
    assert not outcome.changed
    assert outcome.remarks == []
