"""How facts look on a terminal."""

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from qcompiler.ir import QuantParams


def format_shape(shape: Sequence[object]) -> str:
    """``1 × 3 × 224 × 224``, or ``scalar``."""
    return " × ".join(map(str, shape)) or "scalar"


def format_bytes(count: int | None) -> str:
    """``3.5 MB`` (decimal units)."""
    if count is None:
        return "-"
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.2f} GB"


def format_quantization(quant: QuantParams) -> str:
    """``real = 0.0123 · (q − 3)``; per channel only how many scales there are."""
    if not quant.is_per_tensor:
        return f"{len(quant.scale)} scales along axis {quant.axis}: see --json"
    return f"real = {quant.scale[0]:.9g} · (q − {quant.zero_point[0]})"


def format_percent(share: float | None) -> str:
    """``98.33 %``."""
    return "-" if share is None else f"{100 * share:.2f} %"


def format_decibels(value: float | str | None) -> str:
    """``34.1 dB``; the string "inf", which stands for infinity in JSON, is ``exact``."""
    if value is None:
        return "-"
    return "exact" if math.isinf(float(value)) else f"{value:.1f} dB"


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The closing summary; an artifact's knows nothing of the passes and their times."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    floats = summary["float_nodes"]
    verdict = "yes, machine-checked"
    if not summary["integer_only"]:
        verdict = f"NO: {len(floats)} float {'node' if len(floats) == 1 else 'nodes'}: {_some(floats)}"
    table.add_row("integer-only", verdict)
    proven, total = summary["accumulators_proven"], summary["accumulators_total"]
    headroom = summary["min_headroom_bits"]
    room = "" if headroom is None else f", at least {headroom} bits of headroom"
    table.add_row("accumulators", f"{proven} of {total} proven free of overflow{room}")
    table.add_row("size", _shrinkage(summary["model_bytes"], summary["artifact_bytes"]))
    table.add_row("arena", f"{format_bytes(summary['arena_bytes'])} for one sample")
    for name, value in summary["sqnr_db"].items():
        table.add_row("SQNR", f"{format_decibels(value)}  {name}")
    if summary["top1_float"] is not None:
        table.add_row(
            "top-1",
            f"float {format_percent(summary['top1_float'])}, int8 {format_percent(summary['top1_int'])}",
        )
    if summary["agreement"] is not None:
        table.add_row("same class", f"{format_percent(summary['agreement'])} of {summary['evaluated_samples']} samples")
    calibration = summary["calibration"]
    source = (
        "synthetic data"
        if calibration["data"] == "synthetic"
        else f"{calibration['samples']} samples of {calibration['data']}"
    )
    table.add_row("calibration", f"{calibration['method']} on {source}")
    if "passes" in summary:
        changed = sum(entry["changed"] for entry in summary["passes"])
        took = f"{len(summary['passes'])} run, {changed} changed the graph, {summary['seconds']:.1f} s in all"
        table.add_row("passes", took)
    return table


def _shrinkage(model: int, artifact: int) -> str:
    """``95.8 kB → 30.1 kB (3.18× smaller)``; a tiny model can also grow."""
    factor = f"{model / artifact:.2f}× smaller" if artifact <= model else f"{artifact / max(model, 1):.2f}× larger"
    return f"{format_bytes(model)} → {format_bytes(artifact)} ({factor})"


def _some(names: Sequence[str], limit: int = 4) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown}, and {len(names) - limit} more"


def discard_output() -> None:
    """Drop what is still to be written: the reader of a pipe has left, or the disk is full.

    Without it the interpreter would complain when it flushes the streams at exit.
    """
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None where the process was started without
        try:
            stream.flush()
        except OSError:
            os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextmanager
def progress_reporter(*, quiet: bool) -> Iterator[Callable[[str, int, int], None] | None]:
    """A progress callback that draws bars on standard error; None where that is not a terminal, or with -q."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, TaskID] = {}

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = progress.add_task(what, total=total)
            progress.update(tasks[what], completed=done, total=total)

        yield report
