"""Large arrays some rows at a time, so that NumPy's temporaries stay in the cache and are not new memory each time."""

from collections.abc import Iterator

from qcompiler.ir import AnyArray

_ELEMENTS = 1 << 15


def row_blocks(array: AnyArray) -> Iterator[slice]:
    """Slices of the first axis, in order."""
    rows = max(1, _ELEMENTS // max(1, array[:1].size))
    for start in range(0, len(array), rows):
        yield slice(start, start + rows)
