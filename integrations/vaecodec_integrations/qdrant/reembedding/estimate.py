"""Estimate the cost and the gain of a change of the embedding model, before it begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from qdrant_client import models

from vaecodec.errors import MigrationError
from vaecodec.interface import FloatArray
from vaecodec.two_models.cost import SAMPLE, Cost, JudgedQueries, answered, check_price, cost_of, with_gain
from vaecodec.two_models.merging import Embedded
from vaecodec.vectors import as_vectors
from vaecodec_integrations.pace import Pace
from vaecodec_integrations.qdrant.connection import refusals
from vaecodec_integrations.qdrant.layout import metric_of
from vaecodec_integrations.qdrant.migration.job import by_name
from vaecodec_integrations.qdrant.reembedding.job import Reembedding

__all__ = ["SAMPLE", "Cost", "JudgedQueries", "estimate"]


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

    It is embedded in the batches and at the rate of the job.

    Args:
        job: what would be embedded.
        count_tokens: counts the tokens of texts, as
            :meth:`~vaecodec_integrations.embedder.OnnxEmbedder.count_tokens` does.
        price_per_million: of tokens, in any currency.
        queries: to tell the gain.
        embed_queries: the new model for queries, where it embeds them in another way.
        sample: how many points are drawn.

    Raises:
        MigrationError: no point of the sample has a text, no point with a text answers a query, the queries' old
            vectors are of another width, or a price is given and nothing counts tokens.
        InvalidVectorsError: the queries' old vectors hold NaN, or the model returns NaN or zeros.
        StoreError: the server does not answer, refuses the key, or refuses a request.
    """
    check_price(price_per_million, count_tokens)
    with refusals(job.client):
        points = job.client.count(job.collection, exact=True).count
        records = _drawn(job, sample, queries)
    texts = {r.id: text for r in records if (text := job.text_of(r.payload)) is not None}
    if not texts:
        raise MigrationError(
            f"collection {job.collection!r}: expected texts in the payload under {job.text!r}, got none in "
            f"{len(records)} points; name the key that holds them"
        )
    held = {
        r.id: vector for r in records if r.id in texts and (vector := by_name(r.vector).get(job.vector)) is not None
    }
    if queries is not None:
        queries = answered(queries, held, f"points of the collection {job.collection!r}")
        queries = queries._replace(old=_checked_old(job, queries.old, len(next(iter(held.values())))))
    pace = Pace(job.texts_per_second)
    cost, vectors = cost_of(
        list(texts.values()),
        round(points * len(texts) / len(records)),
        lambda asked: pace.embedded(job.embedded, asked, job.batch_size),
        texts_per_second=job.texts_per_second,
        count_tokens=count_tokens,
        price_per_million=price_per_million,
    )
    if queries is None:
        return cost
    asked = pace.embedded(embed_queries or job.embedded, queries.texts, job.batch_size)
    metric = metric_of(job.distance)
    if job.codec is not None:
        asked, vectors, metric = job.codec.encode_queries(asked), job.codec.encode(vectors), job.codec.latent_metric
    new, metrics = dict(zip(texts, vectors, strict=True)), (metric_of(job.old_distance), metric)
    return with_gain(cost, held, new, Embedded(queries.old, asked), queries.relevant, metrics)


def _drawn(job: Reembedding, sample: int, queries: JudgedQueries | None) -> list[models.Record]:
    """Return random points with their old vectors, and all points that answer a query."""
    random = models.SampleQuery(sample=models.Sample.RANDOM)
    drawn = job.client.query_points(job.collection, query=random, limit=sample, with_payload=False).points
    ids = [point.id for point in drawn]
    if queries is not None:
        ids += [point_id for answers in queries.relevant for point_id in answers]
    return job.client.retrieve(job.collection, list(dict.fromkeys(ids)), with_payload=True, with_vectors=[job.vector])


def _checked_old(job: Reembedding, rows: FloatArray, width: int) -> FloatArray:
    """Return the old vectors of the queries, float32 (n, width)."""
    old = np.asarray(rows, np.float32)
    if old.ndim != 2 or old.shape[1] != width:
        raise MigrationError(
            f"queries: expected old vectors ({len(old)}, {width}), as wide as those of the collection "
            f"{job.collection!r}, got {old.shape}; embed them by the model that filled it"
        )
    return as_vectors(old, width, metric_of(job.old_distance), name="old vectors of the queries")
