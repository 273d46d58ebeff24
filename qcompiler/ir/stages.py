"""The spec of each stage: which ops and dtypes are legal in it, and which values carry quantization parameters.

An op class says in `stages` where it is legal; this module says the rest. "Fully integer" is the spec of the integer
stage without `allow_float`: between the boundary ops there is no float value at all.
"""

from dataclasses import dataclass

from qcompiler.ir.graph import Graph, Value
from qcompiler.ir.op import Op, Stage
from qcompiler.ir.ops.integer import IntDequantize, IntQuantize
from qcompiler.ir.types import DType

_EXACT = frozenset({DType.S32, DType.S64, DType.BOOL})
_SMALL = frozenset({DType.U8, DType.S8, DType.S16, DType.S4})


@dataclass(frozen=True, slots=True)
class StageSpec:
    """What values may be in one stage.

    Attributes:
        dtypes: legal dtypes.
        needs_quant: dtypes whose values must carry quantization parameters; no other value may.
    """

    dtypes: frozenset[DType]
    needs_quant: frozenset[DType] = frozenset()


_REAL = StageSpec(_EXACT | {DType.F32, DType.F16})
STAGE_SPECS: dict[Stage, StageSpec] = {
    Stage.FLOAT: _REAL,
    Stage.OBSERVED: _REAL,
    Stage.QUANTIZED: StageSpec(_REAL.dtypes | _SMALL, needs_quant=_SMALL | {DType.S32}),
    Stage.INTEGER: StageSpec(_EXACT | _SMALL | {DType.F32}),
}


def is_legal(op: Op | type[Op], stage: Stage, *, allow_float: bool = False) -> bool:
    """Whether the op may be in a graph of that stage; `allow_float` admits the float stage's ops to the integer one."""
    return stage in op.stages or (allow_float and stage is Stage.INTEGER and Stage.FLOAT in op.stages)


def value_violation(graph: Graph, value: Value) -> str | None:
    """What is wrong with the type of a value in the graph's stage, or None."""
    spec = STAGE_SPECS[graph.stage]
    dtype = value.type.dtype
    if dtype not in spec.dtypes:
        return f"dtype {dtype} is not legal in the {graph.stage} stage"
    if value.type.quant is not None and dtype not in spec.needs_quant:
        return f"a value of dtype {dtype} has no quantization parameters in the {graph.stage} stage"
    if value.type.quant is None and dtype in spec.needs_quant:
        return f"a value of dtype {dtype} needs quantization parameters in the {graph.stage} stage"
    if graph.stage is Stage.INTEGER and dtype.is_float and not graph.allow_float and not is_boundary(value):
        return "a float value lies inside the integer graph, and allow_float is not set"
    return None


def is_boundary(value: Value) -> bool:
    """Whether a float value of the integer stage is an input of `int.quantize` only, or a graph output only."""
    if value.producer is None and not value.is_constant:
        return all(isinstance(user.op, IntQuantize) for user in value.users)
    return value.use_count == 0 and (
        value.is_constant or isinstance(getattr(value.producer, "op", None), IntDequantize)
    )
