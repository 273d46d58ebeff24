import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcompiler import reference
from qcompiler.errors import PluginError, UnsupportedOpError, VerifyError
from qcompiler.ir import DType, Graph, Stage, TensorType, Value
from qcompiler.ir.ops import (
    Concat,
    DepthToSpace,
    HardSwish,
    Identity,
    IntAdd,
    IntAveragePool,
    IntConv,
    IntDequantize,
    IntGemm,
    IntLut,
    IntMean,
    IntMul,
    IntPad,
    IntQuantize,
    IntRescale,
    MaxPool,
    Pad,
    Quantize,
    Requantize,
    Reshape,
    Slice,
    Split,
    Transpose,
)
from qcompiler.numerics import quantize_mean_multipliers
from qcompiler.runtime.lowering import PackedModel, lower, lowers
from qcompiler.runtime.lowering.geometry import broadcast_steps, contiguous_steps, merged_walk
from qcompiler.runtime.program import Buffer, Program
from qcompiler.runtime.session import Session

sizes = st.lists(st.integers(1, 4), min_size=1, max_size=5)


def kernels_of(program: Program) -> list[str]:
    return [instruction.kernel for instruction in program.instructions]


@given(shape=sizes, data=st.data())
def test_merged_axes_visit_the_same_elements(shape, data):
    order = data.draw(st.permutations(range(len(shape))))
    dropped = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    transposed = [contiguous_steps(shape)[axis] for axis in order]
    sizes = [shape[axis] for axis in order]
    repeated = broadcast_steps([1 if drop else size for size, drop in zip(sizes, dropped, strict=True)], len(sizes))
    walk = merged_walk(sizes, transposed, repeated)

    def visited(sizes, steps):
        return [sum(i * s for i, s in zip(at, steps, strict=True)) for at in itertools.product(*map(range, sizes))]

    assert 1 not in walk.sizes or walk.sizes == (1,)
    for steps, merged in zip((transposed, repeated), walk.steps, strict=True):
        assert visited(sizes, steps) == visited(walk.sizes, merged)


def test_a_walk_of_too_many_axes_is_refused():
    walk = merged_walk((2,) * 4, (8, 4, 2, 1), (1, 2, 4, 8))
    assert walk.inner(6, "x").sizes == (2, 2, 2, 2, 1, 1)
    with pytest.raises(UnsupportedOpError, match="transposer walks 4 axes"):
        walk.inner(3, "transposer")


class Builder:
    """Random ops on NHWC activations, all u8 with zero point 100 but where a conversion says otherwise."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = Graph("random", Stage.INTEGER)
        x = self.graph.add_input("x", TensorType(DType.F32, ("N", 3, 9, 8)))
        quantized = self.graph.add_node(IntQuantize(DType.U8, (0.02,), (100,)), [x]).result
        self.values = [self.graph.add_node(Transpose((0, 2, 3, 1)), [quantized]).result]

    def add(self, op, *operands: Value, constants=()) -> Value:
        held = [self.graph.add_constant(np.asarray(c)) for c in constants]
        value = self.graph.add_node(op, [*operands, *held]).result
        self.values.append(value)
        return value

    def rescaling(self, channels: int, shift: int):
        return [
            self.rng.integers(2**30, 2**31, channels).astype(np.int32),
            self.rng.integers(shift, shift + 3, channels).astype(np.int32),
        ]

    def convolve(self, x: Value, *, depthwise: bool) -> None:
        h, w, cin = (int(d) for d in x.type.shape[1:])
        cout = cin if depthwise else int(self.rng.choice([1, 5, 16, 33]))
        group = cin if depthwise else 1
        kernel = self.rng.choice([1, 3], 2) if min(h, w) > 2 else (1, 1)
        weight = self.rng.integers(-127, 128, (cout, cin // group, *kernel)).astype(np.int8)
        bias = self.rng.integers(-5000, 5000, cout).astype(np.int32)
        strides = tuple(int(s) for s in self.rng.choice([1, 1, 2], 2))
        op = IntConv(strides, (1, 0, 1, 1), (1, 1), group, 100, DType.U8, 100, 0, 255, "nhwc")
        self.add(op, x, constants=[weight, bias, *self.rescaling(cout, 38)])

    def step(self, kind: str) -> None:
        x = self.values[self.rng.integers(len(self.values))]
        same = [v for v in self.values if v.type == x.type]
        y = same[self.rng.integers(len(same))]
        h, w, _ = (int(d) for d in x.type.shape[1:])
        if kind in ("conv", "depthwise"):
            self.convolve(x, depthwise=kind == "depthwise")
        elif kind == "add":
            self.add(IntAdd(DType.U8, 100, 100, 700_000, -900_000, 20, 100, 5, 250), x, y)
        elif kind == "gate":
            average = IntMean(
                (1, 2),
                keepdims=True,
                dtype=DType.U8,
                zp_in=100,
                multiplier=2**30 + 99,
                shift=33,
                zp_out=100,
                lo=0,
                hi=255,
            )
            gate = self.add(average, x)
            self.add(IntMul(DType.U8, 100, 90, 2**30 + 5, 36, 100, 0, 255), x, gate)
        elif kind == "table":
            self.add(IntLut(), x, constants=[self.rng.integers(0, 256, 256).astype(np.uint8)])
        elif kind == "concat":
            self.add(Concat(3), x, y, x)
        elif kind == "maxpool" and min(h, w) > 1:
            self.add(MaxPool((2, 2), (2, 1), (0, 1, 0, 0), (1, 1), layout="nhwc"), x)
        elif kind == "mean" and min(h, w) > 2:
            M, shift = zip(*quantize_mean_multipliers(0.9, 9), strict=True)
            op = IntAveragePool(
                (3, 3),
                (1, 2),
                (1, 1, 1, 1),
                (1, 1),
                ceil_mode=False,
                count_include_pad=False,
                dtype=DType.U8,
                zp_in=100,
                zp_out=100,
                lo=0,
                hi=255,
                layout="nhwc",
            )
            self.add(op, x, constants=[np.array(M, np.int32), np.array(shift, np.int32)])
        elif kind == "slice" and w > 1:
            self.add(Slice((2,), (w - 1,), (w - 1,), (-1,)), x)
        elif kind == "pad":
            self.add(IntPad((0, 1, 0, 0, 0, 0, 2, 0), 100), x)
        elif kind == "split":
            self.values += self.graph.add_node(Split(1, (1, h - 1)), [x]).results if h > 1 else ()

    def finish(self) -> Graph:
        last = self.values[-1]
        h, w, c = (int(d) for d in last.type.shape[1:])
        signed = self.add(IntRescale(DType.S8, 100, 2**30, 30, -3, -128, 127), last)
        flat = self.add(Reshape(("N", h * w * c)), signed)
        weight = self.rng.integers(-127, 128, (7, h * w * c)).astype(np.int8)
        scores = self.add(IntGemm(-3), flat, constants=[weight, self.rng.integers(-99, 99, 7).astype(np.int32)])
        self.graph.add_output(self.graph.add_node(IntDequantize((0.5,), (0,)), [scores]).result, "scores")
        self.graph.add_output(self.values[len(self.values) // 2], "middle")
        return self.graph


KINDS = ["conv", "depthwise", "add", "gate", "table", "concat", "maxpool", "mean", "slice", "pad", "split"]


@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32 - 1), kinds=st.lists(st.sampled_from(KINDS), min_size=2, max_size=10))
def test_random_graphs_equal_the_reference(run_in_shares, seed, kinds):
    builder = Builder(seed)
    for kind in kinds:
        builder.step(kind)
    graph = builder.finish()
    sessions = [Session(graph, threads=threads) for threads in (1, 2, 3)]
    for batch in (1, 2, 7):
        feeds = {"x": np.random.default_rng(seed).normal(0, 1, (batch, 3, 9, 8)).astype(np.float32)}
        expected = reference.run(graph, feeds)
        for run in (*(session.run for session in sessions), lambda f: run_in_shares(graph, f, 3)):
            got = run(feeds)
            assert all(np.array_equal(got[name], array) for name, array in expected.items())


def integer_graph(shape) -> tuple[Graph, Value]:
    graph = Graph("small", Stage.INTEGER)
    return graph, graph.add_input("x", TensorType(DType.U8, shape))


def test_reshapes_and_identities_cost_nothing():
    graph, x = integer_graph(("N", 4, 6))
    value = graph.add_node(Identity(), [graph.add_node(Reshape(("N", 24)), [x]).result]).result
    graph.add_output(graph.add_node(IntLut(), [value, graph.add_constant(np.arange(256, dtype=np.uint8))]).result)
    assert kernels_of(lower(PackedModel(graph), {"N": 3})) == ["int_lut8"]


def test_a_transposition_that_moves_nothing_is_a_view():
    graph, x = integer_graph((5, 1, 7, 1))
    graph.add_output(graph.add_node(Transpose((1, 0, 3, 2)), [x]).result)
    assert kernels_of(lower(PackedModel(graph), {})) == []


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(("layout", "perm"), [("nhwc", (0, 3, 1, 2)), ("nchw", (0, 2, 3, 1)), ("nhwc", (2, 1, 3, 0))])
@pytest.mark.parametrize("dtype", [DType.U8, DType.S16])
def test_depth_to_space_and_its_transposition_are_one_walk(run_in_shares, mode, layout, perm, dtype):
    graph = Graph("blocks", Stage.INTEGER)
    x = graph.add_input("x", TensorType(dtype, (2, 5, 3, 27) if layout == "nhwc" else (2, 27, 5, 3)))
    blocks = graph.add_node(DepthToSpace((3, 3), mode, layout), [x]).result
    graph.add_output(graph.add_node(Transpose(perm), [blocks]).result, "y")
    feeds = {"x": np.arange(2 * 5 * 3 * 27).reshape([int(d) for d in x.type.shape]).astype(dtype.numpy)}
    assert kernels_of(lower(PackedModel(graph), {})) == ["copy"]
    assert np.array_equal(run_in_shares(graph, feeds, 2)["y"], reference.run(graph, feeds)["y"])
    graph.add_output(blocks, "z")
    assert kernels_of(lower(PackedModel(graph), {})) != ["copy"]
    got, expected = run_in_shares(graph, feeds, 2), reference.run(graph, feeds)
    assert all(np.array_equal(got[name], array) for name, array in expected.items())


def concat_of_tables(shape, axis: int, *, also_output: bool = False) -> Graph:
    graph, x = integer_graph(shape)
    tables = [graph.add_constant(np.roll(np.arange(256, dtype=np.uint8), i)) for i in range(3)]
    pieces = [graph.add_node(IntLut(), [x, table]).result for table in tables]
    graph.add_output(graph.add_node(Concat(axis), pieces).result, "y")
    if also_output:
        graph.add_output(pieces[1], "piece")
    return graph


@pytest.mark.parametrize(
    ("shape", "axis", "also_output", "moves"),
    [
        ((1, 5, 6), 1, False, []),
        ((5, 6), 0, False, []),
        ((1, 5, 6), 2, False, []),
        ((2, 5, 6), 2, False, []),
        ((2, 5, 6), 1, False, ["concat"]),  # the parts are neither contiguous nor columns
        ((1, 5, 6), 1, True, ["copy"]),  # an output has memory of its own
        ((1, 5, 6), 2, True, ["copy"]),
    ],
)
def test_concat_is_written_in_place_where_its_parts_are_rows(run_in_shares, shape, axis, also_output, moves):
    graph = concat_of_tables(shape, axis, also_output=also_output)
    assert kernels_of(lower(PackedModel(graph), {})) == ["int_lut8"] * 3 + moves
    feeds = {"x": np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)}
    expected, got = reference.run(graph, feeds), run_in_shares(graph, feeds, 2)
    assert all(np.array_equal(got[name], array) for name, array in expected.items())


def test_the_same_tensor_twice_is_copied_by_concat(run_in_shares):
    graph, x = integer_graph((1, 9))
    once = graph.add_node(IntLut(), [x, graph.add_constant(np.arange(256, dtype=np.uint8)[::-1])]).result
    graph.add_output(graph.add_node(Concat(0), [once, once, x]).result, "y")
    feeds = {"x": np.arange(9, dtype=np.uint8)[None]}
    assert np.array_equal(run_in_shares(graph, feeds, 1)["y"], reference.run(graph, feeds)["y"])


def test_inputs_and_constants_may_be_outputs():
    graph, x = integer_graph(("N", 3))
    graph.add_output(x, "same")
    graph.add_output(graph.add_constant(np.array([1, 2], np.int32)), "constant")
    graph.add_output(graph.add_node(Reshape((3, "N")), [x]).result, "turned")
    feeds = {"x": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    got = Session(graph, threads=1).run(feeds)
    assert {name: array.tolist() for name, array in got.items()} == {
        "same": [[0, 1, 2], [3, 4, 5]],
        "constant": [1, 2],
        "turned": [[0, 1], [2, 3], [4, 5]],
    }


def test_weights_are_packed_once_for_all_shapes():
    builder = Builder(5)
    builder.step("conv")
    model = PackedModel(builder.finish())
    first, second = (lower(model, {"N": batch}) for batch in (1, 4))

    def arrays(program: Program, word: str) -> list[int]:
        found = [o for i in program.instructions if isinstance(o := i.operands.get(word), Buffer)]
        return [id(program.constants[operand.id]) for operand in found]

    for word in ("weights", "table", "scales"):
        assert arrays(first, word) == arrays(second, word)
    assert arrays(first, "weights")


def test_a_convolution_in_nchw_is_refused():
    graph, x = integer_graph((1, 3, 5, 5))
    constants = [graph.add_constant(np.zeros((4, 3, 1, 1), np.int8)), graph.add_constant(np.zeros(4, np.int32))]
    op = IntConv((1, 1), (0, 0, 0, 0), (1, 1), 1, 0)
    graph.add_output(graph.add_node(op, [x, *constants], name="stem").result)
    with pytest.raises(VerifyError, match=r"'stem'.*'nchw'.*assign-layout"):
        lower(PackedModel(graph), {})


def test_all_nodes_without_a_kernel_are_named_at_once():
    graph = Graph("late", Stage.QUANTIZED)
    x = graph.add_input("x", TensorType(DType.F32, (2,)))
    result = TensorType(DType.U8, (2,))
    first = graph.add_node(Quantize(), [x], name="early", result_types=[result]).result
    graph.add_output(graph.add_node(Requantize(), [first], name="again", result_types=[result]).result)
    with pytest.raises(UnsupportedOpError, match=r"'early' \(quantize\), 'again' \(requantize\)"):
        lower(PackedModel(graph), {})


def test_an_op_has_one_rule():
    with pytest.raises(PluginError, match=r"'int\.lut' has two lowering rules"):
        lowers(IntLut)(lambda *_: None)


def test_work_is_cut_up_only_where_it_is_worth_it():
    for width, most in ((10, 1), (10_000_000, 64)):
        graph, x = integer_graph((width,))
        table = graph.add_constant(np.arange(256, dtype=np.uint8))
        graph.add_output(graph.add_node(IntLut(), [x, table]).result)
        (instruction,) = lower(PackedModel(graph), {}).instructions
        assert instruction.shares == most


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType.F32, -np.inf),
        (DType.F32, 0.1),
        (DType.F16, 0.1),
        (DType.S64, -(2.0**40)),
        (DType.BOOL, 1.0),
        (DType.U8, 9),
    ],
)
def test_real_borders_have_the_bits_of_the_dtype(run_in_shares, dtype, value):
    graph = Graph("padded", Stage.FLOAT)
    x = graph.add_input("x", TensorType(dtype, (2, 3)))
    graph.add_output(graph.add_node(Pad((1, 0, 0, 2), value), [x]).result, "y")
    got = run_in_shares(graph, {"x": np.zeros((2, 3), dtype.numpy)}, 2)["y"]
    expected = np.full((3, 5), value).astype(dtype.numpy)
    expected[1:, :3] = 0
    assert np.array_equal(got, expected)


def test_float_nodes_between_borders_run_too(run_in_shares):
    graph = Graph("mixed", Stage.INTEGER, allow_float=True)
    x = graph.add_input("x", TensorType(DType.F32, ("N", 50)))
    first = graph.add_node(IntQuantize(DType.S8, (0.05,), (3,)), [x]).result
    real = graph.add_node(HardSwish(), [graph.add_node(IntDequantize((0.05,), (3,)), [first]).result]).result
    second = graph.add_node(IntQuantize(DType.U8, (0.03,), (20,)), [real]).result
    graph.add_output(graph.add_node(IntDequantize((0.03,), (20,)), [second]).result, "y")
    feeds = {"x": np.random.default_rng(0).normal(0, 2, (9, 50)).astype(np.float32)}
    expected = reference.run(graph, feeds)["y"]
    assert np.abs(run_in_shares(graph, feeds, 3)["y"] - expected).max() <= np.float32(0.03) * 1.001
    assert (run_in_shares(graph, feeds, 3)["y"] == expected).mean() > 0.99  # HardSwish may round to a neighbour
