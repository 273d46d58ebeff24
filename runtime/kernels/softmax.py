"""Softmax of bytes along the innermost axis, where rows are long: a table for each row, not a division an element.

With d = max − x, e = exp_high[d], S the sum of e, and one = 2^b, a result is floor((2·e·2^b + S) / 2S). It depends on d
alone, and descends with d as exp_high has to. It is computed for those d that do not give 0, without a division: let
s be S without its lowest L bits, so that it has 31, R = floor(2^61 / (s + 1)), and t = e·R·2^(b + 1 − 61 − L). R and s
are off by less than 2^−29 together, and 2·e·2^b / S, of which t is an estimate from below, is at most 2^9. So
floor((floor(t) + 1) / 2) is right or 1 too small, which a product decides.
"""

from qcompiler.runtime.codegen.deferred import inlined
from qcompiler.runtime.kernels.memory import fill_bytes, load_s32, load_s64, load_u8, store_u8
from qcompiler.runtime.kernels.registry import kernel

ENTRIES = 256
_STEP = 16  # entries that are computed together


@kernel("int_softmax8", words=("x", "exp_high", "out", "tables", "rows", "length", "flip", "one_bits", "hi"))
def int_softmax8(operands: int, share: int, shares: int) -> None:
    """`int.softmax` of [rows, length] from 8 to 8 bits; `tables` is u8[ENTRIES] for each share, one is 2^one_bits."""
    x, exp_high, out = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2)
    table, rows, length = load_s64(operands, 3) + share * ENTRIES, load_s64(operands, 4), load_s64(operands, 5)
    flip, one_bits, hi = load_s64(operands, 6), load_s64(operands, 7), load_s64(operands, 8)
    fill_bytes(table, 0, ENTRIES)
    filled = 0
    for row in range(rows * share // shares, rows * (share + 1) // shares):
        source, target = x + row * length, out + row * length
        largest = 0
        for k in range(length):
            largest = max(largest, load_u8(source, k) ^ flip)
        total = 0
        for k in range(length):
            total += load_s32(exp_high, largest - (load_u8(source, k) ^ flip))
        end = _fill_table(table, exp_high, total, one_bits, hi)
        if filled > end:
            fill_bytes(table + end, 0, filled - end)
        filled = end
        for k in range(length):
            store_u8(target, k, load_u8(table, largest - (load_u8(source, k) ^ flip)))


@inlined
def _fill_table(table: int, exp_high: int, total: int, one_bits: int, hi: int) -> int:
    """Store the results by d, and return how many: all others are 0."""
    low, high = 0, ENTRIES  # the first d that gives 0 is in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        if load_s32(exp_high, middle) << (one_bits + 1) < total:
            high = middle
        else:
            low = middle
    end = (high + _STEP - 1) // _STEP * _STEP
    dropped, top = 0, total
    while top >= 1 << 31:
        top >>= 1
        dropped += 1
    reciprocal = (1 << 61) // (top + 1)
    shift = 28 + dropped - one_bits  # beyond 32: 61 + dropped - (one_bits + 1) - 32
    for d in range(end):
        e = load_s32(exp_high, d)
        q = (((e * reciprocal) >> 32 >> shift) + 1) >> 1
        q += (q + 1) * 2 * total <= (e << (one_bits + 1)) + total
        store_u8(table, d, min(q, hi))
    return end
