"""External data is read only from inside the model's folder, and only if it has the right size."""

import numpy as np
import onnx
import pytest
from onnx import helper

from qcompiler.errors import ModelError
from qcompiler.importer import import_model

WEIGHT = np.arange(64, dtype=np.float32)


@pytest.fixture
def saved(model, tmp_path):
    """A model in its own folder whose weight lies in `weights.bin`, after 64 bytes of something else."""
    folder = tmp_path / "model"
    folder.mkdir()
    source = model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": (64,)}, {"w": WEIGHT})
    path = folder / "model.onnx"
    (folder / "weights.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    tensor = source.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL

    def save(location="weights.bin", offset="64", length=str(WEIGHT.nbytes)):
        del tensor.external_data[:]
        for key, value in (("location", location), ("offset", offset), ("length", length)):
            if value is not None:
                tensor.external_data.add(key=key, value=value)
        path.write_bytes(source.SerializeToString())
        return path

    return save


def test_is_read(saved):
    (constant,) = import_model(saved()).constants()
    assert constant.data is not None
    assert constant.data.tolist() == WEIGHT.tolist()


def test_length_may_be_left_out(saved):
    (constant,) = import_model(saved(length=None)).constants()
    assert constant.data is not None
    assert constant.data.tolist() == WEIGHT.tolist()


def test_relative_model_path(saved, monkeypatch):
    path = saved()
    monkeypatch.chdir(path.parent)
    assert len(import_model("model.onnx")) == 1


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "/etc/passwd", "C:\\x", "", "link.bin"])
def test_never_outside_the_folder(saved, tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    (tmp_path / "model" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelError, match="tensor 'w' keeps its data in"):
        import_model(saved(location=location))


def test_a_folder_that_is_a_link_out(saved, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "weights.bin").write_bytes(b"\0" * 64 + WEIGHT.tobytes())
    (tmp_path / "model" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="leads out of the model's folder"):
        import_model(saved(location="sub/weights.bin"))


def test_missing(saved):
    with pytest.raises(ModelError, match=r"'w' keeps its data in 'gone.bin', but there is no such file"):
        import_model(saved(location="gone.bin"))


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        ("68", "256", "which has only 320"),
        ("64", "128", "needs 256 bytes by its shape but its external data has length=128"),
        ("-4", "256", "offset='-4'"),
        ("64", "many", "length='many'"),
    ],
)
def test_wrong_place(saved, offset, length, message):
    with pytest.raises(ModelError, match=message):
        import_model(saved(offset=offset, length=length))


def test_bytes_have_no_folder(saved):
    with pytest.raises(ModelError, match="the model was given as bytes or as a ModelProto; give its path instead"):
        import_model(saved().read_bytes())
