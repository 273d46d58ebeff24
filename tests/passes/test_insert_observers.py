from qcompiler.ir import Stage, parse_graph, print_graph
from qcompiler.pass_manager import PassManager, parse_pipeline

GRAPH = """qir 1
graph test {stage} {{
{body}
}}
"""


def observed(body: str) -> str:
    graph = parse_graph(GRAPH.format(stage="float", body=body))
    (result,) = PassManager(parse_pipeline("insert-observers"), check_claims=True).run(graph)
    assert result.changed
    assert graph.stage is Stage.OBSERVED
    return print_graph(graph)


def test_inputs_and_computed_values_are_observed():
    assert observed("""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 0.5, -1, 2]
        %y = gemm(%x, %w) {clamp=[0.0, inf]} @fc
        %z = sigmoid(%y)
        output z = %z
    """) == print_graph(
        parse_graph(
            GRAPH.format(
                stage="observed",
                body="""
        input %x: f32[N,2]
        const %w: f32[2,2] = [1, 0.5, -1, 2]
        %x_observed = observe(%x) {key="x"} @observe_x
        %y = gemm(%x_observed, %w) {clamp=[0.0, inf]} @fc
        %y_observed = observe(%y) {key="y"} @observe_y
        %z = sigmoid(%y_observed)
        %z_observed = observe(%z) {key="z"} @observe_z
        output z = %z_observed
    """,
            )
        )
    )


def test_moved_and_selected_values_are_not_observed():
    text = observed("""
        input %x: f32[N,4,6,6]
        %p = max_pool(%x) {kernel=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0], dilations=[1, 1]}
        %r = reshape(%p) {shape=["N", 36]}
        %t = transpose(%r) {perm=[1, 0]}
        output t = %t
    """)
    assert text.count("= observe(") == 1
    assert 'key="x"' in text


def test_a_concatenation_and_every_result_of_several_users_get_one_observer_each():
    text = observed("""
        input %x: f32[N,4]
        %a = relu(%x)
        %b = tanh(%a)
        %c = concat(%a, %b) {axis=1}
        output a = %a
        output c = %c
    """)
    assert text.count("= observe(") == 4
    assert "output a = %a_observed" in text
    assert "concat(%a_observed, %b_observed)" in text


def test_integers_and_unused_inputs_are_not_observed():
    text = observed("""
        input %x: f32[N,4]
        input %i: s64[N]
        input %unused: f32[N]
        %y = relu(%x)
        output y = %y
        output i = %i
    """)
    assert text.count("= observe(") == 2
