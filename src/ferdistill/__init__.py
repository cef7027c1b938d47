"""Distil several teachers into one small student, with soft labels bound to their images."""

import os

__version__ = "0.1.0"

# ONNX Runtime's packages send usage data to its maker, on Linux and macOS too, unless this stands here before they are
# imported. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
