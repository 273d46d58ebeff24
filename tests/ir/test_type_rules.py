"""Type rules refuse nonsense with VerifyError, whatever it is: a file may hold any attributes on any operands."""

import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.errors import ParseError, VerifyError
from qcompiler.ir import DType, Op, QuantParams, Stage, TensorType, op_classes, ops, parse_graph, verify
from qcompiler.ir.attributes import matches
from qcompiler.ir.op import Operands, attribute_types, check_operand_count

small = st.integers(-3, 8)
dims = st.one_of(st.integers(0, 6), st.sampled_from(["N", "M", "4*N"]))
tensor_types = st.builds(TensorType, st.sampled_from(DType), st.lists(dims, max_size=5).map(tuple))


def values_of(annotation: typing.Any) -> st.SearchStrategy[typing.Any]:
    """Any value of an attribute's type, mostly small."""
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is tuple:
        if arguments[-1] is Ellipsis:
            return st.lists(values_of(arguments[0]), max_size=6).map(tuple)
        return st.tuples(*map(values_of, arguments))
    if arguments:
        return st.one_of(*map(values_of, arguments))
    known: dict[typing.Any, st.SearchStrategy[typing.Any]] = {
        int: small,
        float: st.floats(),
        bool: st.booleans(),
        str: st.sampled_from(["nchw", "nhwc", "DCR", "N", "4*N", ""]),
        DType: st.sampled_from(DType),
        type(None): st.none(),
    }
    return known[annotation]


@pytest.mark.parametrize("cls", op_classes(), ids=lambda cls: cls.name)
@settings(max_examples=25)
@given(data=st.data())
def test_any_attributes_on_any_operands(cls: type[Op], data: st.DataObject):
    attributes = {name: data.draw(values_of(annotation)) for name, annotation in attribute_types(cls).items()}
    assert all(matches(attributes[name], annotation) for name, annotation in attribute_types(cls).items())
    operands = data.draw(st.lists(tensor_types, max_size=6))
    op = cls(**attributes)
    results: tuple[TensorType, ...] = ()
    try:
        check_operand_count(op, len(operands))
        results = op.infer(Operands(operands, [None] * len(operands)))
    except VerifyError:
        pass
    assert all(isinstance(result, TensorType) for result in results)


@pytest.mark.parametrize(
    ("value", "annotation", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, False),
        (1.0, float, True),
        ("u8", str, True),
        (DType.U8, str, False),
        (DType.U8, DType, True),
        ((1, 2), tuple[int, ...], True),
        ([1, 2], tuple[int, ...], False),
        ((1, "N"), tuple[int | str, ...], True),
        ((1.0, 2.0), tuple[float, float] | None, True),
        ((1.0,), tuple[float, float] | None, False),
        (None, tuple[float, float] | None, True),
        (None, int, False),
    ],
)
def test_attribute_types_are_exact(value: object, annotation: typing.Any, fits: bool):
    assert matches(value, annotation) == fits


def result_of(body: str, stage: str = "float") -> str:
    graph = parse_graph(f"qir 1 graph g {stage} {{ {body} }}")
    verify(graph)
    *_, last = graph.nodes()
    return f"{last.results[-1].type.dtype}{list(last.results[-1].type.shape)}"


UP = "%y = conv_transpose(%x, %w) {strides=[1], dilations=[1], output_padding=[0]"
MORE = "output_padding=[1, 0], group=2"
AT = "strides=[2, 1], pads=[1, 0, 1, 2], dilations=[1, 2]"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            f"input %x: f32[N,4,9,9] const %w: f32[8,2,3,3] = ONES %y = conv(%x, %w) {{{AT}, group=2}}",
            "f32['N', 8, 5, 7]",
        ),
        (
            f"input %x: f32[N,4,9,9] const %w: f32[4,4,3,3] = ONES %y = conv_transpose(%x, %w) {{{AT}, {MORE}}}",
            "f32['N', 8, 18, 11]",
        ),
        ("input %x: f32[N,5,3] const %w: f32[1,3] = [1,2,3] %y = gemm(%x, %w)", "f32['N', 5, 1]"),
        ("input %x: f32[N,1,3,4] input %z: f32[7,4,5] %y = matmul(%x, %z)", "f32['N', 7, 3, 5]"),
        ("input %x: f32[N,1,4] input %z: f32[3,1] %y = sub(%x, %z)", "f32['N', 3, 4]"),
        (f"input %x: f32[N,4,9,9] %y = max_pool(%x) {{kernel=[3, 3], {AT}}}", "f32['N', 4, 5, 7]"),
        (
            (
                "input %x: f32[N,1,6,6] %y = average_pool(%x) {kernel=[3,3], strides=[2,2], pads=[0,0,0,0], "
                "dilations=[1,1], ceil_mode=true}"
            ),
            "f32['N', 1, 3, 3]",
        ),
        ("input %x: f32[N,8,4] %y = reduce_mean(%x) {axes=[2], keepdims=false}", "f32['N', 8]"),
        ('input %x: f32[N,4,4] %y = reshape(%x) {shape=["2*N", 8]}', "f32['2*N', 8]"),
        ("input %x: f32[N,3,4] %y = transpose(%x) {perm=[2, 0, 1]}", "f32[4, 'N', 3]"),
        ("input %x: f32[2,N] %y = concat(%x, %x, %x) {axis=1}", "f32[2, '3*N']"),
        ("input %x: f32[N,7] %a, %b = split(%x) {axis=1, sizes=[5, 2]} @s", "f32['N', 2]"),
        ("input %x: f32[N,7] %y = slice(%x) {axes=[1], starts=[6], counts=[3], steps=[-3]}", "f32['N', 3]"),
        ("input %x: f32[N,7] %y = pad(%x) {pads=[0, 1, 0, 2]}", "f32['N', 10]"),
        ("input %x: f32[N,8,2,3] %y = depth_to_space(%x) {blocks=[2, 2]}", "f32['N', 2, 4, 6]"),
    ],
)
def test_shapes(body: str, expected: str):
    ones = "[" + ", ".join(["1"] * 144) + "]"
    assert result_of(body.replace("ONES", ones)) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("input %x: f32[N,4] %y = reshape(%x) {shape=[4]}", "sizes differ"),
        ("input %x: f32[N,M] %y = reshape(%x) {shape=[4]}", "the product of the symbolic dimensions N and M"),
        ("input %x: f32[N,4] %y = pad(%x) {pads=[1, 0, 0, 0]}", "symbolic dimension N; it has to be a number"),
        (f"input %x: f32[N,3,2] const %w: f32[3,1,1] = [1,2,3] {UP}, pads=[1, 1]}}", "pads 1 and 1 leave nothing of 2"),
        (
            f"input %x: f32[N,3,2] const %w: f32[3,1,1] = [1,2,3] {UP}, pads=[0, 0], group=2}}",
            "group=2 does not divide 3",
        ),
        (
            f"input %x: f32[N,2,2] const %w: f32[3,1,1] = [1,2,3] {UP}, pads=[0, 0]}}",
            "2 input channels .* weights for 3",
        ),
        (f"input %x: f32[N,3,2] const %w: f32[3,1,1] = [1,2,3] {UP}, pads=[0]}}", "1 spatial axes need 1 kernel sizes"),
        (f"input %x: f32[N,3,2] const %w: f32[3,1,1] = [1,2,3] {UP}, pads=[-1, 0]}}", "out of range"),
        ("input %x: f32[N,4] input %z: f32[M,4] %y = add(%x, %z)", "do not broadcast: N against M"),
        ("input %x: f32[2,4] %y = slice(%x) {axes=[1], starts=[2], counts=[3], steps=[1]}", "lie outside axis 1"),
        (
            "input %x: f32[2,4] %y = slice(%x) {axes=[1, 1], starts=[0, 0], counts=[1, 1], steps=[1, 1]}",
            "one axis twice",
        ),
        (
            "input %x: f32[1,1,2,2] %y = max_pool(%x) {kernel=[3,3], strides=[1,1], pads=[0,0,0,0], dilations=[1,1]}",
            "a window of 3 does not fit into 2 elements padded by 0 and 0",
        ),
        (
            "input %x: f32[2] %y = int.quantize(%x) {dtype=u8, scale=[1e39], zero_point=[0]}",
            r"the scale 1e\+39 is beyond float32",
        ),
        (
            "input %x: f32[2] %y = int.quantize(%x) {dtype=u8, scale=[1e-46], zero_point=[0]}",
            "the scale 1e-46 is 0 in float32",
        ),
        (
            "input %x: s32[2] %y = int.dequantize(%x) {scale=[1e300], zero_point=[0]}",
            r"the scale 1e\+300 is beyond float32",
        ),
        (
            "input %x: f32[1,1,2] %y = max_pool(%x) {kernel=[1], strides=[1], pads=[0,0], dilations=[4294967296]}",
            "dilation 4294967296, pads 0, 0 out of range",
        ),
        ("input %x: f32[2] %y = add(%x, %x) {clamp=[1.0, 0.0]}", r"clamp \[1.0, 0.0\] is no range"),
    ],
)
def test_refusals(body: str, reason: str):
    with pytest.raises(ParseError, match=reason):
        result_of(body)


def test_observed_ranges_are_finite_and_ordered():
    x = Operands([TensorType(DType.F32, (2,))], [None])
    ops.Observe("k", -1.0, 1.0).infer(x)
    for low, high in ((1.0, -1.0), (-1.0, float("inf")), (float("nan"), 1.0), (None, 1.0)):
        with pytest.raises(VerifyError, match="range"):
            ops.Observe("k", low, high).infer(x)


def test_parameters_pass_through_the_copies_of_a_type():
    quant = QuantParams.per_tensor(0.5, 3)
    u8 = TensorType(DType.U8, ("N", 4), quant)
    assert u8.with_shape((8,)) == TensorType(DType.U8, (8,), quant)
    assert u8.with_dtype(DType.S16) == TensorType(DType.S16, ("N", 4))
    assert u8.with_quant(None).quant is None
    assert (u8.is_static, u8.with_shape((8,)).is_static, u8.rank) == (False, True, 2)


def test_every_op_is_legal_somewhere_and_documented():
    for cls in op_classes():
        assert cls.stages <= frozenset(Stage)
        assert cls.stages
        assert cls.__doc__
        assert cls.signature
