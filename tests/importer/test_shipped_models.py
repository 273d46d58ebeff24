"""The shipped models compute what onnxruntime computes, on real images."""

from collections import Counter

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.importer import import_model


def test_logits_equal_onnxruntimes(digits_model, heldout_images):
    import onnxruntime

    graph = import_model(digits_model)
    feeds = {"image": heldout_images[:50]}
    session = onnxruntime.InferenceSession(str(digits_model), providers=["CPUExecutionProvider"])
    (expected,) = session.run(["logits"], feeds)
    # Logits are of magnitude 10; float32 sums of some hundred products differ by a few units in the last place.
    np.testing.assert_allclose(reference.run(graph, feeds)["logits"], expected, rtol=1e-5, atol=2e-5)


def test_the_batch_stays_symbolic(digits_model):
    graph = import_model(digits_model)
    assert [(v.name, v.type.shape) for v in graph.inputs] == [("image", ("N", 1, 8, 8))]
    assert [v.type.shape for v in graph.outputs] == [("N", 10)]


def test_the_batch_can_be_fixed(digits_model):
    assert import_model(digits_model, dims={"N": 4}).outputs[0].type.shape == (4, 10)


def test_path_bytes_and_message_give_the_same_graph(assets):
    import onnx

    path = assets / "digits_cnn.onnx"
    sizes = [len(import_model(source)) for source in (path, str(path), path.read_bytes(), onnx.load(path))]
    assert len(set(sizes)) == 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("digits_cnn", {"conv": 3, "batch_normalization": 3, "relu": 4, "max_pool": 2, "reshape": 1, "gemm": 2}),
        ("digits_dsnet", {"conv": 17, "hard_swish": 12, "add": 3, "reduce_mean": 1, "reshape": 1, "gemm": 1}),
    ],
)
def test_ops(assets, name, expected):
    graph = import_model(assets / f"{name}.onnx")
    assert Counter(node.op.name for node in graph.nodes()) == expected
