"""From torch to ONNX: export, graph passes, calibration, quantization."""
