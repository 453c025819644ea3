"""Write a linear codec, fitted by numpy, in the format of the learned ones."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from vaecodec.artifact import Kind, Metadata
from vaecodec.codes import Calibration
from vaecodec.drift import KEY as DRIFT_KEY
from vaecodec.drift import Reference
from vaecodec.interface import Metric
from vaecodec.linear import LinearCodec, LinearKind
from vaecodec.provenance import made_now
from vaecodec.scores import KEY as SCORE_KEY
from vaecodec.scores import ScoreCalibration
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec


def export_linear(
    codec: LinearCodec,
    path: str | os.PathLike[str],
    *,
    provenance: dict[str, Any] | None = None,
    calibration: Calibration | None = None,
    scores: ScoreCalibration | None = None,
    reference: Reference | None = None,
) -> None:
    """Write a linear codec as one ONNX file; every width below its own is a nested codec of it.

    Args:
        codec: as :func:`vaecodec.fit_linear` returned it.
        path: the target; replaced atomically when it exists.
        provenance: JSON values kept in the file, such as what the codec was fitted on.
        calibration: fitted on the codec's latents; without it the file offers latents but no codes.
        scores: fitted on training data; without it clients cannot estimate original scores.
        reference: statistics of vectors that the codec was not fitted on; without it nobody can find drift.

    Raises:
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
    )
