"""Attention, and other products of computed values, as fully integer programs."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import qcompiler

WIDTH, LENGTH, HEADS = 48, 20, 3


def attention_block(*, fused_scale: str = "after") -> onnx.ModelProto:
    """Self-attention with a residual over x[N, LENGTH, WIDTH]; `fused_scale` says where 1/sqrt(d) is applied."""
    rng = np.random.default_rng(5)
    d = WIDTH // HEADS
    constants: dict[str, np.ndarray] = {
        "heads": np.array([0, LENGTH, HEADS, d]),
        "flat": np.array([0, LENGTH, WIDTH]),
        "root": np.array(np.sqrt(d), np.float32),
    }
    nodes = []
    for c in "qkv":
        constants[f"w{c}"] = rng.normal(0, 1.3 * WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        constants[f"b{c}"] = rng.normal(0, 0.1, WIDTH).astype(np.float32)
        nodes += [
            helper.make_node("MatMul", ["x", f"w{c}"], [f"{c}_product"]),
            helper.make_node("Add", [f"{c}_product", f"b{c}"], [f"{c}_sum"]),
            helper.make_node("Reshape", [f"{c}_sum", "heads"], [f"{c}_heads"]),
            helper.make_node("Transpose", [f"{c}_heads"], [c], perm=[0, 2, 3, 1] if c == "k" else [0, 2, 1, 3]),
        ]
    constants["wo"] = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
    queries, scores = "q", "scores"
    if fused_scale == "before":
        nodes.append(helper.make_node("Div", ["q", "root"], ["q_scaled"]))
        queries = "q_scaled"
    nodes.append(helper.make_node("MatMul", [queries, "k"], ["scores"]))
    if fused_scale == "after":
        nodes.append(helper.make_node("Div", ["scores", "root"], ["scaled"]))
        scores = "scaled"
    nodes += [
        helper.make_node("Softmax", [scores], ["weights"], axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["context"]),
        helper.make_node("Transpose", ["context"], ["together"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["together", "flat"], ["merged"]),
        helper.make_node("MatMul", ["merged", "wo"], ["projected"]),
        helper.make_node("Add", ["projected", "x"], ["y"]),
    ]
    return model(nodes, ["N", LENGTH, WIDTH], ["N", LENGTH, WIDTH], constants)


Shape = list[int | str]


def model(
    nodes: list[onnx.NodeProto], shape: Shape, result: Shape, constants: dict[str, np.ndarray]
) -> onnx.ModelProto:
    """From `x` to `y`, both f32."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, result)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def samples(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, *shape)).astype(np.float32)


@pytest.mark.parametrize("fused_scale", ["after", "before", "none"])
@pytest.mark.parametrize("level", [0, 2, 3])
def test_attention_is_integer_only(fused_scale: str, level: int):
    x = samples(24, LENGTH, WIDTH)
    compiled = qcompiler.compile(attention_block(fused_scale=fused_scale), calibration=x, opt_level=level)
    assert compiled.summary["integer_only"]
    assert compiled.summary["float_nodes"] == []
    assert compiled.summary["accumulators_proven"] == compiled.summary["accumulators_total"] == 6
    assert compiled.summary["sqnr_db"]["y"] > 28
    assert ("int.mul" in {node.op.name for node in compiled.graph.nodes()}) == (level == 0 and fused_scale != "none")
    expected = qcompiler.reference.run(compiled.graph, {"x": x})["y"]
    for threads in (1, 2, 3):
        assert np.array_equal(compiled.session(threads).run({"x": x})["y"], expected)


@pytest.mark.parametrize("isa_name", ["amx", "vnni512", "vnni256", "avx512", "avx2", "generic"])
def test_attention_has_the_same_bits_in_every_form(isa_name: str, monkeypatch: pytest.MonkeyPatch):
    from qcompiler.runtime import isa

    if isa_name not in isa.available():
        pytest.skip(f"this CPU has no {isa_name}")
    x = samples(4, LENGTH, WIDTH)
    compiled = qcompiler.compile(attention_block(), calibration=x)
    monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, isa_name)
    assert np.array_equal(compiled.session().run({"x": x})["y"], qcompiler.reference.run(compiled.graph, {"x": x})["y"])


NEGATED, TRANSPOSED = helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0])
PRODUCTS: dict[str, tuple[Shape, Shape, list[onnx.NodeProto]]] = {
    "x·xᵀ": ([4, 6], [4, 4], [TRANSPOSED, helper.make_node("MatMul", ["x", "t"], ["y"])]),
    "xᵀ·x": ([9, 6], [6, 6], [TRANSPOSED, helper.make_node("MatMul", ["t", "x"], ["y"])]),
    "gemm": ([4, 7], [4, 4], [NEGATED, helper.make_node("Gemm", ["x", "n"], ["y"], transB=1, alpha=0.5)]),
    "batch": (["N", 3, 5, 5], ["N", 3, 5, 5], [helper.make_node("MatMul", ["x", "x"], ["y"])]),
    "constants": (["N", 3, 4, 5], ["N", 3, 6, 5], [helper.make_node("MatMul", ["stack", "x"], ["y"])]),
    "vectors": ([8], [], [NEGATED, helper.make_node("MatMul", ["x", "n"], ["y"])]),
    "vector and matrix": ([1, 8, 8], [1, 8], [
        helper.make_node("ReduceMean", ["x"], ["v"], axes=[0, 1], keepdims=0),
        helper.make_node("MatMul", ["v", "x"], ["y"]),
    ]),
}  # fmt: skip


@pytest.mark.parametrize(("shape", "result", "nodes"), PRODUCTS.values(), ids=PRODUCTS)
def test_other_products_are_integer_only(shape: Shape, result: Shape, nodes: list[onnx.NodeProto]):
    constants = {"stack": np.random.default_rng(2).normal(size=(3, 6, 4)).astype(np.float32)}
    used = {name for node in nodes for name in node.input}
    x = [{"x": feed} for feed in samples(20, *[d if isinstance(d, int) else 3 for d in shape])]
    proto = model(nodes, shape, result, {name: array for name, array in constants.items() if name in used})
    compiled = qcompiler.compile(proto, calibration=x)
    assert compiled.summary["integer_only"]
    assert compiled.summary["sqnr_db"]["y"] > 30
    assert "int.matmul" in {node.op.name for node in compiled.graph.nodes()}
    for feed in x[:3]:
        assert np.array_equal(compiled.session().run(feed)["y"], qcompiler.reference.run(compiled.graph, feed)["y"])


def test_a_product_over_a_symbolic_axis_is_refused_by_name():
    nodes = [
        TRANSPOSED,
        helper.make_node("MatMul", ["t", "x"], ["y"], name="gram"),
    ]
    with pytest.raises(
        qcompiler.errors.UnsupportedOpError, match=r"node 'gram' \(matmul\): it sums over the axis N of"
    ):
        qcompiler.compile(model(nodes, ["N", 4], [4, 4], {}), calibration=samples(6, 4))
