"""Steps of random models: layers with weights, pooling and reductions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.end_to_end.model_builder import BATCH, Builder, Shape, images, maker


@maker(6)
def _conv(b: Builder) -> str | None:
    x = b.pick(images)
    return None if x is None else conv_of(b, x)


def conv_of(b: Builder, x: str, **fixed: int) -> str:
    channels, spatial = b.pool[x][1], b.pool[x][2:]
    n = len(spatial)
    divisors = [g for g in range(1, channels + 1) if channels % g == 0]
    group = fixed.get("group") or b.random.choice([1, 1, channels, b.random.choice(divisors)])
    per_group = b.random.choice([1, 1, 2, 3]) if group > 1 else b.random.choice([1, 3, 4, 8, 16, 17, 33, 70])
    out = fixed.get("out") or group * per_group
    same = fixed.get("kernel")
    kernel = [same or b.random.choice([1, 1, 2, 3, 3, 5, 7]) for _ in range(n)]
    attributes: dict[str, Any] = {"group": group} if group > 1 or b.chance(0.5) else {}
    if b.chance(0.5):
        attributes["kernel_shape"] = kernel
    if same:
        attributes["pads"] = [same // 2] * (2 * n)
    else:
        window(b, attributes, spatial, kernel, dilate=True)
    weight = b.normal((out, channels // group, *kernel), (channels // group * math.prod(kernel)) ** -0.5)
    if b.chance(0.1):
        weight[b.random.randrange(out)] = 0
    if b.chance(0.1):
        weight *= np.exp(b.normal((out,) + (1,) * (n + 1)))
    if weight.size > 40000:
        raise ValueError("too many weights")
    inputs = [x, b.const(weight)]
    b.filters.append(inputs[1])
    if b.chance(0.6):
        inputs.append(b.const(b.normal((out,), 0.3)))
    return b.one("Conv", *inputs, **attributes)


def window(b: Builder, attributes: dict[str, Any], spatial: Shape, kernel: Sequence[int], *, dilate: bool) -> None:
    n = len(spatial)
    if b.chance(0.4):
        attributes["strides"] = [b.random.choice([1, 2, 3]) for _ in range(n)]
    if dilate and b.chance(0.2):
        attributes["dilations"] = [b.random.choice([1, 2, 3]) for _ in range(n)]
    way = b.random.choice(["none", "pads", "pads", "auto"])
    if way == "auto":
        attributes["auto_pad"] = b.random.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
        attributes.pop("dilations", None)
        if attributes["auto_pad"] != "VALID":
            return
    pads = [b.random.randrange(k) if way == "pads" else 0 for k in (*kernel, *kernel)]
    if way == "pads":
        attributes["pads"] = pads
    dilations = attributes.get("dilations", [1] * n)
    for axis in range(n):
        if (kernel[axis] - 1) * dilations[axis] + 1 > spatial[axis] + pads[axis] + pads[n + axis]:
            raise ValueError("the window does not fit")


@maker(1.5)
def _conv_transpose(b: Builder) -> str | None:
    x = b.pick(images)
    if x is None:
        return None
    channels, spatial = b.pool[x][1], b.pool[x][2:]
    n = len(spatial)
    group = b.random.choice([1, 1, 1, b.random.choice([g for g in range(1, channels + 1) if channels % g == 0])])
    kernel = [b.random.choice([1, 2, 2, 3, 4, 5]) for _ in spatial]
    attributes: dict[str, Any] = {"group": group} if group > 1 else {}
    if b.chance(0.8):
        attributes["strides"] = [b.random.choice([1, 2, 2, 3]) for _ in spatial]
    strides = attributes.get("strides", [1] * n)
    if b.chance(0.2):
        attributes["dilations"] = [b.random.choice([1, 2, 3]) for _ in spatial]
    way = b.random.choice(
        ["none", "pads", "auto", *(["shape"] if b.opset >= 11 else [])]
    )  # onnx infers it wrongly before
    if way == "auto":
        attributes["auto_pad"] = b.random.choice(["SAME_UPPER", "SAME_LOWER", "VALID"])
    elif b.chance(0.4):
        attributes["output_padding"] = [b.random.randrange(stride) for stride in strides]
    if way == "pads":
        attributes["pads"] = [b.random.randrange((k + 1) // 2 + 1) for k in (*kernel, *kernel)]
    elif way == "shape":
        attributes["output_shape"] = [
            max(1, (size - 1) * stride + k - b.random.choice([0, 1, 2]))
            for size, stride, k in zip(spatial, strides, kernel, strict=True)
        ]
    if way == "auto" and any(stride > k for stride, k in zip(strides, kernel, strict=True)):
        raise ValueError("there are fewer positions than SAME asks for, about which onnx and its runtimes differ")
    per_group = b.random.choice([1, 1, 2, 3]) if group > 1 else b.random.choice([1, 3, 4, 8, 16, 17, 33])
    weight = b.normal((channels, per_group, *kernel), (channels // group * math.prod(kernel)) ** -0.5)
    inputs = [x, b.const(weight)]
    if b.chance(0.6):
        inputs.append(b.const(b.normal((group * per_group,), 0.3)))
    return b.one("ConvTranspose", *inputs, **attributes)


@maker(0.5)
def _conv_with_a_known_filter(b: Builder) -> str | None:
    fits = [
        (x, w)
        for w in b.filters
        for x, shape in b.pool.items()
        if len(shape) == b.constants[w].ndim and shape[1] == b.constants[w].shape[1]
    ]
    if not fits:
        return None
    x, w = b.random.choice(fits)
    return b.one("Conv", x, w, pads=[k // 2 for k in b.constants[w].shape[2:]] * 2)


@maker(2)
def _gemm(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) == 2)
    if x is None:
        return None
    k, n = b.pool[x][1], b.random.choice([1, 3, 10, 16, 33, 65])
    attributes: dict[str, Any] = {}
    transposed = b.chance(0.6)
    if transposed:
        attributes["transB"] = 1
    if b.chance(0.2):
        attributes["alpha"] = b.random.choice([0.5, -1.5])
    if b.chance(0.2):
        attributes["beta"] = b.random.choice([0.25, 2.0])
    inputs = [x, b.const(b.normal((n, k) if transposed else (k, n), k**-0.5))]
    if b.chance(0.7) or b.opset < 11:
        inputs.append(b.const(b.normal(b.random.choice([(n,), (1, n), (1,), ()]), 0.3)))
    return b.one("Gemm", *inputs, **attributes)


@maker(2)
def _matmul(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2 and s[-1] != BATCH)
    if x is None:
        return None
    k, n = b.pool[x][-1], b.random.choice([1, 4, 10, 17, 33])
    y = b.one("MatMul", x, b.const(b.normal((k, n), k**-0.5)))
    if b.chance(0.5):
        bias = b.const(b.normal((n,), 0.3))
        y = b.one("Add", *((y, bias) if b.chance(0.5) else (bias, y)))
    return y


@maker(1)
def _product_of_activations(b: Builder) -> str | None:
    """A matrix times itself transposed, or times one of the same shape; at times scaled as attention does."""
    x = b.pick(lambda s: len(s) >= 3)
    if x is None:
        return None
    shape = b.pool[x]
    order = [*range(len(shape) - 2), len(shape) - 1, len(shape) - 2]
    y = b.pick(lambda s: s == shape) or x
    turned = b.one("Transpose", y, perm=order)
    product = b.one("MatMul", *((x, turned) if b.chance(0.6) else (turned, x)))
    if b.chance(0.5):
        product = b.one("Div", product, b.const(shape[-1] ** 0.5))
    return b.one("Softmax", product, axis=-1) if b.chance(0.3) else product


@maker(2)
def _batch_normalization(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    channels = b.pool[x][1]
    variance = np.abs(b.normal((channels,))) + 0.3
    parts = [1 + b.normal((channels,), 0.3), b.normal((channels,), 0.3), b.normal((channels,), 0.3), variance]
    return b.one("BatchNormalization", x, *(b.const(part) for part in parts), epsilon=b.random.choice([1e-5, 1e-3]))


@maker(2)
def _residual(b: Builder) -> str | None:
    x = b.pick(lambda s: images(s) and s[1] <= 33)
    if x is None:
        return None
    channels = b.pool[x][1]
    y = conv_of(b, x, out=channels, kernel=b.random.choice([1, 3]), group=b.random.choice([1, channels]))
    if b.chance(0.5):
        y = b.one("Relu", y)
        y = conv_of(b, y, out=channels, kernel=1, group=1)
    y = b.one("Add", *((x, y) if b.chance(0.5) else (y, x)))
    return b.one("Relu", y) if b.chance(0.5) else y


@maker(2)
def _pool(b: Builder) -> str | None:
    x = b.pick(images)
    if x is None:
        return None
    spatial = b.pool[x][2:]
    kernel = [b.random.choice([1, 2, 2, 3, 3, 5]) for _ in spatial]
    op_type = b.random.choice(["MaxPool", "AveragePool"])
    attributes: dict[str, Any] = {"kernel_shape": kernel}
    dilate = (op_type == "MaxPool" and b.opset >= 10) or b.opset >= 19
    window(b, attributes, spatial, kernel, dilate=dilate)
    dilations = attributes.get("dilations", [1] * len(spatial))
    if op_type == "MaxPool" and any(d > size for d, size in zip(dilations, spatial, strict=True)):
        raise ValueError("dilated taps can step over the input, and padding alone has no maximum")
    if b.chance(0.3) and b.opset >= 10:
        attributes["ceil_mode"] = 1
        _refuse_windows_in_the_padding(attributes, spatial)
    if op_type == "AveragePool" and b.chance(0.5):
        attributes["count_include_pad"] = b.random.choice([0, 1])
    return b.one(op_type, x, **attributes)


def _refuse_windows_in_the_padding(attributes: Mapping[str, Any], spatial: Shape) -> None:
    """With ceil_mode a last window that starts in the end padding counts for onnx's inference, not for its runtimes."""
    n = len(spatial)
    pads = attributes.get("pads", [0] * (2 * n))
    for axis, (size, kernel) in enumerate(zip(spatial, attributes["kernel_shape"], strict=True)):
        stride = attributes.get("strides", [1] * n)[axis]
        reach = (kernel - 1) * attributes.get("dilations", [1] * n)[axis] + 1
        last = -(-(size + pads[axis] + pads[n + axis] - reach) // stride)
        if last * stride >= size + pads[axis]:
            raise ValueError("the last window lies in the padding")


@maker(0.7)
def _global_pool(b: Builder) -> str | None:
    x = b.pick(images)
    return None if x is None else b.one(b.random.choice(["GlobalAveragePool", "GlobalAveragePool", "GlobalMaxPool"]), x)


@maker(1)
def _reduce_mean(b: Builder) -> str | None:
    x = b.pick(lambda s: len(s) >= 2)
    if x is None:
        return None
    rank = len(b.pool[x])
    axes = b.random.sample(range(1, rank), b.random.randint(1, rank - 1))
    axes = [a - rank if b.chance(0.3) else a for a in axes]
    keep = b.random.choice([0, 1])
    if b.opset < 18:
        return b.one("ReduceMean", x, axes=axes, keepdims=keep)
    return b.one("ReduceMean", x, b.const(axes, np.int64), keepdims=keep)
