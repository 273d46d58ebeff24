"""Functions of one 8-bit value as tables of 256 entries, indexed by the byte: an s8 operand's is turned by 128."""

from qcompiler.runtime.codegen.lookup_row import look_up_row
from qcompiler.runtime.kernels.arithmetic import share_range
from qcompiler.runtime.kernels.memory import load_s16, load_s64, load_u8, store_s16
from qcompiler.runtime.kernels.registry import kernel


@kernel("int_lut8", words=("x", "table", "out", "count", "inner", "x_inner", "out_inner"), per_isa=True)
def int_lut8(operands: int, share: int, shares: int) -> None:
    """`int.lut` with 8-bit entries; rows of `inner` elements begin `x_inner` and `out_inner` apart."""
    x, table, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    inner, x_inner, out_inner = load_s64(operands, 4), load_s64(operands, 5), load_s64(operands, 6)
    position, end = share_range(count, share, shares)
    while position < end:
        row = position // inner
        column = position - row * inner
        n = min(inner - column, end - position)
        look_up_row(out + row * out_inner + column, x + row * x_inner + column, table, n)
        position += n


@kernel("int_lut16", words=("x", "table", "out", "count"))
def int_lut16(operands: int, share: int, shares: int) -> None:
    """`int.lut` with s16 entries."""
    x, table, out, count = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    start, end = share_range(count, share, shares)
    for i in range(start, end):
        store_s16(out, i, load_s16(table, load_u8(x, i)))
