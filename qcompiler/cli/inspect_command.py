"""`qcompile inspect`: what a compiled model is."""

import json
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from qcompiler.cli.display import format_quantization, format_shape, summary_table
from qcompiler.ir import Graph


@click.command("inspect", short_help="Check and describe a compiled model.")
@click.argument("artifact", metavar="OUT.qc", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the facts as JSON.")
@click.option(
    "--dot-products", is_flag=True, help="Show what each layer multiplies with on this CPU (or QCOMPILER_ISA), and why."
)
@click.option("--ir", is_flag=True, help="Print the integer graph as text.")
def inspect_command(artifact: Path, *, as_json: bool, dot_products: bool, ir: bool) -> None:
    """Check a compiled model and show its interface, the verdict and where it came from."""
    from qcompiler.ir.printer import print_graph
    from qcompiler.model import load
    from qcompiler.summary import exposed_quantization

    model = load(artifact)
    if ir:
        click.echo(print_graph(model.graph))
        return
    if dot_products:
        _show_dot_products(model.graph)
        return
    summary = dict(model.summary) | {"artifact_bytes": artifact.stat().st_size}
    if as_json:
        click.echo(json.dumps(summary | {"provenance": dict(model.provenance)}, indent=2, sort_keys=True))
        return
    console = Console()
    console.print(f"[bold]{artifact.name}[/bold]: {model.graph.name}, {len(model.graph)} nodes", highlight=False)
    console.print(summary_table(summary))
    table = Table(title="interface", title_justify="left", box=None, pad_edge=False)
    exposed = exposed_quantization(summary)
    for heading in ("", "name", "dtype", "shape", "meaning" if exposed else ""):
        table.add_column(heading)
    inputs = [("input", value.name, value.type) for value in model.graph.inputs]
    outputs = [("output", n, v.type) for n, v in zip(model.graph.output_names, model.graph.outputs, strict=True)]
    for way, name, type_ in inputs + outputs:
        meaning = format_quantization(exposed[name]) if name in exposed else ""
        table.add_row(way, name, str(type_.dtype), format_shape(type_.shape), meaning)
    console.print(table)
    counts = Counter(node.op.name for node in model.graph.nodes())
    console.print("ops: " + ", ".join(f"{count} {name}" for name, count in counts.most_common()), highlight=False)
    for key, fact in model.provenance.items():
        shown = ", ".join(f"{k} {v}" for k, v in fact.items()) if isinstance(fact, dict) else fact
        console.print(f"{key}: {shown}", highlight=False, soft_wrap=True)


def _show_dot_products(graph: Graph) -> None:
    from qcompiler.runtime import isa
    from qcompiler.runtime.lowering.integer_linear import dot_products

    for each in dot_products(graph, isa.current()):
        click.echo(f"{each.layer}: {each.instruction} ({each.reason})")
