"""What the compiled integer kernels are made of, read off their LLVM IR."""

import re
from typing import Any

import numba
import pytest
from numba import types

from qcompiler.runtime import isa, lowering  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels.registry import kernel_named, registered_kernels

BORDERS = [
    "int_dequantize8",
    "int_dequantize16",
    "int_dequantize32",
    "int_quantize8",
    "int_quantize16",
    "int_quantize_interleaved",
]
INTEGER = [
    *("concat", "copy", "int_add", "int_add16", "int_add8", "int_average_pool", "int_div", "int_lut16", "int_mean"),
    *("int_mul", "int_mul8", "int_prelu", "int_prelu8", "int_rescale", "int_softmax", "int_softmax8", "interleave3"),
    *("max_pool", "max_pool8", "pad", "transpose"),
]
FLOAT = re.compile(r"\b(half|float|double|f(add|sub|mul|div|cmp|ptosi|ptoui|neg)|[su]itofp)\b")


def body_of(name: str) -> str:
    """The IR of a kernel's own function."""
    body: str
    (body,) = re.findall(rf"^define [^\n]*{name}\w*\(ptr .*?^}}", module_of(name), re.MULTILINE | re.DOTALL)
    return body


def module_of(name: str) -> str:
    """The IR of a kernel with all that it calls, compiled anew: code from the cache comes without it."""
    signature = types.void(types.int64, types.int64, types.int64)
    options: dict[str, Any] = {"boundscheck": False}
    compiled: Any = numba.cfunc(signature, error_model="numpy", **options)(kernel_named(name).function)
    code: str = compiled._library.get_llvm_str()
    return code


@pytest.mark.parametrize("name", INTEGER)
def test_integer_kernels_compute_with_integers_only_and_cannot_fail(name):
    body = body_of(name)
    assert not FLOAT.search(body)
    assert re.findall(r"^  ret (.*)$", body, re.MULTILINE) == ["i32 0"]
    assert set(re.findall(r"call [^@]*@([\w.]+)", body)) <= set(re.findall(r"@(llvm\.[\w.]+)", body))


@pytest.mark.parametrize("name", ["int_conv", "int_depthwise", "int_product", "int_product_pack", "int_lut8"])
def test_tiles_and_their_epilogue_compute_with_integers_only(name):
    with isa.emitting(isa.current()):
        code = module_of(name)
    assert name in code
    assert not FLOAT.search(code)


@pytest.mark.parametrize("name", BORDERS)
def test_borders_cannot_fail_and_call_nothing(name):
    body = body_of(name)
    assert FLOAT.search(body)
    assert re.findall(r"^  ret (.*)$", body, re.MULTILINE) == ["i32 0"]
    assert set(re.findall(r"call [^@]*@([\w.]+)", body)) <= set(re.findall(r"@(llvm\.[\w.]+)", body))


@pytest.mark.parametrize("name", [name for name in registered_kernels() if name.startswith("float_")])
def test_float_kernels_are_compiled_without_fast_math(name):
    with isa.emitting(isa.current()):
        code = module_of(name)
    assert not re.search(r"\b(fast|reassoc|nnan|ninf|nsz|arcp|afn)\b", code)
