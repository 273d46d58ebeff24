"""`InferenceSession`: runs a compiled model with the interface of `onnxruntime.InferenceSession`."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from qcompiler.errors import RuntimeInputError, UsageError
from qcompiler.ir import AnyArray, Dim, DType, Value
from qcompiler.model import CompiledModel, load

_PROVIDER = "CPUExecutionProvider"
_ONNX_TYPES = {
    DType.F32: "tensor(float)",
    DType.F16: "tensor(float16)",
    DType.U8: "tensor(uint8)",
    DType.S8: "tensor(int8)",
    DType.S16: "tensor(int16)",
    DType.S32: "tensor(int32)",
    DType.S64: "tensor(int64)",
    DType.BOOL: "tensor(bool)",
    DType.S4: "tensor(int4)",
}


@dataclass(frozen=True, slots=True)
class NodeArg:
    """Name, shape (ints and symbol names) and ONNX type such as ``tensor(float)`` of an input or output."""

    name: str
    shape: list[Dim]
    type: str


class SessionOptions(Protocol):
    """The part of onnxruntime's session options that is honoured."""

    intra_op_num_threads: int


class InferenceSession:
    """A compiled model, ready to run.

    Args:
        path_or_bytes: a ``.qc`` artifact or its bytes.
        sess_options: an object with `intra_op_num_threads`, such as onnxruntime's; 0 means the default.
        providers: if given, must name ``CPUExecutionProvider``; entries may be (name, options) pairs.
        threads: threads for one call; wins over `sess_options`. None: the usable physical cores.

    Raises:
        ArtifactError: the artifact is damaged, altered or none at all.
        UsageError: the providers have no CPU, or the thread count is not positive.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes | bytearray | memoryview,
        sess_options: SessionOptions | None = None,
        providers: Sequence[str | tuple[str, Mapping[str, Any]]] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        listed = [providers] if isinstance(providers, str) else providers or [_PROVIDER]
        names = [p if isinstance(p, str) else p[0] for p in listed]
        if _PROVIDER not in names:
            raise UsageError(f"providers {names} have no {_PROVIDER}, the only one there is; add it or leave them out")
        if threads is None and sess_options is not None:
            threads = getattr(sess_options, "intra_op_num_threads", 0) or None
        self._model: CompiledModel = load(path_or_bytes)
        self._session = self._model.session(threads)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, npt.ArrayLike],
        run_options: object = None,  # noqa: ARG002  # onnxruntime callers pass it by position; nothing in it applies
    ) -> list[AnyArray]:
        """The named outputs (all, in order, for None or an empty list) for one batch of inputs.

        Inputs are arrays of the dtypes that `get_inputs` tells; lists are converted to them.

        Raises:
            RuntimeInputError: an unknown output, a missing or unknown input, or a wrong dtype or shape.
        """
        if isinstance(output_names, str):
            raise RuntimeInputError(
                f"output_names is the string {output_names!r}; give a list of names, or None for all"
            )
        outputs = self._session.run({name: self._array(name, given) for name, given in input_feed.items()})
        wanted = list(output_names or outputs)
        for name in wanted:
            if name not in outputs:
                raise RuntimeInputError(f"there is no output {name!r}; the model has {', '.join(map(repr, outputs))}")
        return [outputs[name] for name in wanted]

    def _array(self, name: str, given: npt.ArrayLike) -> AnyArray:
        """A feed as an array; a list gets the dtype of the input, anything else keeps its own."""
        value = self._model.graph.get_value(name)
        if not isinstance(given, list | tuple) or value is None:
            return np.asarray(given)
        try:
            return np.array(given, value.type.dtype.numpy)
        except (ValueError, TypeError, OverflowError) as error:
            raise RuntimeInputError(f"input {name!r} is no {value.type.dtype.numpy} array: {error}") from error

    def get_inputs(self) -> list[NodeArg]:
        """The inputs, in order."""
        return [_node_arg(value.name, value) for value in self._model.graph.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs, in order."""
        graph = self._model.graph
        return [_node_arg(name, value) for name, value in zip(graph.output_names, graph.outputs, strict=True)]

    def get_providers(self) -> list[str]:
        """The execution providers in use: the CPU."""
        return [_PROVIDER]


def _node_arg(name: str, value: Value) -> NodeArg:
    return NodeArg(name, list(value.type.shape), _ONNX_TYPES[value.type.dtype])
