"""Short names for the vector IR that the tiles are made of. Addresses are i64 values."""

from collections.abc import Callable, Sequence

from llvmlite import ir

LINE_BYTES = 64  # of the caches
PREFETCH_BYTES = 8192
"""How far ahead weights that are read for the first time are asked for."""

I1, I8, I16, I32, I64 = map(ir.IntType, (1, 8, 16, 32, 64))


def vector(element: ir.Type, count: int) -> ir.VectorType:
    """The type <count x element>."""
    return ir.VectorType(element, count)


def constant(value: int) -> ir.Constant:
    """An i64."""
    return ir.Constant(I64, value)


def splat_constant(kind: ir.VectorType, value: float) -> ir.Constant:
    """A vector of equal constants."""
    return ir.Constant(kind, [ir.Constant(kind.element, value)] * kind.count)


def splat(builder: ir.IRBuilder, scalar: ir.Value, kind: ir.VectorType) -> ir.Value:
    """A scalar of the element's type in every lane."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, splat_constant(vector(I32, kind.count), 0))


def load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int) -> ir.Value:
    """Load a value of type `kind`."""
    value = builder.load(builder.inttoptr(address, kind.as_pointer()), typ=kind)
    value.align = align
    return value


def store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, align: int = 1) -> None:
    """Store a value."""
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def offset(builder: ir.IRBuilder, address: ir.Value, by: int) -> ir.Value:
    """An address and a constant number of bytes."""
    return builder.add(address, constant(by)) if by else address


def shuffle(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, indices: Sequence[int]) -> ir.Value:
    """Lanes of the concatenation of x and y."""
    mask = ir.Constant(vector(I32, len(indices)), [ir.Constant(I32, index) for index in indices])
    return builder.shuffle_vector(x, y, mask)


def interleave(builder: ir.IRBuilder, x: ir.Value, y: ir.Value, *, high: bool) -> ir.Value:
    """Interleave the low or the high halves of each 16-byte lane of two vectors (`punpckl`, `punpckh`)."""
    count = x.type.count
    per_lane = 128 // x.type.element.width
    start = per_lane // 2 if high else 0
    firsts = [lane + start + i for lane in range(0, count, per_lane) for i in range(per_lane // 2)]
    return shuffle(builder, x, y, [index for first in firsts for index in (first, count + first)])


def clamp(builder: ir.IRBuilder, x: ir.Value, low: ir.Value, high: ir.Value) -> ir.Value:
    """Signed min(max(x, low), high)."""
    x = builder.select(builder.icmp_signed("<", x, low), low, x)
    return builder.select(builder.icmp_signed(">", x, high), high, x)


def branch_back(builder: ir.IRBuilder, again: ir.Value, loop: ir.Block, after: ir.Block) -> None:
    """Close a loop: on to `loop` if `again`, else to `after`.

    LLVM is told not to unroll it: these bodies are long already, and it only adds to the time to compile.
    """
    branch = builder.cbranch(again, loop, after)
    module = builder.module
    disabled = module.add_metadata(["llvm.loop.unroll.disable"])
    identity = ir.MDValue(module, [disabled], name=str(len(module.metadata)))
    identity.operands = (identity, disabled)  # a loop's node begins with a reference to itself
    branch.set_metadata("llvm.loop", identity)


def emit_loop(builder: ir.IRBuilder, end: ir.Value, step: int, body: Callable[[ir.Value], None]) -> None:
    """`body(at)` for 0, step, 2·step ... below `end`, which may be 0 or less."""
    before, loop = builder.block, builder.append_basic_block("loop")
    after = builder.append_basic_block("loop_done")
    builder.cbranch(builder.icmp_signed("<", constant(0), end), loop, after)
    builder.position_at_end(loop)
    at = builder.phi(I64)
    body(at)
    following = builder.add(at, constant(step))
    at.add_incoming(constant(0), before)
    at.add_incoming(following, builder.block)
    branch_back(builder, builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)


def stack_bytes(builder: ir.IRBuilder, count: int, name: str) -> ir.Value:
    """Address of `count` bytes, aligned to a cache line, of the function's stack; the same for the same name."""
    name = f"tile.{name}"  # Numba's variables have the names of Python's
    for instruction in builder.function.entry_basic_block.instructions:
        if instruction.name == name:
            return builder.ptrtoint(instruction, I64)
    with builder.goto_entry_block():  # Numba's own helper would set every byte to zero, one by one
        variable = builder.alloca(ir.ArrayType(I8, count), name=name)
    variable.align = 64
    return builder.ptrtoint(variable, I64)


def prefetch(builder: ir.IRBuilder, address: ir.Value, count: int) -> None:
    """Ask for the cache lines of `count` bytes in the L2 cache; the address may be any.

    In the L1 cache they would be evicted before they are used, and fewer requests could be under way.
    """
    read, moderate_locality, data = (ir.Constant(I32, value) for value in (0, 2, 1))
    for start in range(0, count, LINE_BYTES):
        pointer = builder.inttoptr(offset(builder, address, start), I8.as_pointer())
        call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, read, moderate_locality, data)


def call(builder: ir.IRBuilder, name: str, result: ir.Type, *arguments: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, list(arguments))
