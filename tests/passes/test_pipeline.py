"""The pipelines of all levels and targets are sound."""

from itertools import pairwise, takewhile

import pytest

from qcompiler.errors import UsageError
from qcompiler.ir import Stage, parse_graph
from qcompiler.pass_manager import PassManager, check_stages, format_pipeline, parse_pipeline
from qcompiler.pipeline import PIPELINES, pipeline_for, with_reduced_range

EVERY = [(target, level) for target, levels in PIPELINES.items() for level in range(len(levels))]


@pytest.mark.parametrize(("target", "level"), EVERY)
def test_pipelines_lead_from_float_to_a_checked_integer_graph(target: str, level: int):
    passes = pipeline_for(target, level)
    assert check_stages(passes, Stage.FLOAT) is Stage.INTEGER
    assert [step.name for step in passes[-2:]] == ["prove-accumulators", "verify-integer"]


@pytest.mark.parametrize(("target", "level"), EVERY)
def test_what_is_printed_can_be_given_back(target: str, level: int):
    passes = pipeline_for(target, level)
    assert parse_pipeline(format_pipeline(passes)) == passes


def test_each_level_does_more_than_the_one_below():
    for levels in PIPELINES.values():
        lengths = [len(level) for level in levels]
        assert lengths == sorted(set(lengths))
        for below, above in pairwise(levels):
            assert set(below) <= set(above)


def test_level_3_finds_what_level_2_has_brought_together():
    """A product and a quotient by the inverse are the layer's two users, until a pass makes them the same."""
    text = """qir 1 graph g float {
        input %x: f32[N,2]  const %w: f32[2,2] = [1, 2, 3, 4]  const %half: f32[] = [0.5]  const %two: f32[] = [2]
        %layer = gemm(%x, %w)  %a = mul(%layer, %half)  %b = div(%layer, %two)  output a = %a  output b = %b }"""
    left = {}
    for level in (2, 3):
        graph = parse_graph(text)
        PassManager(list(takewhile(lambda step: step.result_stage is None, pipeline_for("int8", level)))).run(graph)
        left[level] = [node.op.name for node in graph.nodes()]
    assert left == {2: ["gemm", "mul"], 3: ["gemm"]}


def test_the_default_is_level_2_for_int8():
    assert pipeline_for() == pipeline_for("int8", 2)


def test_reduced_range_is_an_option_of_quantize():
    reduced = with_reduced_range(pipeline_for())
    assert [each.name for each in reduced] == [each.name for each in pipeline_for()]
    assert "quantize{reduce-range=true}" in format_pipeline(reduced)
    with pytest.raises(UsageError, match="needs the pass 'quantize'"):
        with_reduced_range(parse_pipeline("dead-code"))


def test_unknown_targets_and_levels_are_named():
    with pytest.raises(UsageError, match=r"there is no target 'int4'; the targets are: int8; did you mean 'int8'\?"):
        pipeline_for("int4")
    for level in (-1, 4):
        with pytest.raises(UsageError, match=f"there is no optimization level {level}; the levels are 0 to 3"):
            pipeline_for("int8", level)
