"""Fit the queries' map anew by distillation: to what the documents' stored latents stand for, which do not change."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vaecodec.errors import UnusableDataError
from vaecodec.evaluation import exact_search
from vaecodec.interface import FloatArray, Metric
from vaecodec_training import losses
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import Encode, HeldOut, QueryFigures
from vaecodec_training.data.sample import evenly_spaced, vectors_at
from vaecodec_training.gate import gate
from vaecodec_training.model import ResidualMap, finished, in_numpy
from vaecodec_training.recipe import LatentMetric

_LOG = logging.getLogger(__name__)

# Most documents to search and most queries to ask while training.
_MOST_DOCUMENTS, _MOST_QUERIES = 40_000, 20_000
# Known depth of each query's nearest documents, how many of them join a batch, and random documents besides.
_DEPTH, _NEAR, _RANDOM = 100, 8, 2_048
_BATCH, _WARMUP_STEPS, _CHECK_EVERY = 256, 100, 100
STEPS = 1_200
_LEARNING_RATE, _WEIGHT_DECAY = 5e-4, 0.05
_TEMPERATURE = 0.05
# Multiples of the temperature and their weights, as in training for deep lists.
_DEPTHS = ((1.0, 1 / 7), (2.0, 2 / 7), (4.0, 4 / 7))
# Shares of the training that may be kept: points on the line from the start to the trained map.
_SHARES = (1.0, 0.8, 0.6, 0.4, 0.2)
_PAIR_WEIGHT, _PAIR_TEMPERATURE = 0.05, 0.05


@dataclass(frozen=True)
class QueryMap:
    """Map queries: the queries' side of a codec.

    Attributes:
        map: embeddings, normalised under cosine, to latents before their last step.
        metric: how embeddings are compared.
        form: the last step.
    """

    map: ResidualMap
    metric: Metric
    form: LatentMetric

    def latents(self, queries: Tensor) -> Tensor:
        """Map queries (n, d) to latents (n, k)."""
        rows = F.normalize(queries, dim=1) if self.metric is Metric.COSINE else queries
        return finished(self.map(rows), self.map.linear.out_features, self.form)

    @property
    def latent_metric(self) -> Metric:
        """Return how latents are compared."""
        if self.metric is not Metric.COSINE:
            return self.metric
        return Metric.COSINE if self.form is LatentMetric.COSINE else Metric.DOT

    def encode(self, queries: FloatArray) -> FloatArray:
        """Map queries in numpy."""
        return in_numpy(self.latents, self.map)(queries)

    def widened(self, hidden: int, seed: int) -> QueryMap:
        """Return the same with so many hidden units more, which are silent."""
        old = self.map
        known = 0 if old.hidden is None else old.hidden.out_features
        generator = torch.Generator().manual_seed(seed)
        wide = ResidualMap(old.linear.in_features, old.linear.out_features, known + hidden, generator)
        with torch.no_grad():
            wide.linear.load_state_dict(old.linear.state_dict())
            if old.hidden is not None and old.output is not None:
                assert wide.hidden is not None
                assert wide.output is not None
                wide.hidden.weight[:known] = old.hidden.weight
                wide.hidden.bias[:known] = old.hidden.bias
                wide.output.weight[:, :known] = old.output.weight
                wide.output.bias.copy_(old.output.bias)
        return QueryMap(wide, self.metric, self.form)

    def towards(self, trained: QueryMap, share: float) -> QueryMap:
        """Return a map so far on the way to a trained one; hidden units are the trained ones throughout."""
        made = copy.deepcopy(trained)
        with torch.no_grad():
            for (name, weight), first in zip(made.map.named_parameters(), self.map.parameters(), strict=True):
                if not name.startswith("hidden"):
                    weight.copy_(torch.lerp(first, weight, share))
        return made


def fit_query_map(
    collection: Collection,
    stored: Encode,
    start: QueryMap,
    *,
    hidden: int = 512,
    steps: int = STEPS,
    seed: int = 0,
    on_step: Callable[[int, int], None] = lambda _, __: None,
) -> QueryMap:
    """Train the queries' map so that similarities to stored documents are the original ones.

    The loss is the KL divergence between the two softmaxes over the documents of a batch. Known pairs count a
    little (InfoNCE). Of the maps on the way, the one with the highest recall@10 on the validation queries is moved back
    towards the start as far as it takes to lose no other figure there.

    Args:
        collection: documents and queries; its pairs are used where it knows some.
        stored: maps documents (n, d) to what is kept of them: latents, or what their codes decode to.
        start: the queries' map as it is.
        hidden: units to add.
        steps: of the optimiser.
        seed: of the new units and the batches.
        on_step: called after every step with its number and that of the last one.

    Raises:
        UnusableDataError: the collection has no queries.
    """
    if collection.queries is None:
        raise UnusableDataError("queries: expected queries to fit their map on, got none")
    material = _Material.of(collection, stored)
    part, kept = collection.validation, stored(collection.validation.documents)
    first = start.widened(hidden, seed)
    current = copy.deepcopy(first)
    best, highest = first, -1.0
    optimizer = torch.optim.AdamW(current.map.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / _WARMUP_STEPS, 0.5 + 0.5 * math.cos(math.pi * step / steps))
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        loss = material.loss(current, generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        on_step(step, steps)
        if step % _CHECK_EVERY == 0 or step == steps:
            recall = float(figures(part, kept, current)["recall@10"].mean())
            if recall > highest:
                best, highest = copy.deepcopy(current), recall
    before = {"start": figures(part, kept, first)}
    tried = [first.towards(best, share) for share in _SHARES]
    decided = [gate(figures(part, kept, each), before) for each in tried]
    worth = [(not decision.lost, decision.worth) for decision in decided]
    return tried[worth.index(max(worth))]


def figures(part: HeldOut, stored: FloatArray, queries: QueryMap) -> QueryFigures:
    """Return the figures of held-out queries that search ``stored``, what is kept of the part's documents."""
    return part.figures(lambda _: stored, queries.encode, queries.latent_metric)


@dataclass(frozen=True)
class _Material:
    """Hold what is trained on.

    Attributes:
        documents, stored: (n, d) and (n, k), row for row.
        queries: (m, d).
        nearest: (m, up to 100) rows of ``documents``.
        answer: (m,) the row of ``documents`` that answers each query best, or -1 where none is known.
        temperature: of distillation.
    """

    documents: Tensor
    stored: Tensor
    queries: Tensor
    nearest: Tensor
    answer: Tensor
    temperature: float
    metric: Metric

    @classmethod
    def of(cls, collection: Collection, stored: Encode) -> _Material:
        assert collection.queries is not None
        searched = evenly_spaced(collection.document_rows, _MOST_DOCUMENTS)
        asked = evenly_spaced(collection.query_rows, _MOST_QUERIES)
        for name, used, rows in (
            ("documents", searched, collection.document_rows),
            ("queries", asked, collection.query_rows),
        ):
            if len(used) < len(rows):
                _LOG.info("%s of %s %s are used, evenly spaced", f"{len(used):,}", f"{len(rows):,}", name)
        documents = vectors_at(collection.documents, searched, collection.metric)
        queries = vectors_at(collection.queries, asked, collection.metric)
        nearest, _ = exact_search(documents, queries, min(_DEPTH, len(documents)), collection.metric)
        return cls(
            documents=torch.from_numpy(documents),
            stored=torch.from_numpy(stored(documents)),
            queries=torch.from_numpy(queries),
            nearest=torch.from_numpy(nearest),
            answer=torch.from_numpy(_answers(collection, asked, searched)),
            temperature=_TEMPERATURE * collection.scale,
            metric=collection.metric,
        )

    def loss(self, current: QueryMap, generator: torch.Generator) -> Tensor:
        """Compute the loss of one batch."""
        rows = torch.randperm(len(self.queries), generator=generator)[:_BATCH]
        near = torch.randint(self.nearest.shape[1], (len(rows), _NEAR), generator=generator)
        others = torch.randint(len(self.documents), (_RANDOM,), generator=generator)
        columns = torch.unique(torch.cat([self.nearest[rows].gather(1, near).flatten(), others]))
        latents = current.latents(self.queries[rows])
        teacher = losses.comparable(self.queries[rows], self.documents[columns], self.metric)
        student = losses.comparable(latents, self.stored[columns], current.latent_metric)
        loss = latents.new_zeros(())
        for factor, share in _DEPTHS:
            loss = loss + share * losses.distillation(*teacher, *student, factor * self.temperature)
        answer = self.answer[rows]
        if (answer >= 0).any():
            asking = F.normalize(latents[answer >= 0], dim=1)
            keys = F.normalize(self.stored[answer[answer >= 0]], dim=1)
            loss = loss + _PAIR_WEIGHT * losses.info_nce(asking, keys, keys[:0], _PAIR_TEMPERATURE)
        return loss


def _answers(collection: Collection, asked: NDArray[np.int64], searched: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for each query the position of its best document among those searched, or -1."""
    found = np.full(len(asked), -1)
    if collection.pairs is None:
        return found
    pairs = collection.pairs
    known = np.isin(pairs[:, 0], asked) & np.isin(pairs[:, 1], searched)
    order = np.flatnonzero(known)
    if collection.grades is not None:  # write the best one last, so that it stays
        order = order[np.argsort(collection.grades[order], kind="stable")]
    found[np.searchsorted(asked, pairs[order, 0])] = np.searchsorted(searched, pairs[order, 1])
    return found
