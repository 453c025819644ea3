"""Read the weights of a codec file back, to write a file that shares some."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from vaecodec.errors import ExportError
from vaecodec_exporters.graph import CodecWeights, ResidualWeights


def read_weights(data: bytes) -> CodecWeights:
    """Return a codec's maps, from which the same file can be built again.

    Args:
        data: a codec file that was verified.

    Raises:
        ExportError: the file is not in float32. Others were rounded, or compute other bits where maps are added.
    """
    model = onnx.load_from_string(data)
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    if "row_levels" in stored or stored["encoder.linear"].dtype != np.float32:
        raise ExportError("expected a codec file in float32, got a smaller precision; take the float32 export")
    return CodecWeights(
        encoder=_map(stored, "encoder"),
        decoder=_map(stored, "decoder"),
        query_encoder=_map(stored, "query_encoder") if "query_encoder.linear" in stored else None,
        root_latents=any(node.op_type == "Sqrt" for node in model.graph.node),
    )


def _map(stored: dict[str, np.ndarray[Any, Any]], name: str) -> ResidualWeights:
    parts = {
        part: np.array(stored[f"{name}.{part}"], np.float32)
        for part in ("linear", "bias", "hidden", "hidden_bias", "output")
        if f"{name}.{part}" in stored
    }
    return ResidualWeights(**parts)
