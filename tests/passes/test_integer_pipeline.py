"""From the shipped models to proven integer programs."""

from pathlib import Path

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.calibration.data import open_source
from qcompiler.calibration.methods import method_names
from qcompiler.importer import import_model
from qcompiler.integer_proofs import prove
from qcompiler.ir import Graph, Stage, ops, verify
from qcompiler.pass_manager import PassContext, PassManager, parse_pipeline
from qcompiler.pipeline import pipeline_for


def compiled(
    model: Path, images: np.ndarray, *, method: str = "minmax", level: int = 2
) -> tuple[Graph, Graph, PassContext]:
    graph = import_model(model)
    float_graph = graph.clone()
    context = PassContext(calibration=open_source(images, graph), calibration_method=method)
    PassManager(pipeline_for("int8", level), check_claims=True).run(graph, context)
    return float_graph, graph, context


def decibels(exact: np.ndarray, got: np.ndarray) -> float:
    wide = exact.astype(np.float64)
    return float(10 * np.log10(np.sum(wide**2) / np.sum((wide - got) ** 2)))


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_each_level_gives_a_proven_integer_program(digits_model, calibration_images, heldout_images, level):
    float_graph, graph, context = compiled(digits_model, calibration_images[:64], level=level)
    assert graph.stage is Stage.INTEGER
    verify(graph)
    assert not graph.allow_float
    assert context.warnings == []
    assert prove(graph)
    assert all(proof.headroom_bits > 0 for proof in prove(graph))
    feeds = {"image": heldout_images[:100]}
    exact, got = (reference.run(g, feeds)["logits"] for g in (float_graph, graph))
    assert decibels(exact, got) > 27


@pytest.mark.parametrize("method", method_names())
def test_each_method_keeps_the_accuracy(digits_model, calibration_images, heldout_images, heldout_labels, method):
    float_graph, graph, _ = compiled(digits_model, calibration_images, method=method)
    feeds = {"image": heldout_images}
    exact, got = (reference.run(g, feeds)["logits"].argmax(axis=1) for g in (float_graph, graph))
    lost = np.mean(exact == heldout_labels) - np.mean(got == heldout_labels)
    assert lost <= 0.01


def test_without_data_it_still_works_and_warns(digits_model, heldout_images):
    graph = import_model(digits_model)
    float_graph, context = graph.clone(), PassContext()
    PassManager(pipeline_for("int8", 2)).run(graph, context)
    (warning,) = context.warnings
    assert "--calibrate" in warning
    feeds = {"image": heldout_images[:200]}
    exact, got = (reference.run(g, feeds)["logits"].argmax(axis=1) for g in (float_graph, graph))
    assert np.mean(exact == got) > 0.9


def test_transposes_are_left_at_the_input_only(digits_model, calibration_images):
    _, graph, _ = compiled(digits_model, calibration_images[:16])
    transposes = [node for node in graph.nodes() if isinstance(node.op, ops.Transpose)]
    assert len(transposes) <= 1
    assert all(
        isinstance(node.operands[0].producer.op, ops.IntQuantize) for node in transposes if node.operands[0].producer
    )


def test_the_quantized_stage_means_what_the_integer_stage_computes(digits_model, calibration_images, heldout_images):
    graph = import_model(digits_model)
    context = PassContext(calibration=open_source(calibration_images[:64], graph))
    names = [type(step).name for step in pipeline_for("int8", 2)]
    upto = names.index("lower-to-integer")
    PassManager(pipeline_for("int8", 2)[:upto]).run(graph, context)
    feeds = {"image": heldout_images[:50]}
    meant = reference.run(graph, feeds)["logits"]
    PassManager(parse_pipeline("lower-to-integer")).run(graph, context)
    got = reference.run(graph, feeds)["logits"]
    if any(isinstance(node.op, ops.IntAdd) for node in graph.nodes()):
        # Factors of 13 bits decide near ties of residual additions differently; what they lose is far below 8 bits'.
        assert decibels(meant, got) > 38
    else:  # a multiplier of 31 bits decides a tie differently once in a billion roundings
        assert np.mean(got != meant) < 0.01


@pytest.mark.parametrize(("cuts", "threads"), [([], 2), ([1, 4, 9], 1), ([12], 3)])
def test_calibration_does_not_depend_on_batches_order_or_threads(digits_model, calibration_images, cuts, threads):
    """The float activations themselves must not: a convolution's sums have one order whatever the batch."""
    images = calibration_images[:20]
    digests = []
    for data, count in ((images, 1), ([{"image": part} for part in reversed(np.split(images, cuts))], threads)):
        graph = import_model(digits_model)
        context = PassContext(calibration=open_source(data, graph), threads=count)
        upto = [type(step).name for step in pipeline_for("int8", 2)].index("calibrate")
        PassManager(pipeline_for("int8", 2)[: upto + 1]).run(graph, context)
        digests.append(context.calibration_digest)
    assert digests[0] == digests[1] is not None
