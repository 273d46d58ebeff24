"""`qcompile passes`: what passes there are."""

import click
from rich.console import Console
from rich.table import Table

from qcompiler.ir import Stage


@click.command("passes")
def passes_command() -> None:
    """List the passes, their options, and the stages in which each may run."""
    from qcompiler.pass_manager import describe_options, pass_classes

    table = Table(box=None, pad_edge=False)
    for heading in ("pass", "options", "stages", "what it does"):
        table.add_column(heading, overflow="fold")
    for cls in pass_classes():
        stages = "any" if cls.stages == frozenset(Stage) else ", ".join(s for s in Stage if s in cls.stages)
        what = (cls.__doc__ or "").strip().partition("\n")[0]
        table.add_row(cls.name, describe_options(cls), stages, what)
    Console().print(table)
