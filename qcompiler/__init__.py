"""qcompiler: an ahead-of-time compiler from ONNX to integer-only programs."""
