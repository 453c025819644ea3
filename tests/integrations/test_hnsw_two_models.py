"""Test two hnswlib indexes of two embedding models, searched as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vaecodec import Metric, fit_linear
from vaecodec.errors import IndexArgumentError
from vaecodec.two_models.merging import Embedded, Merger
from vaecodec.vectors import normalised

hnswlib = pytest.importorskip("hnswlib", reason="hnswlib is not installed: pip install 'vaecodec[hnsw]'")
from vaecodec_integrations.hnsw import CompressedIndex, TwoModelIndex  # noqa: E402

N, DONE = 600, 250
SPACES = {Metric.L2: "l2", Metric.DOT: "ip", Metric.COSINE: "cosine"}


def models(rows: int, seed: int, metric: Metric = Metric.COSINE) -> Embedded:
    random, fixed = np.random.default_rng(seed), np.random.default_rng(0)
    meanings = random.normal(size=(rows, 12))
    found = [meanings @ fixed.normal(size=(12, w)) + 0.3 * random.normal(size=(rows, w)) for w in (16, 20)]
    return Embedded(*(normalised(each.astype(np.float32)) * (1 if metric is Metric.COSINE else 2) for each in found))


def filled(vectors: np.ndarray, labels: np.ndarray, metric: Metric, codec: Any = None) -> Any:
    space, width = SPACES[metric], vectors.shape[1]
    index = hnswlib.Index(space, width) if codec is None else CompressedIndex(space, width, codec)
    index.init_index(N, M=48, ef_construction=400)
    if len(vectors):
        index.add_items(vectors, labels, num_threads=1)
    index.set_ef(N)
    return index


@pytest.mark.parametrize("metric", [*Metric])
@pytest.mark.parametrize("kind", ["vectors", "latents"])
def test_merged_results_are_those_of_exact_search(metric: Metric, kind: str) -> None:
    documents, queries = models(N, 1, metric), models(20, 2, metric)
    codec = fit_linear(documents.new, 14, metric=metric) if kind == "latents" else None
    stored, asked = documents, queries
    if codec is not None:
        stored = Embedded(documents.old, codec.encode(documents.new))
        asked = Embedded(queries.old, codec.encode_queries(queries.new))
    metrics = (metric, metric if codec is None else codec.latent_metric)
    merger = Merger.fit(stored, asked, metrics=metrics)
    old = filled(documents.old, np.arange(N), metric)
    new = filled(documents.new[:DONE], np.arange(DONE), metric, codec)
    labels, scores = TwoModelIndex(old, new, merger).knn_query(queries.old, queries.new, k=8)
    expected = merger.search(stored, asked, np.arange(N) < DONE, 8)
    assert np.mean(labels == expected) > 0.98, "but for ties by rounding"
    assert np.all(np.diff(scores, axis=1) <= 0)
    assert all(len(set(row)) == 8 for row in labels.tolist())


def test_deleted_documents_and_those_that_are_done_do_not_come_twice() -> None:
    documents = models(N, 1)
    merger = Merger.fit(documents)
    old = filled(documents.old, np.arange(N), Metric.COSINE)
    new = filled(documents.new[:DONE], np.arange(DONE), Metric.COSINE)
    for label in range(20):
        old.mark_deleted(label)
        new.mark_deleted(label)
    labels, _ = TwoModelIndex(old, new, merger).knn_query(documents.old[300], documents.new[300], k=N)
    assert sorted(labels[0].tolist()) == list(range(20, N))
    assert labels[0, 0] == 300


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_document_that_is_added_during_a_search_is_found_once(calls: int) -> None:
    documents = models(N, 1)
    old = filled(documents.old, np.arange(N), Metric.COSINE)
    new = filled(documents.new[:DONE], np.arange(DONE), Metric.COSINE)
    made: list[str] = []

    class Adds:
        """Pass calls on, and add the document before one of them."""

        def __init__(self, index: Any) -> None:
            self._index = index
            self.space = index.space

        def __getattr__(self, name: str) -> Any:
            if name not in ("knn_query", "get_ids_list"):
                return getattr(self._index, name)

            def call(*arguments: Any, **named: Any) -> Any:
                if len(made) == calls:
                    new.add_items(documents.new[[300]], [300])
                made.append(name)
                return getattr(self._index, name)(*arguments, **named)

            return call

    both = TwoModelIndex(Adds(old), Adds(new), Merger.fit(documents))
    labels, _ = both.knn_query(documents.old[300], documents.new[300], k=8)
    assert len(made) > calls
    assert labels[0].tolist().count(300) == 1


def test_nothing_done_and_all_done() -> None:
    documents = models(N, 1)
    merger = Merger.fit(documents)
    old = filled(documents.old, np.arange(N), Metric.COSINE)
    for done in (0, N):
        new = filled(documents.new[:done], np.arange(done), Metric.COSINE)
        labels, _ = TwoModelIndex(old, new, merger).knn_query(documents.old[:30], documents.new[:30])
        assert labels[:, 0].tolist() == list(range(30))


def test_an_index_that_compares_otherwise_is_refused() -> None:
    documents = models(N, 1)
    merger = Merger.fit(documents)
    new = filled(documents.new[:10], np.arange(10), Metric.L2)
    with pytest.raises(IndexArgumentError, match=r"expected an index that compares by 'cosine', .* got one by 'l2'"):
        TwoModelIndex(filled(documents.old, np.arange(N), Metric.COSINE), new, merger)
