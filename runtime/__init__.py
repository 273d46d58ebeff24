"""What runs a compiled graph: reference executor, lowering, planner, kernels, interpreter and session."""

if __name__ != "qcompiler.runtime":
    raise ImportError(
        f"import this package as qcompiler.runtime, not as {__name__}: a second copy has classes of its own"
    )
