"""Typed loads and stores at raw addresses, for kernels.

All take a base address (int64) and an index in elements. Integers are widened to int64 on load and truncated
on store, because Numba's arithmetic is int64 anyway; floats stay as they are. The address goes through one
`getelementptr` from a base, which is the form that LLVM's vectorizer understands.

    x = load_u8(a, i)         # int64
    store_u8(out, i, x)       # low 8 bits
    base = load_s64(operands, 3)
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted

_I1, _I8, _I16, _I32, _I64 = map(ir.IntType, (1, 8, 16, 32, 64))
_F32, _F64 = ir.FloatType(), ir.DoubleType()
_OWN_TYPES = {_I64: (types.int64, 64), _F32: (types.float32, 32), _F64: (types.float64, 64)}
"""What is not widened or truncated: Numba's type, and bits."""


def _element(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, element: ir.Type) -> ir.Value:
    return builder.gep(builder.inttoptr(base, element.as_pointer()), [index], source_etype=element)


def _make_load(element: ir.Type, *, signed: bool = True) -> Any:  # noqa: ANN401 - a Numba intrinsic
    kind, bits = _OWN_TYPES.get(element) or (types.int64, element.width)

    @emitted(kind, types.int64, types.int64)
    def load(builder: ir.IRBuilder, base: ir.Value, index: ir.Value) -> ir.Value:
        value = builder.load(_element(builder, base, index, element), typ=element)
        value.align = bits // 8
        if element in _OWN_TYPES:
            return value
        return builder.sext(value, _I64) if signed else builder.zext(value, _I64)

    return load


def _make_store(element: ir.Type) -> Any:  # noqa: ANN401 - a Numba intrinsic
    kind, bits = _OWN_TYPES.get(element) or (types.int64, element.width)

    @emitted(types.void, types.int64, types.int64, kind)
    def store(builder: ir.IRBuilder, base: ir.Value, index: ir.Value, value: ir.Value) -> None:
        if element not in _OWN_TYPES:
            value = builder.trunc(value, element)
        builder.store(value, _element(builder, base, index, element), align=bits // 8)

    return store


load_u8, load_s8 = _make_load(_I8, signed=False), _make_load(_I8)
load_s16, load_s32, load_s64, load_f32, load_f64 = map(_make_load, (_I16, _I32, _I64, _F32, _F64))
store_u8, store_s16, store_s32, store_s64 = map(_make_store, (_I8, _I16, _I32, _I64))
store_f32, store_f64 = map(_make_store, (_F32, _F64))
store_s8 = store_u8  # both are the low 8 bits


def word_loader(groups: Sequence[Sequence[str]]) -> Any:  # noqa: ANN401 - a Numba intrinsic
    """An intrinsic from the address of a kernel's operands, words in groups, to a tuple with a tuple for each group.

    So the names that a kernel unpacks stand in the same order as those of its words, line by line. Groups must not all
    have the same size: Numba has another kind of tuple for that.
    """
    sizes = [len(group) for group in groups]

    @emitted(types.Tuple([types.UniTuple(types.int64, size) for size in sizes]), types.int64)
    def load_words(builder: ir.IRBuilder, operands: ir.Value) -> ir.Value:
        words = ir.Constant(ir.LiteralStructType([ir.ArrayType(_I64, size) for size in sizes]), ir.Undefined)
        places = [(group, at) for group, size in enumerate(sizes) for at in range(size)]
        for index, place in enumerate(places):
            word = builder.load(_element(builder, operands, ir.Constant(_I64, index), _I64), typ=_I64)
            words = builder.insert_value(words, word, place)
        return words

    return load_words


@emitted(types.void, types.int64, types.int64, types.int64)
def copy_bytes(builder: ir.IRBuilder, target: ir.Value, source: ir.Value, count: ir.Value) -> None:
    """Copy `count` bytes between ranges that do not overlap."""
    pointer = _I8.as_pointer()
    memcpy = builder.module.declare_intrinsic("llvm.memcpy", [pointer, pointer, _I64])
    ends = [builder.inttoptr(address, pointer) for address in (target, source)]
    builder.call(memcpy, [*ends, count, ir.Constant(_I1, 0)])


@emitted(types.void, types.int64, types.int64, types.int64)
def fill_bytes(builder: ir.IRBuilder, target: ir.Value, value: ir.Value, count: ir.Value) -> None:
    """Set `count` bytes to the low 8 bits of `value`."""
    pointer = _I8.as_pointer()
    memset = builder.module.declare_intrinsic("llvm.memset", [pointer, _I64])
    builder.call(memset, [builder.inttoptr(target, pointer), builder.trunc(value, _I8), count, ir.Constant(_I1, 0)])
