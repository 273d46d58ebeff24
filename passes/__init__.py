"""The passes of qcompiler: one pass, or one family of rewrites, a file."""

if __name__ != "qcompiler.passes":
    raise ImportError(
        f"import this package as qcompiler.passes, not as {__name__}: a second copy has classes of its own"
    )
