"""All float passes together on the shipped models: fewer nodes, the same numbers, no claim broken."""

from collections import Counter

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.importer import import_model
from qcompiler.pass_manager import PassManager, parse_pipeline

FLOAT_PASSES = (
    "remove-identities,fold-constants,common-subexpressions,dead-code,recognize-activations,replace-division,"
    "matmul-to-gemm,fold-batch-norm,fold-pad,fuse-activation,sink-transposes"
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits_cnn", {"conv": 3, "max_pool": 2, "reshape": 1, "gemm": 2}),
        ("digits_dsnet", {"conv": 17, "hard_swish": 12, "add": 3, "reduce_mean": 1, "reshape": 1, "gemm": 1}),
    ],
)
def test_shipped_models(assets, heldout_images, tmp_path, name, expected):
    graph = import_model(assets / f"{name}.onnx")
    feeds = {"image": heldout_images[:20]}
    before = reference.run(graph, feeds)["logits"]
    pipeline = parse_pipeline(FLOAT_PASSES)
    PassManager(pipeline, check_claims=True, reproducer_dir=tmp_path).run(graph)
    assert Counter(node.op.name for node in graph.nodes()) == expected
    # Folding rounds each weight once more; logits are of magnitude 10.
    np.testing.assert_allclose(reference.run(graph, feeds)["logits"], before, rtol=1e-5, atol=2e-5)
    again = PassManager(pipeline, reproducer_dir=tmp_path).run(graph)
    assert not any(result.changed for result in again)
