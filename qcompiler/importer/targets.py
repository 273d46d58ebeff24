"""Result shapes of the ONNX ops that keep the elements in place: Reshape, Flatten, Squeeze, Unsqueeze."""

from collections.abc import Sequence

from qcompiler.errors import ModelError, VerifyError
from qcompiler.importer.node_reader import NodeReader, Unsupported
from qcompiler.ir import Dim, Shape
from qcompiler.ir.types import divide_dim, multiply_dims


def reshape_target(node: NodeReader, shape: Shape, wanted: Sequence[Dim]) -> Shape:
    """The shape that Reshape asks for: 0 keeps a dimension (unless allowzero=1), −1 takes what remains.

    Raises:
        ModelError: the target contradicts the shape.
    """
    target = list(wanted)
    for axis, dim in enumerate(target):
        if dim == 0 and not node.attr_int("allowzero", 0):
            if axis >= len(shape):
                raise ModelError(f"{node.label}: shape {target} keeps axis {axis}, which {list(shape)} does not have")
            target[axis] = shape[axis]
    free = [axis for axis, dim in enumerate(target) if dim == -1]
    if len(free) > 1 or any(isinstance(d, int) and d < -1 for d in target):
        raise ModelError(f"{node.label}: shape {target} has more than one −1 or a dimension below −1")
    if free:
        target[free[0]] = _remaining(node, shape, [d for d in target if d != -1])
    elif not _same_size(shape, target):
        raise ModelError(
            f"{node.label}: {list(shape)} cannot be reshaped to {target}: sizes differ; if a batch size was fixed at "
            "export, fix the model's dimension too (--dim NAME=SIZE) or export it with a dynamic batch"
        )
    return tuple(target)


def flattened(node: NodeReader, shape: Shape) -> Shape:
    """Two dimensions: those before `axis` and those from it on."""
    given = node.attr_int("axis", 1)
    axis = given if given == len(shape) else node.axis(given, len(shape))
    return multiply_dims(shape[:axis]), multiply_dims(shape[axis:])


def squeezed(node: NodeReader, shape: Shape) -> Shape:
    """Without the given axes, or without every dimension of 1."""
    axes = node.axes(1, since=13)
    if axes is None:
        return tuple(d for d in shape if d != 1)
    drop = {node.axis(a, len(shape)) for a in axes}
    for axis in drop:
        if isinstance(shape[axis], str):
            raise Unsupported(
                f"it removes the symbolic axis {axis} of {list(shape)}; fix it with --dim {shape[axis]}=1"
            )
        if shape[axis] != 1:
            raise ModelError(f"{node.label}: axis {axis} of {list(shape)} is not 1 and cannot be removed")
    return tuple(d for i, d in enumerate(shape) if i not in drop)


def unsqueezed(node: NodeReader, shape: Shape) -> Shape:
    """With dimensions of 1 at the given axes of the result."""
    given = node.axes(1, since=13)
    if given is None:
        raise ModelError(f"{node.label}: axes are missing")
    rank = len(shape) + len(given)
    axes = {node.axis(a, rank) for a in given}
    if len(axes) != len(given):
        raise ModelError(f"{node.label}: axes {list(given)} name one axis twice")
    rest = iter(shape)
    return tuple(1 if i in axes else next(rest) for i in range(rank))


def _remaining(node: NodeReader, shape: Shape, fixed: Sequence[Dim]) -> Dim:
    """The size of the −1 axis. Equal symbols are cancelled first, so that [N,H,64] to [N,H,-1] works."""
    rest = list(shape)
    others = []
    for dim in fixed:
        if isinstance(dim, str) and dim in rest:
            rest.remove(dim)
        else:
            others.append(dim)
    try:
        size = divide_dim(multiply_dims(rest), multiply_dims(others))
    except VerifyError as error:
        raise Unsupported(f"reshape of {list(shape)}: {error}; fix one with --dim NAME=SIZE") from error
    if size is None:
        raise ModelError(
            f"{node.label}: {list(shape)} cannot be reshaped to {[*fixed, -1]}: the sizes do not divide; if a batch "
            "size was fixed at export, fix the model's dimension too (--dim NAME=SIZE)"
        )
    return size


def _same_size(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    left, right = list(a), list(b)
    for dim in a:
        if isinstance(dim, str) and dim in right:
            left.remove(dim)
            right.remove(dim)
    return multiply_dims(left) == multiply_dims(right)
