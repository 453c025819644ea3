"""Merge the results of two embedding models, while an old one is being replaced document by document.

Documents that are embedded again are searched by the new model's query, all others by the old model's. Scores of two
models are not on one scale: a cosine of .6 may be a good match for one and a poor one for the other. :class:`Merger`
brings them to one, in the way that is best on texts embedded by both.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MalformedSourceError, UnusableDataError
from vaecodec.evaluation import Figures, IdArray, exact_search, ndcg, similarities
from vaecodec.files import write_atomically
from vaecodec.files.stored_json import parse_object
from vaecodec.interface import FloatArray, Metric
from vaecodec.sources.arrays import NpzFile

FEWEST_DOCUMENTS = 500
SHARES = (0.25, 0.5, 0.75)

_FORMAT_VERSION = 1
_DEPTH = 10
# Each query is compared with this many documents to learn its scale. 2,000 do as well as 4,000; 500 cost .003 of nDCG.
_REFERENCE_ROWS = 2_000
# A query's single best match among these documents is a matter of chance; the mean of its ten best is not.
_BEST = 10
_QUANTILES = 1 - np.logspace(0, -6, 200)
_DRAWS = 2
_CHUNK = 1_000_000


class Scale(StrEnum):
    """Name how the scores of two models are brought to one scale."""

    RAW = "raw"
    """As they are."""
    QUANTILE = "quantile"
    """An old score becomes the new score that as large a share of all pairs exceeds."""
    Z = "z"
    """For each query, in standard deviations above its mean score of the reference documents."""
    BEST = "best"
    """For each query, in standard deviations above its mean score of its ten best reference documents."""


class Embedded(NamedTuple):
    """Hold the same texts embedded by both models, row by row, in the form that is searched: latents where those are.

    Attributes:
        old: float32 (n, old width).
        new: float32 (n, new width).
    """

    old: FloatArray
    new: FloatArray

    def rows(self, chosen: NDArray[Any]) -> Embedded:
        """Return some of the texts."""
        return Embedded(self.old[chosen], self.new[chosen])


@dataclass(frozen=True, eq=False)
class Merger:
    """Bring the scores of an old and a new embedding model to one scale.

    Attributes:
        scale: how.
        reference: documents embedded by both models.
        metrics: how the old and the new model's vectors are compared.
        quantiles: old and new scores that the same shares of pairs do not exceed, float32 (2, m).
        figures: for each scale the mean nDCG@10 by which it was chosen.
    """

    scale: Scale
    reference: Embedded
    metrics: tuple[Metric, Metric]
    quantiles: FloatArray
    figures: dict[str, float]

    @classmethod
    def fit(
        cls,
        documents: Embedded,
        queries: Embedded | None = None,
        relevant: Sequence[Any] | NDArray[Any] | None = None,
        *,
        metrics: tuple[Metric, Metric] = (Metric.COSINE, Metric.COSINE),
        seed: int = 0,
    ) -> Merger:
        """Choose the scale by which merged results are best, with a quarter, half and three quarters done.

        Args:
            documents: at least 500, embedded by both models.
            queries: embedded by both models; by default one document in ten asks, and is not searched.
            relevant: for each query the rows of the documents that answer it; without it the one that the new model
                finds first. The scales are compared by nDCG@10.
            metrics: how the old and the new model's vectors are compared.
            seed: random seed.

        Raises:
            UnusableDataError: there are too few documents, or the two models' rows differ in number.
        """
        _check(documents, queries)
        random = np.random.default_rng(seed)
        if queries is None:
            asking = np.arange(len(documents.old)) % 10 == 0
            queries, documents, relevant = documents.rows(asking), documents.rows(~asking), None
        if relevant is None:
            relevant = exact_search(documents.new, queries.new, 1, metrics[1])[0]
        answers = np.zeros(len(documents.old), bool)
        answers[np.concatenate([np.atleast_1d(rows) for rows in relevant]).astype(np.int64)] = True
        drawn = random.permutation(len(documents.old))
        others = drawn[~answers[drawn]]
        reference = others[: min(_REFERENCE_ROWS, max(len(others) // 2, _BEST))]
        searched = np.setdiff1d(np.arange(len(documents.old)), reference)
        position = np.full(len(documents.old), -1)
        position[searched] = np.arange(len(searched))
        wanted = [position[np.atleast_1d(rows).astype(np.int64)] for rows in relevant]
        held = documents.rows(reference)
        draft = cls(Scale.RAW, held, metrics, _quantiles(held, queries, metrics), {})
        figures = {
            str(scale): float(
                np.mean(
                    [
                        replace(draft, scale=scale)
                        .judge(documents.rows(searched), queries, wanted, share, seed=draw)
                        .mean()
                        for share in SHARES
                        for draw in range(_DRAWS)
                    ]
                )
            )
            for scale in Scale
        }
        chosen = Scale(max(figures, key=lambda name: figures[name]))
        whole = documents.rows(drawn[:_REFERENCE_ROWS])
        return cls(chosen, whole, metrics, draft.quantiles, figures)

    def old(self, query: FloatArray, scores: FloatArray) -> FloatArray:
        """Bring scores of the old model to the common scale.

        Args:
            query: float32 (n, old width).
            scores: float32 (n, k), larger is nearer; of L2 the negated squared distance.
        """
        if self.scale is Scale.QUANTILE:
            low, high = self.quantiles
            beyond = np.maximum(scores - low[-1], 0) + np.minimum(scores - low[0], 0)
            return np.asarray(np.interp(scores, low, high) + beyond, np.float32)
        return self._scaled(query, scores, self.reference.old, self.metrics[0])

    def new(self, query: FloatArray, scores: FloatArray) -> FloatArray:
        """Bring scores of the new model to the common scale; see :meth:`old`."""
        return (
            scores if self.scale is Scale.QUANTILE else self._scaled(query, scores, self.reference.new, self.metrics[1])
        )

    def _scaled(self, query: FloatArray, scores: FloatArray, reference: FloatArray, metric: Metric) -> FloatArray:
        if self.scale is Scale.RAW:
            return scores
        known = similarities(query, reference, metric)
        spread = np.maximum(known.std(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        if self.scale is Scale.BEST:
            known = np.partition(known, -_BEST, axis=1)[:, -_BEST:]
        return np.asarray((scores - known.mean(axis=1, keepdims=True)) / spread, np.float32)

    def rank(self, queries: Embedded, scores: Embedded) -> tuple[IdArray, FloatArray]:
        """Rank the results of both models together.

        Args:
            queries: float32 (n, old width) and (n, new width).
            scores: of the results of each model, float32 (n, a) and (n, b), as :meth:`old` takes them; minus infinity
                for no result.

        Returns:
            Places among the old results followed by the new ones, int64 (n, a + b), best first; and their scores on
            the common scale, float32 (n, a + b).
        """
        common = np.concatenate([self.old(queries.old, scores.old), self.new(queries.new, scores.new)], axis=1)
        order = np.argsort(-common, axis=1, kind="stable")
        return np.asarray(order, np.int64), np.take_along_axis(common, order, axis=1)

    def search(self, documents: Embedded, queries: Embedded, done: NDArray[np.bool_], k: int) -> IdArray:
        """Search documents of which some are embedded again, exactly: int64 (nq, k), best first.

        Args:
            documents: by both models; of each only the one that counts is searched.
            queries: by both models.
            done: bool (n,), which documents the new model's vectors are searched of.
            k: results for each query; at most n.
        """
        ids, scores = [], []
        for rows, query, metric, chosen in zip(documents, queries, self.metrics, (~done, done), strict=True):
            places = np.flatnonzero(chosen)
            found, found_scores = exact_search(rows[places], query, k, metric)
            ids.append(places[found])
            scores.append(found_scores)
        order, _ = self.rank(queries, Embedded(*scores))
        return np.asarray(np.take_along_axis(np.concatenate(ids, axis=1), order[:, :k], axis=1), np.int64)

    def judge(
        self,
        documents: Embedded,
        queries: Embedded,
        relevant: Sequence[Any] | NDArray[Any] | None,
        share: float,
        *,
        seed: int = 0,
    ) -> Figures:
        """Judge merged results when a random share of the documents is done: nDCG@10 per query.

        Args:
            documents: by both models.
            queries: by both models.
            relevant: for each query the rows that answer it; without it the one that the new model finds first.
            share: of the documents that are done.
            seed: which ones.
        """
        done = np.random.default_rng(seed).permutation(len(documents.old)) < round(share * len(documents.old))
        found = self.search(documents, queries, done, _DEPTH)
        if relevant is None:
            relevant = exact_search(documents.new, queries.new, 1, self.metrics[1])[0]
        return ndcg(found, relevant, _DEPTH)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the merger as one ``.npz`` file."""
        about = {
            "format_version": _FORMAT_VERSION,
            "scale": str(self.scale),
            "metrics": [str(metric) for metric in self.metrics],
            "figures": self.figures,
        }
        content = io.BytesIO()
        np.savez(
            content,
            about=np.frombuffer(json.dumps(about).encode(), np.uint8),
            old=self.reference.old,
            new=self.reference.new,
            quantiles=self.quantiles,
        )
        write_atomically(Path(path), content.getvalue())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Merger:
        """Read what :meth:`save` wrote; raise ``MalformedSourceError`` if it is something else."""
        content = Path(path).read_bytes()
        try:
            file = NpzFile(io.BytesIO(content), str(path))
            about = parse_object(file.read("about").tobytes())
            arrays = [np.asarray(file.read(name), np.float32) for name in ("old", "new", "quantiles")]
            merger = cls(
                Scale(about["scale"]),
                Embedded(*arrays[:2]),
                (Metric(about["metrics"][0]), Metric(about["metrics"][1])),
                arrays[2],
                dict(about["figures"]),
            )
            version = about["format_version"]
        except (ValueError, LookupError, TypeError) as error:
            raise MalformedSourceError(f"{path}: expected a merger written by Merger.save, got {error}") from error
        old, new = merger.reference
        whole = old.ndim == new.ndim == 2 and len(old) == len(new) and merger.quantiles.shape == (2, len(_QUANTILES))
        if version != _FORMAT_VERSION or not whole or not all(np.isfinite(a).all() for a in arrays):
            raise MalformedSourceError(f"{path}: expected a merger of format version {_FORMAT_VERSION}, got another")
        return merger


def _check(documents: Embedded, queries: Embedded | None) -> None:
    if len(documents.old) < FEWEST_DOCUMENTS:
        raise UnusableDataError(
            f"documents: expected at least {FEWEST_DOCUMENTS} texts embedded by both models, got {len(documents.old)}"
        )
    for name, both in (("documents", documents), ("queries", queries)):
        if both is not None and len(both.old) != len(both.new):
            raise UnusableDataError(
                f"{name}: expected the same texts by both models, got {len(both.old)} and {len(both.new)} rows"
            )


def _quantiles(documents: Embedded, queries: Embedded, metrics: tuple[Metric, Metric]) -> FloatArray:
    asked = queries.rows(np.arange(min(len(queries.old), max(1, _CHUNK // len(documents.old)))))
    pairs = zip(documents, asked, metrics, strict=True)
    return np.array(
        [np.quantile(similarities(query, rows, metric), _QUANTILES) for rows, query, metric in pairs], np.float32
    )
