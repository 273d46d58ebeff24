"""One-node models and the comparison with onnxruntime."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompiler import reference
from qcompiler.importer import import_model
from qcompiler.ir import Graph, verify

Array = npt.NDArray[Any]
Shape = Sequence[int | str]


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    constants: Mapping[str, Array] | None = None,
    *,
    opset: int = 17,
    outputs: Sequence[str] = ("y",),
    output_shape: Shape | None = None,
    domains: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of float32 inputs; the shapes of its outputs are those that onnx infers unless one is given."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, output_shape) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, v) for d, v in (domains or {}).items())]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def import_and_compare(
    model: onnx.ModelProto, sizes: Mapping[str, int] | None = None, *, rtol: float = 1e-5, atol: float = 1e-5
) -> Graph:
    """Import a model, run the graph by the reference and the model by onnxruntime, and compare all outputs.

    The reference rounds each op once from float64, onnxruntime accumulates in float32: they differ by a few units in
    the last place of values of magnitude 1.
    """
    import onnxruntime

    graph = import_model(model)
    verify(graph)
    generator = np.random.default_rng(7)
    feeds = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else (sizes or {}).get(d, 2) for d in value.type.shape]
        feeds[value.name] = generator.uniform(-2, 2, shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in model.graph.output]
    results = reference.run(graph, feeds)
    assert list(results) == names
    for name, expected in zip(names, session.run(names, feeds), strict=True):
        assert results[name].shape == expected.shape
        np.testing.assert_allclose(results[name], expected, rtol=rtol, atol=atol)
    return graph


@pytest.fixture
def model() -> Callable[..., onnx.ModelProto]:
    return make_model


@pytest.fixture
def compare() -> Callable[..., Graph]:
    return import_and_compare
