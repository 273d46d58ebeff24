import ctypes
from pathlib import Path

import pytest
from llvmlite import binding
from numba.core.registry import cpu_target

from qcompiler.runtime import isa, lowering, walk_loops  # noqa: F401  # registers the kernels
from qcompiler.runtime.kernels import images
from qcompiler.runtime.kernels.registry import kernel_named

_ = cpu_target.target_context  # LLVM finds the symbols of the C library once it has an execution engine

pytestmark = pytest.mark.skipif(not images.SUPPORTED, reason="images are for Linux on x86-64")

MODULE = """
target triple = "{triple}"
@table = internal constant [4 x i64] [i64 3, i64 5, i64 7, i64 11]
declare ptr @memcpy(ptr, ptr, i64)
declare double @{function}(double)
declare void @PyErr_Clear()

define void @copies(ptr %out, i64 %n) {{
  %ignored = call ptr @memcpy(ptr %out, ptr @table, i64 %n)
  ret void
}}
{more}
"""


def compiled(more: str = "", function: str = "unused") -> bytes:
    """An object as Numba has LLVM make it: addresses of 8 bytes everywhere."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    triple = binding.get_process_triple()
    machine = binding.Target.from_triple(triple).create_target_machine(reloc="static", codemodel="large", opt=2)
    source = MODULE.format(triple=triple, more=more, function=function)
    code: bytes = machine.emit_object(binding.parse_assembly(source))
    return code


def linked(code: bytes, entry: str, *, may_raise: bool = True) -> images.Image:
    return images.link(code, entry, address_of=binding.address_of_symbol, may_raise=may_raise)


def test_linked_code_finds_its_constants_and_the_c_library(tmp_path: Path):
    image = linked(compiled(), "copies")
    assert set(image.imports) == {"memcpy"}
    assert len(image.own) == 1
    images.write(tmp_path / "x.image", image.to_bytes())
    read = images.read(tmp_path / "x.image")
    assert read == image
    address = images.load(read)
    out = (ctypes.c_int64 * 4)()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)(ctypes.addressof(out), 24)
    assert list(out) == [3, 5, 7, 0]
    assert images.load(image) == address  # one mapping for the process, however many sessions
    assert [path.name for path in tmp_path.iterdir()] == ["x.image"]


def test_a_file_that_was_damaged_is_none(tmp_path: Path):
    path, content = tmp_path / "x.image", linked(compiled(), "copies").to_bytes()
    assert images.read(path) is None
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place])
        assert images.read(path) is None
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert images.read(path) is None


def test_a_refusal_is_read_back(tmp_path: Path):
    (tmp_path / "x.image").write_bytes(images.refusal("calls out"))
    assert images.read(tmp_path / "x.image") == "calls out"


@pytest.mark.parametrize(
    ("more", "function", "message"),
    [
        (f"@mutable = global i64 {value} define void @f() {{ store i64 3, ptr @mutable ret void }}", "x", r"section \.")
        for value in (0, 1)
    ]
    + [
        (
            "define double @f() { %v = call double @nowhere(double 1.0) ret double %v }",
            "nowhere",
            "'nowhere' is not in",
        ),
        ("define void @f() { call void @PyErr_Clear() ret void }", "x", "may raise: it has a call of PyErr_Clear"),
        ("", "x", "no symbol 'f'"),
    ],
)
def test_what_an_image_cannot_have_is_refused(more: str, function: str, message: str):
    with pytest.raises(images.CannotLinkError, match=message):
        linked(compiled(more, function), "f")


def test_reports_of_exceptions_are_left_out_where_there_are_none():
    more = "define i64 @f(i64 %x) { %c = icmp eq i64 %x, 0 br i1 %c, label %a, label %b a: call void @PyErr_Clear() "
    image = linked(compiled(more + "ret i64 1 b: ret i64 %x }"), "f", may_raise=False)
    assert "PyErr_Clear" not in image.imports
    assert ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(images.load(image))(7) == 7


def test_other_machines_objects_and_relocations_are_refused():
    code = compiled()
    with pytest.raises(images.CannotLinkError, match="not ELF64"):
        linked(b"\x7fELF\x01\x01" + code[6:], "copies")
    sections = images._Sections(code)
    (relocations,) = (s for s in sections.all if s.kind == 4 and ".eh_frame" not in sections.name(s))
    changed = bytearray(code)
    changed[relocations.offset + 8] = 2  # R_X86_64_PC32
    with pytest.raises(images.CannotLinkError, match="relocation 2 is unknown"):
        linked(bytes(changed), "copies")


def test_a_function_that_the_c_library_lacks_is_an_error():
    image = images.Image(bytes(16), 0, (), {"no_such_function": (0,)})
    with pytest.raises(OSError, match="no_such_function"):
        images.load(image)


@pytest.mark.parametrize(
    "kernel", [walk_loops.CALL, walk_loops.HELP, *map(kernel_named, ("int_conv", "int_depthwise", "pad"))]
)
def test_kernels_have_images(kernel):
    image = images.link(
        kernel.compiled_for(isa.current())._library._get_compiled_object(),
        kernel.compiled_for(isa.current()).native_name,
        address_of=binding.address_of_symbol,
        may_raise=False,
    )
    assert set(image.imports) <= {"memcpy", "memset", "memmove", "clock_gettime", "sched_yield", "sched_getcpu"}
