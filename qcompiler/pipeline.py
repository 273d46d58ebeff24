"""The pipelines: which passes each optimization level runs for each target, as data.

``--print-pipeline`` shows one, ``--passes`` replaces it. Level 0 does only what a correct integer program needs, 1 adds
what is cheap, 2 everything that pays, 3 what costs more time than it usually gains.
"""

from qcompiler.errors import UsageError
from qcompiler.pass_manager import Pass, parse_pipeline
from qcompiler.suggestions import did_you_mean

_QUANTIZE = ("insert-observers", "calibrate", "propagate-ranges", "quantize")
_CHECK = ("prove-accumulators", "verify-integer")

_CLEAN = ("remove-identities", "fold-constants", "common-subexpressions", "dead-code")
_FUSE = ("matmul-to-gemm", "fold-batch-norm", "fold-pad", "fuse-activation")

PIPELINES: dict[str, tuple[tuple[str, ...], ...]] = {
    "int8": (
        (
            "fold-constants",
            "matmul-to-gemm",
            "fold-batch-norm",
            *_QUANTIZE,
            "lower-to-integer",
            "assign-layout",
            *_CHECK,
        ),
        (
            *_CLEAN,
            *_FUSE,
            "dead-code",
            *_QUANTIZE,
            "fold-requantization",
            "lower-to-integer",
            "assign-layout",
            "dead-code",
            *_CHECK,
        ),
        (
            *_CLEAN,
            "recognize-activations",
            *_FUSE,
            "sink-transposes",
            *_CLEAN,
            *_QUANTIZE,
            "fold-requantization",
            "fuse-residual-add",
            "lower-to-integer",
            "compose-tables",
            "assign-layout",
            "dead-code",
            *_CHECK,
        ),
        (
            *_CLEAN,
            "recognize-activations",
            *_FUSE,
            "sink-transposes",
            *_CLEAN,
            *_FUSE,
            *_CLEAN,
            *_QUANTIZE,
            "fold-requantization",
            "fuse-residual-add",
            "fold-requantization",
            "lower-to-integer",
            "compose-tables",
            "assign-layout",
            "dead-code",
            *_CHECK,
        ),
    ),
}
"""Pass specifications by target and optimization level."""


def pipeline_for(target: str = "int8", opt_level: int = 2) -> list[Pass]:
    """The passes of an optimization level for a target.

    Raises:
        UsageError: there is no such target or level.
    """
    if target not in PIPELINES:
        hint = did_you_mean(target, PIPELINES)
        raise UsageError(f"there is no target {target!r}{hint}; the targets are: {', '.join(sorted(PIPELINES))}")
    levels = PIPELINES[target]
    if not 0 <= opt_level < len(levels):
        raise UsageError(f"there is no optimization level {opt_level}; the levels are 0 to {len(levels) - 1}")
    return parse_pipeline(",".join(levels[opt_level]))
