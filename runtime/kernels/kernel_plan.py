"""One call of a kernel with all its operands but buffers, and what plans of several kernels estimate with."""

from collections.abc import Mapping
from dataclasses import dataclass

from qcompiler.ir.types import AnyArray

STAGE_BYTES = 48 * 1024  # of scratch that a block aims for: with one tile's weights it stays in the L2 cache
STAGE_SLACK = 64  # bytes: the last run may be padded to whole groups, whose weights are zero
SHARE_NS = 5000.0  # a share is worth at least this much time

MACS_PER_NS = {
    "amx": 800.0,
    "vnni512": 200.0,
    "vnni256": 100.0,
    "avx512": 100.0,
    "avx2": 70.0,
    "generic": 15.0,
    "neon_i8mm": 60.0,
    "neon_dot": 60.0,
    "neon": 15.0,
}


@dataclass(frozen=True, eq=False)
class KernelPlan:
    """One kernel call for concrete shapes.

    Attributes:
        kernel: name in the registry.
        constants: word -> array, aligned; addresses at run time.
        integers: word -> value.
        scratch_bytes: size of the buffer for the word "scratch", all shares together; aligned like any buffer. 0 if
            there is no such word.
        shares: the most shares that are any use.
        cost: predicted nanoseconds on one thread.
        out_shape: of the result, that of a layer as NHWC; of packed operands as many bytes.
        replaces_residual: whether "out" may be at the same address as "residual".
    """

    kernel: str
    constants: Mapping[str, AnyArray]
    integers: Mapping[str, int]
    scratch_bytes: int
    shares: int
    cost: float
    out_shape: tuple[int, ...]
    replaces_residual: bool = False
