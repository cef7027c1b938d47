"""The student as files that run without torch: ONNX graph, precisions, model card."""
