"""Constants by what they hold."""

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from qcompiler.ir.types import AnyArray, DType, TensorType, format_shape


def content_digest(tensor_type: TensorType, data: AnyArray) -> str:
    """The first 128 bits of the SHA-256, in hexadecimal, of dtype, shape and elements (row-major, little endian)."""
    sha = hashlib.sha256(f"{tensor_type.dtype}{format_shape(tensor_type.shape)}\n".encode())
    sha.update(np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1).data)
    return sha.hexdigest()[:32]


class ContentStore(Mapping[str, AnyArray]):
    """Arrays by the digests that it has computed itself, so that nobody need compute them again; read-only."""

    def __init__(self) -> None:
        self._arrays: dict[str, AnyArray] = {}
        self._dtypes: dict[str, DType] = {}

    def add(self, dtype: DType, array: AnyArray) -> None:
        """Add an array, which must not change any more."""
        array.flags.writeable = False
        digest = content_digest(TensorType(dtype, array.shape), array)
        self._arrays[digest], self._dtypes[digest] = array, dtype

    def __getitem__(self, digest: str) -> AnyArray:
        return self._arrays[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def dtype_of(self, digest: str) -> DType:
        """The dtype that the digest is of."""
        return self._dtypes[digest]
