"""The command line: `qcompile`."""
