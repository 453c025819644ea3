"""Measure how compression changes neighbourhoods: which documents no neighbour finds any more."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vaecodec.evaluation import exact_search
from vaecodec.interface import FloatArray, Metric

_NEIGHBOURS = 10
_DOCUMENTS = 1_000


class Neighbourhoods:
    """Hold sampled documents and, for each, its 10 nearest others by exact search on the uncompressed vectors.

    A document is reached when at least one of these has it among its own 10 nearest. Many are not even without
    compression (anti-hubs: Radovanović, Nanopoulos and Ivanović, JMLR 11, 2010); those are left out.

    Attributes:
        documents: numbers of the sampled documents that are reached without compression, ascending.
    """

    def __init__(self, base: FloatArray, metric: Metric) -> None:
        self._base = base
        # One more than wanted, because a document finds itself.
        self._k = _NEIGHBOURS + 1
        count = min(_DOCUMENTS, len(base))
        self.documents = np.sort(np.random.default_rng(0).permutation(len(base))[:count])
        found = exact_search(base, base[self.documents], self._k, metric)[0]
        pairs = [
            (document, neighbour)
            for document, row in zip(self.documents.tolist(), found.tolist(), strict=True)
            for neighbour in row
            if neighbour != document
        ]
        self._document, neighbour = np.array(pairs).T
        self._neighbours, self._neighbour = np.unique(neighbour, return_inverse=True)
        self.documents = np.setdiff1d(self.documents, self.unreached(base, None, metric))

    def unreached(
        self, stored: FloatArray, encode_queries: Callable[[FloatArray], FloatArray] | None, metric: Metric
    ) -> list[int]:
        """List the documents that none of their neighbours finds in ``stored``, float32 (nb, k)."""
        asking = self._base[self._neighbours]
        found = exact_search(stored, encode_queries(asking) if encode_queries else asking, self._k, metric)[0]
        hits = (found[self._neighbour] == self._document[:, None]).any(axis=1)
        return [int(document) for document in np.setdiff1d(self.documents, self._document[hits])]
