import dataclasses

import pytest

from qcompiler.ir import Graph, Stage, TensorType, ops
from qcompiler.ir.integer_layer import IntegerLayer, integer_layer
from qcompiler.ir.ops import integer_linear
from qcompiler.ir.types import DType


def layer_of(weight: tuple[int, ...], group: int = 1) -> IntegerLayer | None:
    graph = Graph("g", Stage.INTEGER)
    operands = [
        graph.add_input("w", TensorType(DType.S8, weight)),
        graph.add_input("b", TensorType(DType.S32, weight[:1])),
    ]
    if len(weight) == 2:
        x = graph.add_input("x", TensorType(DType.U8, ("N", weight[1])))
        return integer_layer(graph.add_node(ops.IntGemm(0), [x, *operands]))
    x = graph.add_input("x", TensorType(DType.U8, ("N", weight[1] * group, 9, 9)))
    op = ops.IntConv((1, 1), (0, 0, 0, 0), (1, 1), group, 0)
    return integer_layer(graph.add_node(op, [x, *operands]))


@pytest.mark.parametrize("op", [ops.IntConv, ops.IntGemm])
def test_operands_have_the_names_and_places_of_the_signature(op: type[ops.IntConv | ops.IntGemm]):
    names = [argument.name for argument in op.arguments]
    fields = [field.name for field in dataclasses.fields(IntegerLayer)]
    assert fields[:2] == ["node", "op"]
    assert fields[2:] == names
    assert [getattr(integer_linear, name.upper()) for name in names] == list(range(len(names)))


@pytest.mark.parametrize(
    ("weight", "group", "is_depthwise", "has_window"),
    [
        ((6, 1, 3, 3), 6, True, True),
        ((6, 1, 1, 1), 6, True, False),
        ((6, 1, 1, 2), 6, True, True),
        ((6, 2, 3, 3), 6, False, True),  # a filter for each channel, of two channels
        ((12, 1, 3, 3), 6, False, True),  # two filters for each channel
        ((1, 1, 3, 3), 1, False, True),
        ((6, 6, 1, 1), 1, False, False),
        ((6, 1), 1, False, False),
    ],
)
def test_what_weights_and_groups_say(weight: tuple[int, ...], group: int, is_depthwise: bool, has_window: bool):
    layer = layer_of(weight, group)
    assert layer is not None
    assert (layer.is_depthwise, layer.has_window, layer.channels) == (is_depthwise, has_window, weight[0])


def test_other_nodes_are_no_layers():
    graph = Graph("g", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.U8, (2, 3)))
    assert integer_layer(graph.add_node(ops.Reshape((3, 2)), [x])) is None
    assert integer_layer(x.producer) is None
