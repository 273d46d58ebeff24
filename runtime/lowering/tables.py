"""Functions of one 8-bit value as tables of 256 entries; which of them run in the epilogue of the layer before them."""

import numpy as np

from qcompiler.ir import AnyArray, Node
from qcompiler.ir.integer_layer import IntegerLayer, integer_layer
from qcompiler.ir.ops import IntLut
from qcompiler.ir.types import DType
from qcompiler.runtime.codegen.lookup import look_up_plainly
from qcompiler.runtime.codegen.primitives import primitive_named
from qcompiler.runtime.kernels.packing import MOST_SHIFT_LOOKED_UP, Requantization, saturated_table
from qcompiler.runtime.lowering.context import Lowering
from qcompiler.runtime.program import Buffer


def looks_up_in_layers(isa: str) -> bool:
    """Whether a layer's kernel looks up its results on the primitive `isa`.

    Without an instruction that looks up a vector it is faster to do so afterwards; so it is, by 2 to 10 %, in the tiles
    of vnni512, as measured.
    """
    return isa != "vnni512" and primitive_named(isa).look_up is not look_up_plainly


def table_of(layer: IntegerLayer, isa: str) -> Node | None:
    """The look-up that the kernel of `layer` does as well, on the primitive `isa`: from bytes to bytes."""
    if layer.shift is None or layer.residual is not None:
        return None
    result = layer.result
    if result.use_count != 1 or result.is_output or not looks_up_in_layers(isa):
        return None
    table = result.users[0]
    if not isinstance(table.op, IntLut) or table.operands[0] is not result or table.operands[1].data is None:
        return None
    if not (result.type.dtype.is_8_bit and table.result.type.dtype.is_8_bit):
        return None
    shifts = layer.shift.data
    return table if shifts is not None and shifts.max(initial=0) <= MOST_SHIFT_LOOKED_UP else None


def looked_up_layer(table: Node, isa: str) -> IntegerLayer | None:
    """The layer whose kernel does the look-up `table` as well, on the primitive `isa`."""
    layer = integer_layer(table.operands[0].producer)
    return layer if layer is not None and table_of(layer, isa) is table else None


def table_after(lowering: Lowering, node: Node, rescaling: Requantization) -> Buffer:
    """The table that the epilogue of a layer with this requantization looks up in for the `int.lut` node."""
    return lowering.constant(node, "table after a layer", lambda: saturated_table(_entries(lowering, node), rescaling))


def table_by_byte(lowering: Lowering, node: Node) -> Buffer:
    """The entries of an `int.lut` in the order of the operand's bytes: first those of 0 ... 127 if it is s8.

    Raises:
        UnsupportedOpError: the table is not a constant.
    """
    turn = 128 if node.operands[0].type.dtype is DType.S8 else 0
    return lowering.constant(node, "table", lambda: np.roll(_entries(lowering, node), turn))


def _entries(lowering: Lowering, node: Node) -> AnyArray:
    entries = node.operands[1].data
    if entries is None:
        raise lowering.unsupported(node, f"its table %{node.operands[1].name} is not a constant")
    return entries
