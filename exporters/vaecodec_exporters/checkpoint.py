"""Write a trained checkpoint as a codec file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vaecodec.artifact import Kind, Metadata
from vaecodec.errors import ExportError
from vaecodec.graph.nodes import Precision
from vaecodec.interface import FloatArray
from vaecodec.provenance import versions
from vaecodec_exporters.graph import PARITY_BOUNDS, CodecWeights, ResidualWeights, write_codec
from vaecodec_training.checkpoint import Checkpoint, load_checkpoint
from vaecodec_training.model import ResidualMap
from vaecodec_training.recipe import LatentMetric


def export_checkpoint(
    run: str | os.PathLike[str] | Checkpoint,
    path: str | os.PathLike[str],
    *,
    precision: str = Precision.FLOAT32,
    overwrite: bool = False,
) -> Metadata:
    """Convert the best checkpoint of a training run to one ONNX file.

    Args:
        run: the folder that ``vaecodec train`` wrote, or the checkpoint that training returned.
        path: the target.
        precision: of the weights and the products; one of :class:`~vaecodec_exporters.graph.Precision`.
        overwrite: replace another codec file at ``path``.

    Returns:
        The metadata that was written; its ``codec_id`` is known only to the file.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        CheckpointError: the folder holds no usable checkpoint.
        ExportError: the graph does not compute what torch computes; or there is no such precision; or float16 or int8
            is asked for, and the metric is not cosine; or int8, and the encoder is linear. No file is written.
    """
    if precision not in [*Precision]:
        raise ExportError(f"expected precision to be one of {', '.join(Precision)}, got {precision!r}")
    precision = Precision(precision)
    checkpoint = run if isinstance(run, Checkpoint) else load_checkpoint(Path(run))
    model = checkpoint.model.eval()
    metadata = Metadata(
        kind=Kind(checkpoint.kind),
        dim=model.dim,
        code_dim=model.code_dim,
        metric=checkpoint.metric,
        latent_metric=model.latent_metric,
        nested_dims=tuple(checkpoint.nested_dims),
        embedder=checkpoint.embedder,
        calibration=checkpoint.calibration,
        provenance={
            **checkpoint.provenance,
            "versions": versions(),
            **(
                {"precision": str(precision), "parity_bound": PARITY_BOUNDS[precision]}
                if precision is not Precision.FLOAT32
                else {}
            ),
        },
    )
    weights = CodecWeights(
        encoder=residual_weights(model.encoder),
        decoder=residual_weights(model.decoder),
        query_encoder=residual_weights(model.query_encoder) if model.query_encoder is not None else None,
        root_latents=model.form is LatentMetric.ROOT,
    )
    references = {
        "embedding": _in_numpy(model.encode),
        "query": _in_numpy(model.encode_queries),
        "code": _in_numpy(model.decode),
    }
    write_codec(path, weights, metadata, references, precision, overwrite=overwrite)
    return metadata


def residual_weights(residual: ResidualMap) -> ResidualWeights:
    """Return a trained map as the weights of a graph."""
    linear, bias = _array(residual.linear.weight), _array(residual.linear.bias)
    if residual.hidden is None or residual.output is None:
        return ResidualWeights(linear, bias)
    return ResidualWeights(
        linear=linear,
        bias=bias + _array(residual.output.bias),
        hidden=_array(residual.hidden.weight),
        hidden_bias=_array(residual.hidden.bias),
        output=_array(residual.output.weight),
    )


def _array(parameter: nn.Parameter | torch.Tensor) -> FloatArray:
    array: FloatArray = parameter.detach().cpu().numpy().astype(np.float32)
    return array


def _in_numpy(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[FloatArray], FloatArray]:
    def apply(batch: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return _array(function(torch.from_numpy(batch)))

    return apply
