"""The tiles compiled for Arm CPUs: their assembly is looked at, whatever CPU runs the tests.

That their packing, tails and epilogue are right is tested in plain IR, see `test_convolution_kernels`.
"""

import re
from functools import cache
from typing import Any

import pytest
from numba import types

from qcompiler.runtime.codegen import depthwise_columns, depthwise_tile, float_tile, tile
from tests.runtime.assembly import ARM, assembly_of

CPUS = {"neon": "cortex-a72", "neon_dot": "neoverse-n1", "neon_i8mm": "neoverse-v2", "generic": "cortex-a53"}
INTEGER: dict[str, tuple[Any, list[types.Type]]] = {
    "matrix": (tile.matrix_tiles, [types.int64] * 16),
    "depthwise": (depthwise_tile.depthwise_row, [types.int64] * 10),
    "columns": (
        depthwise_columns.depthwise_columns,
        [types.int64, types.UniTuple(types.int64, 4), *[types.int64] * 11],
    ),
}
FLOAT: dict[str, tuple[Any, list[types.Type]]] = {
    "product": (float_tile.product_tile, [types.int64] * 12 + [types.float32] * 2),
    "window": (float_tile.window_tile, [types.int64] * 8 + [types.float32] * 3),
}


@cache
def code_of(name: str, isa_name: str) -> str:
    """The assembly of a tile for the CPU that stands for the primitive."""
    intrinsic, parameters = (INTEGER | FLOAT)[name]
    return assembly_of(intrinsic, parameters, isa_name, triple=ARM, cpu=CPUS[isa_name])


@pytest.mark.parametrize(
    ("isa_name", "dot", "others"),
    [
        ("neon_i8mm", r"\busdot\b", r"\b[su]dot\b"),
        ("neon_dot", r"\bsdot\b", r"\b(us|u)dot\b"),
        ("neon", r"\bsmull2?\b", r"\b(us|s|u)dot\b"),
        ("generic", r"\bsmull2?\b", r"\b(us|s|u)dot\b"),
    ],
)
def test_instructions_of_each_primitive(isa_name: str, dot: str, others: str):
    for name, least in (("matrix", 34), ("columns", 100), ("depthwise", 4)):
        code = code_of(name, isa_name)
        assert len(re.findall(dot, code)) >= least
        assert not re.search(others, code)
        assert {"sqxtn", "sqxtn2", "sqxtun", "sqadd", "sshl"} <= set(re.findall(r"^\t(\w+)", code, re.MULTILINE))
        assert bool(re.search(r"\bsqdmulh\b", code)) == (isa_name != "generic")
    pairs = re.findall(r"\b(sadalp|saddlp)\b", code_of("matrix", isa_name))
    assert bool(pairs) == (isa_name == "neon")


@pytest.mark.parametrize("isa_name", CPUS)
@pytest.mark.parametrize("name", INTEGER)
def test_integer_tiles_are_vectors_throughout(isa_name: str, name: str):
    code = code_of(name, isa_name)
    assert not re.search(r"^\tblr?\s", code, re.MULTILINE)  # calls
    assert not re.search(r"^\t[us]mov\s", code, re.MULTILINE)  # of single elements to scalar registers
    assert not re.search(r"^\t(f(add|mul|div|sub|mla|cvt\w*)|[su]cvtf)\s", code, re.MULTILINE)


@pytest.mark.parametrize("isa_name", CPUS)
@pytest.mark.parametrize("name", FLOAT)
def test_float_tiles_are_fused_vectors(isa_name: str, name: str):
    code = code_of(name, isa_name)
    assert re.search(r"^\tfmla\s+v\d+\.4s", code, re.MULTILINE)
    assert not re.search(r"^\tblr?\s", code, re.MULTILINE)
    assert not re.search(r"^\tf(add|mul|madd|sub)\s", code, re.MULTILINE)


def innermost(code: str, instruction: str) -> list[str]:
    """The lines of the loop without a jump in it that has the instruction most often."""
    blocks = re.split(r"^\.LBB\w+:.*\n", code, flags=re.MULTILINE)
    loops = [block.split("\n\tb.lt")[0].splitlines() for block in blocks if "\n\tb.lt" in block]
    return max(loops, key=lambda loop: len(re.findall(instruction, "\n".join(loop))))


@pytest.mark.parametrize(("isa_name", "dot"), [("neon_i8mm", "usdot"), ("neon_dot", "sdot")])
def test_sums_of_the_largest_tile_stay_in_registers(isa_name: str, dot: str):
    loop = innermost(code_of("matrix", isa_name), rf"\b{dot}\b")
    assert sum(f"\t{dot}\t" in line for line in loop) == 24
    assert not [line for line in loop if re.match(r"\tst", line) or re.search(r"\[sp\b", line)]
