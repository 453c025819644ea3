"""Compress embedding vectors with a learned codec, kept in one ONNX file."""

import os

# Before onnxruntime is loaded: from 1.29 on it keeps a device id under the home folder and reports to its maker.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from vaecodec.artifact import Kind, Metadata
from vaecodec.codec import Codec
from vaecodec.errors import VaecodecError
from vaecodec.interface import Metric, VectorCodec
from vaecodec.linear import LinearCodec, LinearKind, fit_linear

__all__ = [
    "Codec",
    "Kind",
    "LinearCodec",
    "LinearKind",
    "Metadata",
    "Metric",
    "VaecodecError",
    "VectorCodec",
    "fit_linear",
]

__version__ = "0.1.0"
