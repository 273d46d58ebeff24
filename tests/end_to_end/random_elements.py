"""Steps of random models: functions of elements, with constants and with each other, and softmax."""

from typing import Any

import numpy as np

from tests.end_to_end.model_builder import BATCH, Builder, Shape, images, maker
from tests.end_to_end.random_layers import conv_of


@maker(5)
def _unary(b: Builder) -> str | None:
    x = b.pick()
    if x is None:
        return None
    op_type = b.random.choice(
        ["Relu", "Relu", "Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Abs", "Neg", "Exp"]
    )
    if b.opset < {"HardSwish": 14, "Erf": 9}.get(op_type, 0):
        op_type = "Relu"
    attributes: dict[str, Any] = {}
    if op_type == "LeakyRelu" and b.chance(0.7):
        attributes["alpha"] = b.random.choice([0.1, 0.3, -0.5, 1.5])
    if op_type == "HardSigmoid" and b.chance(0.5):
        attributes = {"alpha": 1 / 6, "beta": 0.5}
    if op_type == "Exp":
        x = _clipped(b, x, -2.0, 2.0)
    return b.one(op_type, x, **attributes)


@maker(1)
def _of_positive_numbers(b: Builder) -> str | None:
    x = b.pick()
    if x is None:
        return None
    x = _clipped(b, x, 0.5, 2.5)
    op_type = b.random.choice(["Log", "Sqrt", "Reciprocal", "Pow"])
    if op_type == "Pow":
        return b.one("Pow", x, b.const(b.random.choice([2.0, 3.0, 0.5])))
    return b.one(op_type, x)


def _clipped(b: Builder, x: str, low: float | None, high: float | None) -> str:
    if b.opset < 11:
        attributes = {name: bound for name, bound in (("min", low), ("max", high)) if bound is not None}
        return b.one("Clip", x, **attributes)
    bounds = ["" if bound is None else b.const(bound) for bound in (low, high)]
    return b.one("Clip", x, *(bounds if bounds[1] else bounds[:1]))


@maker(2)
def _clip(b: Builder) -> str | None:
    x = b.pick()
    if x is None:
        return None
    return _clipped(
        b, x, *b.random.choice([(0.0, 6.0), (-1.0, 1.0), (0.0, 1.0), (None, 0.5), (-0.5, None), (0.3, 2.0)])
    )


@maker(1)
def _prelu(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    shape = b.pool[x]
    forms = [(1,), (shape[1],) + (1,) * (len(shape) - 2)]
    return b.one("PRelu", x, b.const(b.normal(b.random.choice(forms), 0.5)))


@maker(4)
def _binary_with_constant(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    shape = b.pool[x]
    forms: list[Shape] = [(), (), (1,), (shape[1],) + (1,) * (len(shape) - 2), (1, shape[1]) + (1,) * (len(shape) - 2)]
    if BATCH not in shape[1:]:
        forms += [(shape[-1],), shape[1:], (1,) * len(shape)]
    array = b.normal(b.random.choice(forms))
    op_type = b.random.choice(["Add", "Sub", "Mul", "Div"])
    left = b.chance(0.3)
    if op_type == "Div" and left:
        return b.one("Div", b.const(array), _clipped(b, x, 0.5, 2.5))
    if op_type == "Div":
        array = np.sign(array) * (np.abs(array) + 0.5)
    c = b.const(array)
    return b.one(op_type, *((c, x) if left else (x, c)))


@maker(3)
def _binary(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    shape = b.pool[x]
    y = b.pick(lambda s: len(s) == len(shape) and all(m in (1, n) for m, n in zip(s, shape, strict=True)))
    if y is None:
        return None
    op_type = b.random.choice(["Add", "Add", "Sub", "Mul", "Div", "Sum"])
    if op_type == "Div":
        y = _clipped(b, y, 0.5, 2.5)
    return b.one(op_type, *((y, x) if b.chance(0.5) and op_type != "Div" else (x, y)))


@maker(0.7)
def _gate(b: Builder) -> str | None:
    """Squeeze and excitation, a decomposed HardSwish, or SiLU."""
    x = b.pick(images)
    if x is None:
        return None
    way = b.random.choice(["squeeze", "hard-swish", "silu"])
    if way == "squeeze":
        gate = b.one("GlobalAveragePool", x)
        gate = conv_of(b, gate, out=b.pool[x][1], kernel=1, group=1)
        return b.one("Mul", x, b.one("Sigmoid", gate))
    if way == "silu":
        return b.one("Mul", x, b.one("Sigmoid", x))
    shifted = _clipped(b, b.one("Add", x, b.const(3.0)), 0.0, 6.0)
    if b.chance(0.5):
        return b.one("Div", b.one("Mul", x, shifted), b.const(6.0))
    return b.one("Mul", x, b.one("Mul", shifted, b.const(1 / 6)))


@maker(1)
def _softmax(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    rank = len(b.pool[x])
    if b.chance(0.2):
        return b.one("Softmax", x)
    return b.one("Softmax", x, axis=b.random.choice([*range(1, rank), -1]))
