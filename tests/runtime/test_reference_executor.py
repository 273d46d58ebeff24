"""Walking a graph: inputs, symbols, stages, hooks; and that every op has a reference function."""

import dataclasses
import weakref
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from qcompiler import numerics, reference
from qcompiler.errors import InternalError, PluginError, RuntimeInputError
from qcompiler.ir import DType, Graph, Op, QuantParams, Stage, TensorType, Value, op_classes
from qcompiler.ir import ops as o
from qcompiler.ir.op import Operands
from qcompiler.runtime.reference.registry import Domain, implementation
from qcompiler.runtime.reference.registry import reference as register


@pytest.fixture
def dynamic() -> Graph:
    """y[N, 6] = relu(reshape(x[N, 2, 3])), z = y + w, w[2*N, ...] unused but bound to the same N."""
    graph = Graph("dynamic")
    x = graph.add_input("x", TensorType(DType.F32, ("N", 2, 3)))
    graph.add_input("w", TensorType(DType.S8, ("2*N",)))
    flat = graph.add_node(o.Reshape(("N", 6)), [x], name="flat").result
    y = graph.add_node(o.Relu(), [flat], name="y").result
    one = graph.add_constant(np.ones(6, np.float32), "one")
    graph.add_output(graph.add_node(o.Add(), [y, one], name="z").result, "result")
    return graph


def feeds(n: int) -> dict[str, npt.NDArray[np.generic]]:
    return {"x": np.arange(6 * n, dtype=np.float32).reshape(n, 2, 3) - 3, "w": np.zeros(2 * n, np.int8)}


@pytest.mark.parametrize("n", [0, 1, 3])
def test_outputs_come_by_public_name_for_any_batch(dynamic: Graph, n: int):
    got = reference.run(dynamic, feeds(n))
    assert list(got) == ["result"]
    np.testing.assert_array_equal(got["result"], np.maximum(np.arange(6 * n).reshape(n, 6) - 3, 0) + 1)


def test_the_hook_sees_every_value_in_order(dynamic: Graph):
    seen: list[tuple[str, npt.NDArray[np.generic]]] = []
    reference.run(dynamic, feeds(2), on_value=lambda value, array: seen.append((value.name, array)))
    assert [name for name, _ in seen] == ["x", "w", "flat", "y", "z"]
    everything = reference.run_all(dynamic, feeds(2))
    assert list(everything) == [name for name, _ in seen]
    for name, array in seen:
        np.testing.assert_array_equal(everything[name], array)


def without(name: str) -> dict[str, npt.NDArray[np.generic]]:
    given = feeds(2)
    del given[name]
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (without("x"), "input 'x' is missing; graph 'dynamic' takes 'x', 'w'"),
        ({**feeds(2), "v": np.zeros(1)}, "graph 'dynamic' has no input 'v'; its inputs are 'x', 'w'"),
        ({**feeds(2), "x": [1.0]}, "input 'x' is a list, not a NumPy array"),
        ({**feeds(2), "x": np.zeros((2, 2, 3))}, "input 'x' is float64, expected float32"),
        ({**feeds(2), "x": np.zeros((2, 3), np.float32)}, r"input 'x' has shape \[2,3\], expected \[N,2,3\]"),
        ({**feeds(2), "x": np.zeros((2, 3, 3), np.float32)}, r"input 'x' has shape \[2,3,3\], expected \[N,2,3\]"),
        (
            {**feeds(2), "w": np.zeros(5, np.int8)},
            r"input 'w' has shape \[5\], expected \[2\*N\]: 5 is no multiple of 2",
        ),
        ({**feeds(2), "w": np.zeros(6, np.int8)}, r"input 'w' has shape \[6\], expected \[2\*N\]: N is 2 elsewhere"),
    ],
)
def test_wrong_inputs_are_named(dynamic: Graph, given: dict[str, npt.NDArray[np.generic]], message: str):
    with pytest.raises(RuntimeInputError, match=message):
        reference.run(dynamic, given)


def test_values_of_s4_must_fit():
    graph = Graph("s4", Stage.INTEGER)
    graph.add_output(graph.add_input("x", TensorType(DType.S4, (2,))))
    assert reference.run(graph, {"x": np.array([-8, 7], np.int8)})["x"].tolist() == [-8, 7]
    with pytest.raises(RuntimeInputError, match=r"outside \[-8, 7\]"):
        reference.run(graph, {"x": np.array([-8, 8], np.int8)})


def test_inputs_and_constants_may_be_outputs():
    graph = Graph("trivial")
    graph.add_output(graph.add_input("x", TensorType(DType.F32, (1,))), "same")
    graph.add_output(graph.add_constant(np.array([2], np.float32)), "fixed")
    got = reference.run(graph, {"x": np.array([1], np.float32)})
    assert (got["same"].tolist(), got["fixed"].tolist()) == ([1], [2])


def quantized(op: Op, *operands: tuple[DType, QuantParams, list[int]], result: tuple[DType, QuantParams]) -> list[int]:
    """The elements of the result of `op` on vectors in the quantized stage."""
    graph = Graph("quantized", Stage.QUANTIZED)
    values, arrays = [], {}
    for i, (dtype, quant, elements) in enumerate(operands):
        values.append(graph.add_input(f"x{i}", TensorType(dtype, (len(elements),), quant)))
        arrays[f"x{i}"] = np.array(elements, dtype.numpy)
    (inferred,) = op.infer(Operands([v.type for v in values], [None] * len(values)))
    node = graph.add_node(op, values, result_types=[TensorType(result[0], inferred.shape, result[1])])
    graph.add_output(node.result, "y")
    found: list[int] = reference.run(graph, arrays)["y"].tolist()
    return found


U8, S8, S16 = DType.U8, DType.S8, DType.S16
HALF, QUARTER, FINE = QuantParams.per_tensor(0.5, 10), QuantParams.per_tensor(0.25), QuantParams.per_tensor(0.125)


def test_real_ops_of_the_quantized_stage_dequantize_and_quantize():
    # 0.5·(q − 10) = −5, −0.5, 0, 1, 122.5
    assert quantized(o.Relu(), (U8, HALF, [0, 9, 10, 12, 255]), result=(U8, QUARTER)) == [0, 0, 0, 4, 255]
    assert quantized(o.Add(), (U8, HALF, [12, 9]), (S8, QUARTER, [3, -5]), result=(U8, HALF)) == [14, 7]
    assert quantized(o.Add(clamp=(0.0, 1.0)), (U8, HALF, [14, 9]), (S8, QUARTER, [3, -5]), result=(S8, QUARTER)) == [
        4,
        0,
    ]


def test_quantization_rounds_half_up_and_saturates():
    # 0.125·q / 0.25: q/2
    assert quantized(o.Requantize(), (S8, FINE, [-3, -2, -1, 1, 2, 3]), result=(S8, QUARTER)) == [-1, -1, 0, 1, 1, 2]
    assert quantized(o.Requantize(), (S16, HALF, [-32768, 32767]), result=(S8, QUARTER)) == [-128, 127]


def test_weights_have_their_own_scale_along_an_axis():
    graph = Graph("gemm", Stage.QUANTIZED)
    x = graph.add_input("x", TensorType(U8, ("N", 2), HALF))
    per_row = QuantParams.per_channel([0.25, 0.5], [0, 0], axis=0)
    weight = graph.add_constant(np.array([[1, 2], [3, -4]], np.int8), quant=per_row)
    accumulated = QuantParams.per_channel([0.125, 0.25], [0, 0], axis=0)
    bias = graph.add_constant(np.array([8, -4], np.int32), quant=accumulated)
    y = graph.add_node(o.Gemm(), [x, weight, bias], result_types=[TensorType(S8, ("N", 2), QUARTER)]).result
    graph.add_output(y)
    # x = 1, 2: 0.25·(1·1 + 2·2) + 1 = 2.25; 0.5·(3·1 − 4·2) − 1 = −3.5
    assert reference.run(graph, {"x": np.array([[12, 14]], np.uint8)}).popitem()[1].tolist() == [[9, -14]]
    assert reference.to_real(weight.type, np.array([[1, 2], [3, -4]], np.int8)).tolist() == [[0.25, 0.5], [1.5, -2.0]]


def test_movement_keeps_integers_and_translates_between_parameters():
    # A scale at which 0.1·(q − z) / 0.1 is no integer for many q.
    tenth = QuantParams.per_tensor(0.1, 3)
    every = list(range(256))
    assert quantized(o.Identity(), (U8, tenth, every), result=(U8, tenth)) == every
    assert quantized(o.Concat(0), (U8, tenth, every), (U8, tenth, [5]), result=(U8, tenth)) == [*every, 5]
    assert quantized(o.Concat(0), (S8, HALF, [12]), (S8, QUARTER, [-4]), result=(S8, FINE)) == [8, -8]
    assert quantized(o.Pad((1, 2), 1.0), (U8, HALF, [20]), result=(U8, HALF)) == [12, 20, 12, 12]


def test_max_pool_moves_integers_of_every_dtype():
    graph = Graph("pool", Stage.INTEGER)
    x = graph.add_input("x", TensorType(S8, (1, 1, 1, 2)))
    op = o.MaxPool((1, 3), (1, 2), (0, 1, 0, 2), (1, 1))
    graph.add_output(graph.add_node(op, [x]).result, "y")
    assert reference.run(graph, {"x": np.array([[[[-128, -127]]]], np.int8)})["y"].tolist() == [[[[-127, -127]]]]


def test_float_islands_of_the_integer_stage():
    graph = Graph("island", Stage.INTEGER, allow_float=True)
    x = graph.add_input("x", TensorType(U8, ("N",)))
    real = graph.add_node(o.IntDequantize((0.5,), (10,)), [x]).result
    root = graph.add_node(o.Sqrt(), [graph.add_node(o.Relu(), [real]).result]).result
    graph.add_output(graph.add_node(o.IntQuantize(U8, (0.25,), (0,)), [root]).result, "y")
    given = np.array([0, 10, 12, 18], np.uint8)
    expected = [numerics.quantize(max(0.5 * (q - 10), 0) ** 0.5, 0.25, 0, U8) for q in given.tolist()]
    assert reference.run(graph, {"x": given})["y"].tolist() == expected


def test_observed_graphs_run_and_half_precision_rounds_once():
    graph = Graph("observed", Stage.OBSERVED)
    x = graph.add_input("x", TensorType(DType.F16, (2,)))
    seen = graph.add_node(o.Observe("x"), [x]).result
    graph.add_output(graph.add_node(o.Exp(), [seen]).result, "y")
    given = np.array([1.0, 20.0], np.float16)
    got = reference.run(graph, {"x": given})["y"]
    assert got.dtype == np.float16
    assert got.tolist() == [float(np.float16(np.exp(1.0))), np.inf]


def test_values_are_freed_after_their_last_use():
    graph = Graph("chain")
    value = graph.add_input("x", TensorType(DType.F32, (4,)))
    for i in range(4):
        value = graph.add_node(o.Relu(), [value], name=f"v{i}").result
    graph.add_output(value)
    alive: dict[str, weakref.ref[npt.NDArray[np.generic]]] = {}

    def on_value(value: Value, array: npt.NDArray[np.generic]) -> None:
        alive[value.name] = weakref.ref(array)
        if value.name == "v3":
            assert alive["v0"]() is None
            assert alive["v1"]() is None

    reference.run(graph, {"x": np.ones(4, np.float32)}, on_value=on_value)
    assert set(alive) == {"x", "v0", "v1", "v2", "v3"}


def test_a_real_op_on_bare_integers_is_an_internal_error():
    graph = Graph("wrong", Stage.INTEGER)
    x = graph.add_input("x", TensorType(U8, (1,)))
    graph.add_output(graph.add_node(o.Relu(), [x], name="act").result)
    with pytest.raises(InternalError, match=r"node 'act' \(relu\): .* u8 without quantization parameters"):
        reference.run(graph, {"x": np.zeros(1, np.uint8)})


def test_a_result_that_contradicts_its_type_is_an_internal_error():
    graph = Graph("wrong")
    x = graph.add_input("x", TensorType(DType.F32, (4,)))
    node = graph.add_node(o.Relu(), [x], name="act", result_types=[TensorType(DType.F32, (5,))])
    graph.add_output(node.result)
    with pytest.raises(InternalError, match=r"node 'act' \(relu\): the reference gave float32\[4\].*says f32\[5\]"):
        reference.run(graph, {"x": np.zeros(4, np.float32)})


OURS = [cls for cls in op_classes() if cls.__module__.startswith("qcompiler.ir.ops")]


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.name)
def test_every_op_has_a_reference(cls: type[Op]):
    domain = implementation(cls).domain
    if cls.stages == {Stage.INTEGER}:
        assert domain is Domain.STORED


def test_an_op_has_one_reference():
    with pytest.raises(PluginError, match="'relu' already has a reference function"):
        register(o.Relu)(lambda _op, x: x)


def test_an_op_without_a_reference_is_named():
    @dataclasses.dataclass(frozen=True)
    class Cube(o.Unary):
        name: ClassVar[str] = "cube"

    with pytest.raises(PluginError, match=r"'cube' has no reference function; decorate one with @reference\(Cube\)"):
        implementation(Cube)
