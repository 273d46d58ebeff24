"""`qcompile compile`: compile an ONNX model."""

import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from qcompiler.calibration.methods import method_names
from qcompiler.cli.display import discard_output, progress_reporter, summary_table
from qcompiler.cli.option_groups import GroupedCommand, GroupedOption
from qcompiler.container import write_atomically
from qcompiler.errors import UsageError
from qcompiler.ir import Graph

EXIT_GOAL_MISSED = 1

_data = partial(click.option, cls=GroupedOption, group="Data")
_optimization = partial(click.option, cls=GroupedOption, group="Compilation")
_goal = partial(click.option, cls=GroupedOption, group="Goals")
_output = partial(click.option, cls=GroupedOption, group="Output")
_debugging = partial(click.option, cls=GroupedOption, group="Looking inside")


def _parse_dims(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, int]:
    dims: dict[str, int] = {}
    for value in values:
        name, _, size = value.partition("=")
        if not name or not size.isdigit() or int(size) < 1:
            raise click.BadParameter(f"{value!r} is not NAME=SIZE with a positive size")
        dims[name] = int(size)
    return dims


@click.command("compile", cls=GroupedCommand)
@click.argument("model", metavar="MODEL.onnx", required=False, type=click.Path(path_type=Path))
@_data(
    "--calibrate",
    "calibration",
    metavar="DATA",
    help="Calibration samples: .npz, .npy, a directory of either, or file.py:function yielding dicts.",
)
@_data(
    "--calibration-method",
    type=click.Choice(method_names()),
    default="mse",
    show_default=True,
    help="How ranges follow from the statistics.",
)
@_data(
    "--validate",
    "validation",
    metavar="DATA",
    help="Data (with labels, if any) to compare the integer model with the float model on.",
)
@_optimization(
    "-O",
    "opt_level",
    type=click.Choice(["0", "1", "2", "3"]),
    default="2",
    show_default=True,
    help="Optimization level, written as -O0 to -O3.",
)
@_optimization("--target", default="int8", show_default=True, metavar="NAME", help="What to compile for.")
@_optimization("--threads", type=click.IntRange(min=1), help="Threads (default: the usable physical cores).")
@_optimization("--allow-float", is_flag=True, help="Keep operators that have no integer form in float.")
@_optimization("--reduce-range", is_flag=True, help="Up to one bit less for weights: faster without VNNI.")
@_optimization(
    "--io",
    type=click.Choice(["float", "integer"]),
    default="float",
    show_default=True,
    help="Whether inputs and outputs are float or the quantized tensors.",
)
@_optimization(
    "--dim",
    "dims",
    multiple=True,
    metavar="NAME=SIZE",
    callback=_parse_dims,
    help="Fix a symbolic dimension; may be repeated.",
)
@_optimization("--passes", metavar="SPEC", help="A pipeline in place of the level's: 'a,b{option=value},...'.")
@_goal("--min-sqnr", type=float, metavar="DB", help="Goal: SQNR of every output; exit code 1 if missed.")
@_goal(
    "--max-top1-drop",
    type=float,
    metavar="POINTS",
    help="Goal: loss of top-1 accuracy in percentage points; exit code 1 if missed.",
)
@_output(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="OUT.qc",
    help="Where to save (default: ./<stem of the model>.qc).",
)
@_output("--summary-json", metavar="FILE", help="Save the summary as JSON; - for standard output.")
@_output("-v", "--verbose", is_flag=True, help="Show every pass with its time.")
@_output("-q", "--quiet", is_flag=True, help="Show errors only.")
@_debugging("--print-pipeline", is_flag=True, help="Print the pipeline and stop.")
@_debugging("--print-after", multiple=True, metavar="PASS|all", help="Print the IR after a pass, on standard error.")
@_debugging("--remarks", is_flag=True, help="Say why rewrites did not fire, on standard error.")
@_debugging(
    "--reproducer-dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where a failing pass leaves its reproducer (default: the current directory).",
)
@click.pass_context
def compile_command(  # noqa: PLR0913  # one parameter an option
    context: click.Context,
    model: Path | None,
    *,
    opt_level: str,
    target: str,
    output: Path | None,
    calibration: str | None,
    calibration_method: str,
    validation: str | None,
    min_sqnr: float | None,
    max_top1_drop: float | None,
    threads: int | None,
    allow_float: bool,
    reduce_range: bool,
    io: str,
    dims: dict[str, int],
    passes: str | None,
    print_pipeline: bool,
    print_after: tuple[str, ...],
    remarks: bool,
    summary_json: str | None,
    reproducer_dir: Path | None,
    verbose: bool,
    quiet: bool,
) -> int:  # fmt: skip
    """Compile MODEL.onnx to an integer program and save it."""
    from qcompiler.pass_manager import format_pipeline, parse_pipeline
    from qcompiler.pipeline import pipeline_for, with_reduced_range

    pipeline = parse_pipeline(passes) if passes is not None else pipeline_for(target, int(opt_level))
    if reduce_range:
        pipeline = with_reduced_range(pipeline)
    if print_pipeline:
        click.echo(format_pipeline(pipeline))
        return 0
    if model is None:
        raise click.UsageError("Missing argument 'MODEL.onnx'.", context)
    if max_top1_drop is not None and validation is None and calibration is None:
        raise UsageError("--max-top1-drop needs labelled data: give --validate DATA with an array 'labels'")
    output = output or Path(f"{model.stem}.qc")
    given = [Path(name) for name in (model, calibration, validation) if name is not None]
    check_writable(output, keep=given)
    if summary_json not in (None, "-"):
        check_writable(Path(summary_json), keep=[*given, output])

    from qcompiler.compiler import Hooks, compile

    with progress_reporter(quiet=quiet) as progress:
        hooks = Hooks(progress, [_dump_after(print_after, {p.name for p in pipeline})] if print_after else [])
        compiled = compile(
            model,
            target=target,
            opt_level=int(opt_level),
            calibration=calibration,
            calibration_method=calibration_method,
            validation=validation,
            passes=passes,
            allow_float=allow_float,
            reduce_range=reduce_range,
            io=io,
            dims=dims,
            threads=threads,
            reproducer_dir=reproducer_dir,
            hooks=hooks,
        )
    compiled.save(output)
    summary = dict(compiled.summary)
    missed = missed_goals(summary, min_sqnr, max_top1_drop)
    try:
        _report(summary, output, summary_json, missed=missed, verbose=verbose, quiet=quiet)
        for remark in compiled.remarks if remarks else ():
            click.echo(f"remark: {remark}", err=True)
    except (BrokenPipeError, SystemExit):  # rich leaves by SystemExit; the exit code stays that of the goals
        discard_output()
    return EXIT_GOAL_MISSED if missed else 0


def check_writable(path: Path, *, keep: Iterable[Path]) -> None:
    """Fail before the work, not after it, where an output could not be written anyway or would replace an input.

    Args:
        path: the file to be written.
        keep: files that it must not be.

    Raises:
        UsageError: the directory does not exist or is read-only, or `path` is a directory or to be kept.
    """
    for other in keep:
        if path.resolve() == other.resolve():
            raise UsageError(f"cannot write {path}: that would replace {other}; name another file")
    if path.is_dir():
        raise UsageError(f"cannot write {path}: it is a directory; name a file")
    if not path.parent.is_dir():
        raise UsageError(f"cannot write {path}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"cannot write {path}: no permission to write in {path.parent}")


def missed_goals(summary: dict[str, Any], min_sqnr: float | None, max_drop: float | None) -> list[str]:
    """A sentence for each goal that the compiled model misses."""
    missed = []
    if min_sqnr is not None:
        missed += [
            f"output {name} has an SQNR of {float(value):.1f} dB, the goal is {min_sqnr:g}"
            for name, value in summary["sqnr_db"].items()
            if value is not None and float(value) < min_sqnr
        ]
        if not summary["sqnr_db"]:
            missed.append("--min-sqnr could not be checked: there was no data")
    if max_drop is not None:
        if summary["top1_float"] is None:
            missed.append("--max-top1-drop could not be checked: it takes labels and a single output of class scores")
        elif (drop := 100 * (summary["top1_float"] - summary["top1_int"])) > max_drop:
            missed.append(f"top-1 dropped by {drop:.2f} points, the goal is at most {max_drop:g}")
    return missed


def _dump_after(wanted: tuple[str, ...], known: set[str]) -> Callable[..., None]:
    """A pass-manager callback that prints the graph after the wanted passes."""
    from qcompiler.ir.printer import print_graph

    if unknown := sorted(set(wanted) - known - {"all"}):
        raise UsageError(f"--print-after: the pipeline has no pass {unknown[0]!r}; --print-pipeline shows what it has")

    def dump(previous: Any, graph: Graph, _following: Any) -> None:  # noqa: ANN401  # Pass | None
        if previous is not None and ("all" in wanted or previous.name in wanted):
            try:
                click.echo(f"# after {previous.name}\n{print_graph(graph)}", err=True)
            except BrokenPipeError:  # the reader has seen enough; the model is still wanted
                discard_output()

    return dump


def _report(
    summary: dict[str, Any],
    output: Path,
    summary_json: str | None,
    *,
    missed: list[str],
    verbose: bool,
    quiet: bool,
) -> None:
    text = json.dumps(summary, indent=2, sort_keys=True) + "\n"
    if summary_json == "-":
        click.echo(text, nl=False)
    elif summary_json is not None:
        write_atomically(Path(summary_json), text.encode())
    console = Console(stderr=summary_json == "-")
    if not quiet:
        console.print(summary_table(summary))
        if verbose:
            for entry in summary["passes"]:
                mark = "changed" if entry["changed"] else "-"
                console.print(f"  {entry['seconds'] * 1e3:9.1f} ms  {mark:8} {entry['name']}", highlight=False)
        console.print(f"saved {output}", highlight=False, soft_wrap=True)
        for warning in summary["warnings"]:
            click.echo(f"warning: {warning}", err=True)
    for sentence in missed:
        click.echo(f"goal missed: {sentence}", err=True)
