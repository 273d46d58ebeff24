"""Whole float models on compiled kernels."""

import numpy as np

from qcompiler import reference
from qcompiler.importer import import_model
from qcompiler.runtime.session import Session


def test_trained_model_agrees_with_the_reference(digits_model, heldout_images):
    graph = import_model(digits_model)
    feeds = {"image": heldout_images[:16]}
    logits, exact = Session(graph).run(feeds)["logits"], reference.run(graph, feeds)["logits"]
    assert np.allclose(logits, exact, rtol=0, atol=1e-5 * np.abs(exact).max())


def test_logits_have_the_same_bits_for_any_batch_and_threads(digits_model, heldout_images):
    graph = import_model(digits_model)
    images = heldout_images[:12]
    alone = Session(graph, threads=1)
    whole = Session(graph, threads=3).run({"image": images})["logits"]
    for first, end in ((0, 1), (1, 5), (5, 12)):
        assert np.array_equal(alone.run({"image": images[first:end]})["logits"], whole[first:end])
