"""The upper 32 bits of products of s32 lanes, rounded down: all that `rescale` needs of a multiplication.

x86 multiplies every other lane to 64 bits (`vpmuldq`), so the multipliers of the odd lanes are kept in the even lanes
as well. Arm has the upper half of the doubled product in one instruction (`sqdmulh`), which saturates for -2^31 times
-2^31 alone, and multipliers are larger than that; floor(floor(2xy / 2^32) / 2) is the half of the product itself.
"""

from collections.abc import Callable

from llvmlite import ir

from qcompiler.runtime.codegen.vectors import I32, I64, call, shuffle, splat_constant, vector

HighProduct = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""(builder, s32 vector, multipliers, the odd lanes' multipliers in the even lanes) -> s32 vector."""


def vpmuldq(builder: ir.IRBuilder, x: ir.Value, multiplier: ir.Value, odd_multiplier: ir.Value) -> ir.Value:
    """Even and odd lanes apart; in plain IR that LLVM recognises on x86."""
    lanes = x.type.count
    half_lanes = vector(I64, lanes // 2)
    upper = splat_constant(half_lanes, 32)

    def low(value: ir.Value) -> ir.Value:  # sign-extended low halves: low(x) * low(y) is one `vpmuldq`
        return builder.ashr(builder.shl(value, upper), upper)

    pairs, multipliers, odd_multipliers = (builder.bitcast(v, half_lanes) for v in (x, multiplier, odd_multiplier))
    even = builder.mul(low(pairs), low(multipliers))
    odd = builder.mul(builder.ashr(pairs, upper), low(odd_multipliers))
    odd_lanes = [index for i in range(lanes // 2) for index in (2 * i + 1, lanes + 2 * i + 1)]
    return shuffle(builder, builder.bitcast(even, x.type), builder.bitcast(odd, x.type), odd_lanes)


def sqdmulh(builder: ir.IRBuilder, x: ir.Value, multiplier: ir.Value, _odd_multiplier: ir.Value) -> ir.Value:
    """Arm's doubled product, halved."""
    doubled = call(builder, f"llvm.aarch64.neon.sqdmulh.v{x.type.count}i32", x.type, x, multiplier)
    return builder.ashr(doubled, splat_constant(x.type, 1))


def plain_sqdmulh(builder: ir.IRBuilder, x: ir.Value, multiplier: ir.Value, _odd_multiplier: ir.Value) -> ir.Value:
    """`sqdmulh` in plain IR."""
    wide = vector(I64, x.type.count)
    product = builder.mul(builder.sext(x, wide), builder.sext(multiplier, wide))
    doubled = builder.trunc(builder.ashr(product, splat_constant(wide, 31)), vector(I32, x.type.count))
    return builder.ashr(doubled, splat_constant(x.type, 1))
