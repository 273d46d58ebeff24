"""The command `qcompile`, and `python -m qcompiler`."""

import io
import sys

_INTERRUPTED = 130


def main() -> None:
    """Run the command line with the process's arguments and exit with its code.

    The command line is imported here, so that Ctrl-C is a clean exit even while that takes its time, and text that
    the terminal's encoding lacks is shown with replacements instead of being an error.
    """
    try:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        from qcompiler.cli.main import run

        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
