"""Show a model at any stage of compilation, as text or as Graphviz DOT.

    python tools/viz.py MODEL.onnx|OUT.qc|IR.qir [--stage float|observed|quantized|integer|program]
                        [--format text|dot] [-o OUT] [-O LEVEL] [--calibrate DATA] [--full]

A stage that the file is not in yet is reached by the passes of the optimization level; without `--calibrate` on
synthetic data, so scales then say little. The graph shown is the last one of its stage, after all rewrites. `program`
is the list of kernel calls for one sample. ``dot -Tsvg`` of Graphviz draws the DOT.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from pathlib import Path

from qcompiler.calibration.data import open_source
from qcompiler.container import write_atomically
from qcompiler.errors import QCompilerError, UsageError
from qcompiler.importer import import_model
from qcompiler.ir import Graph, Stage, print_graph
from qcompiler.ir.dot import dot_string, to_dot
from qcompiler.ir.qir_file import load_qir
from qcompiler.ir.types import split_dim
from qcompiler.model import load
from qcompiler.pass_manager import Pass, PassContext, PassManager
from qcompiler.pipeline import pipeline_for

PROGRAM = "program"


def read_graph(path: Path) -> Graph:
    """The graph in a file, whatever kind of file it is.

    Raises:
        QCompilerError: the file cannot be read.
    """
    if path.suffix == ".qir":
        return load_qir(path)
    return load(path).graph if path.suffix == ".qc" else import_model(path)


def advance(graph: Graph, stage: Stage, level: int, calibration: Path | None) -> Graph:
    """The last graph in `stage` that the passes of an optimization level make of `graph`.

    Raises:
        UsageError: the graph is past that stage.
    """
    if graph.stage is stage:
        return graph
    order = list(Stage)
    if order.index(graph.stage) > order.index(stage):
        raise UsageError(f"the graph is in the {graph.stage} stage already; compilation does not lead back to {stage}")
    pipeline: Sequence[Pass] = pipeline_for(opt_level=level)
    if graph.stage is not Stage.FLOAT:
        pipeline = list(
            dropwhile(lambda step: step.stages == frozenset(Stage) or graph.stage not in step.stages, pipeline)
        )
    last: dict[Stage, Graph] = {}

    def keep(_previous: Pass | None, seen: Graph, following: Pass | None) -> None:
        if following is None or following.result_stage is not None:
            last[seen.stage] = seen.clone()

    source = open_source(calibration, graph) if calibration is not None else None
    PassManager(pipeline, callbacks=[keep]).run(graph, PassContext(calibration=source))
    return last[stage]


def show_program(graph: Graph, form: str) -> str:
    """The program of an integer graph when every symbolic dimension is 1."""
    from qcompiler.runtime.lowering import PackedModel, lower
    from qcompiler.runtime.planner import place

    symbols = {symbol for value in graph.inputs for dim in value.type.shape if (symbol := split_dim(dim)[1])}
    program = lower(PackedModel(graph), dict.fromkeys(symbols, 1))
    if form == "text":
        return program.text(place(program).offsets)

    def statements() -> Iterator[str]:
        for buffer in program.buffers:
            label = dot_string(buffer.name, f"{buffer.dtype}{list(buffer.shape)}", program.storage(buffer))
            yield f"b{buffer.id} [shape=ellipse, label={label}];"
            if buffer.parent is not None:
                yield f"b{buffer.parent.id} -> b{buffer.id} [style=dashed, dir=none];"
        for index, instruction in enumerate(program.instructions):
            yield f"i{index} [shape=box, label={dot_string(f'{index} {instruction.kernel}', instruction.label)}];"
            yield from (f"b{buffer.id} -> i{index};" for buffer in instruction.reads_of.values())
            yield from (f"i{index} -> b{buffer.id};" for buffer in instruction.writes_of.values())

    return "\n".join([f"digraph {dot_string(graph.name)} {{", *(f"  {line}" for line in statements()), "}\n"])


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="MODEL.onnx, OUT.qc or IR.qir")
    parser.add_argument("--stage", choices=[*Stage, PROGRAM], help="default: the one that the file is in")
    parser.add_argument("--format", choices=["text", "dot"], default="text")
    parser.add_argument("-o", "--output", type=Path, help="default: standard output")
    parser.add_argument("-O", "--opt-level", type=int, default=2, metavar="LEVEL", help="0 to 3 (default: 2)")
    parser.add_argument("--calibrate", type=Path, metavar="DATA", help="samples for a stage after observed")
    parser.add_argument("--full", action="store_true", help="do not cut long lists of numbers short in text")
    return parser.parse_args()


def main() -> int:
    """Returns the exit code."""
    arguments = parse_arguments()
    try:
        graph = read_graph(arguments.model)
        stage = arguments.stage or graph.stage
        graph = advance(
            graph, Stage.INTEGER if stage == PROGRAM else Stage(stage), arguments.opt_level, arguments.calibrate
        )
        if stage == PROGRAM:
            shown = show_program(graph, arguments.format)
        else:
            shown = to_dot(graph) if arguments.format == "dot" else print_graph(graph, abbreviate=not arguments.full)
        if arguments.output is None:
            sys.stdout.write(shown)
        else:
            write_atomically(arguments.output, shown.encode())
    except QCompilerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
