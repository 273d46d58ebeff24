"""Staging of float32 runs with borders."""

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.codegen.staging import stage_activations
from qcompiler.runtime.kernels.memory import load_f32, store_f32


@inlined
def inside(left: int, stride: int, size: int, count: int) -> tuple[int, int]:
    """The range of those i < count for which left + i · stride lies in [0, size)."""
    first = 0 if left >= 0 else min(count, (stride - 1 - left) // stride)
    end = 0 if left >= size else min(count, (size - left + stride - 1) // stride)
    return first, max(first, end)


@inlined
def stage_run(target: int, source: int, stride: int, first: int, end: int, count: int) -> None:
    """``target[i] = source[i · stride]`` for first <= i < end, 0 for the other i < count."""
    for i in range(first):
        store_f32(target, i, 0.0)
    if stride == 1 and first < end:
        stage_activations(target + 4 * first, source + 4 * first, 4 * (end - first), 0, 1)
    elif stride == 2:  # a constant stride becomes vector code
        for i in range(first, end):
            store_f32(target, i, load_f32(source, 2 * i))
    else:
        for i in range(first, end):
            store_f32(target, i, load_f32(source, i * stride))
    for i in range(end, count):
        store_f32(target, i, 0.0)
