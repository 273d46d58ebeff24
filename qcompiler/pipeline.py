"""The pipelines: which passes each optimization level runs for each target, as data.

``--print-pipeline`` shows one, ``--passes`` replaces it. Level 0 does only what a correct integer program needs, 1 adds
what is cheap, 2 everything that pays, 3 what costs more time than it usually gains.
"""

from collections.abc import Sequence
from dataclasses import replace

from qcompiler.errors import UsageError
from qcompiler.pass_manager import Pass, parse_pipeline
from qcompiler.passes.quantize import Quantize
from qcompiler.suggestions import did_you_mean

_CLEAN = ("fold-constants", "remove-identities", "common-subexpressions", "dead-code")
_FOLD = (
    "replace-division",
    "matmul-to-gemm",
    "fold-product-scale",
    "record-batch-norm",
    "fold-batch-norm",
    "fold-pad",
    "fuse-activation",
)
_QUANTIZE = (
    "decompose-transposed-convolution",
    "insert-observers",
    "calibrate",
    "propagate-ranges",
    "quantize",
    "prove-accumulators",
)
_CHANNELS_LAST = ("assign-layout", "sink-transposes", "absorb-transposes", "remove-identities", "dead-code")
_CHECK = ("prove-accumulators", "verify-integer")

_FLOAT_2 = (*_CLEAN, "recognize-activations", "sink-transposes", *_FOLD, *_CLEAN)
_QUANTIZED_2 = ("fold-requantization", "fuse-residual-add")

PIPELINES: dict[str, tuple[tuple[str, ...], ...]] = {
    "int8": (
        (
            "fold-constants",
            "replace-division",
            "matmul-to-gemm",
            "record-batch-norm",
            "fold-batch-norm",
            *_QUANTIZE,
            "lower-to-integer",
            "assign-layout",
            *_CHECK,
        ),
        (*_CLEAN, *_FOLD, "dead-code", *_QUANTIZE, "lower-to-integer", *_CHANNELS_LAST, *_CHECK),
        (*_FLOAT_2, *_QUANTIZE, *_QUANTIZED_2, "lower-to-integer", "compose-tables", *_CHANNELS_LAST, *_CHECK),
        # A second round finds what the first has brought together, such as a layer whose two users became one.
        (
            *_FLOAT_2,
            *_FLOAT_2,
            *_QUANTIZE,
            *_QUANTIZED_2,
            *_QUANTIZED_2,
            "lower-to-integer",
            "compose-tables",
            *_CHANNELS_LAST,
            "compose-tables",
            "common-subexpressions",
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
        raise UsageError(f"there is no target {target!r}; the targets are: {', '.join(sorted(PIPELINES))}{hint}")
    levels = PIPELINES[target]
    if opt_level not in range(len(levels)):
        raise UsageError(f"there is no optimization level {opt_level!r}; the levels are 0 to {len(levels) - 1}")
    return parse_pipeline(",".join(levels[opt_level]))


def with_reduced_range(pipeline: Sequence[Pass]) -> list[Pass]:
    """The same passes, with a reduced range of weights.

    Raises:
        UsageError: none of them quantizes.
    """
    if not any(isinstance(each, Quantize) for each in pipeline):
        raise UsageError("a reduced range of weights needs the pass 'quantize', which the pipeline has not")
    return [replace(each, reduce_range=True) if isinstance(each, Quantize) else each for each in pipeline]
