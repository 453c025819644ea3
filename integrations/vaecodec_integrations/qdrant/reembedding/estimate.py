"""Estimate the cost and the gain of a change of the embedding model, before it begins."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from qdrant_client import models

from vaecodec.errors import MigrationError
from vaecodec.evaluation import Interval, bootstrap, exact_search, ndcg, paired_bootstrap
from vaecodec.interface import FloatArray
from vaecodec_integrations.qdrant.connection import refusals
from vaecodec_integrations.qdrant.layout import DISTANCES
from vaecodec_integrations.qdrant.migration.job import by_name
from vaecodec_integrations.qdrant.reembedding.job import Reembedding

SAMPLE = 200


class JudgedQueries(NamedTuple):
    """Hold queries whose answers are known, for example from clicks.

    Attributes:
        texts: n queries.
        old: float (n, d), these embedded by the old model.
        relevant: for each the ids of the points that answer it.
    """

    texts: list[str]
    old: FloatArray
    relevant: list[list[Any]]


@dataclass(frozen=True)
class Cost:
    """Hold the expected cost and gain.

    Attributes:
        texts: how many texts are in the collection, as far as the sample tells.
        sampled: how many texts the sample has.
        tokens: of all texts; None where nothing counts them.
        hours: at the speed of the sample, or at the rate that is allowed where that is slower.
        money: at the price given; None without one.
        gain: nDCG@10 of the new model minus that of the old one, over the judged queries and a sample of the collection
            with all their answers, and its 95 % interval; None without judged queries. Among all points both models
            find less than in the sample.
        old, new: nDCG@10 of each model in that sample.
    """

    texts: int
    sampled: int
    tokens: int | None
    hours: float
    money: float | None
    gain: Interval | None = None
    old: Interval | None = None
    new: Interval | None = None


def estimate(
    job: Reembedding,
    *,
    count_tokens: Callable[[Sequence[str]], int] | None = None,
    price_per_million: float | None = None,
    queries: JudgedQueries | None = None,
    embed_queries: Callable[[list[str]], Any] | None = None,
    sample: int = SAMPLE,
) -> Cost:
    """Embed a random sample of the texts, and tell what all of them will cost; nothing is written.

    Args:
        job: what would be embedded.
        count_tokens: counts the tokens of texts, as
            :meth:`~vaecodec_integrations.embedder.OnnxEmbedder.count_tokens` does.
        price_per_million: of tokens, in any currency.
        queries: to tell the gain.
        embed_queries: the new model for queries, where it embeds them in another way.
        sample: how many points are drawn.

    Raises:
        MigrationError: no point of the sample has a text, or a price is given and nothing counts tokens.
        StoreError: the server does not answer, refuses the key, or refuses a request.
    """
    if price_per_million is not None and count_tokens is None:
        raise MigrationError("price_per_million: expected count_tokens beside it, got none")
    with refusals(job.client):
        points = job.client.count(job.collection, exact=True).count
        records = _drawn(job, sample, queries)
    texts = {r.id: text for r in records if (text := job.text_of(r.payload)) is not None}
    if not texts:
        raise MigrationError(
            f"collection {job.collection!r}: expected texts in the payload under {job.text!r}, got none in "
            f"{len(records)} points; name the key that holds them"
        )
    started = time.perf_counter()
    vectors = dict(zip(texts, job.embedded(list(texts.values())), strict=True))
    per_second = len(texts) / max(time.perf_counter() - started, 1e-9)
    if job.texts_per_second is not None:
        per_second = min(per_second, job.texts_per_second)
    expected = round(points * len(texts) / len(records))
    tokens = None if count_tokens is None else round(count_tokens(list(texts.values())) / len(texts) * expected)
    cost = Cost(
        texts=expected,
        sampled=len(texts),
        tokens=tokens,
        hours=expected / per_second / 3600,
        money=None if price_per_million is None or tokens is None else tokens / 1e6 * price_per_million,
    )
    if queries is None:
        return cost
    return _with_gain(job, cost, records, vectors, queries, embed_queries or job.embedded)


def _drawn(job: Reembedding, sample: int, queries: JudgedQueries | None) -> list[models.Record]:
    """Return random points with their old vectors, and all points that answer a query."""
    random = models.SampleQuery(sample=models.Sample.RANDOM)
    drawn = job.client.query_points(job.collection, query=random, limit=sample, with_payload=False).points
    ids = [point.id for point in drawn]
    if queries is not None:
        ids += [point_id for answers in queries.relevant for point_id in answers]
    return job.client.retrieve(job.collection, list(dict.fromkeys(ids)), with_payload=True, with_vectors=[job.vector])


def _with_gain(
    job: Reembedding,
    cost: Cost,
    records: list[models.Record],
    vectors: dict[Any, Any],
    queries: JudgedQueries,
    embed_queries: Callable[[list[str]], Any],
) -> Cost:
    """Search the sample by both models."""
    held = {r.id: by_name(r.vector).get(job.vector) for r in records}
    ids = [point_id for point_id in vectors if held.get(point_id) is not None]
    place = {point_id: row for row, point_id in enumerate(ids)}
    relevant = [[place[i] for i in answers if i in place] for answers in queries.relevant]
    metric = next(metric for metric, distance in DISTANCES.items() if distance == job.distance)
    figures = []
    for rows, asked in (
        (np.array([held[i] for i in ids], np.float32), np.asarray(queries.old, np.float32)),
        (np.array([vectors[i] for i in ids], np.float32), np.asarray(embed_queries(queries.texts), np.float32)),
    ):
        figures.append(ndcg(exact_search(rows, asked, 10, metric)[0], relevant, 10))
    old, new = figures
    return replace(cost, gain=paired_bootstrap(new, old), old=bootstrap(old), new=bootstrap(new))
