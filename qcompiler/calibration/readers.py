"""Where samples come from: NumPy files, directories of them, Python functions, arrays in memory.

A reader is a function without arguments that starts reading from the beginning and yields `Piece`s. Nothing
is ever unpickled.
"""

import importlib
import importlib.util
import os
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.lib.npyio import NpzFile

from qcompiler.errors import CalibrationDataError
from qcompiler.ir import AnyArray

LABELS = "labels"
LONE = ""
"""The name of an array that came without one."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Arrays that were read together, and where from, for messages."""

    origin: str
    arrays: dict[str, AnyArray]


Reader = Callable[[], Iterator[Piece]]
DataSource = str | os.PathLike[str] | AnyArray | Mapping[str, AnyArray] | Iterable[Mapping[str, AnyArray]]


def open_reader(data: DataSource) -> Reader:
    """A reader for any form that `--calibrate` and `qcompiler.compile(calibration=...)` take.

    Raises:
        CalibrationDataError: there is no such file, directory, module or function, or the form is none of
        those.
    """
    if isinstance(data, str | os.PathLike):
        return _open_named(os.fspath(data))
    if isinstance(data, np.ndarray):
        return lambda: iter([Piece("the array", {LONE: data})])
    if isinstance(data, Mapping):
        return lambda: iter([_piece("the dictionary", data)])
    if isinstance(data, Iterable):
        pieces = (_piece(f"item {i} of the data", item) for i, item in enumerate(data))
        # A generator can be read only once, calibration may read more often; what it yields may be one array.
        kept = list(pieces) if isinstance(data, list | tuple) else [_copied(piece) for piece in pieces]
        return lambda: iter(kept)
    raise CalibrationDataError(
        f"data of type {type(data).__name__}: give a path, an array or an iterable of dictionaries"
    )


def _open_named(name: str) -> Reader:
    if not name:
        raise CalibrationDataError("the name of the data is empty; give a file, a directory or file.py:function")
    path = Path(name)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not files:
            raise CalibrationDataError(f"directory {name} holds no .npz or .npy file")
        return lambda: (piece for file in files for piece in _read_file(file))
    if path.exists():
        if path.suffix not in (".npz", ".npy"):
            raise CalibrationDataError(
                f"{name} is neither .npz nor .npy; for a Python function give {name}:FUNCTION"
                if path.suffix == ".py"
                else f"{name} is neither .npz nor .npy nor a directory of those"
            )
        return lambda: _read_file(path)
    module, colon, function = name.rpartition(":")
    if not colon:
        raise CalibrationDataError(f"no such file or directory: {name}")
    return _open_function(name, module, function)


def _read_file(path: Path) -> Iterator[Piece]:
    # Not np.load, which takes either form under either name, and advises to unpickle what is none.
    try:
        if path.suffix == ".npy":
            yield Piece(str(path), {LONE: np.lib.format.open_memmap(path, mode="r")})
            return
        # Opened here: numpy does not close a file of which it cannot make an archive.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationDataError(f"{path} cannot be read as a {path.suffix} file: {error}") from error
    yield Piece(str(path), arrays)


def _open_function(name: str, module: str, function: str) -> Reader:
    loaded = _load_file(Path(module)) if module.endswith(".py") else _load_module(module)
    found = getattr(loaded, function, None)
    if not callable(found):
        raise CalibrationDataError(f"{module} has no function {function!r} (from {name})")

    def read() -> Iterator[Piece]:
        try:
            for index, item in enumerate(found()):
                yield _copied(_piece(f"item {index} of {name}", item))
        except CalibrationDataError:
            raise
        except Exception as error:  # whatever the user's own code raises is a fault of the data
            raise CalibrationDataError(f"{name} raised {type(error).__name__}: {error}") from error

    return read


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CalibrationDataError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(f"qcompiler_data_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise CalibrationDataError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # as above
        raise CalibrationDataError(f"{path} raised {type(error).__name__}: {error}") from error
    return module


def _load_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CalibrationDataError(f"module {name} cannot be imported: {error}; give FILE.py:FUNCTION") from error


def _copied(piece: Piece) -> Piece:
    """The same in arrays of its own: a generator may fill those that it yields again while they wait to be used."""
    return Piece(piece.origin, {name: array.copy() for name, array in piece.arrays.items()})


def _piece(origin: str, item: object) -> Piece:
    if not isinstance(item, Mapping):
        raise CalibrationDataError(f"{origin} is of type {type(item).__name__}, expected a dictionary of arrays")
    return Piece(origin, {str(name): np.asarray(array) for name, array in item.items()})
