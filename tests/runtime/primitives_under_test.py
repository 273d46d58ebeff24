"""The primitives whose kernels are tested: those of this CPU, and in plain IR the forms of those that it lacks.

An emulated form executes the packing, tails and epilogue of the real one, which does the same where it can run.
"""

from qcompiler.runtime import isa

EMULATED = tuple(
    f"{name}-emulated"
    for name in ("amx", "vnni512", "vnni256", "avx512", "neon_i8mm", "neon_dot", "neon")
    if name not in isa.available()
)
PRIMITIVES = (*isa.available(), *EMULATED)
