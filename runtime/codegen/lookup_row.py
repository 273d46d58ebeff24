"""The look-up of a row of bytes in memory."""

from llvmlite import ir

from qcompiler.runtime.codegen.deferred import types
from qcompiler.runtime.codegen.intrinsics import emitted
from qcompiler.runtime.codegen.lookup import look_up_plainly
from qcompiler.runtime.codegen.primitives import emitted_primitive
from qcompiler.runtime.codegen.vectors import I8, I64, constant, emit_loop, load, store, vector


@emitted(types.void, types.int64, types.int64, types.int64, types.int64)
def look_up_row(builder: ir.IRBuilder, target: ir.Value, source: ir.Value, table: ir.Value, count: ir.Value) -> None:
    """Set `count` bytes of the target to `table[source[i]]`; both may be the same, and must not overlap otherwise.

    `table` is the address of 256 bytes. No byte is read twice, so the last ones go one by one.
    """
    p = emitted_primitive()
    width = p.vector_bytes
    kind = vector(I8, width)
    in_vectors = p.look_up is not look_up_plainly
    whole = builder.and_(count, constant(-width)) if in_vectors else constant(0)

    def vectors(at: ir.Value) -> None:
        indices = load(builder, builder.add(source, at), kind, 1)
        store(builder, p.look_up(builder, table, indices), builder.add(target, at))

    if in_vectors:
        emit_loop(builder, whole, width, vectors)

    def byte(at: ir.Value) -> None:
        at = builder.add(whole, at)
        index = builder.zext(load(builder, builder.add(source, at), I8, 1), I64)
        store(builder, load(builder, builder.add(table, index), I8, 1), builder.add(target, at))

    emit_loop(builder, builder.sub(count, whole), 1, byte)
