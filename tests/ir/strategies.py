"""Hypothesis strategy for valid graphs of every stage, over all registered ops."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from qcompiler.ir import (
    AnyArray,
    DType,
    Graph,
    Op,
    Quantization,
    QuantParams,
    Stage,
    TensorType,
    Value,
    op_classes,
    ops,
)
from qcompiler.ir.graph import infer_result_types
from qcompiler.ir.stages import is_legal

IMAGE = ("N", 4, 6, 6)
ROW = ("N", 8)
QUANT = QuantParams.per_tensor(0.0235, 128)

names = st.one_of(
    st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]{0,5}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)
numbers = st.floats(width=32)


@dataclass(frozen=True)
class Constant:
    data: AnyArray
    quant: QuantParams | None = None
    dtype: DType | None = None


Operand = TensorType | Constant
Case = tuple[Op, list[Operand]]


@dataclass(frozen=True)
class Site:
    """Where a node is being made up: a source of choices, and the types usual in its stage."""

    draw: st.DrawFn
    stage: Stage

    def act(self, *shape: int | str) -> TensorType:
        """The type of an activation."""
        if self.stage is Stage.INTEGER:
            return TensorType(DType.U8, shape)
        quantized = self.stage is Stage.QUANTIZED
        return TensorType(DType.U8, shape, QUANT) if quantized else TensorType(DType.F32, shape)

    def weight(self, *shape: int) -> Constant:
        """Weights per output channel, the first axis."""
        data = np.arange(-3, np.prod(shape) - 3).reshape(shape) % 100
        if self.stage is Stage.QUANTIZED:
            scales = [0.5 + 0.1 * c for c in range(shape[0])]
            return Constant(data.astype(np.int8), QuantParams.per_channel(scales, [0] * shape[0], 0))
        return Constant(data.astype(np.int8 if self.stage is Stage.INTEGER else np.float32))

    def vector(self, length: int) -> Constant:
        """A bias or other parameter per channel; its few elements are printed."""
        if self.stage is Stage.QUANTIZED:
            return Constant(np.arange(length, dtype=np.int32), QuantParams.per_tensor(0.25))
        return Constant(
            self.array(length, st.integers(-(2**31), 2**31 - 1) if self.stage is Stage.INTEGER else numbers)
        )

    def array(self, length: int, elements: st.SearchStrategy[int] | st.SearchStrategy[float]) -> AnyArray:
        drawn = self.draw(st.lists(elements, min_size=length, max_size=length))
        return np.array(drawn, np.float32 if elements is numbers else np.int32)

    def integer(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def axis(self, rank: int = 4) -> int:
        return self.integer(0, rank - 1)

    def layout(self) -> str:
        return self.draw(st.sampled_from(["nchw", "nhwc"])) if self.stage is Stage.INTEGER else "nchw"

    def image(self, layout: str = "nchw") -> TensorType:
        return self.act(*IMAGE) if layout == "nchw" else self.act("N", 6, 6, 4)

    def clamp(self) -> tuple[float, float] | None:
        return self.draw(st.none() | st.tuples(st.sampled_from([-np.inf, -1.5, 0.0]), st.sampled_from([6.0, np.inf])))

    def window(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """(kernel, strides, pads, dilations) of two spatial axes of size 6."""
        kernel = (self.integer(1, 3), self.integer(1, 3))
        strides = (self.integer(1, 2), self.integer(1, 2))
        return kernel, strides, tuple(self.integer(0, 2) for _ in range(4)), (self.integer(1, 2), 1)

    def result(self) -> dict[str, Any]:
        """Attributes of a requantized result."""
        dtype = self.draw(st.sampled_from([DType.U8, DType.S8, DType.S16]))
        low, high = dtype.limits
        lo, hi = sorted((self.integer(low, high), self.integer(low, high)))
        return {"dtype": dtype, "zp_out": self.integer(low, high), "lo": lo, "hi": hi}

    def multiplier(self) -> int:
        return self.draw(st.just(0) | st.integers(2**30, 2**31 - 1) | st.integers(1 - 2**31, -(2**30)))

    def rescale(self) -> dict[str, Any]:
        return {"multiplier": self.multiplier(), "shift": self.integer(2, 62)}

    def rescale_vectors(self, length: int) -> list[Operand]:
        multipliers = [self.multiplier() for _ in range(length)]
        return [Constant(np.array(multipliers, np.int32)), Constant(np.full(length, self.integer(2, 62), np.int32))]

    def zero_point(self) -> int:
        return self.integer(0, 255)


def _conv(s: Site) -> Case:
    kernel, strides, pads, dilations = s.window()
    group = s.draw(st.sampled_from([1, 2, 4]))
    operands: list[Operand] = [s.image(), s.weight(4, 4 // group, *kernel), *([s.vector(4)] if s.flag() else [])]
    return ops.Conv(strides, pads, dilations, group, s.clamp()), operands


def _conv_transpose(s: Site) -> Case:
    kernel, strides, pads, dilations = s.window()
    group = s.draw(st.sampled_from([1, 2, 4]))
    padding = (s.integer(0, 2), s.integer(0, 2))
    operands: list[Operand] = [s.image(), s.weight(4, 3, *kernel), *([s.vector(3 * group)] if s.flag() else [])]
    return ops.ConvTranspose(strides, pads, dilations, padding, group, s.clamp()), operands


def _int_conv(s: Site) -> Case:
    kernel, strides, pads, dilations = s.window()
    layout = s.layout()
    operands: list[Operand] = [s.image(layout), s.weight(4, 4, *kernel), s.vector(4)]
    attributes: dict[str, Any] = {"layout": layout, "zp_in": s.zero_point()}
    if s.flag():
        operands += s.rescale_vectors(4)
        attributes |= s.result()
    return ops.IntConv(strides, pads, dilations, 1, **attributes), operands


def _int_gemm(s: Site) -> Case:
    operands: list[Operand] = [s.act(*ROW), s.weight(3, 8), s.vector(3)]
    if s.flag():
        operands += s.rescale_vectors(3)
        if s.flag():
            factor = Constant(np.array([s.integer(-(2**15), 2**15 - 1) for _ in range(3)], np.int32))
            result = {**s.result(), "dtype": DType.U8, "zp_out": s.zero_point(), "lo": 0, "hi": s.zero_point()}
            return ops.IntGemm(s.zero_point(), **result, zp_residual=s.zero_point()), [
                *operands,
                s.act(ROW[0], 3),
                factor,
            ]
        return ops.IntGemm(s.zero_point(), **s.result()), operands
    return ops.IntGemm(s.zero_point()), operands


def _max_pool(s: Site) -> Case:
    layout = s.layout()
    kernel, strides, pads, dilations = s.window()
    return ops.MaxPool(kernel, strides, pads, dilations, s.flag(), layout), [s.image(layout)]


def _average_pool(s: Site) -> Case:
    kernel, strides, pads, dilations = s.window()
    return ops.AveragePool(kernel, strides, pads, dilations, s.flag(), s.flag()), [s.image()]


def _int_average_pool(s: Site) -> Case:
    layout, (kernel, strides, pads, dilations) = s.layout(), s.window()
    attributes = {"layout": layout, "zp_in": s.zero_point(), **s.result()}
    op = ops.IntAveragePool(
        kernel, strides, pads, dilations, ceil_mode=s.flag(), count_include_pad=s.flag(), **attributes
    )
    return op, [s.image(layout), *s.rescale_vectors(kernel[0] * kernel[1] + 1)]


def _depth_to_space(s: Site) -> Case:
    layout = s.layout()
    blocks = s.draw(st.sampled_from([(2, 2), (1, 2), (4, 1)]))
    return ops.DepthToSpace(blocks, s.draw(st.sampled_from(["DCR", "CRD"])), layout), [s.image(layout)]


def _observe(s: Site) -> Case:
    found = s.draw(st.none() | st.tuples(st.floats(-1e30, 0), st.floats(0, 1e30)))
    low, high = found or (None, None)
    return ops.Observe(s.draw(st.text(max_size=4)), low, high), [s.act(*IMAGE)]


def _scales(s: Site) -> dict[str, Any]:
    if s.flag():
        return {"scale": (0.1, 0.2, 1 / 3, 1e-45), "zero_point": (0, 1, 2, 255), "axis": 1}
    return {"scale": (0.1,), "zero_point": (s.zero_point(),)}


def _pair(s: Site) -> dict[str, Any]:
    return {"zp_a": s.zero_point(), "zp_b": s.zero_point(), **s.result()}


def _pads(s: Site) -> tuple[int, ...]:
    return (0, 0, s.integer(0, 2), 1, 0, 0, 0, s.integer(0, 2))


def _binary(make: Callable[[Site], Op]) -> Callable[[Site], Case]:
    return lambda s: (make(s), [s.act(*IMAGE), s.act(*s.draw(st.sampled_from([IMAGE, (4, 1, 1), (1,)])))])


def _unary(make: Callable[[Site], Op]) -> Callable[[Site], Case]:
    return lambda s: (make(s), [s.act(*IMAGE)])


def _plain_unary(cls: type[Op]) -> Callable[[Site], Case]:
    return _unary(lambda _: cls())


def _clamped_binary(cls: type[ops.Add | ops.Sub | ops.Mul]) -> Callable[[Site], Case]:
    return _binary(lambda s: cls(s.clamp()))


_PLAIN_UNARY: tuple[type[Op], ...] = (
    *(ops.Abs, ops.Erf, ops.Exp, ops.HardSwish, ops.Log, ops.Neg, ops.Reciprocal, ops.Relu, ops.Sigmoid, ops.Silu),
    *(ops.Sqrt, ops.Tanh, ops.Identity, ops.Requantize, ops.Dequantize),
)

CASES: dict[type[Op], Callable[[Site], Case]] = {
    **{cls: _plain_unary(cls) for cls in _PLAIN_UNARY},
    **{cls: _clamped_binary(cls) for cls in (ops.Add, ops.Sub, ops.Mul)},
    ops.Conv: _conv,
    ops.ConvTranspose: _conv_transpose,
    ops.Gemm: lambda s: (ops.Gemm(s.clamp()), [s.act(*ROW), s.weight(3, 8), *([s.vector(3)] if s.flag() else [])]),
    ops.MatMul: lambda s: (ops.MatMul(s.draw(st.sampled_from([1.0, -0.125, 3.0e-5]))), [s.act("N", 3, 4), s.act(4, 5)]),
    ops.Div: _binary(lambda _: ops.Div()),
    ops.PRelu: lambda s: (ops.PRelu(), [s.act(*IMAGE), s.weight(4, 1, 1)]),
    ops.LeakyRelu: _unary(lambda s: ops.LeakyRelu(s.draw(numbers))),
    ops.Clip: _unary(lambda s: ops.Clip(s.draw(numbers), s.draw(numbers))),
    ops.HardSigmoid: _unary(lambda s: ops.HardSigmoid(s.draw(numbers), s.draw(numbers))),
    ops.Power: _unary(lambda s: ops.Power(s.draw(numbers))),
    ops.Softmax: _unary(lambda s: ops.Softmax(s.integer(-4, 3))),
    ops.BatchNormalization: lambda s: (ops.BatchNormalization(), [s.act(*IMAGE), *(s.vector(4) for _ in range(4))]),
    ops.Reshape: lambda s: (ops.Reshape(s.draw(st.sampled_from([("N", 144), ("4*N", 36)]))), [s.act(*IMAGE)]),
    ops.Transpose: _unary(lambda s: ops.Transpose(tuple(s.draw(st.permutations(range(4)))))),
    ops.Concat: lambda s: (ops.Concat(s.axis()), [s.act(*IMAGE)] * s.integer(1, 3)),
    ops.Split: _unary(lambda _: ops.Split(1, (1, 3))),
    ops.Slice: _unary(lambda _: ops.Slice((1, 2), (0, 5), (3, 2), (1, -2))),
    ops.Pad: _unary(lambda s: ops.Pad(_pads(s), s.draw(numbers))),
    ops.DepthToSpace: _depth_to_space,
    ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool,
    ops.ReduceMean: _unary(lambda s: ops.ReduceMean((2, 3), s.flag())),
    ops.Observe: _observe,
    ops.Quantize: lambda _: (ops.Quantize(), [TensorType(DType.F32, IMAGE)]),
    ops.IntQuantize: lambda s: (ops.IntQuantize(DType.U8, **_scales(s)), [TensorType(DType.F32, IMAGE)]),
    ops.IntDequantize: lambda s: (ops.IntDequantize(**_scales(s)), [s.act(*IMAGE)]),
    ops.IntConv: _int_conv,
    ops.IntGemm: _int_gemm,
    ops.IntAdd: _binary(
        lambda s: ops.IntAdd(
            multiplier_a=s.integer(1 - 2**21, 2**21 - 1),
            multiplier_b=s.integer(0, 9),
            shift=s.integer(1, 31),
            **_pair(s),
        )
    ),
    ops.IntMul: _binary(lambda s: ops.IntMul(**s.rescale(), **_pair(s))),
    ops.IntMatMul: lambda s: (
        ops.IntMatMul(**s.rescale(), **_pair(s)),
        [s.act("N", 3, 4), s.act(4, 5)],
    ),
    ops.IntDiv: _binary(lambda s: ops.IntDiv(multiplier=s.integer(0, 2**31 - 1), shift=s.integer(2, 53), **_pair(s))),
    ops.IntRescale: _unary(lambda s: ops.IntRescale(zp_in=s.zero_point(), **s.rescale(), **s.result())),
    ops.IntLut: lambda s: (ops.IntLut(), [s.act(*IMAGE), Constant(np.arange(256).astype(np.int16))]),
    ops.IntPRelu: lambda s: (
        ops.IntPRelu(
            axis=1, zp_in=s.zero_point(), positive_multiplier=2**30, positive_shift=s.integer(2, 62), **s.result()
        ),
        [s.act(*IMAGE), *s.rescale_vectors(4)],
    ),
    ops.IntAveragePool: _int_average_pool,
    ops.IntMean: _unary(
        lambda s: ops.IntMean(axes=(2, 3), keepdims=s.flag(), zp_in=s.zero_point(), **s.rescale(), **s.result())
    ),
    ops.IntSoftmax: lambda s: (
        ops.IntSoftmax(s.axis(), DType.U8, 256, s.integer(1, 255)),
        [s.act(*IMAGE), Constant(np.array([2**30, *[s.integer(0, 2**30)] * 255], np.int32))],
    ),
    ops.IntPad: _unary(lambda s: ops.IntPad(_pads(s), s.zero_point())),
}


@st.composite
def graphs(draw: st.DrawFn, *, max_nodes: int = 6) -> Graph:
    """A valid graph of any stage. Operands are earlier values of the same type where there are any."""
    stage = draw(st.sampled_from(Stage))
    graph = Graph(draw(names), stage, allow_float=stage is Stage.INTEGER and draw(st.booleans()))
    legal = [cls for cls in op_classes() if is_legal(cls, stage)]
    for cls in draw(st.lists(st.sampled_from(legal), max_size=max_nodes)):
        op, operands = CASES[cls](Site(draw, stage))
        values = [_operand(draw, graph, operand) for operand in operands]
        types = infer_result_types(op, values, cls.name)
        if stage is Stage.QUANTIZED:
            types = tuple(quantized_type(op, operand_types=[v.type for v in values], inferred=t) for t in types)
        result_names = [draw(names) for _ in types]
        graph.add_node(op, values, name=draw(names), result_types=types, result_names=result_names)
    sources = list(graph.values())
    for value in draw(st.lists(st.sampled_from(sources), max_size=2)) if sources else []:
        if value.use_count == 0 or not value.type.dtype.is_float or stage is not Stage.INTEGER:
            graph.add_output(value, f"{draw(names)}/{len(graph.outputs)}")
    return graph


def quantized_type(op: Op, operand_types: list[TensorType], inferred: TensorType) -> TensorType:
    """The type of a result in the quantized stage."""
    if isinstance(op, ops.Dequantize):
        return inferred
    same = (Quantization.PASSTHROUGH, Quantization.UNIFIED, Quantization.SELECTS)
    return inferred.with_dtype(DType.U8, operand_types[0].quant if op.quantization in same else QUANT)


def _operand(draw: st.DrawFn, graph: Graph, operand: Operand) -> Value:
    if isinstance(operand, Constant):
        return graph.add_constant(operand.data, draw(names), dtype=operand.dtype, quant=operand.quant)
    # A float value of the integer stage has a boundary op on one side and the outside world on the other.
    inside = graph.stage is not Stage.INTEGER or not operand.dtype.is_float
    known = [v for v in graph.values() if v.type == operand and inside and not v.is_constant]
    reuse = draw(st.booleans())
    if known and reuse:
        return draw(st.sampled_from(known))
    name = draw(names)
    while graph.get_value(name) is not None:
        name += "'"
    return graph.add_input(name, operand)
