"""Which dot-product primitive the kernels are generated for, and what the JIT's target can execute.

`QCOMPILER_ISA` picks the primitive; the default is the best one that the target has. The target is the host
CPU unless `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` say otherwise. LLVM aborts the process on an instruction
that its target lacks, so an illegal choice is refused here.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from qcompiler.errors import InternalError, UsageError

if TYPE_CHECKING:
    from qcompiler.runtime.target_record import TargetRecord

ENVIRONMENT_VARIABLE = "QCOMPILER_ISA"
ANY = "any"
"""In place of a primitive's name: code that is the same for all of them."""

REQUIREMENTS: dict[str, tuple[frozenset[str], ...]] = {
    # best first; one of the sets of LLVM feature names must be there
    "amx": (frozenset({"avx512f", "avx512bw", "avx512vnni", "amx-tile", "amx-int8"}),),
    "vnni512": (frozenset({"avx512f", "avx512bw", "avx512vnni"}),),
    "vnni256": (frozenset({"avx2", "avxvnni"}), frozenset({"avx512f", "avx512bw", "avx512vl", "avx512vnni"})),
    "avx512": (frozenset({"avx512f", "avx512bw"}),),
    "avx2": (frozenset({"avx2"}),),
    "neon_i8mm": (frozenset({"neon", "i8mm"}),),
    "neon_dot": (frozenset({"neon", "dotprod"}),),
    "neon": (frozenset({"neon"}),),
    "generic": (frozenset(),),
}

_AVX2 = frozenset({"avx2"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512vl"}
_VNNI = _AVX512 | {"avx512vnni"}
_VBMI = frozenset({"avx512vbmi"})
_AMX = frozenset({"amx-tile", "amx-int8"})
_DOT = frozenset({"dotprod"})
_I8MM = frozenset({"dotprod", "i8mm"})
_CPU_FEATURES: dict[str, frozenset[str]] = {
    # CPU names of LLVM; a name that is not here is taken to have nothing beyond the baseline
    **dict.fromkeys(("generic", "x86-64", "x86-64-v2", "nehalem", "sandybridge", "ivybridge"), frozenset[str]()),
    **dict.fromkeys(("haswell", "broadwell", "skylake", "x86-64-v3", "znver1", "znver2", "znver3"), _AVX2),
    **dict.fromkeys(("skylake-avx512", "x86-64-v4"), _AVX512),
    "cannonlake": _AVX512 | _VBMI,
    **dict.fromkeys(("cascadelake", "cooperlake"), _VNNI),
    **dict.fromkeys(("icelake-client", "icelake-server", "tigerlake", "rocketlake", "znver4"), _VNNI | _VBMI),
    "znver5": _VNNI | _VBMI | {"avxvnni"},
    **dict.fromkeys(("sapphirerapids", "emeraldrapids", "graniterapids"), _VNNI | _VBMI | {"avxvnni"} | _AMX),
    **dict.fromkeys(("alderlake", "raptorlake", "meteorlake", "sierraforest"), _AVX2 | {"avxvnni"}),
    **dict.fromkeys(("cortex-a53", "cortex-a57", "cortex-a72", "cortex-a73"), frozenset[str]()),
    **dict.fromkeys(("cortex-a55", "cortex-a75", "cortex-a76", "cortex-a77", "cortex-a78", "cortex-x1"), _DOT),
    **dict.fromkeys(("neoverse-n1", "neoverse-e1", "apple-a13", "apple-a14", "apple-m1"), _DOT),
    **dict.fromkeys(("cortex-a510", "cortex-a710", "cortex-a715", "cortex-a720", "cortex-x2", "cortex-x3"), _I8MM),
    **dict.fromkeys(("neoverse-v1", "neoverse-n2", "neoverse-v2", "neoverse-n3", "neoverse-v3", "grace"), _I8MM),
    **dict.fromkeys(("a64fx", "thunderx2t99"), frozenset[str]()),
    **dict.fromkeys(("apple-m2", "apple-m3", "apple-m4", "ampere1", "ampere1a"), _I8MM),
}

_BASELINES = dict.fromkeys(("aarch64", "arm64"), frozenset({"neon"}))
"""What every CPU of an architecture has, by Python's name for it."""

_KNOWN_FEATURES = frozenset[str]().union(*_CPU_FEATURES.values())


@dataclass(frozen=True)
class Target:
    """The CPU that Numba generates code for, as LLVM names it, and those of its features that matter here."""

    cpu: str
    features: frozenset[str]

    def supports(self, isa: str) -> bool:
        """Whether every instruction of the primitive `isa` is legal here."""
        return any(needed <= self.features for needed in REQUIREMENTS[isa])


@cache
def target() -> Target:
    """The target of this process's JIT. Numba fixes it when it first compiles, so it is read once."""
    from qcompiler.runtime.target_record import recorded

    known = recorded()
    if known is not None:
        return Target(known.cpu, known.features)
    from llvmlite import binding
    from numba.core import config
    from numba.core.codegen import get_host_cpu_features

    name: str | None = vars(config)["CPU_NAME"]
    flags: str | None = vars(config)["CPU_FEATURES"]
    cpu = name or str(binding.get_host_cpu_name())
    features = _CPU_FEATURES.get(cpu, frozenset())
    if flags is None:  # Numba then uses the host's features, even under another CPU's name
        flags, features = str(get_host_cpu_features()), frozenset()
    each = flags.split(",")
    features |= _baseline() | {flag[1:] for flag in each if flag.startswith("+")}
    features -= {flag[1:] for flag in each if flag.startswith("-")}
    return Target(cpu, features)


def check_runs_here(isa: str) -> None:
    """Raise UsageError if this process cannot run the JIT's target or the primitive `isa`: it would end the process.

    Their code can be generated and looked at all the same.
    """
    if isa == "amx" and not amx_is_permitted():
        raise UsageError("the operating system does not let this process use AMX; choose a lesser primitive")
    lacking = target().features & _KNOWN_FEATURES - _host_features()
    if lacking:
        raise UsageError(
            f"the JIT target {target().cpu!r} has {', '.join(sorted(lacking))}, which this CPU lacks; "
            "unset NUMBA_CPU_NAME and NUMBA_CPU_FEATURES or choose a lesser target"
        )


@cache
def _host_features() -> frozenset[str]:
    from qcompiler.runtime.target_record import recorded

    known = recorded()
    if known is not None:
        return known.host_features
    from llvmlite import binding

    return _baseline() | {name for name, present in binding.get_host_cpu_features().items() if present}


def _baseline() -> frozenset[str]:
    return _BASELINES.get(platform.machine(), frozenset())


@cache
def machine() -> "TargetRecord":
    """The target and this machine, kept for later processes."""
    from qcompiler.runtime.target_record import TargetRecord, keep, recorded

    known = recorded()
    if known is not None:
        return known
    import llvmlite
    import numba
    from llvmlite import binding

    versions = numba.__version__, llvmlite.__version__
    found = TargetRecord(target().cpu, target().features, str(binding.get_host_cpu_name()), _host_features(), versions)
    keep(found)
    return found


@cache
def amx_is_permitted() -> bool:
    """Whether this CPU has AMX and the operating system lets this process use it."""
    return "amx-int8" in _host_features() and request_amx()


def request_amx() -> bool:
    """Ask the operating system for AMX on a CPU that has it; children inherit the permission.

    See "Using XSTATE features in user space applications" in Linux's documentation.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    request_permission, tile_data = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    arch_prctl = 158
    refused: int = ctypes.CDLL(None).syscall(ctypes.c_long(arch_prctl), request_permission, tile_data)
    return refused == 0


def available() -> tuple[str, ...]:
    """Primitives that the target can run, best first."""
    return tuple(isa for isa in REQUIREMENTS if target().supports(isa) and (isa != "amx" or amx_is_permitted()))


def current() -> str:
    """The primitive in use: `QCOMPILER_ISA` if set, else the best that the target has.

    Raises:
        UsageError: `QCOMPILER_ISA` is not the name of a primitive, or the target cannot run it.
    """
    wanted = os.environ.get(ENVIRONMENT_VARIABLE, "")
    if not wanted:
        return available()[0]
    if wanted not in REQUIREMENTS:
        raise UsageError(f"{ENVIRONMENT_VARIABLE}={wanted!r} is unknown; choose one of {', '.join(REQUIREMENTS)}")
    if not target().supports(wanted):
        raise UsageError(
            f"{ENVIRONMENT_VARIABLE}={wanted}: the JIT target {target().cpu!r} ({platform.machine()}) lacks "
            f"{_missing(wanted)}; unset it or choose one of {', '.join(available())}"
        )
    if wanted not in available():
        raise UsageError(
            f"{ENVIRONMENT_VARIABLE}={wanted}: the operating system does not let this process use it; "
            f"unset it or choose one of {', '.join(available())}"
        )
    return wanted


_emitted: ContextVar[str] = ContextVar("emitted")


@contextmanager
def emitting(isa: str) -> Iterator[None]:
    """While a kernel is compiled: the primitive that it is for."""
    token = _emitted.set(isa)
    try:
        yield
    finally:
        _emitted.reset(token)


def emitted() -> str:
    """The primitive of the kernel that is being compiled; for code generators.

    Raises:
        InternalError: the kernel was not registered with `per_isa=True`.
    """
    if _emitted.get() == ANY:
        raise InternalError("a kernel whose code depends on the primitive must be registered with per_isa=True")
    return _emitted.get()


def _missing(isa: str) -> str:
    return " or ".join(", ".join(sorted(needed - target().features)) for needed in REQUIREMENTS[isa])
