"""Hold queries out, with the documents that they are searched in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.evaluation import Truth, exact_search, judge, without_own
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.sources import RandomAccessSource
from vaecodec_training.data.pairs import Pairs
from vaecodec_training.data.sample import evenly_spaced, vectors_at

Encode = Callable[[FloatArray], FloatArray]


QueryFigures = Mapping[str, NDArray[np.float64]]


# Most documents and queries of a validation, which then takes about a second.
MOST_DOCUMENTS = 8_192
_MOST_QUERIES = 2_000


DEPTH = 10
DEPTH_OF_LISTS = 100


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Hold queries and documents that no weight is fitted to. The queries are searched in these documents.

    Attributes:
        documents: float32 (n, d).
        queries: float32 (m, d).
        own: int64 (m,), the row of ``documents`` that each query is, where the collection has no queries and held-out
            documents ask for their neighbours; otherwise None.
        relevant: for each query the rows of ``documents`` that answer it, or None where no pairs are known.
        grades: for each query how much each of these answers it, or None where all answer equally.
        metric: how the embeddings are compared.
        query_rows: int64 (m,), increasing: the queries' rows in their source, the documents' where ``own`` is known.
    """

    documents: FloatArray
    queries: FloatArray
    own: NDArray[np.int64] | None
    relevant: list[NDArray[np.int64]] | None
    grades: list[NDArray[np.float64]] | None
    metric: Metric
    query_rows: NDArray[np.int64]

    @cached_property
    def truth(self) -> Truth:
        """Return the hundred nearest documents of each query, uncompressed."""
        return Truth.of(self.documents, self.queries, self.metric, depth=DEPTH_OF_LISTS, own=self.own)

    def figures(self, encode: Encode, encode_queries: Encode, latent_metric: Metric) -> QueryFigures:
        """Return the figures of a codec for each query, by exact search on its latents; see
        :func:`vaecodec.evaluation.judge`."""
        depth = DEPTH_OF_LISTS + (self.own is not None)
        found, _ = exact_search(encode(self.documents), encode_queries(self.queries), depth, latent_metric)
        if self.own is not None:
            found = without_own(found, self.own)
        return judge(found, self.truth, self.relevant, self.grades)

    def figures_of(self, codec: VectorCodec) -> QueryFigures:
        """Return the same for a codec object."""
        return self.figures(codec.encode, codec.encode_queries, codec.latent_metric)


def held_out_part(
    documents: RandomAccessSource,
    queries: RandomAccessSource | None,
    document_rows: NDArray[np.int64],
    query_rows: NDArray[np.int64] | None,
    pairs: Pairs | None,
    metric: Metric,
    others: NDArray[np.int64] | None = None,
) -> HeldOut:
    """Put the rows of one held-out part together.

    Args:
        documents, queries: where the vectors are read from.
        document_rows, query_rows: int64, increasing: the rows of this part.
        pairs: which belong together, of all rows.
        metric: how the embeddings are compared.
        others: int64, increasing: rows of another held-out part, which are searched besides.

    Raises:
        UnusableDataError: there are too few of them.
    """
    searched, relevant, grades, own = evenly_spaced(document_rows, MOST_DOCUMENTS), None, None, None
    asked = evenly_spaced(searched, _MOST_QUERIES)
    if others is not None:
        searched = np.sort(np.concatenate([searched, evenly_spaced(others, MOST_DOCUMENTS - len(searched))]))
    if queries is None or query_rows is None:
        source = documents
        own = np.searchsorted(searched, asked)
    else:
        source, asked = queries, evenly_spaced(query_rows, _MOST_QUERIES)
    if pairs is not None:
        known = pairs.within(asked, searched)
        asked = np.unique(known.rows[:, 0])
        relevant, grades = known.by_query(asked, searched)
    if len(searched) <= DEPTH or not len(asked):
        raise UnusableDataError(
            f"{source.name}: expected more than {DEPTH} held-out documents to search and at least one held-out query, "
            f"got {len(searched)} and {len(asked)}; give more rows or hold a larger share out"
        )
    vectors, asking = vectors_at(documents, searched, metric), vectors_at(source, asked, metric)
    return HeldOut(vectors, asking, own, relevant, grades, metric, asked)
