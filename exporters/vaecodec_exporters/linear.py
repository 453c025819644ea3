"""Fit a linear codec by numpy, and write it in the format of the learned ones."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from vaecodec.artifact import Kind, Metadata
from vaecodec.codes import Calibration
from vaecodec.drift import FEWEST_REFERENCE, MOST_REFERENCE, Encoded, Reference
from vaecodec.drift import KEY as DRIFT_KEY
from vaecodec.errors import InvalidVectorsError
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec, LinearKind, fit_linear
from vaecodec.provenance import made_now
from vaecodec.scores import KEY as SCORE_KEY
from vaecodec.scores import ScoreCalibration, fit_score_calibration
from vaecodec.sources import Rows, VectorSource
from vaecodec.vectors import as_vectors
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec
from vaecodec_exporters.output import refuse_existing

_CALIBRATION_ROWS = 50_000
# Searched, and searching, for the calibration of scores: as in training.
_SCORED_ROWS, _SCORED_QUERIES = 8_192, 512
# One row in so many is not fitted on, for the statistics that drift is found by.
_HOLD_OUT = 20


def fit_and_export_linear(
    source: VectorSource,
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
        source: the embeddings to fit on; read block by block.
        path: the target.
        dim: width of the latents.
        kind: which reduction.
        metric: how the embeddings are compared.
        embedder: name of the embedding model, kept in the file.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        InvalidVectorsError: the source is empty or has a bad row.
        InvalidDimensionError: ``dim`` is out of range.
        ParityError: the graph does not compute what numpy computes; no file is written.
    """
    refuse_existing(path, overwrite=overwrite)
    rows = source.rows or 0
    hold_out = max(_HOLD_OUT, rows // MOST_REFERENCE) if rows >= _HOLD_OUT * FEWEST_REFERENCE else None
    codec = fit_linear(source, dim, kind=kind, metric=metric, embedder=embedder, hold_out=hold_out)
    latents = np.concatenate([*map(codec.encode, every_nth(source, max(1, rows // _CALIBRATION_ROWS)))])
    figures, reference = {"rows": source.rows}, None
    if hold_out is not None:
        unseen = as_vectors(np.concatenate([*every_nth(source, hold_out)]), codec.dim, metric)
        figures["held_out_rows"] = len(unseen)
        encoded = Encoded.encode(codec.encode, codec.decode, unseen)
        reference = Reference.fit(encoded, None, codec.metric, codec.latent_metric)
    export_linear(
        codec,
        path,
        provenance={"data": figures},
        calibration=Calibration.fit(latents, codec.latent_metric),
        scores=_score_calibration(codec, np.concatenate([*every_nth(source, max(1, rows // _SCORED_ROWS))])),
        reference=reference,
        overwrite=overwrite,
    )
    return codec


def every_nth(source: VectorSource, step: int) -> Iterator[Rows]:
    """Read rows 0, step, 2 step and so on of a source, block by block."""
    first = 0
    for block in source.blocks():
        yield block[-first % step :: step]
        first += len(block)


def _score_calibration(codec: LinearCodec, rows: Rows) -> ScoreCalibration | None:
    """Calibrate the scores of latents; some of the rows search the others.

    None for L2, and where scores do not vary together: rows without neighbours still get their codec.
    """
    if codec.metric is Metric.L2:
        return None
    asking = slice(None, None, max(2, len(rows) // _SCORED_QUERIES))
    try:
        return fit_score_calibration(codec, np.delete(rows, asking, axis=0), rows[asking])
    except InvalidVectorsError:
        return None


def export_linear(
    codec: LinearCodec,
    path: str | os.PathLike[str],
    *,
    provenance: dict[str, Any] | None = None,
    calibration: Calibration | None = None,
    scores: ScoreCalibration | None = None,
    reference: Reference | None = None,
    overwrite: bool = False,
) -> None:
    """Write a linear codec as one ONNX file; every width below its own is a nested codec of it.

    Args:
        codec: as :func:`vaecodec.fit_linear` returned it.
        path: the target.
        provenance: JSON values kept in the file, such as what the codec was fitted on.
        calibration: fitted on the codec's latents; without it the file offers latents but no codes.
        scores: fitted on training data; without it clients cannot estimate original scores.
        reference: statistics of vectors that the codec was not fitted on; without it nobody can find drift.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        ParityError: the graph does not compute what numpy computes; no file is written.
    """
    decode_mean = codec.mean if codec.latent_metric is not Metric.COSINE else np.zeros_like(codec.mean)
    own_query_map = not np.array_equal(codec.mean, codec.query_mean)
    whole = codec.kind is LinearKind.TRUNCATION and codec.code_dim == codec.dim
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
            nested_dims=tuple(range(1, codec.code_dim + 1)),
            embedder=codec.embedder,
            calibration={
                **({"codes": calibration.to_json()} if calibration is not None else {}),
                **({SCORE_KEY: scores.to_json()} if scores is not None else {}),
                **({DRIFT_KEY: reference.to_json()} if reference is not None else {}),
            },
            provenance={
                "linear": str(codec.kind),
                **made_now(),
                **(provenance or {}),
            },
        ),
        {"embedding": codec.encode, "query": codec.encode_queries, "code": codec.decode},
        overwrite=overwrite,
    )
