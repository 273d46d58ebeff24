def test_erases_what_no_output_needs(apply):
    outcome = apply(
        "dead-code",
        """
        input %x: f32[N,4]
        input %unused: f32[2]
        const %a: f32[4] = [1, 2, 3, 4]
        const %b: f32[4] = [5, 6, 7, 8]
        %s = add(%x, %a)
        %t = mul(%x, %b)
        %u = tanh(%t)
        output y = %s
        """,
    )
    assert outcome.changed
    assert outcome.equals("""
        input %x: f32[N,4]
        input %unused: f32[2]
        const %a: f32[4] = [1, 2, 3, 4]
        %s = add(%x, %a)
        output y = %s
    """)


def test_keeps_a_node_of_which_one_result_is_used(apply):
    outcome = apply(
        "dead-code",
        """
        input %x: f32[N,4]
        %a: f32[N,1], %b: f32[N,3] = split(%x) {axis=1, sizes=[1, 3]} @s
        output y = %b
        """,
    )
    assert not outcome.changed
    assert outcome.ops == ["split"]
