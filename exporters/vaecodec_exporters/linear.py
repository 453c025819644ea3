"""Fit a linear codec by numpy, and write it in the format of the learned ones."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vaecodec.artifact import Kind, Metadata
from vaecodec.calibration import CodecCalibration
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec, LinearKind, fit_linear, hold_out_for, refuse_width
from vaecodec.provenance import made_now
from vaecodec.sources import VectorSource, open_source
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec
from vaecodec_exporters.output import refuse_existing


def fit_and_export_linear(
    source: VectorSource | str,
    path: str | os.PathLike[str],
    dim: int,
    *,
    kind: LinearKind = LinearKind.SVD,
    metric: Metric = Metric.COSINE,
    embedder: str = "",
    overwrite: bool = False,
) -> LinearCodec:
    """Fit a linear codec on a source of vectors, and write it as one ONNX file with all calibrations.

    Args:
        source: the embeddings to fit on, read block by block: a source, or a file or address that
            :func:`vaecodec.sources.open_source` reads.
        path: the target.
        dim: width of the latents.
        kind: which reduction.
        metric: how the embeddings are compared.
        embedder: name of the embedding model, kept in the file.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        SourceError: the source cannot be read.
        InvalidVectorsError: the source is empty or has a bad row.
        InvalidDimensionError: ``dim`` is out of range.
        ExportError: the graph does not compute what numpy computes; no file is written.
    """
    refuse_existing(path, overwrite=overwrite)
    if isinstance(source, str):
        source = open_source(source)
    refuse_width(dim, source.dim)
    hold_out = hold_out_for(source.rows or 0)
    codec = fit_linear(source, dim, kind=kind, metric=metric, embedder=embedder, hold_out=hold_out)
    export_linear(codec, path, overwrite=overwrite)
    return codec


def export_linear(
    codec: LinearCodec,
    path: str | os.PathLike[str],
    *,
    provenance: dict[str, Any] | None = None,
    calibration: CodecCalibration | None = None,
    nested: bool = True,
    overwrite: bool = False,
) -> None:
    """Write a linear codec as one ONNX file; every width below its own is a nested codec of it.

    Args:
        codec: as :func:`vaecodec.fit_linear` returned it.
        path: the target.
        provenance: JSON values kept in the file beside what the codec itself knows of its origin.
        calibration: what the file holds beside its weights; by default fitted on the rows that the codec keeps.
        nested: False for a rotated codec, whose latents are worth something only together.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        ExportError: the graph does not compute what numpy computes; no file is written.
    """
    decode_mean = codec.mean if codec.latent_metric is not Metric.COSINE else np.zeros_like(codec.mean)
    own_query_map = not np.array_equal(codec.mean, codec.query_mean)
    whole = nested and codec.kind is LinearKind.TRUNCATION and codec.code_dim == codec.dim
    write_codec(
        path,
        CodecWeights(
            encoder=ResidualWeights(codec.components, -codec.components @ codec.mean),
            decoder=ResidualWeights(codec.components.T, decode_mean),
            query_encoder=ResidualWeights(codec.components, -codec.components @ codec.query_mean)
            if own_query_map
            else None,
        ),
        Metadata(
            kind=Kind.IDENTITY if whole else Kind.LINEAR,
            dim=codec.dim,
            code_dim=codec.code_dim,
            metric=codec.metric,
            latent_metric=codec.latent_metric,
            nested_dims=tuple(range(1, codec.code_dim + 1)) if nested else (),
            embedder=codec.embedder,
            calibration=(calibration or _calibration(codec)).to_json(),
            provenance={
                "linear": str(codec.kind),
                **_data(codec),
                **made_now(),
                **(provenance or {}),
            },
        ),
        {"embedding": codec.encode, "query": codec.encode_queries, "code": codec.decode},
        overwrite=overwrite,
    )


def _calibration(codec: LinearCodec) -> CodecCalibration:
    """Fit what can be fitted on the rows that the codec keeps."""
    if codec.fitted_on is None or len(codec.fitted_on.kept.documents) < 2:
        return CodecCalibration()
    return CodecCalibration.fit(codec, codec.fitted_on.kept)


def _data(codec: LinearCodec) -> dict[str, Any]:
    if codec.fitted_on is None:
        return {}
    return {"data": {"rows": codec.fitted_on.rows, "held_out_rows": codec.fitted_on.held_out_rows}}
