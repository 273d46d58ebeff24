"""Options under headings in a command's help."""

from typing import Any

import click


class GroupedOption(click.Option):
    """An option that `GroupedCommand` lists under the heading `group`."""

    def __init__(self, *declarations: Any, group: str, **settings: Any) -> None:  # noqa: ANN401  # click's own
        super().__init__(*declarations, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help has a section for each group of options, in the order of their first options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                heading = parameter.group if isinstance(parameter, GroupedOption) else "Other options"
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
