"""What every test may use: hypothesis without deadlines, and the shipped models with their images."""

import os
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import settings

Scalar = TypeVar("Scalar", bound=np.generic)

ASSETS = Path(__file__).parent / "assets"

# A busy machine is not a failing test. Under CI the examples are the same in every run.
settings.register_profile("qcompiler", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("qcompiler")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of the shipped models and their data."""
    return ASSETS


@pytest.fixture(scope="session", params=["digits_cnn", "digits_dsnet"])
def digits_model(request: pytest.FixtureRequest) -> Path:
    """Each shipped model in turn: `image` f32[N, 1, 8, 8] to `logits` f32[N, 10]."""
    return ASSETS / f"{request.param}.onnx"


@pytest.fixture(scope="session")
def calibration_images() -> npt.NDArray[np.float32]:
    """f32[256, 1, 8, 8] in [-1, 1], from the training part of the digits."""
    with np.load(ASSETS / "digits_calibration.npz") as data:
        return _read_only(data["image"])


@pytest.fixture(scope="session")
def heldout_images() -> npt.NDArray[np.float32]:
    """f32[599, 1, 8, 8] in [-1, 1], held out of the training."""
    with np.load(ASSETS / "digits_test.npz") as data:
        return _read_only(data["image"])


@pytest.fixture(scope="session")
def heldout_labels() -> npt.NDArray[np.int64]:
    """s64[599], the digits that `heldout_images` show."""
    with np.load(ASSETS / "digits_test.npz") as data:
        return _read_only(data["labels"])


def _read_only(array: npt.NDArray[Scalar]) -> npt.NDArray[Scalar]:
    array.flags.writeable = False
    return array
