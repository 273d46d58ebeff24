"""`qcompile passes`: what passes there are."""

import inspect

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler.ir import Stage


@click.command("passes", short_help="List the passes.")
def passes_command() -> None:
    """List the passes, their options, and the stages in which each may run."""
    from qcompiler.pass_manager import describe_options, pass_classes

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for cls in pass_classes():
        stages = "any stage" if cls.stages == frozenset(Stage) else " or ".join(s for s in Stage if s in cls.stages)
        what = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        options = describe_options(cls)
        table.add_row(cls.name, f"{what} [dim]({stages}{'; ' if options else ''}{escape(options)})[/dim]")
    Console().print(table)
