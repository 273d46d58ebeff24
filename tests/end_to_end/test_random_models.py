"""Random models: onnxruntime, float graph, every pass, integer graph, artifact and kernels agree about each."""

import pytest

from tests.end_to_end.differential import compile_watched, float_forms_agree, kernels_equal_the_reference
from tests.end_to_end.random_models import random_model

SEEDS = range(5000, 5040)
"""At each level ten models. More of them, from other seeds, find more: `tests/end_to_end/random_models.py`."""

OPS = frozenset({
    "Abs", "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Constant", "Conv", "ConvTranspose",
    "DepthToSpace", "Div", "Dropout", "Erf", "Exp", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "GlobalMaxPool",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "MatMul", "MaxPool", "Mul", "Neg", "PRelu", "Pad",
    "Pow", "Reciprocal", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Tanh", "Transpose", "Unsqueeze",
})  # fmt: skip


def test_the_models_have_every_op_in_every_opset():
    protos = [random_model(seed).proto for seed in range(300)]
    assert {node.op_type for proto in protos for node in proto.graph.node} >= OPS
    assert {proto.opset_import[0].version for proto in protos} >= set(range(7, 25))


@pytest.mark.parametrize("seed", SEEDS)
def test_all_forms_of_a_model_agree(seed, tmp_path):
    model = random_model(seed)
    graph = float_forms_agree(model)
    compiled = compile_watched(model, graph, seed % 4, tmp_path)
    (_, quantized), *_, (_, final) = compiled.decibels
    assert final > min(quantized, 40) - 3
    kernels_equal_the_reference(model, compiled.graph)
