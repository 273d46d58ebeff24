"""The tiles compiled for Arm CPUs: their assembly is looked at, whatever CPU runs the tests.

That their packing, tails and epilogue are right is tested in plain IR, see `test_convolution_kernels`.
"""

import re
from functools import cache
from typing import Any

import pytest
from llvmlite import binding, ir
from numba import types

from qcompiler.runtime import isa
from qcompiler.runtime.codegen import depthwise_columns, depthwise_tile, float_tile, tile

TRIPLE = "aarch64-unknown-linux-gnu"
CPUS = {"neon": "cortex-a72", "neon_dot": "neoverse-n1", "neon_i8mm": "neoverse-v2", "generic": "cortex-a53"}
INTEGER = {
    "matrix": (tile.matrix_tiles, [types.int64] * 16),
    "depthwise": (depthwise_tile.depthwise_row, [types.int64] * 10),
    "columns": (depthwise_columns.depthwise_columns, [types.int64] * 14),
}
FLOAT = {
    "product": (float_tile.product_tile, [types.int64] * 10 + [types.float32] * 2),
    "window": (float_tile.window_tile, [types.int64] * 8 + [types.float32] * 3),
}


class _Context:
    """What an intrinsic that returns nothing asks of Numba."""

    @staticmethod
    def get_dummy_value() -> None:
        return None


@cache
def assembly_of(name: str, isa_name: str) -> str:
    """One function that does what the intrinsic does, for the CPU that stands for the primitive."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    intrinsic, parameters = (INTEGER | FLOAT)[name]
    kinds = [ir.FloatType() if p == types.float32 else ir.IntType(64) for p in parameters]
    module = ir.Module()
    module.triple = TRIPLE
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    builder = ir.IRBuilder(function.append_basic_block())
    _, generate = intrinsic._defn(None, *parameters)
    with isa.emitting(isa_name):
        generate(_Context, builder, None, list(function.args))
    builder.ret_void()
    machine: Any = binding.Target.from_triple(TRIPLE).create_target_machine(cpu=CPUS[isa_name], opt=3)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    text: str = machine.emit_assembly(parsed)
    return text


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
        code = assembly_of(name, isa_name)
        assert len(re.findall(dot, code)) >= least
        assert not re.search(others, code)
        assert {"sqxtn", "sqxtn2", "sqxtun", "sqadd", "sshl"} <= set(re.findall(r"^\t(\w+)", code, re.MULTILINE))
        assert bool(re.search(r"\bsqdmulh\b", code)) == (isa_name != "generic")


@pytest.mark.parametrize("isa_name", CPUS)
@pytest.mark.parametrize("name", INTEGER)
def test_integer_tiles_are_vectors_throughout(isa_name: str, name: str):
    code = assembly_of(name, isa_name)
    assert not re.search(r"^\tblr?\s", code, re.MULTILINE)  # calls
    assert not re.search(r"^\t[us]mov\s", code, re.MULTILINE)  # of single elements to scalar registers
    assert not re.search(r"^\t(f(add|mul|div|sub|mla|cvt\w*)|[su]cvtf)\s", code, re.MULTILINE)


@pytest.mark.parametrize("isa_name", CPUS)
@pytest.mark.parametrize("name", FLOAT)
def test_float_tiles_are_fused_vectors(isa_name: str, name: str):
    code = assembly_of(name, isa_name)
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
    loop = innermost(assembly_of("matrix", isa_name), rf"\b{dot}\b")
    assert sum(f"\t{dot}\t" in line for line in loop) == 24
    assert not [line for line in loop if re.match(r"\tst", line) or re.search(r"\[sp\b", line)]
