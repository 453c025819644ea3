"""Estimate the cost and the gain of a change of the embedding model from a sample that is embedded by both."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from vaecodec.errors import MigrationError
from vaecodec.evaluation import Interval, bootstrap, exact_search, ndcg, paired_bootstrap
from vaecodec.interface import FloatArray, Metric
from vaecodec.two_models.merging import Embedded

SAMPLE = 200


class JudgedQueries(NamedTuple):
    """Hold queries whose answers are known, for example from clicks.

    Attributes:
        texts: n queries.
        old: float (n, d), these embedded by the old model.
        relevant: for each the ids of the points, or the keys of the rows, that answer it.
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
        judged: how many queries tell the gain: those that some document answers.
    """

    texts: int
    sampled: int
    tokens: int | None
    hours: float
    money: float | None
    gain: Interval | None = None
    old: Interval | None = None
    new: Interval | None = None
    judged: int = 0


def check_price(price_per_million: float | None, count_tokens: Callable[[Sequence[str]], int] | None) -> None:
    """Raise ``MigrationError`` if a price is given and nothing counts tokens."""
    if price_per_million is not None and count_tokens is None:
        raise MigrationError("price_per_million: expected count_tokens beside it, got none")


def answered(queries: JudgedQueries, held: Collection[Any], where: str) -> JudgedQueries:
    """Return the queries that some document answers: clicks on what was deleted since tell nothing.

    Args:
        queries: all of them.
        held: ids of the documents that have a text and an old vector.
        where: names the collection in messages.

    Raises:
        MigrationError: there are not as many texts as vectors and lists of ids, or no query is answered.
    """
    if not len(queries.texts) == len(queries.old) == len(queries.relevant):
        raise MigrationError(
            f"queries: expected as many texts as vectors and lists of ids, got {len(queries.texts)}, "
            f"{len(queries.old)} and {len(queries.relevant)}"
        )
    rows = [row for row, ids in enumerate(queries.relevant) if any(each in held for each in ids)]
    if not rows:
        raise MigrationError(
            f"queries: expected ids of {where} that have a text and an old vector, got none among the answers of "
            f"{len(queries.relevant)} queries"
        )
    old = np.asarray(queries.old)[rows]
    return JudgedQueries([queries.texts[row] for row in rows], old, [queries.relevant[row] for row in rows])


def cost_of(
    sample: list[str],
    texts: int,
    embed: Callable[[list[str]], FloatArray],
    *,
    texts_per_second: float | None,
    count_tokens: Callable[[Sequence[str]], int] | None,
    price_per_million: float | None,
) -> tuple[Cost, FloatArray]:
    """Embed a sample, and tell what all texts will cost.

    Args:
        sample: at least one text.
        texts: how many there are.
        embed: the new model.
        texts_per_second: the rate that is allowed; None for any.
        count_tokens: counts the tokens of texts.
        price_per_million: of tokens.

    Returns:
        The cost, without a gain, and the sample's vectors, float32 (n, d).
    """
    started = time.perf_counter()
    vectors = embed(sample)
    per_second = len(sample) / max(time.perf_counter() - started, 1e-9)
    if texts_per_second is not None:
        per_second = min(per_second, texts_per_second)
    tokens = None if count_tokens is None else round(count_tokens(sample) / len(sample) * texts)
    cost = Cost(
        texts=texts,
        sampled=len(sample),
        tokens=tokens,
        hours=texts / per_second / 3600,
        money=None if price_per_million is None or tokens is None else tokens / 1e6 * price_per_million,
    )
    return cost, vectors


def with_gain(
    cost: Cost,
    old: Mapping[Any, Any],
    new: Mapping[Any, Any],
    queries: Embedded,
    relevant: Sequence[Sequence[Any]],
    metrics: tuple[Metric, Metric],
) -> Cost:
    """Search by both models the documents that both embedded, and add the gain to the cost.

    Args:
        cost: without a gain.
        old: the old model's vector of each document by its id, float (d,).
        new: the new model's, float (e,).
        queries: by both models.
        relevant: for each query the ids that answer it.
        metrics: how the old and the new model's vectors are compared.
    """
    ids = [each for each in new if each in old]
    place = {each: row for row, each in enumerate(ids)}
    answers = [[place[each] for each in wanted if each in place] for wanted in relevant]
    figures = []
    for vectors, asked, metric in zip((old, new), queries, metrics, strict=True):
        rows = np.array([vectors[each] for each in ids], np.float32)
        figures.append(ndcg(exact_search(rows, np.asarray(asked, np.float32), 10, metric)[0], answers, 10))
    before, after = figures
    return replace(
        cost,
        gain=paired_bootstrap(after, before),
        old=bootstrap(before),
        new=bootstrap(after),
        judged=len(answers),
    )
