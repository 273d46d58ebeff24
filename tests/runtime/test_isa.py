import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import config

from qcompiler.errors import UsageError
from qcompiler.runtime import isa, target_record
from qcompiler.runtime.codegen.primitives import primitive_named
from qcompiler.runtime.kernels import convolution  # noqa: F401  # registers the kernel
from qcompiler.runtime.kernels.registry import kernel_named
from tests.runtime.processes import Done, started_ahead

X86 = platform.machine() in ("x86_64", "AMD64")

ASSEMBLY = """
import sys
from qcompiler.runtime import isa
from qcompiler.runtime.kernels import convolution, depthwise, products, tables
from qcompiler.runtime.kernels.registry import kernel_named

for name in ("int_conv", "int_depthwise", "int_product", "int_product_pack", "int_lut8"):
    print("===")
    print(kernel_named(name).compiled_for(isa.current())._library.get_asm_str())
"""


@pytest.fixture
def jit_target(monkeypatch: pytest.MonkeyPatch):
    """A function that sets the CPU name and features that Numba was told."""
    target_record.recorded.cache_clear()  # what was read before Numba was imported would be believed

    def choose(name: str | None, features: str | None) -> None:
        monkeypatch.setitem(vars(config), "CPU_NAME", name)
        monkeypatch.setitem(vars(config), "CPU_FEATURES", features)
        isa.target.cache_clear()

    monkeypatch.delenv(isa.ENVIRONMENT_VARIABLE, raising=False)
    yield choose
    monkeypatch.undo()
    isa.target.cache_clear()


@pytest.mark.parametrize(
    ("name", "features", "best"),
    [
        ("generic", "", "generic"),
        ("haswell", "", "avx2"),
        ("znver3", "", "avx2"),
        ("skylake-avx512", "", "avx512"),
        ("cascadelake", "", "vnni512"),
        ("icelake-server", "-avx512vnni", "avx512"),
        ("alderlake", "", "vnni256"),
        ("haswell", "+avx512f,+avx512bw", "avx512"),
        ("some-cpu-of-the-future", "", "generic"),
        ("some-cpu-of-the-future", "+avx2", "avx2"),
    ],
)
def test_default_is_the_best_of_the_target(jit_target, name: str, features: str, best: str):
    jit_target(name, features)
    assert isa.current() == best


@pytest.mark.parametrize(
    ("name", "features", "best"),
    [
        ("generic", "", "neon"),
        ("cortex-a72", "", "neon"),
        ("neoverse-n1", "", "neon_dot"),
        ("neoverse-v2", "", "neon_i8mm"),
        ("neoverse-v2", "-i8mm", "neon_dot"),
        ("cortex-a72", "+dotprod", "neon_dot"),
    ],
)
@pytest.mark.parametrize("machine", ["aarch64", "arm64"])
def test_default_is_the_best_of_an_arm_target(
    jit_target, monkeypatch, machine: str, name: str, features: str, best: str
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    jit_target(name, features)
    assert isa.current() == best
    assert isa.available()[-2:] == ("neon", "generic")


def test_arm_primitive_that_the_target_lacks_is_refused(jit_target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    jit_target("neoverse-n1", "")
    monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, "neon_i8mm")
    with pytest.raises(UsageError, match=r"'neoverse-n1' \(aarch64\) lacks i8mm; .*neon_dot, neon, generic"):
        isa.current()
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    jit_target("haswell", "")
    with pytest.raises(UsageError, match=r"'haswell' \(x86_64\) lacks i8mm, neon; .*choose one of avx2, generic"):
        isa.current()


def test_name_alone_keeps_the_features_of_the_host(jit_target):
    jit_target(None, None)
    host = isa.target().features
    jit_target("generic", None)
    assert isa.target() == isa.Target("generic", host)


def test_avx_that_numba_was_told_to_avoid_is_not_used(jit_target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(vars(config), "ENABLE_AVX", 0)  # NUMBA_ENABLE_AVX=0
    jit_target(None, None)
    assert isa.available() == ("generic",)


def test_every_lesser_primitive_may_be_chosen(jit_target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isa, "amx_is_permitted", lambda: True)
    jit_target("sapphirerapids", "")
    assert isa.available() == ("amx", "vnni512", "vnni256", "avx512", "avx2", "generic")
    for name in isa.available():
        monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, name)
        assert isa.current() == name


def test_primitive_that_the_target_lacks_is_refused(jit_target, monkeypatch: pytest.MonkeyPatch):
    jit_target("haswell", "")
    monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, "vnni512")
    with pytest.raises(UsageError, match=r"'haswell'.*lacks avx512bw, avx512f, avx512vnni; .*avx2, generic"):
        isa.current()


def test_amx_is_not_used_without_permission(jit_target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isa, "amx_is_permitted", lambda: False)
    jit_target("sapphirerapids", "")
    assert isa.current() == "vnni512"
    monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, "amx")
    with pytest.raises(UsageError, match=r"QCOMPILER_ISA=amx: the operating system .*choose one of vnni512, "):
        isa.current()
    with pytest.raises(UsageError, match="does not let this process use AMX"):
        kernel_named("int_conv").address_for("amx")


def test_unknown_primitive_is_refused(jit_target, monkeypatch: pytest.MonkeyPatch):
    jit_target("haswell", "")
    monkeypatch.setenv(isa.ENVIRONMENT_VARIABLE, "avx1024")
    with pytest.raises(UsageError, match="'avx1024' is unknown; choose one of amx, vnni512, vnni256"):
        isa.current()


def test_a_target_beyond_this_cpu_is_refused(jit_target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isa, "_host_features", lambda: frozenset({"avx2"}))
    jit_target("haswell", "")
    isa.check_runs_here("avx2")
    jit_target("cascadelake", "")
    with pytest.raises(UsageError, match="'cascadelake' has avx512bw, avx512f, avx512vl, avx512vnni, which this CPU"):
        kernel_named("int_conv").address_for("generic")


def environment_of(cpu: str, chosen: str) -> dict[str, str]:
    """Of a process for another target; the cache is that of all tests."""
    return {
        **os.environ,
        "NUMBA_CPU_NAME": cpu,
        "NUMBA_CPU_FEATURES": "",
        isa.ENVIRONMENT_VARIABLE: chosen,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


INSTRUCTIONS: dict[str, tuple[str, str, str | None]] = {
    "sapphirerapids-amx": (r"tdpbusd\s|vpdpbusd\s.*%zmm", r"vperm[it]2b\s.*%zmm", None),
    "icelake-server-vnni512": (r"vpdpbusd\s.*%zmm", r"vperm[it]2b\s.*%zmm", None),
    "cascadelake-vnni512": (r"vpdpbusd\s.*%zmm", r"vpshufb\s.*%zmm", r"vperm[it]2b"),
    "cascadelake-vnni256": (r"vpdpbusd\s.*%ymm", r"vpshufb\s.*%ymm", None),
    "alderlake-vnni256": (r"vpdpbusd\s.*%ymm", r"vpshufb\s.*%ymm", r"%zmm"),
    "skylake-avx512-avx512": (r"vpmaddwd\s.*%zmm", r"vpshufb\s.*%zmm", r"vpdpbusd|vperm[it]2b"),
    "haswell-avx2": (r"vpmaddwd\s.*%ymm", r"vpshufb\s.*%ymm", r"vpdpbusd|%zmm"),
    "generic-generic": (r"\spmaddwd\s.*%xmm", r"", r"vpdpbusd|%[yz]mm"),
}
"""CPU and primitive -> expressions for its dot product, its look-up, and what it must not have."""


@pytest.fixture(scope="module")
def assembly_of(request: pytest.FixtureRequest):
    """Runs `ASSEMBLY` for ``cpu-primitive``: the target's code is only looked at, this CPU may be unable to run it."""

    def start(target: str) -> Done:
        cpu, _, chosen = target.rpartition("-")
        command = [sys.executable, "-c", ASSEMBLY]
        return subprocess.run(command, env=environment_of(cpu, chosen), capture_output=True, text=True, check=True)

    with started_ahead(request, start) as run:
        yield run


@pytest.mark.skipif(not X86, reason="x86 instructions")
@pytest.mark.parametrize("target", INSTRUCTIONS)
def test_instructions_of_each_primitive(assembly_of, target: str):
    dot, look_up, forbidden = INSTRUCTIONS[target]
    assembly = assembly_of(target).stdout
    dots = len(re.findall(dot, assembly))
    assert dots >= 24
    assert len(re.findall(look_up, assembly)) >= 20
    if "pmaddwd" not in dot:  # LLVM makes some of the `vpdpwssd` that add residuals
        assert len(re.findall("pmaddwd", assembly)) < dots / 2
    assert forbidden is None or not re.search(forbidden, assembly)
    assert "vpdpbusds" not in assembly  # it saturates
    _, convolution_code, *other_code = assembly.split("===")
    has_narrow_form = primitive_named(target.rpartition("-")[2]).narrow is not None  # see `test_pair_proof`
    assert ("pmaddubsw" in convolution_code) == has_narrow_form
    assert not any("pmaddubsw" in code for code in other_code)


def test_what_kernels_share_is_the_same_for_each_primitive(tmp_path: Path):
    """Functions that kernels call are compiled once in a process, for the first primitive that wants them."""
    tests = Path(__file__).with_name("test_convolution_kernels.py")
    code = (
        "import sys, pytest; from qcompiler.runtime.kernels import convolution;"
        " from qcompiler.runtime.kernels.registry import kernel_named;"
        " kernel_named('int_conv').compiled_for('avx512-emulated');"
        f" sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(tests)!r}, '-k', 'each_choice']))"
    )
    environment = {
        **os.environ,
        "QCOMPILER_CACHE_DIR": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not X86, reason="x86 CPU names")
def test_kernels_of_the_baseline_are_exact():
    """What runs on any x86-64, compiled without the features of this CPU."""
    tests = [str(Path(__file__).with_name(f"test_{kind}_kernels.py")) for kind in ("convolution", "product")]
    command = [sys.executable, "-m", "pytest", "-q", "-o", "pythonpath=", *tests, "-k", "not emulated"]
    environment = environment_of("generic", "generic")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
