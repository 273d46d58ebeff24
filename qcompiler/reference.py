"""The reference executor under its public name: ``qcompiler.reference.run(graph, feeds)`` runs any graph."""

from qcompiler.runtime.reference import run, run_all, to_real

__all__ = ["run", "run_all", "to_real"]
