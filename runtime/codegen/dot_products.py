"""Exact dot products of neighbouring activations and weights, added in each s32 lane modulo 2^32.

`vpdpbusds` saturates and is not here. Products of two s16 that come from 8 bits cannot overflow an s32 pair sum.
`vpmaddubsw` and `smull` with `addp` add two products in 16 bits: they are exact only for weights of which
`qcompiler.runtime.kernels.pair_proof` has proven that no such sum leaves s16.
"""

from collections.abc import Callable

from llvmlite import ir

from qcompiler.runtime.codegen.vectors import I8, I16, I32, call, shuffle, splat_constant, vector

Dot = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""(builder, s32 accumulator, activations, weights) -> s32 accumulator."""


def vpdpbusd(bits: int) -> Dot:
    """u8 by s8, four to a lane."""

    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        return call(builder, f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, acc, activations, weights)

    return dot


def vpdpwssd(bits: int) -> Dot:
    """s16 by s16, two to a lane."""

    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        return call(builder, f"llvm.x86.avx512.vpdpwssd.{bits}", acc.type, acc, activations, weights)

    return dot


def sdot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """s8 by s8, four to a lane (Arm's FEAT_DotProd)."""
    return _arm_dot(builder, "sdot", acc, activations, weights)


def usdot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """u8 by s8, four to a lane (Arm's FEAT_I8MM)."""
    return _arm_dot(builder, "usdot", acc, activations, weights)


def _arm_dot(builder: ir.IRBuilder, name: str, acc: ir.Value, *operands: ir.Value) -> ir.Value:
    return call(builder, f"llvm.aarch64.neon.{name}.v4i32.v16i8", acc.type, acc, *operands)


def vpmaddwd(name: str) -> Dot:
    """s16 by s16, two to a lane; `name` is LLVM's for the width."""

    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        return builder.add(acc, call(builder, name, acc.type, activations, weights))

    return dot


def vpmaddubsw(width: str, vpmaddwd_name: str) -> Dot:
    """u8 by s8, four to a lane; the sums of two products saturate to s16."""

    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        pairs = vector(I16, 2 * acc.type.count)
        sums = call(builder, f"llvm.x86.{width}", pairs, activations, weights)
        return builder.add(acc, call(builder, vpmaddwd_name, acc.type, sums, splat_constant(pairs, 1)))

    return dot


def smull_addp(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """s8 by s8, four to a lane; the sums of two products wrap in s16."""
    low, high = (_halves_multiplied(builder, activations, weights, start) for start in (0, 8))
    sums = call(builder, "llvm.aarch64.neon.addp.v8i16", low.type, low, high)
    return builder.add(acc, call(builder, "llvm.aarch64.neon.saddlp.v4i32.v8i16", acc.type, sums))


def _halves_multiplied(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, start: int) -> ir.Value:
    kind = vector(I16, 8)
    x, y = (builder.sext(shuffle(builder, v, v, range(start, start + 8)), kind) for v in (x, y))
    return builder.mul(x, y)


def plain_pairs_dot(*, signed: bool) -> Dot:
    """u8 (or s8) by s8, four to a lane; the sums of two products saturate to s16 (or wrap)."""

    def dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
        count = activations.type.count
        wide = vector(I16, count)
        widened = (builder.sext if signed else builder.zext)(activations, wide)
        products = builder.mul(widened, builder.sext(weights, wide))
        pairs = [shuffle(builder, products, products, range(i, count, 2)) for i in range(2)]
        kind = pairs[0].type
        add = builder.add(*pairs) if signed else call(builder, f"llvm.sadd.sat.v{kind.count}i16", kind, *pairs)
        sums = builder.sext(add, vector(I32, kind.count))
        halves = [shuffle(builder, sums, sums, range(i, kind.count, 2)) for i in range(2)]
        return builder.add(acc, builder.add(*halves))

    return dot


def plain_dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """Any group: u8 by s8, or s16 by s16. LLVM recognises the s16 form where the target has `pmaddwd`."""
    widen = builder.zext if activations.type.element == I8 else builder.sext
    return _sum_of_products(builder, acc, widen(activations, vector(I32, activations.type.count)), weights)


def plain_signed_dot(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """Any group: s8 by s8, or s16 by s16."""
    return _sum_of_products(builder, acc, builder.sext(activations, vector(I32, activations.type.count)), weights)


def _sum_of_products(builder: ir.IRBuilder, acc: ir.Value, activations: ir.Value, weights: ir.Value) -> ir.Value:
    """`activations` widened to s32 already."""
    count, lanes = activations.type.count, acc.type.count
    products = builder.mul(activations, builder.sext(weights, activations.type))
    terms = [shuffle(builder, products, products, range(i, count, count // lanes)) for i in range(count // lanes)]
    while len(terms) > 1:
        terms = [builder.add(x, y) for x, y in zip(terms[::2], terms[1::2], strict=True)]
    return builder.add(acc, terms[0])
