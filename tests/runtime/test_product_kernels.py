"""Products of two activations against Python integers, for each primitive that can run here or be emulated."""

import ctypes
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import numerics, reference
from qcompiler.ir import AnyArray, Graph, Op, Stage, TensorType, Value
from qcompiler.ir.ops import Concat, DepthToSpace, IntMatMul, IntQuantize, Transpose
from qcompiler.ir.types import DType
from qcompiler.runtime.kernels import product_plan, products  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.kernel_plan import KernelPlan
from qcompiler.runtime.kernels.packing import aligned
from qcompiler.runtime.kernels.product_plan import ProductTypes, View, plan_product
from qcompiler.runtime.kernels.registry import kernel_named
from qcompiler.runtime.lowering import PackedModel, lower
from qcompiler.runtime.session import Session
from tests.runtime.conftest import Execute
from tests.runtime.primitives_under_test import PRIMITIVES

BYTES = st.sampled_from([DType.U8, DType.S8])
GUARD = 64  # bytes around what is written, which must stay as they are

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Product:
    op: IntMatMul
    a: Array
    b: Array
    shares: int


@st.composite
def products_(draw: st.DrawFn) -> Product:
    """Operands are strided views at random: rows, columns and matrices at any distance."""
    rows = draw(st.integers(1, 12) | st.sampled_from([31, 32, 33, 40, 64, 100, 130]))
    terms = draw(st.integers(1, 20) | st.sampled_from([28, 32, 48, 63, 64, 65, 100, 128, 130, 200]))
    columns = draw(st.integers(1, 20) | st.sampled_from([31, 32, 33, 48, 64, 65, 79, 80, 100, 130]))
    batch = draw(st.sampled_from([((), ()), ((2,), (2,)), ((3,), ()), ((), (2,)), ((2, 1), (1, 3)), ((1, 2), (2, 2))]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    extreme = draw(st.booleans())

    def operand(dtype: DType, shape: tuple[int, ...]) -> Array:
        low, high = dtype.limits
        every = rng.choice([low, high], shape) if extreme else rng.integers(low, high + 1, shape)
        return every.astype(dtype.numpy)

    a_dtype, b_dtype = draw(BYTES), draw(BYTES)
    dtype = draw(st.sampled_from([DType.U8, DType.S8, DType.S16]))
    low, high = dtype.limits
    lo, hi = sorted((draw(st.integers(low, high)), draw(st.integers(low, high))))
    zp_a, zp_b = (draw(st.sampled_from([*d.limits, 0]) | st.integers(*d.limits)) for d in (a_dtype, b_dtype))
    multiplier = draw(st.sampled_from([0, 2**30, 2**31 - 1, -(2**30)]) | st.integers(2**30, 2**31 - 1))
    shift = draw(st.integers(38, 48) | st.integers(2, 62))
    op = IntMatMul(dtype, zp_a, zp_b, multiplier, shift, draw(st.integers(low, high)), lo, hi)
    a, b = operand(a_dtype, (*batch[0], rows, terms)), operand(b_dtype, (*batch[1], terms, columns))
    if draw(st.booleans()):  # the terms of a column are neighbours
        b = np.ascontiguousarray(b.swapaxes(-1, -2)).swapaxes(-1, -2)
    if draw(st.booleans()) and a.ndim > 2:  # heads beside each other
        a = np.ascontiguousarray(a.swapaxes(-2, -3)).swapaxes(-2, -3)
    if draw(st.booleans()) and b.ndim > 2:
        b = np.ascontiguousarray(b.swapaxes(-2, -3)).swapaxes(-2, -3)
    return Product(op, a, b, draw(st.integers(1, 5)))


def expected(op: IntMatMul, a: Array, b: Array) -> Array:
    """Int64 sums, then Python integers."""
    sums = (a.astype(np.int64) - op.zp_a) @ (b.astype(np.int64) - op.zp_b)
    each = [
        numerics.requantize(numerics.wrap_s32(acc), op.multiplier, op.shift, op.zp_out, op.lo, op.hi)
        for acc in sums.ravel().tolist()
    ]
    return np.array(each, op.dtype.numpy).reshape(sums.shape)


def view_of(array: Array) -> View:
    return View(array.shape, tuple(step // array.itemsize for step in array.strides))


def planned(op: IntMatMul, isa_name: str, a: Array, b: Array, out: Array) -> tuple[KernelPlan, KernelPlan]:
    dtypes = DType.from_numpy(a.dtype), DType.from_numpy(b.dtype)
    return plan_product(ProductTypes(isa_name, *dtypes, op), view_of(a), view_of(b), view_of(out), max_shares=8)


def execute(op: IntMatMul, isa_name: str, a: Array, b: Array, shares: int, *, gap: int = 0) -> Array:
    """Run all shares of both kernels, the last first; rows of the result are `gap` elements apart."""
    shape = (*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1])
    row = shape[-1] + gap
    out = aligned(np.full(math.prod(shape[:-1]) * row * op.dtype.itemsize + 2 * GUARD, 77, np.uint8))
    result = out[GUARD:-GUARD].view(op.dtype.numpy).reshape(*shape[:-1], row)[..., : shape[-1]]
    pack, multiply = planned(op, isa_name, a, b, result)
    sizes = *pack.out_shape, multiply.scratch_bytes
    packed, scratch = (aligned(np.full(n + 2 * GUARD, 77, np.uint8)) for n in sizes)
    buffers = {"packed": packed, "out": out, "scratch": scratch}
    addresses = {word: array.ctypes.data + GUARD for word, array in buffers.items()}
    addresses |= {"a": a.ctypes.data, "source": b.ctypes.data}
    for each in (pack, multiply):
        kernel = kernel_named(each.kernel)
        named = addresses | {word: array.ctypes.data for word, array in each.constants.items()} | dict(each.integers)
        words = np.array([named[word] for word in kernel.words], np.int64)
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel.address_for(isa_name))
        number = min(shares, each.shares)
        for share in reversed(range(number)):
            call(words.ctypes.data, share, number)
    for buffer in buffers.values():
        assert (buffer[:GUARD] == 77).all()
        assert (buffer[-GUARD:] == 77).all()
    if gap:
        rows = out[GUARD:-GUARD].view(op.dtype.numpy).reshape(-1, row)
        assert (rows[:, shape[-1] :].view(np.uint8) == 77).all()
    return result


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@settings(max_examples=100)
@given(product=products_(), gap=st.sampled_from([0, 0, 3]))
def test_products(isa_name: str, product: Product, gap: int):
    result = execute(product.op, isa_name, product.a, product.b, product.shares, gap=gap)
    assert np.array_equal(result, expected(product.op, product.a, product.b))


@pytest.mark.parametrize("isa_name", PRIMITIVES)
@pytest.mark.parametrize(
    ("batch", "rows", "columns"), [(6, 40, 40), (1, 300, 64), (1, 8, 700)], ids=["batch", "rows", "columns"]
)
def test_work_is_divided_among_shares(
    isa_name: str, batch: int, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(product_plan, "SHARE_NS", 100)
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (batch, rows, 80), dtype=np.uint8)
    b = rng.integers(-128, 128, (batch, 80, columns), dtype=np.int8)
    op = IntMatMul(DType.U8, 3, -7, 2**30, 44, 128, 0, 255)
    out = np.empty((batch, rows, columns), np.uint8)
    pack, multiply = planned(op, isa_name, a, b, out)
    assert pack.shares > 1 or rows == 300
    assert multiply.shares > 1
    wanted = expected(op, a, b)
    for shares in (1, 3, 8):
        assert np.array_equal(execute(op, isa_name, a, b, shares), wanted)


def product_graph(op: IntMatMul, a: Array, b: Array) -> Graph:
    graph = Graph("product", Stage.INTEGER)
    operands = [graph.add_input(n, TensorType(DType.from_numpy(x.dtype), x.shape)) for n, x in (("a", a), ("b", b))]
    graph.add_output(graph.add_node(op, operands).result, "y")
    return graph


@settings(max_examples=60)
@given(product=products_())
def test_products_touch_nothing_else(run_in_shares, product: Product):
    feeds = {"a": np.ascontiguousarray(product.a), "b": np.ascontiguousarray(product.b)}
    graph = product_graph(product.op, product.a, product.b)
    result = run_in_shares(graph, feeds, product.shares)["y"]
    assert np.array_equal(result, reference.run(graph, feeds)["y"])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_and_batches_make_no_difference(threads: int):
    rng = np.random.default_rng(0)
    graph = Graph("product", Stage.INTEGER)
    a = graph.add_input("a", TensorType(DType.S8, ("N", 3, 50, 70)))
    b = graph.add_input("b", TensorType(DType.U8, ("N", 3, 70, 90)))
    graph.add_output(graph.add_node(IntMatMul(DType.S8, -5, 90, 2**30, 42, 4, -128, 127), [a, b]).result, "y")
    session = Session(graph, threads=threads)
    for batch in (0, 1, 2, 7):
        feeds = {
            "a": rng.integers(-128, 128, (batch, 3, 50, 70), dtype=np.int8),
            "b": rng.integers(0, 256, (batch, 3, 70, 90), dtype=np.uint8),
        }
        assert np.array_equal(session.run(feeds)["y"], reference.run(graph, feeds)["y"])


OP = IntMatMul(DType.U8, 120, 3, 2**30, 40, 128, 0, 255)


def kernels_of(graph: Graph) -> list[str]:
    return [instruction.kernel for instruction in lower(PackedModel(graph), {}).instructions]


class Chain:
    """A graph of products and transpositions of one input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.graph = Graph("chain", Stage.INTEGER)
        self.x = self.graph.add_input("x", TensorType(DType.U8, shape))

    def add(self, op: Op, *operands: Value) -> Value:
        return self.graph.add_node(op, operands).result

    def output(self, value: Value) -> None:
        self.graph.add_output(value, f"y{len(self.graph.outputs)}")

    def check(self, run_in_shares: Execute) -> None:
        x = np.random.default_rng(0).integers(0, 256, [int(d) for d in self.x.type.shape], dtype=np.uint8)
        expected = reference.run(self.graph, {"x": x})
        got = run_in_shares(self.graph, {"x": x}, 3), Session(self.graph, threads=2).run({"x": x})
        assert all(np.array_equal(each[name], array) for each in got for name, array in expected.items())


def heads(queries: tuple[int, ...], keys: tuple[int, ...], merged: tuple[int, ...]) -> Chain:
    """Of x[n, length, heads, width], the products of each head, put together again."""
    chain = Chain((2, 33, 3, 20))
    left, right = chain.add(Transpose(queries), chain.x), chain.add(Transpose(keys), chain.x)
    chain.output(chain.add(Transpose(merged), chain.add(OP, left, right)))
    return chain


def test_the_transpositions_of_attention_cost_nothing(run_in_shares):
    chain = heads((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3))
    assert kernels_of(chain.graph) == ["int_product_pack", "int_product"]
    chain.check(run_in_shares)
    chain = heads((2, 0, 1, 3), (2, 0, 3, 1), (1, 2, 0, 3))
    assert kernels_of(chain.graph) == ["int_product_pack", "int_product"]
    chain.check(run_in_shares)


def test_transpositions_that_separate_neighbours_stay(run_in_shares):
    chain = heads((0, 1, 3, 2), (0, 1, 2, 3), (0, 1, 3, 2))
    assert len(kernels_of(chain.graph)) == 4
    chain.check(run_in_shares)
    chain = Chain((6, 6, 6))
    chain.output(chain.add(OP, chain.x, chain.add(Transpose((2, 0, 1)), chain.x)))
    assert len(kernels_of(chain.graph)) == 3
    chain.check(run_in_shares)


def test_a_transposition_between_products_is_done_once(run_in_shares):
    chain = Chain((5, 4, 6, 6))
    first = chain.add(OP, chain.x, chain.x)
    turned = chain.add(Transpose((1, 0, 2, 3)), first)
    chain.output(chain.add(OP, turned, turned))
    assert kernels_of(chain.graph) == ["int_product_pack", "int_product"] * 2
    chain.check(run_in_shares)


def test_transpositions_with_other_users_stay(run_in_shares):
    chain = Chain((5, 4, 6, 6))
    turned = chain.add(Transpose((1, 0, 2, 3)), chain.x)
    product = chain.add(OP, turned, turned)
    chain.output(turned)
    chain.output(product)
    chain.output(chain.add(Transpose((1, 0, 2, 3)), product))
    assert sorted(kernels_of(chain.graph)) == ["copy", "copy", "int_product", "int_product_pack"]
    chain.check(run_in_shares)


def test_quantized_planes_are_read_through_their_transposition(run_in_shares):
    """The one that quantizes and interleaves in one kernel where anything else reads it."""
    graph = Graph("planes", Stage.INTEGER)
    x = graph.add_input("x", TensorType(DType.F32, (2, 3, 8, 6)))
    a = graph.add_input("a", TensorType(DType.U8, (2, 8, 5, 6)))
    planes = graph.add_node(IntQuantize(DType.U8, (0.5,), (3,)), [x]).result
    turned = graph.add_node(Transpose((0, 2, 3, 1)), [planes]).result
    graph.add_output(graph.add_node(OP, [a, turned]).result, "y")
    assert kernels_of(graph) == ["int_quantize8", "int_product_pack", "int_product"]
    rng = np.random.default_rng(0)
    feeds: dict[str, AnyArray] = {
        "x": rng.normal(0, 20, (2, 3, 8, 6)).astype(np.float32),
        "a": rng.integers(0, 256, (2, 8, 5, 6), dtype=np.uint8),
    }
    expected = reference.run(graph, feeds)["y"]
    assert np.array_equal(run_in_shares(graph, feeds, 3)["y"], expected)


def test_products_and_blocks_of_depth_share_a_transposition(run_in_shares):
    chain = Chain((1, 12, 3, 3))
    blocks = chain.add(DepthToSpace((2, 2), "DCR", "nchw"), chain.x)
    turned = chain.add(Transpose((1, 0, 2, 3)), blocks)
    chain.output(chain.add(OP, turned, turned))
    chain.check(run_in_shares)


def test_a_transposed_product_is_written_into_a_concatenation(run_in_shares):
    chain = Chain((1, 4, 6, 6))
    product = chain.add(Transpose((0, 2, 1, 3)), chain.add(OP, chain.x, chain.x))
    other = chain.add(Transpose((0, 2, 1, 3)), chain.add(OP, chain.x, chain.x))
    chain.output(chain.add(Concat(1), product, other))
    assert "concat" not in kernels_of(chain.graph)
    chain.check(run_in_shares)
