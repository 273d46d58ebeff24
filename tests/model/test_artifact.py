import json
import mmap
import random as random_module
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import qcompiler
from qcompiler.artifact import _narrow, _widen, decode
from qcompiler.container import pack_sections, unpack_sections
from qcompiler.errors import ArtifactError
from qcompiler.ir import DType
from qcompiler.runtime.session import Session
from qcompiler.summary import STRUCTURE_KEYS


@pytest.fixture(scope="module")
def model(assets, calibration_images):
    return qcompiler.compile(assets / "digits_cnn.onnx", calibration=calibration_images)


@pytest.fixture(scope="module")
def sections(model):
    return {name: bytes(data) for name, data in unpack_sections(model.to_bytes(), "x").items()}


def test_load_gives_back_the_same_model(model, tmp_path, heldout_images):
    path = tmp_path / "model.qc"
    model.save(path)
    for mapped in (False, True):
        loaded = qcompiler.load(path, mmap=mapped)
        assert loaded.to_bytes() == model.to_bytes() == path.read_bytes()
        feeds = {"image": heldout_images[:5]}
        expected = qcompiler.reference.run(model.graph, feeds)["logits"]
        assert np.array_equal(qcompiler.reference.run(loaded.graph, feeds)["logits"], expected)
        assert np.array_equal(loaded.session(1).run(feeds)["logits"], expected)


def test_the_weights_of_a_mappable_artifact_stay_in_the_mapped_file(model, tmp_path, sections):
    path = tmp_path / "model.qc"
    model.save(path, mappable=True)
    data = path.read_bytes()
    assert data == model.to_bytes(mappable=True)
    assert sections["constants"] in data
    assert sections["constants"] not in model.to_bytes()
    assert {name: bytes(view) for name, view in unpack_sections(data, "x").items()} == sections
    loaded = qcompiler.load(path, mmap=True)
    assert loaded.to_bytes() == model.to_bytes()
    weights = [value.data for value in loaded.graph.constants() if value.type.dtype is DType.S8]
    assert weights
    assert all(isinstance(owner(array), mmap.mmap) for array in weights)


def owner(array):
    """What owns the memory that an array shows."""
    while isinstance(array, np.ndarray):
        array = array.base
    return array.obj if isinstance(array, memoryview) else array


def test_it_holds_no_times_and_no_code(sections):
    summary = json.loads(sections["summary"])
    assert "sqnr_db" in summary
    assert not set(summary) & {"seconds", "passes"}
    assert set(sections) == {"graph", "index", "constants", "summary", "provenance"}


def test_the_verdict_is_found_anew_and_not_believed(model, sections):
    claims = json.loads(sections["summary"]) | {"integer_only": False, "accumulators_total": 99, "float_nodes": ["x"]}
    _, summary, _ = decode(altered(sections, summary=json.dumps(claims).encode()), "x")
    for key in STRUCTURE_KEYS:
        assert summary[key] == model.summary[key]


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"calibration": None}, "calibration"),
        ({"calibration": {"method": "mse"}}, "data"),
        ({"model_bytes": "many"}, "model_bytes"),
        ({"sqnr_db": 3}, "sqnr_db"),
        ({"sqnr_db": {"logits": "high"}}, "sqnr_db"),
        ({"io": "integer"}, "interface"),
        ({"io": "integer", "interface": {"image": {"scale": [0], "zero_point": [1], "axis": None}}}, "interface"),
        ({"io": "integer", "interface": {"image": {}}}, "interface"),
    ],
)
def test_a_summary_that_was_altered_is_refused(sections, change, key):
    facts = json.loads(sections["summary"]) | change
    with pytest.raises(ArtifactError, match=f"the given bytes is not a valid compiled model: .* '{key}'"):
        qcompiler.load(altered(sections, summary=json.dumps(facts).encode()))


def test_provenance_says_where_it_came_from(model):
    assert len(model.provenance["model_sha256"]) == 64
    assert len(model.provenance["calibration_sha256"]) == 64
    assert "quantize" in model.provenance["pipeline"]
    assert set(model.provenance["versions"]) >= {"qcompiler", "onnx", "numpy"}


def test_a_missing_section_is_refused(sections):
    rest = {name: data for name, data in sections.items() if name != "constants"}
    with pytest.raises(ArtifactError, match="no section 'constants'"):
        decode(pack_sections(rest), "x")


def altered(sections: dict[str, bytes], **changes: bytes) -> bytes:
    """An artifact with other contents and matching checksums: only what it says can give it away."""
    return pack_sections(sections | changes)


def test_a_changed_constant_does_not_match_its_hash_in_the_text(sections):
    constants = bytearray(sections["constants"])
    constants[0] ^= 1
    with pytest.raises(ArtifactError, match="not a valid compiled model"):
        decode(altered(sections, constants=bytes(constants)), "x")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" integer", " float"),
        ("int.conv(", "conv("),
        ("int.conv(", "int.fly("),
        ("u8[", "f32["),
        ("zp_in=", "zp_in=9"),
        ("}\n", ""),
    ],
)
def test_a_changed_graph_is_refused(sections, old, new):
    text = sections["graph"].decode()
    assert old in text
    with pytest.raises(ArtifactError):
        decode(altered(sections, graph=text.replace(old, new).encode()), "x")


@pytest.mark.parametrize(
    "entry",
    [
        ["s8", [2**62], 1],
        ["s8", [-1], 1],
        ["f64", [4], 8],
        ["s8", "abc", 1],
        ["s32", [4], 0],
        ["s32", [4], 5],
        ["f32", [4], 2],
        ["u8", [4], True],
        ["s8"],
        {},
        None,
    ],
)
def test_a_changed_index_is_refused_before_anything_is_allocated(sections, entry):
    index = json.loads(sections["index"])
    index[0] = entry
    with pytest.raises(ArtifactError):
        decode(altered(sections, index=json.dumps(index).encode()), "x")


@given(
    st.sampled_from([np.int16, np.int32, np.int64]).flatmap(
        lambda dtype: (
            arrays(dtype, st.integers(0, 9), elements=st.integers(-(2**15), 2**15 - 1))
            | arrays(dtype, st.integers(1, 9))
        )
    )
)
@settings(max_examples=200)
def test_integers_are_stored_in_as_few_bytes_as_they_need(array):
    stored, width = _narrow(array)
    assert np.array_equal(_widen(memoryview(stored), array.dtype, width), array)
    needed = [
        w for w in range(1, array.itemsize + 1) if all(-(2 ** (8 * w - 1)) <= x < 2 ** (8 * w - 1) for x in array)
    ]
    assert width == (needed[0] if array.size else array.itemsize)
    assert len(stored) == width * array.size


@pytest.mark.parametrize("junk", [b"", b"[", b"[" * 100_000, b"null", b"\xff\xfe"])
def test_junk_instead_of_json_is_refused(sections, junk):
    with pytest.raises(ArtifactError):
        decode(altered(sections, index=junk), "x")


def mutated(text: str, random: random_module.Random) -> str:
    """The text of a graph with one number, name, dtype, operation or line exchanged."""
    kind = random.choice((r"-?\d+", r"-?\d+", r"-?\d+", r"%[\w.]+", r"\b(?:u8|s8|s16|s32|f32)\b", r"int\.\w+", r"\n.*"))
    found = [match.span() for match in re.finditer(kind, text)]
    (start, end), (other_start, other_end) = random.choice(found), random.choice(found)
    extremes = (0, 1, -1, 2, 63, 64, 127, 128, 255, 256, 2**15, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62, 2**63, 10**30)
    new = str(random.choice(extremes)) if "d+" in kind else text[other_start:other_end]
    return text[:start] + new + text[end:]


def test_an_altered_graph_with_matching_checksums_is_refused_or_means_what_the_reference_says(sections, heldout_images):
    random = random_module.Random(0)  # noqa: S311  # nothing secret
    accepted = 0
    for _ in range(400):
        text = mutated(sections["graph"].decode(), random)
        try:
            graph, _, _ = decode(altered(sections, graph=text.encode()), "x")
        except ArtifactError:
            continue
        feeds = {value.name: heldout_images[:2] for value in graph.inputs}
        for name, expected in qcompiler.reference.run(graph, feeds).items():
            assert np.array_equal(Session(graph, threads=1).run(feeds)[name], expected), text
        accepted += 1
    assert accepted > 10
