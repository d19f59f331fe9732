"""From a trained PyTorch image classifier to the smallest, fastest honest ONNX file."""

__version__ = "0.1.0"
