"""Predict how much of a model's quality remains when its queries search another model's vectors, without known answers.

What answers a query is not known, but both models have an opinion of it: the document that both find near is probably
the answer. Taken as the answer, what the new model finds first would understate what is left, since the new model
finds all of that by definition. But both opinions count equally, and the better model's should count more. Which model
that is cannot be known without answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import Figures, IdArray, exact_search, ndcg, similarities, without_own
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded

DEPTH = 10

# A sample lacks the answers to most queries, those of which the best document stands out least: they count less, by
# this power of how far it stands out. Chosen among 0 to 16 on Debian packages, for the map that is chosen there.
_POWER = 6
_QUERY_ROWS = 256


class Answers(NamedTuple):
    """Hold the documents that answer each query.

    Attributes:
        relevant: for each query the rows of documents.
        grades: for each query how well each of these answers it; None where all do equally.
        weights: float (nq,), how much each query counts; None where all do equally.
    """

    relevant: Sequence[Any] | NDArray[Any]
    grades: Sequence[Any] | NDArray[Any] | None = None
    weights: NDArray[Any] | None = None


def probable_answers(documents: Embedded, queries: Embedded, own: IdArray | None = None) -> Answers:
    """Choose as answer the document that both models together rank first, and weigh queries by how clear that is.

    Args:
        documents: float32 by both models, compared by cosine.
        queries: float32 by both models.
        own: int64 (nq,), the document that is the query itself and no answer; None without one.
    """
    best, heights = [], []
    for first in range(0, len(queries.old), _QUERY_ROWS):
        rows = slice(first, first + _QUERY_ROWS)
        old = _standardised(similarities(queries.old[rows], documents.old, Metric.COSINE))
        scores = old + _standardised(similarities(queries.new[rows], documents.new, Metric.COSINE))
        if own is not None:
            scores[np.arange(len(scores)), own[rows]] = -np.inf
        best.append(scores.argmax(axis=1))
        heights.append(scores.max(axis=1))
    height = np.concatenate(heights).astype(np.float64)
    return Answers(np.concatenate(best), weights=(height / height.mean()) ** _POWER)


def searched_by(documents: FloatArray, queries: FloatArray, answers: Answers, own: IdArray | None = None) -> Figures:
    """Search by cosine and judge what is found: nDCG@10 per query, times its weight.

    Args:
        documents: float32 (n, d).
        queries: float32 (nq, d).
        answers: to these queries.
        own: as :func:`probable_answers` takes it.
    """
    found, _ = exact_search(documents, queries, DEPTH + (own is not None), Metric.COSINE)
    found = found if own is None else without_own(found, own)
    figures = ndcg(found, answers.relevant, DEPTH, answers.grades)
    return figures if answers.weights is None else figures * answers.weights


def _standardised(scores: FloatArray) -> FloatArray:
    spread = np.maximum(scores.std(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray((scores - scores.mean(axis=1, keepdims=True)) / spread, np.float32)
