"""Reading tensor data that lies beside a model, and nowhere else."""

from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import TensorProto

from qcompiler.errors import ModelError


def read_external(tensor: TensorProto, folder: Path | None, size: int, name: str) -> bytes:
    """The `size` bytes of a tensor with external data.

    The location must be relative and, with all symbolic links resolved, lie inside `folder`.

    Raises:
        ModelError: there is no folder, the location leads out of it, or the file does not hold those bytes.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    path = locate_external(tensor, folder, name)
    offset = _natural(entries.get("offset", "0"), "offset", name)
    length = _natural(entries["length"], "length", name) if "length" in entries else size
    if length != size:
        raise ModelError(f"{name} needs {size} bytes by its shape but its external data has length={length}")
    available = path.stat().st_size
    if offset + length > available:
        raise ModelError(
            f"{name} needs bytes {offset} to {offset + length} of '{path.name}', which has only {available}; the file "
            "is truncated or belongs to another model"
        )
    with path.open("rb") as stream:
        stream.seek(offset)
        data = stream.read(length)
    if len(data) != length:
        raise ModelError(f"{name}: '{path.name}' became shorter while it was read")
    return data


def locate_external(tensor: TensorProto, folder: Path | None, name: str) -> Path:
    """The file with the data of a tensor, symbolic links resolved.

    Raises:
        ModelError: there is no folder, the location leads out of it, or there is no such file.
    """
    location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
    if not isinstance(location, str):
        raise ModelError(f"{name} keeps its data in {location!r}, which is not UTF-8; the file is damaged")
    if folder is None:
        raise ModelError(
            f"{name} keeps its data in the external file '{location}', but the model was given as bytes or as a "
            "ModelProto; give its path instead"
        )
    windows, posix = PureWindowsPath(location), PurePosixPath(location)
    absolute = posix.is_absolute() or windows.drive or windows.root
    if not location or "\0" in location or absolute:
        raise ModelError(f"{name} keeps its data in '{location}'; only relative paths beside the model are read")
    root = folder.resolve()
    path = (root / location).resolve()
    if not path.is_relative_to(root):
        raise ModelError(
            f"{name} keeps its data in '{location}', which leads out of the model's folder {root}; "
            "put the file beside the model and save the model again"
        )
    if not path.is_file():
        raise ModelError(f"{name} keeps its data in '{location}', but there is no such file in {root}; copy it there")
    return path


def _natural(text: str, key: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ModelError(f"{name}: external data has {key}={text!r}, expected a number of bytes")
    return int(text)
