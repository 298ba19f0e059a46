"""Models as ONNX graphs, for this package and for other ones."""
