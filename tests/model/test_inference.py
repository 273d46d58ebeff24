import numpy as np
import pytest

import qcompiler
from qcompiler.errors import ArtifactError, RuntimeInputError, UsageError


@pytest.fixture(scope="module")
def model(assets, calibration_images):
    return qcompiler.compile(assets / "digits_dsnet.onnx", calibration=calibration_images)


@pytest.fixture(scope="module")
def session(model):
    return qcompiler.InferenceSession(model.to_bytes())


def test_it_drops_in_for_onnxruntime(assets, session, heldout_images):
    ort = pytest.importorskip("onnxruntime")
    peer = ort.InferenceSession(str(assets / "digits_dsnet.onnx"), providers=["CPUExecutionProvider"])
    for ours, theirs in (
        (session.get_inputs(), peer.get_inputs()),
        (session.get_outputs(), peer.get_outputs()),
    ):
        assert [(a.name, a.type, a.shape) for a in ours] == [(a.name, a.type, a.shape) for a in theirs]
    feeds = {"image": heldout_images[:32]}
    (got,), (expected,) = session.run(None, feeds), peer.run(None, feeds)
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert (got.argmax(1) == expected.argmax(1)).mean() > 0.9
    assert session.get_providers() == ["CPUExecutionProvider"]


def test_it_equals_the_reference_for_every_batch_and_thread_count(model, heldout_images):
    data = model.to_bytes()
    for threads in (1, 2, 3):
        session = qcompiler.InferenceSession(data, threads=threads)
        for batch in (1, 2, 7):
            feeds = {"image": heldout_images[:batch]}
            expected = qcompiler.reference.run(model.graph, feeds)
            assert np.array_equal(session.run(["logits"], feeds)[0], expected["logits"])


def test_session_options_give_the_thread_count(model):
    class Options:
        intra_op_num_threads = 1

    assert qcompiler.InferenceSession(model.to_bytes(), Options())._session.threads == 1
    assert qcompiler.InferenceSession(model.to_bytes(), Options(), threads=2)._session.threads == 2


@pytest.mark.parametrize("providers", [["CUDAExecutionProvider"], [("CUDAExecutionProvider", {})]])
def test_providers_without_the_cpu_are_refused(model, providers):
    with pytest.raises(UsageError, match="CPUExecutionProvider"):
        qcompiler.InferenceSession(model.to_bytes(), providers=providers)


def test_providers_with_the_cpu_are_accepted(model):
    providers: list[str | tuple[str, dict[str, str]]] = [("CUDAExecutionProvider", {}), "CPUExecutionProvider"]
    assert qcompiler.InferenceSession(model.to_bytes(), providers=providers).get_providers() == ["CPUExecutionProvider"]


@pytest.mark.parametrize(
    ("names", "feeds", "message"),
    [
        (["nothing"], {"image": np.zeros((1, 1, 8, 8), np.float32)}, "no output 'nothing'"),
        (None, {}, "image"),
        (None, {"picture": np.zeros((1, 1, 8, 8), np.float32)}, "picture"),
        (None, {"image": np.zeros((1, 1, 8, 8))}, "float64"),
        (None, {"image": np.zeros((1, 1, 8, 9), np.float32)}, "9"),
        (None, {"image": np.zeros((1, 8, 8), np.float32)}, r"\[1,8,8\]"),
    ],
)
def test_wrong_inputs_are_named(session, names, feeds, message):
    with pytest.raises(RuntimeInputError, match=message):
        session.run(names, feeds)


def test_an_empty_batch_has_an_empty_result(session):
    (logits,) = session.run(None, {"image": np.zeros((0, 1, 8, 8), np.float32)})
    assert logits.shape == (0, 10)


def test_inputs_may_be_views_in_any_order_of_memory(session, heldout_images):
    expected = session.run(None, {"image": heldout_images[:3]})[0]
    fortran = np.asfortranarray(heldout_images[:3])
    stepped = np.repeat(heldout_images[:3], 2, axis=0)[::2]
    assert np.array_equal(session.run(None, {"image": fortran})[0], expected)
    assert np.array_equal(session.run(None, {"image": stepped})[0], expected)


def test_results_of_earlier_calls_stay_as_they_were(session, heldout_images):
    first = session.run(None, {"image": heldout_images[:2]})[0]
    kept = first.copy()
    session.run(None, {"image": heldout_images[2:4]})
    assert np.array_equal(first, kept)


def test_lists_become_arrays_of_the_inputs_dtype(session, heldout_images):
    expected = session.run(None, {"image": heldout_images[:2]})[0]
    assert np.array_equal(session.run(None, {"image": heldout_images[:2].tolist()})[0], expected)
    with pytest.raises(RuntimeInputError, match="'image' is no float32 array"):
        session.run(None, {"image": [[1.0], [2.0, 3.0]]})


def test_names_in_a_lone_string_are_not_taken_letter_by_letter(model, session, heldout_images):
    with pytest.raises(RuntimeInputError, match="'logits'; give a list"):
        session.run("logits", {"image": heldout_images[:2]})
    with pytest.raises(UsageError, match=r"\['CUDAExecutionProvider'\]"):
        qcompiler.InferenceSession(model.to_bytes(), providers="CUDAExecutionProvider")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_a_thread_count_is_a_positive_integer(assets, model, threads):
    with pytest.raises(UsageError, match="threads must be at least 1"):
        qcompiler.InferenceSession(model.to_bytes(), threads=threads)
    with pytest.raises(UsageError, match="threads must be at least 1"):
        qcompiler.compile(assets / "digits_dsnet.onnx", threads=threads)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_models_come_in_any_kind_of_bytes(assets, model, heldout_images, kind):
    feeds = {"image": heldout_images[:3]}
    expected = model.session().run(feeds)["logits"]
    assert np.array_equal(qcompiler.load(kind(model.to_bytes())).session().run(feeds)["logits"], expected)
    assert np.array_equal(qcompiler.InferenceSession(kind(model.to_bytes())).run(None, feeds)[0], expected)
    data = (assets / "digits_cnn.onnx").read_bytes()
    assert qcompiler.compile(kind(data)).provenance == qcompiler.compile(data).provenance


@pytest.mark.parametrize("passes", ["", "dead-code", "insert-observers,calibrate,propagate-ranges,quantize"])
def test_passes_that_give_no_integer_graph_are_refused(assets, passes):
    with pytest.raises(UsageError, match="only an integer graph is a compiled model"):
        qcompiler.compile(assets / "digits_cnn.onnx", passes=passes)


def test_an_onnx_file_is_refused(assets):
    with pytest.raises(ArtifactError, match="is not a compiled model"):
        qcompiler.InferenceSession(assets / "digits_cnn.onnx")


def test_integer_io_exposes_the_quantized_tensors(assets, model, calibration_images, heldout_images):
    integer = qcompiler.compile(assets / "digits_dsnet.onnx", calibration=calibration_images, io="integer")
    session = qcompiler.InferenceSession(integer.to_bytes())
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type) == ("image", "tensor(uint8)")
    facts = integer.summary["interface"]
    scale, zero_point = facts["image"]["scale"][0], facts["image"]["zero_point"][0]
    images = heldout_images[:5]
    quantized = np.clip(np.rint(images / np.float32(scale)) + zero_point, 0, 255).astype(np.uint8)
    (got,) = session.run(None, {"image": quantized})
    assert np.issubdtype(got.dtype, np.integer)
    real = (got - np.array(facts["logits"]["zero_point"])) * np.array(facts["logits"]["scale"])
    (expected,) = model.session().run({"image": images}).values()
    assert np.allclose(real, expected, rtol=1e-5, atol=0)
    assert logits.type != "tensor(float)"
