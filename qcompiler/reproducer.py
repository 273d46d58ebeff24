"""Reproducers: the graph before a failing pass, with the pass's specification, in a directory of their own.

    graph.qir, graph.qir.constants/    the graph before the pass
    pass.json                          specification, the context's options, versions
    traceback.txt                      what was raised, if something was

``python -m qcompiler.reproducer DIRECTORY`` runs the pass again. Calibration data is not saved.
"""

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import traceback
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from qcompiler.errors import QCompilerError, UsageError
from qcompiler.ir import Graph, verify
from qcompiler.ir.qir_file import load_qir, save_qir
from qcompiler.pass_record import Pass, PassContext
from qcompiler.pass_specs import format_pass, parse_pipeline

_CONTEXT_OPTIONS = ("calibration_method", "allow_float", "threads")


def write_reproducer(
    parent: Path | None, graph: Graph, step: Pass, context: PassContext, error: Exception | None
) -> Path | None:
    """Write a reproducer into a new directory under `parent` (None: the current one); returns its path.

    A failure must not hide behind that of its reproducer: where `parent` cannot be written, a temporary directory is
    used, and where that cannot be written either, the result is None.
    """
    for place in (parent or Path.cwd(), Path(tempfile.gettempdir())):
        with contextlib.suppress(OSError, QCompilerError):
            directory = Path(tempfile.mkdtemp(prefix=f"qcompiler-{step.name}-", dir=place))
            _fill(directory, graph, step, context, error)
            return directory
    return None


def _fill(directory: Path, graph: Graph, step: Pass, context: PassContext, error: Exception | None) -> None:
    save_qir(graph, directory / "graph.qir")
    record = {
        "pass": format_pass(step),
        "context": {name: getattr(context, name) for name in _CONTEXT_OPTIONS},
        "calibrated": context.calibration is not None,
        "versions": {"python": platform.python_version(), **_versions("qcompiler", "numpy", "numba")},
    }
    (directory / "pass.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    if error is not None:
        (directory / "traceback.txt").write_text("".join(traceback.format_exception(error)), "utf-8")


def _versions(*names: str) -> dict[str, str]:
    found = {}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def replay(directory: Path) -> bool:
    """Run the pass of a reproducer again, then verify the graph; returns what the pass returned.

    Raises:
        UsageError: the directory does not hold a reproducer.
        Exception: what the pass raises.
    """
    try:
        record = json.loads((directory / "pass.json").read_text("utf-8"))
        (step,) = parse_pipeline(record["pass"])
        context = PassContext(**{name: record["context"][name] for name in _CONTEXT_OPTIONS})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory} does not hold a reproducer: {error}") from error
    graph = load_qir(directory / "graph.qir")
    changed = step.run(graph, context)
    verify(graph)
    return changed


def main() -> None:
    """Replay the reproducer that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m qcompiler.reproducer", description="Run a failed pass again.")
    parser.add_argument("directory", type=Path, help="what the failure's message names")
    directory = parser.parse_args().directory
    try:
        changed = replay(directory)
    except UsageError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(f"the pass works now: it {'changed' if changed else 'did not change'} the graph, which is valid\n")


if __name__ == "__main__":
    main()
