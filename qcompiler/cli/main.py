"""The `qcompile` command: the group of sub-commands, and what becomes of errors.

Exit codes: 0 done; 1 a goal was missed (the model is saved); 2 user fault; 70 internal error; 130 interrupted.
"""

import errno
import os
import shlex
import sys
import tempfile
import traceback
from importlib.metadata import version
from pathlib import Path

import click

from qcompiler.cli.compile_command import compile_command
from qcompiler.cli.display import discard_output
from qcompiler.cli.inspect_command import inspect_command
from qcompiler.cli.passes_command import passes_command
from qcompiler.cli.run_command import run_command
from qcompiler.errors import InternalError, PassError, QCompilerError
from qcompiler.suggestions import did_you_mean
from qcompiler.version import __version__

EXIT_USER_FAULT = 2
EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class AbbreviatingGroup(click.Group):
    """A group in which ``qcompile MODEL ...`` stands for ``qcompile compile MODEL ...``; sub-command names win."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {"--help", "-h", "--version"}
        if args and args[0] not in self.commands and args[0] not in own:
            hint = did_you_mean(args[0], self.commands) if args[0].isalpha() else ""
            if hint and not Path(args[0]).exists():
                raise click.UsageError(f"{args[0]!r} is neither a file nor a sub-command{hint}", ctx)
            args = ["compile", *args]
        return super().parse_args(ctx, args)


@click.group(cls=AbbreviatingGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qcompile")
def cli() -> None:
    """Compile ONNX models to integer-only programs and run them.

    `qcompile MODEL.onnx` abbreviates `qcompile compile MODEL.onnx`. A model whose name is that of a sub-command is
    written as a path: `qcompile ./run`.
    """


cli.add_command(compile_command)
cli.add_command(run_command)
cli.add_command(inspect_command)
cli.add_command(passes_command)


def run(arguments: list[str]) -> int:
    """Run the command line; returns the exit code and never raises."""
    try:
        code = cli.main(args=arguments, prog_name="qcompile", standalone_mode=False)
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted; no output was written")
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return EXIT_USER_FAULT
    except (PassError, InternalError) as error:
        _complain(f"internal error: {error}")
        return EXIT_INTERNAL
    except QCompilerError as error:
        _complain(f"error: {error}")
        return EXIT_USER_FAULT
    except MemoryError:
        _complain("error: out of memory; use smaller samples or batches, or a machine with more memory")
        return EXIT_USER_FAULT
    except (BrokenPipeError, SystemExit):  # the reader of a pipe has seen enough: click and rich leave by SystemExit
        discard_output()
        return 0
    except Exception as error:  # noqa: BLE001  # the last resort: everything else is a fault of ours
        return _unexpected(error, arguments)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception, arguments: list[str]) -> int:
    """Report an error that nothing expected, within its handler; returns the exit code."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        _complain(f"error: the output cannot be written: {error.strerror}")
        discard_output()
        return EXIT_USER_FAULT
    _complain(f"internal error: {type(error).__name__}: {error}\n{_save_report(arguments)}")
    return EXIT_INTERNAL


def _complain(message: str) -> None:
    click.echo(f"qcompile: {message}", err=True)


def _save_report(arguments: list[str]) -> str:
    """Save what reproduces the error being handled; returns a sentence that says where."""
    versions = "\n".join(f"{name} {version(name)}" for name in ("onnx", "numpy", "numba", "llvmlite"))
    versions = f"qcompiler {__version__}\n{versions}\npython {sys.version}"
    report = f"qcompile {shlex.join(arguments)}\n\n{traceback.format_exc()}\n{versions}\n"
    try:
        descriptor, name = tempfile.mkstemp(prefix="qcompile-report-", suffix=".txt")
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(report)
    except OSError:
        return f"The report could not be saved, so here it is:\n{report}"
    return f"This is a fault of qcompiler; please report it with {name}: command, traceback, versions"
