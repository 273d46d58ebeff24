"""Other runtimes' int8 models, for benchmarks and the accuracy table. Needs ``pip install 'qcompiler[bench]'``."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Runner = Callable[[Mapping[str, Array]], list[Array]]

_WITHOUT_BF16 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"}


def quantize_with_onnxruntime(
    model: Path, calibration: Mapping[str, Array], output: Path, *, unsigned_activations: bool = False
) -> None:
    """Write onnxruntime's QDQ model: `quantize_static`, int8 weights per channel, MinMax, one sample at a time."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime is not annotated
        def __init__(self) -> None:
            count = len(next(iter(calibration.values())))
            self.rows: Iterator[dict[str, Array]] = iter(
                {name: array[i : i + 1] for name, array in calibration.items()} for i in range(count)
            )

        def get_next(self) -> dict[str, Array] | None:
            return next(self.rows, None)

    prepared = output.with_suffix(".prepared.onnx")
    quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(output),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8 if unsigned_activations else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
    )
    prepared.unlink()


def quantize_with_nncf(model: Path, calibration: Mapping[str, Array], output: Path) -> None:
    """Write OpenVINO's int8 model (``.xml``, weights beside it): NNCF's defaults, one sample at a time."""
    import nncf
    import openvino

    count = len(next(iter(calibration.values())))
    samples = [{name: array[i : i + 1] for name, array in calibration.items()} for i in range(count)]
    network = openvino.Core().read_model(str(model))
    openvino.save_model(nncf.quantize(network, nncf.Dataset(samples), subset_size=count), str(output))


def onnxruntime_runner(model: Path, threads: int, *, optimize: bool = True) -> Runner:
    """Runs an ONNX model; without `optimize` QDQ pairs stay float, so that no integer kernel can saturate."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return lambda feeds: [np.asarray(a) for a in session.run(None, dict(feeds))]


def openvino_precision() -> dict[str, str]:
    """What to add to OpenVINO's defaults under `ONEDNN_MAX_CPU_ISA`.

    It chooses bf16 for float layers by what the CPU has, not by what the variable allows, and then runs them four times
    slower than in f32, or not at all. A CPU with no more than the variable names would get f32.
    """
    is_without = os.environ.get("ONEDNN_MAX_CPU_ISA", "").upper() in _WITHOUT_BF16
    return {"INFERENCE_PRECISION_HINT": "f32"} if is_without else {}


def openvino_runner(model: Path, threads: int, batch: Mapping[str, Array]) -> Runner:
    """Runs an ONNX model (QDQ: as int8) in OpenVINO, latency hint, shapes fixed to those of `batch`."""
    import openvino

    core = openvino.Core()
    network = core.read_model(str(model))
    network.reshape({name: list(array.shape) for name, array in batch.items()})
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"} | openvino_precision()
    compiled = core.compile_model(network, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feeds: Mapping[str, Array]) -> list[Array]:
        results = request.infer(dict(feeds), share_inputs=True)
        return [np.asarray(results[output]) for output in compiled.outputs]

    return run
