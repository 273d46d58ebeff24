"""Assembly of one intrinsic of the code generators for any CPU that LLVM knows, without Numba's kernels around it."""

from collections.abc import Sequence
from typing import Any

from llvmlite import binding, ir
from numba import types

from qcompiler.runtime import isa

ARM, X86 = "aarch64-unknown-linux-gnu", "x86_64-unknown-linux-gnu"


class _Context:
    """What an intrinsic that returns nothing asks of Numba."""

    @staticmethod
    def get_dummy_value() -> None:
        return None


def assembly_of(
    intrinsic: Any, parameters: Sequence[types.Type], isa_name: str, *, triple: str, cpu: str, first: int | None = None
) -> str:
    """One function that does what the intrinsic does, for a primitive and a CPU; `first` fixes its first argument."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    kinds = [_kind_of(p) for p in parameters]
    module = ir.Module()
    module.triple = triple
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), "code")
    builder = ir.IRBuilder(function.append_basic_block())
    arguments = list(function.args)
    if first is not None:
        arguments[0] = ir.Constant(kinds[0], first)
    _, generate = intrinsic.made._defn(None, *parameters)
    with isa.emitting(isa_name):
        generate(_Context, builder, None, arguments)
    builder.ret_void()
    machine: Any = binding.Target.from_triple(triple).create_target_machine(cpu=cpu, opt=3)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    passes = binding.create_pass_builder(machine, binding.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    text: str = machine.emit_assembly(parsed)
    return text


def _kind_of(parameter: types.Type) -> ir.Type:
    if isinstance(parameter, types.UniTuple):
        return ir.ArrayType(_kind_of(parameter.dtype), parameter.count)
    return ir.FloatType() if parameter == types.float32 else ir.IntType(64)
