"""Memory whose last byte is followed by a page that may not be touched."""

import ctypes
import mmap

import numpy as np

from qcompiler.ir import AnyArray

GUARD_BYTE = 0x5A
_LIBC = ctypes.CDLL(None)


def guarded(nbytes: int, itemsize: int) -> tuple[AnyArray, AnyArray]:
    """Guard bytes, then u8[nbytes], then a page that no one may touch: who reads or writes beyond ends the process.

    The end is no more than rounded up to the element, so that the start is as badly aligned as a caller's may be.
    """
    room = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = np.frombuffer(mmap.mmap(-1, room + mmap.PAGESIZE), np.uint8)
    if hasattr(_LIBC, "mprotect"):
        assert _LIBC.mprotect(ctypes.c_void_p(whole.ctypes.data + room), mmap.PAGESIZE, 0) == 0
    start = (room - nbytes) // itemsize * itemsize
    whole[:start] = GUARD_BYTE
    return whole[:start], whole[start : start + nbytes]
