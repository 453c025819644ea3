"""Test two hnswlib indexes of two embedding models, searched as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import Metric, fit_linear
from vaecodec.errors import IndexArgumentError
from vaecodec.evaluation import similarities
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


PAGES = models(N, 1)
CODEC = fit_linear(PAGES.new, 14)
STORED = Embedded(PAGES.old, CODEC.encode(PAGES.new))
MERGER = Merger.fit(STORED)


@pytest.fixture(scope="module")
def both() -> TwoModelIndex:
    """Make two indexes, the new one of latents, in which some documents are deleted."""
    old = filled(PAGES.old, np.arange(N), Metric.COSINE)
    new = filled(PAGES.new[:DONE], np.arange(DONE), Metric.COSINE, CODEC)
    for label in range(20):
        old.mark_deleted(label)
        new.mark_deleted(label)
    return TwoModelIndex(old, new, MERGER)


@settings(deadline=None, max_examples=60)
@given(
    share=st.sampled_from([0.0, 0.005, 0.1, 0.5, 1.0]),
    sizes=st.lists(st.integers(1, 90), max_size=5),
    seed=st.integers(0, 99),
)
def test_filtered_pages_are_those_of_brute_force(
    both: TwoModelIndex, share: float, sizes: list[int], seed: int
) -> None:
    queries = models(2, seed + 100)
    asked = Embedded(queries.old, CODEC.encode_queries(queries.new))
    kept = np.random.default_rng(seed).random(N) < share
    there = [
        np.flatnonzero(kept & (np.arange(N) >= low) & (np.arange(N) < high)) for low, high in ((DONE, N), (20, DONE))
    ]
    scores = [
        similarities(rows, vectors[labels], Metric.COSINE)
        for rows, vectors, labels in zip(asked, STORED, there, strict=True)
    ]
    order, expected = MERGER.rank(asked, Embedded(*scores))
    labels = np.concatenate(there)[order]
    score_of = [dict(zip(*row, strict=True)) for row in zip(labels.tolist(), expected.tolist(), strict=True)]
    offset = 0
    found: list[list[int]] = [[], []]
    for size in sizes:
        page, common = both.knn_query(
            queries.old, queries.new, k=size, offset=offset, filter=lambda label: bool(kept[label])
        )
        np.testing.assert_allclose(common, expected[:, offset : offset + size], atol=1e-4)
        for row in (0, 1):
            found[row] += page[row].tolist()
            np.testing.assert_allclose([score_of[row][label] for label in page[row].tolist()], common[row], atol=1e-4)
        offset += size
    for row in (0, 1):
        assert len(found[row]) == len(set(found[row])) == min(offset, labels.shape[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k: expected an integer of at least 1, got 0"),
        ({"offset": -1}, "offset: expected an integer of at least 0, got -1"),
        ({"offset": 1.5}, "offset: expected an integer of at least 0, got 1.5"),
    ],
)
def test_pages_that_cannot_be_are_refused(both: TwoModelIndex, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(IndexArgumentError, match=message):
        both.knn_query(PAGES.old[0], PAGES.new[0], **arguments)


def test_an_error_of_the_filter_comes_through(both: TwoModelIndex) -> None:
    def fails(label: int) -> bool:
        raise RuntimeError("no such label")

    with pytest.raises(RuntimeError, match="no such label"):
        both.knn_query(PAGES.old[0], PAGES.new[0], filter=fails)


def test_an_index_that_compares_otherwise_is_refused() -> None:
    documents = models(N, 1)
    merger = Merger.fit(documents)
    new = filled(documents.new[:10], np.arange(10), Metric.L2)
    with pytest.raises(IndexArgumentError, match=r"expected an index that compares by 'cosine', .* got one by 'l2'"):
        TwoModelIndex(filled(documents.old, np.arange(N), Metric.COSINE), new, merger)
