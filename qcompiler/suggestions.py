"""Hints for names that do not exist."""

from collections.abc import Iterable


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``; did you mean 'quantize'?`` if a known name is close to the wrong one, else nothing."""
    import difflib  # only for mistakes

    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
