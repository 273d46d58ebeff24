"""Steps of random models: what moves data."""

import math

import numpy as np
from onnx import helper

from tests.end_to_end.model_builder import BATCH, Builder, maker


@maker(2)
def _concat(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    shape = b.pool[x]
    axis = b.random.randrange(1, len(shape))
    fits = [
        n
        for n, s in b.pool.items()
        if len(s) == len(shape) and (*s[:axis], 0, *s[axis + 1 :]) == (*shape[:axis], 0, *shape[axis + 1 :])
    ]
    parts = [x, *(b.random.choice(fits) for _ in range(b.random.choice([1, 1, 2])))]
    if b.chance(0.15) and shape[0] != BATCH:
        parts.append(b.const(b.normal((*shape[:axis], 2, *shape[axis + 1 :]))))
    b.random.shuffle(parts)
    return b.one("Concat", *parts, axis=axis - (len(shape) if b.chance(0.3) and b.opset >= 11 else 0))


@maker(1)
def _split(b: Builder) -> list[str] | None:
    x = b.pick(lambda s: len(s) >= 2 and max(s[1:]) > 1)
    if x is None:
        return None
    shape = b.pool[x]
    axis = b.random.choice([a for a in range(1, len(shape)) if shape[a] > 1])
    first = b.random.randrange(1, shape[axis])
    sizes = [first, shape[axis] - first]
    if shape[axis] % 2 == 0 and b.chance(0.4):
        extra = {"num_outputs": 2} if b.opset >= 18 else {}
        return b.node("Split", [x], 2, axis=axis, **extra)
    if b.opset < 13:
        return b.node("Split", [x], 2, axis=axis, split=sizes)
    return b.node("Split", [x, b.const(sizes, np.int64)], 2, axis=axis)


@maker(1.5)
def _slice(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2 and max(s[1:]) > 1)
    if x is None:
        return None
    shape = b.pool[x]
    axes = b.random.sample(range(1, len(shape)), b.random.randint(1, min(2, len(shape) - 1)))
    starts, ends, steps = [], [], []
    for axis in axes:
        size = shape[axis]
        start = b.random.randrange(size)
        if b.opset >= 10 and b.chance(0.4):
            starts.append(b.random.choice([start, -1, 1000]))
            ends.append(b.random.choice([-(2**31), -size - 1]))
            steps.append(b.random.choice([-1, -2]))
        else:
            starts.append(b.random.choice([start, start - size]))
            ends.append(b.random.choice([size, 2**31 - 1, start + 1]))
            steps.append(b.random.choice([1, 1, 2, 3]))
    if b.opset < 10:
        return b.one("Slice", x, axes=axes, starts=starts, ends=ends)
    return b.one("Slice", x, *(b.const(part, np.int64) for part in (starts, ends, axes, steps)))


@maker(1)
def _pad(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    rank = len(b.pool[x])
    pads = [0] * (2 * rank)
    for axis in range(2 if rank > 2 and b.chance(0.7) else 1, rank):
        pads[axis], pads[rank + axis] = (b.random.choice([0, 1, 2, -1]) for _ in range(2))
    number = b.random.choice([0.0, 0.0, 0.0, 1.0, -0.5])
    if b.opset < 11:
        return b.one("Pad", x, pads=pads, value=number)
    inputs = [x, b.const(pads, np.int64)] + ([b.const(number)] if number or b.chance(0.5) else [])
    return b.one("Pad", *inputs)


@maker(1)
def _flatten(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) > 2)
    if x is None:
        return None
    if b.chance(0.5):
        return b.one("Flatten", x)
    if b.chance(0.4) and b.pool[x][0] == BATCH:
        return _reshape_by_shape_arithmetic(b, x)
    return b.one("Reshape", x, b.const([b.random.choice([0, -1]), math.prod(b.pool[x][1:])], np.int64))


def _reshape_by_shape_arithmetic(b: Builder, x: str) -> str:
    """As exporters write ``x.reshape(x.shape[0], -1)``."""
    number = len(b.nodes)
    shape, batch, target = f"shape{number}", f"batch{number}", f"target{number}"
    b.nodes.append(helper.make_node("Shape", [x], [shape]))
    b.nodes.append(helper.make_node("Gather", [shape, b.const([0], np.int64)], [batch], axis=0))
    b.nodes.append(helper.make_node("Concat", [batch, b.const([-1], np.int64)], [target], axis=0))
    y = f"flat{number}"
    b.nodes.append(helper.make_node("Reshape", [x, target], [y]))
    b.pool[y] = (BATCH, math.prod(b.pool[x][1:]))
    return y


@maker(1.5)
def _reshape(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    shape = b.pool[x]
    size = math.prod(shape[1:])
    divisors = [d for d in range(1, min(size, 70) + 1) if size % d == 0]
    first = b.random.choice(divisors)
    rest = size // first
    second = b.random.choice([d for d in range(1, min(rest, 70) + 1) if rest % d == 0])
    tail = b.random.choice([[first, rest], [first, second, rest // second], [first, -1]])
    return b.one("Reshape", x, b.const([0 if -1 in tail or b.chance(0.5) else -1, *tail], np.int64))


@maker(2)
def _transpose(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    rank = len(b.pool[x])
    perm = [0, *b.random.sample(range(1, rank), rank - 1)]
    if rank == 4 and b.chance(0.5):
        perm = b.random.choice([[0, 2, 3, 1], [0, 3, 1, 2]])
    return b.one("Transpose", x, perm=perm)


@maker(0.7)
def _unsqueeze(b: Builder) -> str | None:
    x = b.pick(lambda s: 2 <= len(s) <= 3)
    if x is None:
        return None
    axis = b.random.randint(1, len(b.pool[x]))
    if b.opset < 13:
        return b.one("Unsqueeze", x, axes=[axis])
    return b.one("Unsqueeze", x, b.const([axis], np.int64))


@maker(0.7)
def _squeeze(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) > 2 and 1 in s[1:])
    if x is None:
        return None
    axis = b.random.choice([a for a, d in enumerate(b.pool[x]) if a and d == 1])
    if b.opset < 13:
        return b.one("Squeeze", x, axes=[axis])
    return b.one("Squeeze", x, b.const([axis], np.int64))


@maker(0.7)
def _depth_to_space(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) == 4 and s[1] % 4 == 0)
    if x is None:
        return None
    mode = {"mode": b.random.choice(["DCR", "CRD"])} if b.opset >= 11 else {}
    return b.one("DepthToSpace", x, blocksize=2, **mode)


@maker(0.7)
def _nothing(b: Builder) -> str | None:
    x = b.pick()
    return None if x is None else b.one(b.random.choice(["Identity", "Dropout"]), x)


@maker(0.3)
def _across_samples(b: Builder) -> str | None:
    """What moves or mixes the first axis, of fixed size."""
    x = b.pick(lambda s: len(s) >= 2 and BATCH not in s)
    if x is None:
        return None
    rank = len(b.pool[x])
    way = b.random.choice(["transpose", "softmax", "concat", "mean", "split"])
    if way == "transpose":
        return b.one("Transpose", x, perm=b.random.sample(range(rank), rank))
    if way == "softmax":
        return b.one("Softmax", x, axis=0)
    if way == "concat":
        return b.one("Concat", x, x, axis=0)
    if way == "mean" and b.opset < 18:
        return b.one("ReduceMean", x, axes=[0])
    if b.opset < 10:
        return b.one("Slice", x, axes=[0], starts=[0], ends=[1])
    return b.one("Slice", x, *(b.const([n], np.int64) for n in (0, 1, 0, 1)))
