"""Instructions for what the plans of kernels say."""

from collections.abc import Mapping, Sequence

from qcompiler.ir.types import DType
from qcompiler.runtime.kernels.kernel_plan import KernelPlan
from qcompiler.runtime.lowering.context import Lowering
from qcompiler.runtime.program import Operand


def emit_planned(
    lowering: Lowering,
    name: str,
    plan: KernelPlan,
    words: Mapping[str, Operand],
    *,
    writes: Sequence[str],
    overwrites: Mapping[str, str] | None = None,
    pitched: Sequence[str] = (),
) -> None:
    """Emit the call of a plan for the node `name`, with constants and scratch named after it.

    `words` has what the plan leaves to the lowering, also where the plan has a 0 for it; `overwrites` and `pitched` as
    for an `Instruction`.
    """
    build = lowering.build
    planned: dict[str, Operand] = dict(plan.integers)
    planned |= {word: build.constant(f"{name}.{word}", array) for word, array in plan.constants.items()}
    if plan.scratch_bytes:
        planned["scratch"] = build.tensor(f"{name}.scratch", DType.U8, (plan.scratch_bytes,))
    build.emit(
        plan.kernel,
        planned | dict(words),
        writes=writes,
        scratch=("scratch",) if plan.scratch_bytes else (),
        overwrites=overwrites,
        pitched=pitched,
        shares=plan.shares,
        cost=plan.cost,
        label=name,
    )
