"""Reading DATA: every accepted form, batches of any size, one clear message for what does not fit."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from qcompiler.calibration.data import Batch, CalibrationSource
from qcompiler.calibration.readers import DataSource
from qcompiler.errors import CalibrationDataError
from qcompiler.ir import DType, TensorType

ONE_INPUT = {"image": TensorType(DType.F32, ("N", 1, 2, 2))}
TWO_INPUTS = {"a": TensorType(DType.F32, ("N", 3)), "b": TensorType(DType.F32, ("N", 2))}
FIXED = {"image": TensorType(DType.F32, (1, 1, 2, 2))}


def images(count: int, start: int = 0) -> np.ndarray:
    return np.arange(start * 4, (start + count) * 4, dtype=np.float32).reshape(count, 1, 2, 2)


def read(data: DataSource, size: int = 4, inputs: dict[str, TensorType] = ONE_INPUT) -> list[Batch]:
    return list(CalibrationSource(data, inputs).batches(size))


def joined(batches: list[Batch], name: str = "image") -> np.ndarray:
    return np.concatenate([batch.feeds[name] for batch in batches])


# ---- forms ---------------------------------------------------------------------------------------


def test_npz_named_as_the_inputs_with_labels(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, image=images(5), labels=np.arange(5), note=np.zeros(1))
    batches = read(path, size=3)
    assert [batch.size for batch in batches] == [3, 2]
    assert [batch.first for batch in batches] == [0, 3]
    assert np.array_equal(joined(batches), images(5))
    assert [list(batch.labels) for batch in batches if batch.labels is not None] == [[0, 1, 2], [3, 4]]


def test_npz_with_a_lone_array_needs_no_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", arr_0=images(3), labels=np.arange(3))
    assert np.array_equal(joined(read(str(tmp_path / "data.npz"))), images(3))


def test_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", images(3))
    assert np.array_equal(joined(read(tmp_path / "data.npy")), images(3))


def test_directory_is_read_in_the_order_of_names_and_batches_cross_files(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", images(3, 2))
    np.savez(tmp_path / "a.npz", image=images(2))
    (tmp_path / "notes.txt").write_text("not data")
    batches = read(tmp_path, size=4)
    assert [batch.size for batch in batches] == [4, 1]
    assert np.array_equal(joined(batches), images(5))


def test_array_dictionary_and_generator_in_memory() -> None:
    pieces: Iterator[dict[str, np.ndarray]] = ({"image": images(1, i)} for i in range(5))
    source = CalibrationSource(pieces, ONE_INPUT)
    assert source.origin == "memory"
    for _ in range(2):  # read again
        assert np.array_equal(joined(list(source.batches(2))), images(5))
    assert len(source) == 5
    assert np.array_equal(joined(read(images(3))), images(3))
    assert np.array_equal(joined(read({"image": images(3)})), images(3))


def test_python_file_and_function(tmp_path: Path) -> None:
    (tmp_path / "samples.py").write_text(
        "import numpy as np\ndef some():\n    for i in range(3):\n"
        "        yield {'image': np.full((1, 1, 2, 2), i, np.float32), 'labels': np.array([i])}\n"
    )
    batches = read(f"{tmp_path}/samples.py:some", size=2)
    assert [batch.size for batch in batches] == [2, 1]
    assert batches[1].labels is not None
    assert list(batches[1].labels) == [2]


def test_module_and_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qcompiler_samples.py").write_text(
        "import numpy as np\ndef some():\n    return [{'image': np.zeros((2, 1, 2, 2), np.float32)}]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert read("qcompiler_samples:some")[0].size == 2


class Refilled:
    """An iterable of samples that has one array for all of them."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        image = np.empty((1, 1, 2, 2), np.float32)
        for number in range(5):
            image[...] = number
            yield {"image": image}


@pytest.mark.parametrize("make", [lambda: iter(Refilled()), Refilled], ids=["generator", "iterable"])
def test_a_generator_may_fill_one_array_again_and_again(make: Callable[[], DataSource]) -> None:
    found = joined(read(make(), size=2, inputs=ONE_INPUT))
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("inputs", [ONE_INPUT, FIXED])
def test_a_function_may_fill_one_array_again_and_again(tmp_path: Path, inputs: dict[str, TensorType]) -> None:
    (tmp_path / "data.py").write_text(
        "import numpy as np\n"
        "def f():\n"
        "    image = np.empty((1, 1, 2, 2), np.float32)\n"
        "    for number in range(5):\n"
        "        image[...] = number\n"
        "        yield {'image': image}\n"
    )
    found = joined(read(f"{tmp_path}/data.py:f", size=2, inputs=inputs))
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_any_batch_size_gives_the_same_samples(size: int) -> None:
    data = [{"a": np.ones((n, 3), np.float32) * n, "b": np.ones((n, 2), np.float32)} for n in (1, 4, 2)]
    batches = read(data, size=size, inputs=TWO_INPUTS)
    assert sum(batch.size for batch in batches) == 7
    assert all(batch.size == size for batch in batches[:-1])
    assert np.array_equal(joined(batches, "a"), np.concatenate([piece["a"] for piece in data]))


def test_a_fixed_first_dimension_gives_batches_of_one_sample() -> None:
    assert [batch.size for batch in read(images(3), size=8, inputs=FIXED)] == [1, 1, 1]
    fixed_pair = {"image": TensorType(DType.F32, (2, 1, 2, 2))}
    batches = read(images(6), size=8, inputs=fixed_pair)
    assert [batch.feeds["image"].shape[0] for batch in batches] == [2, 2, 2]


def test_samples_of_different_sizes_are_not_joined() -> None:
    free = {"x": TensorType(DType.F32, ("N", "T"))}
    data = [{"x": np.zeros((2, 3), np.float32)}, {"x": np.zeros((1, 5), np.float32)}]
    assert [batch.feeds["x"].shape for batch in read(data, inputs=free)] == [(2, 3), (1, 5)]


# ---- faults --------------------------------------------------------------------------------------


def fault(data: DataSource, inputs: dict[str, TensorType] = ONE_INPUT) -> str:
    with pytest.raises(CalibrationDataError) as caught:
        read(data, inputs=inputs)
    return str(caught.value)


def test_missing_files_and_functions(tmp_path: Path) -> None:
    assert fault("no/such/file.npz") == "no such file or directory: no/such/file.npz"
    assert fault("no_such_file.py:f") == "no such file: no_such_file.py"
    assert "no_such_module" in fault("no_such_module:f")
    (tmp_path / "empty.py").write_text("x = 1\n")
    assert "has no function 'f'" in fault(f"{tmp_path}/empty.py:f")
    assert "give" in fault(tmp_path / "empty.py")
    (tmp_path / "sub").mkdir()
    assert "holds no .npz or .npy file" in fault(tmp_path / "sub")
    assert "type int" in fault(7)  # type: ignore[arg-type]  # what an untyped caller may do


def test_damaged_and_pickled_files(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not an archive")
    assert "bad.npz cannot be read as a .npz file" in fault(tmp_path / "bad.npz")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "objects.npy cannot be read" in fault(tmp_path / "objects.npy")


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
@pytest.mark.parametrize("content", ["text", "array", "archive"])
def test_a_file_that_is_not_what_its_name_says(tmp_path: Path, suffix: str, content: str) -> None:
    if (suffix, content) in ((".npz", "archive"), (".npy", "array")):
        return
    path = tmp_path / f"data{suffix}"
    with path.open("wb") as file:
        if content == "text":
            file.write(b"hello")
        elif content == "array":
            np.save(file, images(2))
        else:
            np.savez(file, image=images(2))
    message = fault(path)
    assert f"data{suffix} cannot be read as a {suffix} file" in message
    assert "pickle" not in message


def test_a_function_that_raises(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("def f():\n    raise KeyError('x')\n")
    assert "bad.py:f raised KeyError: 'x'" in fault(f"{tmp_path}/bad.py:f")
    (tmp_path / "worse.py").write_text("1 / 0\n")
    assert "worse.py raised ZeroDivisionError" in fault(f"{tmp_path}/worse.py:f")
    (tmp_path / "odd.py").write_text("def f():\n    yield 3\n")
    assert "item 0 of" in fault(f"{tmp_path}/odd.py:f")


def test_names(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", a=np.zeros((1, 3), np.float32), c=np.zeros((1, 2), np.float32))
    message = fault(tmp_path / "data.npz", inputs=TWO_INPUTS)
    assert "no array named 'b'" in message
    assert "the model's inputs are 'a', 'b', the data's arrays 'a', 'c'" in message
    assert "no array named 'a', 'b'" in fault(images(1), inputs=TWO_INPUTS)


def test_shapes_and_dtypes() -> None:
    assert "has shape [3,2,2], expected [samples,1,2,2]" in fault(np.zeros((3, 2, 2), np.float32))
    assert "a single sample gets its first axis by array[None]" in fault(images(1)[0])
    assert "has shape [3,1,2,5], expected [samples,1,2,2]" in fault(np.zeros((3, 1, 2, 5), np.float32))
    assert "has dtype uint8, the model takes float32" in fault(np.zeros((3, 1, 2, 2), np.uint8))
    pair = {"image": TensorType(DType.F32, (2, 1, 2, 2))}
    assert "3 rows, no multiple of the 2" in fault(images(3), inputs=pair)
    assert "no axis" in fault(images(3), inputs={"x": TensorType(DType.F32, ())})


def test_emptiness() -> None:
    assert "array 'image' is empty" in fault(images(0))
    assert fault([]) == "memory: the data holds no samples"


def test_different_numbers_of_samples() -> None:
    data = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((3, 2), np.float32)}
    assert "'a' 2, 'b' 3" in fault(data, inputs=TWO_INPUTS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_name_file_array_and_sample(tmp_path: Path, value: float) -> None:
    bad = images(6)
    bad[4, 0, 1, 0] = value
    np.save(tmp_path / "bad.npy", bad)
    assert fault(tmp_path / "bad.npy") == f"{tmp_path}/bad.npy: sample 4 of array 'image' holds NaN or Inf"


def test_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", image=images(4), labels=np.arange(3))
    assert "'labels' is int64[3], expected one integer for each of the 4 samples" in fault(tmp_path / "data.npz")
    assert "float64[4]" in fault({"image": images(4), "labels": np.zeros(4)})
    half = [{"image": images(1), "labels": np.zeros(1, np.int64)}, {"image": images(1)}]
    assert "some of the data has 'labels' and some has not" in fault(half)
