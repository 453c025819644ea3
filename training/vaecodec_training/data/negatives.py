"""Choose hard negatives: documents that lie near a query and do not answer it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError
from vaecodec.evaluation import exact_search
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.sample import evenly_spaced, vectors_at

# Draw hard negatives from this many nearest documents, searched among at most this many.
_NEAREST, _MOST_DOCUMENTS = 50, 40_000


def hard_negatives(collection: Collection, count: int, seed: int) -> NDArray[np.int64]:
    """Draw documents for each pair from the 50 training documents nearest to its query, its own ones left out.

    Documents that equal one of the query's own count as its own, too.

    Args:
        collection: with pairs.
        count: documents of each pair.
        seed: of the draw.

    Returns:
        int64 (p, count), rows of the documents.

    Raises:
        UnusableDataError: the collection knows no pairs.
    """
    if collection.queries is None or collection.pairs is None:
        raise UnusableDataError("hard negatives: expected pairs of queries and documents, got none")
    pairs, digests = collection.pairs, collection.report.digests
    asked, of = np.unique(pairs[:, 0], return_inverse=True)
    searched = evenly_spaced(collection.document_rows, _MOST_DOCUMENTS)
    queries = vectors_at(collection.queries, asked, collection.metric)
    documents = vectors_at(collection.documents, searched, collection.metric)
    near, _ = exact_search(documents, queries, min(_NEAREST, len(searched)), collection.metric)
    order = np.argsort(of, kind="stable")
    ends = np.cumsum(np.bincount(of))[:-1]
    generator = np.random.default_rng([seed, count])
    drawn = np.empty((len(pairs), count), np.int64)
    for number, members in enumerate(np.split(order, ends)):
        candidates = searched[near[number]]
        others = candidates[~np.isin(digests[candidates], digests[pairs[members, 1]])]
        if not len(others):  # all near documents answer the query
            others = searched
        for pair in members:
            drawn[pair] = generator.choice(others, count, replace=len(others) < count)
    return drawn
