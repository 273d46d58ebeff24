"""Lowering of `observe`."""

import math

from qcompiler.ir import Node
from qcompiler.ir.ops import Observe
from qcompiler.ir.types import DType
from qcompiler.runtime.kernels.observation import CHUNK
from qcompiler.runtime.lowering.context import Lowering, lowers, shares_for
from qcompiler.runtime.program import Operand
from qcompiler.runtime.sampled_elements import counting_step, samples_in

_COUNT_NS = 0.6  # an element that is counted
_LOOK_NS = 0.1  # any element


@lowers(Observe)
def lower_observe(lowering: Lowering, node: Node, op: Observe) -> None:
    """The operand's bytes; counted if there is a counter."""
    x = lowering.buffer(node.operands[0])
    lowering.alias(node.result, lowering.build.view(x, node.result.name, x.shape))
    counter = lowering.model.counters.get(op.key)
    size = math.prod(x.shape)
    if counter is None or size == 0:
        return
    if node.result.type.dtype is not DType.F32:
        raise lowering.unsupported(node, f"%{node.operands[0].name} is {node.result.type.dtype}, not f32")
    samples = samples_in(node.result.type.shape, x.shape)
    step = 1 if samples is None else counting_step(size // samples)
    samples = samples or 1
    cost = (_LOOK_NS + _COUNT_NS / step) * size
    shares = min(counter.shape[1], shares_for(cost, -(-size // CHUNK)))
    words: dict[str, Operand] = {
        "x": x,
        "counts": lowering.build.state(f"{node.name}.counts", counter),
        "scratch": lowering.build.tensor(f"{node.name}.scratch", DType.U8, (2 * CHUNK * shares,)),
        "samples": samples,
        "size": size // samples,
        "step": step,
    }
    lowering.build.emit(
        "observe",
        words,
        writes=(),
        scratch=("scratch",),
        updates=("counts",),
        shares=shares,
        cost=cost,
        label=node.name,
    )
