"""`.qir` files: the text form of a graph with the constants beside it.

``model.qir`` holds the text, ``model.qir.constants/`` one ``.npy`` file for each constant that the text
refers to, named by its content hash. Constants are written first and the text replaced last, so the file is
complete at any time.
"""

import io
import os
from pathlib import Path

import numpy as np

from qcompiler.container import write_atomically
from qcompiler.errors import ParseError, UsageError
from qcompiler.ir.graph import Graph
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import is_inline, print_graph
from qcompiler.ir.types import AnyArray


def save_qir(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Write a graph of any stage; constants of an older graph at the same place are removed.

    Raises:
        UsageError: a file cannot be written.
    """
    path = Path(path)
    directory = constants_directory(path)
    large = {v.digest: v.data for v in graph.constants() if v.data is not None and not is_inline(v.data)}
    try:
        if large:
            directory.mkdir(exist_ok=True)
        for digest, data in large.items():
            buffer = io.BytesIO()
            np.save(buffer, data, allow_pickle=False)
            write_atomically(directory / f"{digest}.npy", buffer.getvalue())
        write_atomically(path, print_graph(graph).encode())
        for file in directory.glob("*.npy"):
            if file.stem not in large:
                file.unlink()
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def load_qir(path: str | os.PathLike[str]) -> Graph:
    """Read a graph; the constants' content is checked, the rules of the IR are not (`qcompiler.ir.verify`).

    Raises:
        UsageError: the file cannot be read.
        ParseError: the text or a constant is damaged; the message names file, line and column.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode()
        constants = {file.stem: _load_constant(file) for file in constants_directory(path).glob("*.npy")}
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ParseError(f"{path} is not text: {error}") from error
    try:
        return parse_graph(text, constants)
    except ParseError as error:
        raise ParseError(f"{path}: {error}") from error


def constants_directory(path: Path) -> Path:
    """Where the constants of the `.qir` file at `path` lie."""
    return path.with_name(f"{path.name}.constants")


def _load_constant(file: Path) -> AnyArray:
    try:
        # A map first: a header that promises more than the file holds is refused before anything is allocated.
        mapped: AnyArray = np.load(file, mmap_mode="r", allow_pickle=False)
        return np.array(mapped)
    except (ValueError, EOFError) as error:
        raise ParseError(f"{file} is damaged: {error}") from error
