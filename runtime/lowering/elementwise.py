"""Lowering of integer functions element by element."""

import math

import numpy as np
import numpy.typing as npt

from qcompiler.ir import Node
from qcompiler.ir.ops import IntAdd, IntDiv, IntLut, IntMul, IntPRelu, IntRescale
from qcompiler.ir.ops.shapes import normalize_axis
from qcompiler.ir.types import DType
from qcompiler.numerics import requantize
from qcompiler.runtime.kernels import boundary, elementwise, tables  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.arithmetic import DTYPE_CODES, SIGN_FLIP
from qcompiler.runtime.kernels.broadcast import OUTER_AXES
from qcompiler.runtime.lowering.context import Lowering, lowers
from qcompiler.runtime.lowering.copies import steps_of
from qcompiler.runtime.lowering.geometry import broadcast_steps, merged_walk, split_at
from qcompiler.runtime.lowering.integer_linear import lower_with_table
from qcompiler.runtime.lowering.rows import FAST_SHIFT, is_fast_add, is_fast_mul, writes_rows
from qcompiler.runtime.lowering.tables import table_by_byte
from qcompiler.runtime.program import Buffer, Operand

_LOOKUP_NS = 0.05  # an element
FAST_NS, SLOW_NS, DIVIDE_NS = 0.3, 4.0, 12.0  # an element: vector lanes, any dtype, a 64-bit division
LEAST_RAISED_SHIFT = 18  # can be raised to 32: 14 bits to the left, the sum of 16-bit operands still fits 64


def broadcast_operands(lowering: Lowering, node: Node, *, swapped: bool = False) -> dict[str, Operand]:
    """The words of `BROADCAST_WORDS` for a node with two operands, in exchanged roles if `swapped`."""
    operands = tuple(reversed(node.operands)) if swapped else node.operands
    shape = lowering.shape(node.result)
    if writes_rows(node):
        (a, b), out = (lowering.rows(v) for v in operands), lowering.result_rows(node.result)
    else:
        (a, b), out = (lowering.buffer(v) for v in operands), lowering.result(node.result)
    steps = [broadcast_steps(buffer.shape, len(shape), steps_of(buffer, buffer.shape)) for buffer in (a, b)]
    walk = merged_walk(shape, *steps, steps_of(out, shape)).inner(
        OUTER_AXES + 1, f"node '{node.name}' ({node.op.name})"
    )
    (a0, *outer_a), (b0, *outer_b), _ = walk.steps
    words: dict[str, Operand] = {"a": a, "b": b, "out": out}
    words["out_inner"] = out.row_pitch // out.dtype.itemsize if out.pitch else walk.sizes[0]
    words |= {"count": math.prod(shape), "inner": walk.sizes[0], "a0": a0, "b0": b0}
    words |= {f"d{i}": size for i, size in enumerate(walk.sizes[1:OUTER_AXES], 1)}
    words |= {f"a{i}": step for i, step in enumerate(outer_a, 1)}
    words |= {f"b{i}": step for i, step in enumerate(outer_b, 1)}
    return words


def repeats_first_operand(lowering: Lowering, node: Node) -> bool:
    """Whether the first operand is the one that is broadcast, so that a kernel should see it second."""
    a, b = (math.prod(lowering.shape(v)) for v in node.operands)
    return a < b


def dtype_words(words: dict[str, Operand]) -> dict[str, Operand]:
    """The dtype codes of a, b and out, and the bytes of an element of a and b."""
    buffers = {w: b for w in ("a", "b", "out") if isinstance(b := words[w], Buffer)}
    codes: dict[str, Operand] = {f"dtype_{w}": DTYPE_CODES[b.dtype] for w, b in buffers.items()}
    return codes | {f"itemsize_{w}": buffers[w].dtype.itemsize for w in ("a", "b")}


def flip_words(words: dict[str, Operand]) -> dict[str, int]:
    """What turns 8-bit a, b and out to u8; nothing does for wider ones."""
    return {w: SIGN_FLIP.get(b.dtype, 0) for w in ("a", "b", "out") if isinstance(b := words[w], Buffer)}


@lowers(IntAdd)
def lower_add(lowering: Lowering, node: Node, op: IntAdd) -> None:
    """In 32 bits where those suffice, else in 64."""
    a, b = (value.type for value in node.operands)
    # The operand that is broadcast, or has 16 bits, is the second one.
    swapped = repeats_first_operand(lowering, node) or (a.dtype is DType.S16 and b.dtype.is_8_bit)
    words = broadcast_operands(lowering, node, swapped=swapped)
    terms = [(op.zp_a, op.multiplier_a), (op.zp_b, op.multiplier_b)]
    (zp_a, multiplier_a), (zp_b, multiplier_b) = reversed(terms) if swapped else terms
    (first, second), out = (b.dtype, a.dtype) if swapped else (a.dtype, b.dtype), node.result.type.dtype
    wide_a, wide_out = first is DType.S16, out is DType.S16
    mixed = second is DType.S16 and a.shape == b.shape
    mixed = mixed and (wide_a or first.is_8_bit) and (out.is_8_bit or (wide_a and wide_out))
    flip, count = flip_words(words), math.prod(lowering.shape(node.result))
    if is_fast_add(node):
        kernel, cost, raised = "int_add8", FAST_NS, 0
        words |= {f"flip_{w}": f for w, f in flip.items()}
    elif mixed and op.shift >= LEAST_RAISED_SHIFT:
        kernel, cost, raised = "int_add16", 1.5 * FAST_NS, max(0, FAST_SHIFT - op.shift)
        words |= {"flip_a": flip["a"], "flip_out": flip["out"], "left_shift": raised}
        words |= {"wide_a": int(wide_a), "wide_out": int(wide_out)}
    else:
        kernel, cost, raised = "int_add", SLOW_NS, 0
        flip = dict.fromkeys(flip, 0)
        words |= dtype_words(words)
    addend = (1 << (op.shift - 1)) - (zp_a + flip["a"]) * multiplier_a - (zp_b + flip["b"]) * multiplier_b
    words |= {"multiplier_a": multiplier_a, "multiplier_b": multiplier_b, "addend": addend}
    words |= {"shift": op.shift + raised, "zp_out": op.zp_out + flip["out"]}
    words |= {"lo": op.lo + flip["out"], "hi": op.hi + flip["out"]}
    pitched = ("a", "b", "out") if kernel == "int_add8" else ()
    lowering.emit(node, kernel, words, pitched=pitched, cost=cost * count, items=count // 64)


@lowers(IntMul)
def lower_mul(lowering: Lowering, node: Node, op: IntMul) -> None:
    """The vector kernel drops the low half of products, so it takes shifts of at least 32."""
    swapped = repeats_first_operand(lowering, node)
    words = broadcast_operands(lowering, node, swapped=swapped)
    zp_a, zp_b = (op.zp_b, op.zp_a) if swapped else (op.zp_a, op.zp_b)
    count = math.prod(lowering.shape(node.result))
    words |= {"multiplier": op.multiplier, "shift": op.shift}
    if is_fast_mul(node):
        flip = flip_words(words)
        words |= {f"flip_{w}": f for w, f in flip.items()}
        words |= {"zp_a": zp_a + flip["a"], "zp_b": zp_b + flip["b"], "zp_out": op.zp_out + flip["out"]}
        words |= {"lo": op.lo + flip["out"], "hi": op.hi + flip["out"]}
        pitched = ("a", "b", "out")
        lowering.emit(node, "int_mul8", words, pitched=pitched, cost=2 * FAST_NS * count, items=count // 64)
        return
    words |= dtype_words(words)
    words |= {"zp_a": zp_a, "zp_b": zp_b, "zp_out": op.zp_out, "lo": op.lo, "hi": op.hi}
    lowering.emit(node, "int_mul", words, cost=SLOW_NS * count, items=count // 64)


@lowers(IntDiv)
def lower_div(lowering: Lowering, node: Node, op: IntDiv) -> None:
    """One 64-bit division an element, whatever the dtypes."""
    words = broadcast_operands(lowering, node)
    words |= dtype_words(words)
    words |= {"zp_a": op.zp_a, "zp_b": op.zp_b, "multiplier": op.multiplier, "shift": op.shift}
    words |= {"zp_out": op.zp_out, "lo": op.lo, "hi": op.hi}
    count = math.prod(lowering.shape(node.result))
    lowering.emit(node, "int_div", words, cost=DIVIDE_NS * count, items=count // 64)


@lowers(IntRescale)
def lower_rescale(lowering: Lowering, node: Node, op: IntRescale) -> None:
    """A table from 8 bits to 8 bits, else one kernel for all dtypes."""
    x_dtype = node.operands[0].type.dtype
    if writes_rows(node):
        _look_up(lowering, node, lowering.constant(node, "table", lambda: _rescaled_bytes(op, x_dtype)))
        return
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    count = math.prod(out.shape)
    words: dict[str, Operand] = {"x": x, "out": out, "count": count}
    words |= {"dtype_x": DTYPE_CODES[x.dtype], "dtype_out": DTYPE_CODES[out.dtype], "zp_in": op.zp_in}
    words |= {"multiplier": op.multiplier, "shift": op.shift, "zp_out": op.zp_out, "lo": op.lo, "hi": op.hi}
    lowering.emit(node, "int_rescale", words, cost=SLOW_NS / 2 * count, items=count // 64)


def _rescaled_bytes(op: IntRescale, dtype: DType) -> npt.NDArray[np.generic]:
    """The result for each byte of an operand of `dtype`."""
    values = np.arange(256, dtype=np.uint8).view(dtype.numpy).tolist()
    rescaled = [requantize(q - op.zp_in, op.multiplier, op.shift, op.zp_out, op.lo, op.hi) for q in values]
    return np.array(rescaled, op.dtype.numpy)


@lowers(IntPRelu)
def lower_prelu(lowering: Lowering, node: Node, op: IntPRelu) -> None:
    """In vector lanes for 8 bits and shifts that can be raised to 32; channels are any axis."""
    x, multipliers, shifts = (lowering.buffer(v) for v in node.operands)
    out, slope_shifts = lowering.result(node.result), node.operands[2].data
    axis = normalize_axis(op.axis, len(out.shape))
    outer, channels, inner = split_at(out.shape, axis, axis + 1)
    count = outer * channels * inner
    words: dict[str, Operand] = {"x": x, "multipliers": multipliers, "out": out, "channels": channels, "inner": inner}
    words["positive_multiplier"] = op.positive_multiplier
    if slope_shifts is not None and x.dtype.is_8_bit and out.dtype.is_8_bit:
        amounts = slope_shifts.astype(np.int64)
        least = min(op.positive_shift, int(amounts.min(initial=FAST_SHIFT)))
        raised = max(0, FAST_SHIFT - least)
        if least >= LEAST_RAISED_SHIFT and max(op.positive_shift, int(amounts.max(initial=0))) + raised < 64:
            flip = SIGN_FLIP[out.dtype]
            halves = lowering.constant(node, "halves", lambda: np.int64(1) << (amounts + raised - 1))
            above_32 = lowering.constant(node, "shifts", lambda: (amounts + raised - FAST_SHIFT).astype(np.int32))
            words |= {"outer": outer, "halves": halves, "shifts": above_32, "left_shift": raised}
            words |= {"positive_half": 1 << (op.positive_shift + raised - 1)}
            words |= {"positive_shift": op.positive_shift + raised - FAST_SHIFT, "flip_x": SIGN_FLIP[x.dtype]}
            words |= {"flip_out": flip, "zp_in": op.zp_in + SIGN_FLIP[x.dtype], "zp_out": op.zp_out + flip}
            words |= {"lo": op.lo + flip, "hi": op.hi + flip}
            lowering.emit(node, "int_prelu8", words, cost=4 * FAST_NS * count, items=outer)
            return
    words |= {"shifts": shifts, "count": count, "zp_in": op.zp_in, "positive_shift": op.positive_shift}
    words |= {"dtype_x": DTYPE_CODES[x.dtype], "dtype_out": DTYPE_CODES[out.dtype]}
    words |= {"zp_out": op.zp_out, "lo": op.lo, "hi": op.hi}
    lowering.emit(node, "int_prelu", words, cost=1.5 * SLOW_NS * count, items=count // 64)


@lowers(IntLut)
def lower_lut(lowering: Lowering, node: Node, op: IntLut) -> None:  # noqa: ARG001  # a rule's signature
    """In a layer's epilogue if it can be, else by the element's byte."""
    if lower_with_table(lowering, node):
        return
    table = table_by_byte(lowering, node)
    if writes_rows(node):
        _look_up(lowering, node, table)
        return
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    count = math.prod(out.shape)
    words: dict[str, Operand] = {"x": x, "table": table, "out": out, "count": count}
    lowering.emit(node, "int_lut16", words, cost=FAST_NS * count, items=count // 64)


def _look_up(lowering: Lowering, node: Node, table: Buffer) -> None:
    """From bytes to bytes, in place if the operand is not needed any more."""
    x, out = lowering.rows(node.operands[0]), lowering.result_rows(node.result)
    count = math.prod(out.shape)
    words: dict[str, Operand] = {"x": x, "table": table, "out": out, "count": count}
    inner = out.shape[-1] if x.pitch or out.pitch else max(1, count)
    words |= {"inner": inner, "x_inner": x.pitch or inner, "out_inner": out.pitch or inner}
    lowering.emit(
        node,
        "int_lut8",
        words,
        overwrites={"out": "x"},
        pitched=("x", "out"),
        cost=_LOOKUP_NS * count,
        items=count // 64,
    )
