"""Hold queries out, with the documents that they are searched in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.evaluation import IdArray, exact_search, mrr, ndcg, recall
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.sources import RandomAccessSource
from vaecodec_training.data.pairs import pairs_within
from vaecodec_training.data.sample import evenly_spaced, vectors_at

Encode = Callable[[FloatArray], FloatArray]


QueryFigures = Mapping[str, NDArray[np.float64]]


# Documents searched and queries asked at most: a checkpoint is then validated in about a second.
MOST_DOCUMENTS = 8_192


_MOST_QUERIES = 2_000


DEPTH = 10


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Queries that no weight is fitted to, and the documents they are searched in.

    Among the documents are all held-out ones and, to make the search as hard as that of an index, training documents
    up to 8,192 in all: an index holds those that its codec was trained on, too.

    Attributes:
        documents: float32 (n, d).
        queries: float32 (m, d); where the collection has none, held-out documents, which are then not searched.
        relevant: for each query the rows of ``documents`` that answer it, or None where no pairs are known.
        metric: how the embeddings are compared.
    """

    documents: FloatArray
    queries: FloatArray
    relevant: list[NDArray[np.int64]] | None
    metric: Metric

    @cached_property
    def truth(self) -> IdArray:
        """The ten nearest documents of each query, uncompressed: int64 (m, 10)."""
        return exact_search(self.documents, self.queries, DEPTH, self.metric)[0]

    def figures(self, encode: Encode, encode_queries: Encode, latent_metric: Metric) -> QueryFigures:
        """Per-query figures of a codec, by exact search on its latents: recall@10 and @1, with pairs nDCG and MRR."""
        ids, _ = exact_search(encode(self.documents), encode_queries(self.queries), DEPTH, latent_metric)
        figures = {"recall@10": recall(ids, self.truth, DEPTH), "recall@1": recall(ids, self.truth, 1)}
        if self.relevant is not None:
            figures |= {"ndcg@10": ndcg(ids, self.relevant, DEPTH), "mrr@10": mrr(ids, self.relevant, DEPTH)}
        return figures

    def figures_of(self, codec: VectorCodec) -> QueryFigures:
        """The same for a codec object."""
        return self.figures(codec.encode, codec.encode_queries, codec.latent_metric)


def held_out_part(
    documents: RandomAccessSource,
    queries: RandomAccessSource | None,
    document_rows: NDArray[np.int64],
    query_rows: NDArray[np.int64] | None,
    train_rows: NDArray[np.int64],
    pairs: NDArray[np.int64] | None,
    metric: Metric,
) -> HeldOut:
    relevant = None
    if queries is None or query_rows is None:
        searched, asked, source = evenly_spaced(train_rows, MOST_DOCUMENTS), document_rows, documents
    else:
        searched = evenly_spaced(document_rows, MOST_DOCUMENTS)
        searched = np.sort(np.concatenate([searched, evenly_spaced(train_rows, MOST_DOCUMENTS - len(searched))]))
        asked, source = query_rows, queries
    asked = evenly_spaced(asked, _MOST_QUERIES)
    if pairs is not None:
        known = pairs_within(pairs, asked, searched)
        asked = np.unique(known[:, 0])
        relevant = [np.searchsorted(searched, known[known[:, 0] == query, 1]) for query in asked]
    if len(searched) <= DEPTH or not len(asked):
        raise UnusableDataError(
            f"{source.name}: expected more than {DEPTH} documents to search and at least one held-out query, got "
            f"{len(searched)} and {len(asked)}; give more rows or hold a larger share out"
        )
    return HeldOut(vectors_at(documents, searched, metric), vectors_at(source, asked, metric), relevant, metric)
