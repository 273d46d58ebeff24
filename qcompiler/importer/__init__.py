"""ONNX models to float graphs. All that knows protobuf is in here.

A model is read and checked (`model_file`, `external_data`, `tensors`), then each node is handed to the entry of its
op (`linear`, `pooling`, `movement`, `elementwise`), or, where all operands are known at import, to an evaluator of
`shape_arithmetic`.
"""

from qcompiler.importer.graph_import import import_model

__all__ = ["import_model"]
