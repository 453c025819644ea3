"""Fit, write and read what a codec file holds beside its weights: codes, the meaning of scores, drift statistics.

:meth:`CodecCalibration.fit` fits all three on training data. The file keeps them as JSON in its metadata, which
docs/format.md specifies. :func:`codes_of`, :func:`scores_of` and :func:`reference_of` read them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from vaecodec.artifact import Metadata, stored_values
from vaecodec.codes import Calibration
from vaecodec.drift import FEWEST_REFERENCE, Encoded, Reference
from vaecodec.errors import InvalidArtifactError, InvalidVectorsError, NotCalibratedError
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.scores import ScoreCalibration, calibrate_scores

_LOG = logging.getLogger(__name__)

# Keys in the file's JSON document `vaecodec.calibration`.
_CODES, _SCORES, _DRIFT = "codes", "score", "drift"

# Number of searches that the calibration of scores is fitted on. Each returns the 100 nearest documents.
_SCORED_QUERIES = 512
_SCORED_ROWS = 8_192


class EncoderDecoder(Protocol):
    """Define the maps of a codec, whether they are in a file yet or not."""

    @property
    def metric(self) -> Metric:
        """Return how the embeddings are compared."""
        ...

    @property
    def latent_metric(self) -> Metric:
        """Return how the latents are compared."""
        ...

    def encode(self, vectors: Any) -> FloatArray:
        """Map documents to latents."""
        ...

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Map queries to latents."""
        ...

    def decode(self, codes: Any) -> FloatArray:
        """Map latents to reconstructions."""
        ...


@dataclass(frozen=True, eq=False)
class CalibrationRows:
    """Hold the rows that a codec is calibrated on, never the rows of a user's index.

    Each array is float32 (n, dim) and checked. Under cosine its rows are of unit norm.

    Attributes:
        documents: training documents, for the codes; at least two.
        searched: documents that the queries search, for the scores; at least two.
        queries: what searches them; at least one.
        unseen: documents that no weight was fitted to, for drift; fewer than 64 leave drift out.
        unseen_queries: queries that no weight was fitted to; may be empty.
        training_queries: for the codes; may be empty.
    """

    documents: FloatArray
    searched: FloatArray
    queries: FloatArray
    unseen: FloatArray
    unseen_queries: FloatArray
    training_queries: FloatArray

    @classmethod
    def of_documents(cls, documents: FloatArray, unseen: FloatArray) -> CalibrationRows:
        """Make calibration rows without queries: some of the documents search the others."""
        some = documents[:: max(1, -(-len(documents) // _SCORED_ROWS))]
        asking = slice(None, None, max(2, len(some) // _SCORED_QUERIES))
        searched = np.delete(some, asking, axis=0)
        return cls(documents, searched, some[asking], unseen, unseen[:0], documents[:0])


@dataclass(frozen=True, eq=False)
class CodecCalibration:
    """Hold what a codec file holds beside its weights. A part that is None is not in the file.

    Attributes:
        codes: what int8 and smaller codes need to know of the latents.
        scores: what a score between latents says of the score between the embeddings.
        drift: statistics of vectors that the codec was not trained on, which new vectors are compared with.
    """

    codes: Calibration | None = None
    scores: ScoreCalibration | None = None
    drift: Reference | None = None

    @classmethod
    def fit(
        cls, codec: EncoderDecoder, rows: CalibrationRows, *, memory: int = 10, staged: bool = True
    ) -> CodecCalibration:
        """Fit every part that the rows are enough for; with 10,000 documents or more it takes about a minute.

        Args:
            codec: its maps.
            rows: what to fit on.
            memory: bits of the trellis's state, 8, 10 or 12.
            staged: fit the stages before the trellis, which take nearly all of that minute.

        Raises:
            InvalidVectorsError: fewer than two documents.
        """
        _LOG.debug("fitting the codes")
        latents = codec.encode(rows.documents)
        codes = Calibration.fit(latents, codec.latent_metric, memory=memory)
        if staged:
            asked = codec.encode_queries(rows.training_queries) if len(rows.training_queries) else None
            codes = codes.with_residual(latents, asked)
        return cls(
            codes=codes,
            scores=_fit_scores(codec, rows),
            drift=_fit_reference(codec, rows),
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values for the file's metadata."""
        parts = {_CODES: self.codes, _SCORES: self.scores, _DRIFT: self.drift}
        return {key: part.to_json() for key, part in parts.items() if part is not None}


def check_calibration(metadata: Metadata) -> None:
    """Read every part that a codec file holds, so that what is malformed is refused when the file is loaded.

    Raises:
        InvalidArtifactError: a part is malformed, or for latents of another width.
    """
    stored = metadata.calibration
    widths = {}
    if _CODES in stored:
        with stored_values("calibration for codes"):
            codes = Calibration.from_json(stored[_CODES])
            if codes.metric is not metadata.latent_metric:
                raise ValueError(f"it is for latents compared by {codes.metric}, not by {metadata.latent_metric}")
            widths[_CODES] = len(codes.mean)
    if _SCORES in stored:
        with stored_values("calibration of scores"):
            widths[_SCORES] = ScoreCalibration.from_json(stored[_SCORES]).code_dim
    if _DRIFT in stored:
        with stored_values("drift statistics"):
            widths[_DRIFT] = Reference.from_json(stored[_DRIFT]).code_dim
    for part, width in widths.items():
        if width != metadata.code_dim:
            raise InvalidArtifactError(
                f"the codec file's calibration {part!r} is for {width} latents, its graph has {metadata.code_dim}; "
                "export it again"
            )


def fitted_to_queries(stored: Mapping[str, Any], codec: EncoderDecoder, rows: CalibrationRows) -> dict[str, Any]:
    """Return the calibration of a file with what depends on queries fitted anew: scores, and the queries' statistics.

    Args:
        stored: the calibration of the file.
        codec: its maps, with another one for queries.
        rows: what to fit on.
    """
    fitted = dict(stored)
    if _SCORES in stored:
        scores = _fit_scores(codec, rows)
        fitted.pop(_SCORES)
        if scores is not None:
            fitted[_SCORES] = scores.to_json()
    if _DRIFT in stored:
        queries = Encoded.encode(codec.encode_queries, codec.decode, rows.unseen_queries)
        fitted[_DRIFT] = Reference.from_json(stored[_DRIFT]).with_queries(queries).to_json()
    return fitted


def codes_of(codec: VectorCodec) -> Calibration:
    """Read the calibration for codes that a codec's file holds.

    Raises:
        NotCalibratedError: the file holds none.
        InvalidArtifactError: what it holds is malformed.
    """
    stored = _stored(codec, _CODES)
    if stored is None:
        raise NotCalibratedError(
            "this codec file holds no calibration for codes; write it again with vaecodec linear, fit or export, "
            "or with export_linear(fit_linear(...))"
        )
    with stored_values("calibration for codes"):
        return Calibration.from_json(stored).prefix(codec.code_dim)


def scores_of(codec: VectorCodec) -> ScoreCalibration:
    """Read the calibration of scores that a codec's file holds.

    Raises:
        NotCalibratedError: the file holds none, or one for another width of the latents.
        InvalidArtifactError: what it holds is malformed.
    """
    stored = _stored(codec, _SCORES)
    with stored_values("calibration of scores"):
        if stored is None or stored["code_dim"] != codec.code_dim:
            raise NotCalibratedError(
                f"expected a codec file with a calibration of scores for {codec.code_dim} dimensions, got "
                f"{_found(stored)}; load the file at its full width, train and export the codec again, or do without "
                "calibrated scores"
            )
        return ScoreCalibration.from_json(stored)


def reference_of(codec: VectorCodec) -> Reference:
    """Read the drift reference that a codec's file holds.

    Raises:
        NotCalibratedError: the file holds none, or one for another width of the latents.
        InvalidArtifactError: what it holds is malformed.
    """
    stored = _stored(codec, _DRIFT)
    with stored_values("drift statistics"):
        if stored is None or stored["code_dim"] != codec.code_dim:
            raise NotCalibratedError(
                f"expected a codec file with drift statistics for {codec.code_dim} dimensions, got {_found(stored)}; "
                "load the file at its full width, or train or fit the codec again, holding out at least "
                f"{FEWEST_REFERENCE} rows"
            )
        return Reference.from_json(stored)


def _fit_scores(codec: EncoderDecoder, rows: CalibrationRows) -> ScoreCalibration | None:
    """Fit the scores; None for L2, and where scores do not vary together, so that such data still gets a codec."""
    if codec.metric is Metric.L2:
        return None
    queries = rows.queries[:_SCORED_QUERIES]
    latents, query_latents = codec.encode(rows.searched), codec.encode_queries(queries)
    try:
        return calibrate_scores(rows.searched, queries, latents, query_latents, codec.latent_metric)
    except InvalidVectorsError:
        return None


def _fit_reference(codec: EncoderDecoder, rows: CalibrationRows) -> Reference | None:
    if len(rows.unseen) < FEWEST_REFERENCE:
        return None
    documents = Encoded.encode(codec.encode, codec.decode, rows.unseen)
    queries = None
    if len(rows.unseen_queries):
        queries = Encoded.encode(codec.encode_queries, codec.decode, rows.unseen_queries)
    return Reference.fit(documents, queries, codec.metric, codec.latent_metric)


def _stored(codec: VectorCodec, key: str) -> Mapping[str, Any] | None:
    metadata = getattr(codec, "metadata", None)
    found: Mapping[str, Any] | None = metadata.calibration.get(key) if metadata is not None else None
    return found


def _found(stored: Mapping[str, Any] | None) -> str:
    return "none" if stored is None else f"one for {stored['code_dim']} dimensions"
