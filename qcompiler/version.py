"""The version of qcompiler, in one place: pyproject.toml and the provenance of artifacts read it here."""

__version__ = "0.1.0"
