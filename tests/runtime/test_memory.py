"""Raw loads and stores, through one kernel that copies an element of each type."""

import ctypes
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from qcompiler.runtime.kernels.memory import (
    copy_bytes,
    fill_bytes,
    load_f32,
    load_s8,
    load_s16,
    load_s32,
    load_s64,
    load_u8,
    store_f32,
    store_s8,
    store_s16,
    store_s32,
    store_s64,
    store_u8,
    word_loader,
)
from qcompiler.runtime.kernels.registry import kernel, kernel_named

GROUPS = ("u8", "s8", "s16"), ("s32", "s64", "f32", "wide", "at")
_load_words = word_loader(GROUPS)


@kernel("test_memory.load_and_store", words=(*GROUPS[0], *GROUPS[1]))
def load_and_store(operands: int, share: int, _shares: int) -> None:
    """wide[i] = the element `at` of the i-th array, then that plus `share` to the next element."""
    (u8, s8, s16), (s32, s64, f32, wide, at) = _load_words(operands)
    store_s64(wide, 0, load_u8(u8, at))
    store_s64(wide, 1, load_s8(s8, at))
    store_s64(wide, 2, load_s16(s16, at))
    store_s64(wide, 3, load_s32(s32, at))
    store_s64(wide, 4, load_s64(s64, at))
    store_u8(u8, at + 1, load_s64(wide, 0) + share)
    store_s8(s8, at + 1, load_s64(wide, 1) + share)
    store_s16(s16, at + 1, load_s64(wide, 2) + share)
    store_s32(s32, at + 1, load_s64(wide, 3) + share)
    store_s64(s64, at + 1, load_s64(wide, 4) + share)
    store_f32(f32, at + 1, load_f32(f32, at))


@kernel("test_memory.copy_and_fill", words=("source", "target", "count", "value"))
def copy_and_fill(operands: int, _share: int, _shares: int) -> None:
    target, count = load_s64(operands, 1), load_s64(operands, 2)
    copy_bytes(target, load_s64(operands, 0), count)
    fill_bytes(target + count, load_s64(operands, 3), count)


def call(name: str, words: list[int], share: int = 0) -> None:
    operands = np.array(words, np.int64)
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(kernel_named(name).address)
    function(operands.ctypes.data, share, 1)


@pytest.mark.parametrize("extreme", ["min", "max"])
def test_every_type_is_widened_and_wraps(extreme: str):
    integers: list[npt.NDArray[Any]] = [
        np.zeros(5, dtype) for dtype in (np.uint8, np.int8, np.int16, np.int32, np.int64)
    ]
    for array in integers:
        array[2] = getattr(np.iinfo(array.dtype), extreme)
    real = np.array([0, 0, -1.5, 0, 0], np.float32)
    wide = np.zeros(5, np.int64)
    call("test_memory.load_and_store", [a.ctypes.data for a in (*integers, real, wide)] + [2], share=1)
    assert wide.tolist() == [getattr(np.iinfo(a.dtype), extreme) for a in integers]
    for array in integers:
        wrapped = np.iinfo(array.dtype).min if extreme == "max" else array[2] + array.dtype.type(1)
        assert array.tolist() == [0, 0, array[2], wrapped, 0]
    assert real.tolist() == [0, 0, -1.5, -1.5, 0]


def test_bytes_are_copied_and_filled():
    source, target = np.arange(40, dtype=np.uint8), np.full(100, 9, np.uint8)
    call("test_memory.copy_and_fill", [source.ctypes.data, target.ctypes.data, 37, 256 + 5])
    assert target.tolist() == [*range(37), *[5] * 37, *[9] * 26]
