"""Test CompressedFaissIndex against faiss itself, beyond what every index must do (test_index_contract.py)."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import LinearCodec, LinearKind, Metric
from vaecodec.errors import (
    BadRowsError,
    IndexArgumentError,
    IndexFileError,
    VectorIndexError,
)
from vaecodec.evaluation import exact_search, recall
from vaecodec_integrations.faiss import NOT_OFFERED, PARAMETERS_LEFT_OUT, CompressedFaissIndex

faiss = pytest.importorskip("faiss", reason="faiss is not installed: pip install 'vaecodec[faiss]'")

DIM = 8


def identity(metric: Metric) -> LinearCodec:
    return LinearCodec(LinearKind.TRUNCATION, np.eye(DIM, dtype=np.float32), np.zeros(DIM, np.float32), metric)


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@pytest.mark.parametrize("metric", list(Metric))
def test_scores_follow_faiss(metric):
    index = CompressedFaissIndex(identity(metric), "Flat")
    vectors, queries = rows(200), rows(5, seed=1)
    index.add(vectors)

    scores, ids = index.search(queries, 7)

    truth, similarities = exact_search(vectors, queries, 7, metric)
    assert (scores.dtype, ids.dtype) == (np.float32, np.int64)
    np.testing.assert_array_equal(ids, truth)
    np.testing.assert_allclose(scores, -similarities if metric is Metric.L2 else similarities, rtol=1e-4, atol=1e-5)
    assert (index.search(queries, 300)[1][:, 200:] == -1).all()


DESCRIPTIONS = ["Flat", "SQ8", "PQ4x4", "IVF4,Flat", "IVF4,SQ8", "OPQ4,IVF4,PQ4x4"]


@pytest.mark.parametrize("description", DESCRIPTIONS)
def test_every_kind_can_be_saved_updated_and_removed_from(description, tmp_path):
    index = CompressedFaissIndex(identity(Metric.L2), description)
    vectors = rows(1_000)
    if not index.is_trained:
        with pytest.raises(VectorIndexError, match=f"'{description}' learns from data first; call train"):
            index.add(vectors)
        index.train(vectors)
    index.add_with_ids(vectors, np.arange(5_000, 6_000))
    kept = index.reconstruct_batch([5_900, 5_001])
    assert np.abs(kept - vectors[[900, 1]]).mean() < 0.75  # product codes of half a byte are that coarse

    index.add_with_ids(vectors[:2], [5_900, 7_000])
    assert index.remove_ids([5_003, 5_004, 5_003, 1]) == 2

    assert index.ntotal == 999
    np.testing.assert_array_equal(index.reconstruct_batch([5_900, 7_000]), index.reconstruct_batch([5_000, 5_001]))
    with pytest.raises(IndexArgumentError, match="ids: 5003 is not in the index"):
        index.reconstruct(5_003)
    index.save(tmp_path / "index")
    loaded = CompressedFaissIndex.load(tmp_path / "index", index.codec)
    np.testing.assert_array_equal(loaded.reconstruct_batch([7_000, 5_900]), index.reconstruct_batch([7_000, 5_900]))
    np.testing.assert_array_equal(loaded.search(rows(9), 5), index.search(rows(9), 5))
    loaded.add_with_ids(vectors[5:6], [5_900])
    assert loaded.ntotal == 999


IDS = st.integers(0, 12)
OPERATIONS = st.lists(st.tuples(st.booleans(), st.lists(IDS, min_size=1, max_size=6)), max_size=12)


@given(operations=OPERATIONS, description=st.sampled_from(["Flat", "IVF2,Flat"]))
@settings(max_examples=40)
def test_holds_what_a_dictionary_would(operations, description):
    index, model = CompressedFaissIndex(identity(Metric.L2), description), dict[int, np.ndarray]()
    index.train(rows(100))
    for number, (added, ids) in enumerate(operations):
        if added:
            vectors = rows(len(ids), number)
            index.add_with_ids(vectors, ids)
            model.update(zip(ids, vectors, strict=True))
        else:
            assert index.remove_ids(ids) == len(model.keys() & set(ids))
            for label in ids:
                model.pop(label, None)
        assert index.ntotal == len(model)
        held = sorted(model)
        np.testing.assert_array_equal(index.reconstruct_batch(held), np.array([model[i] for i in held]).reshape(-1, 8))


def test_a_graph_finds_but_neither_updates_nor_removes(svd_codec, sample):
    index = CompressedFaissIndex(svd_codec, "HNSW16")
    index.add_with_ids(sample.base[:2_000], np.arange(2_000))
    faiss.downcast_index(index.inner.index).hnsw.efSearch = 100
    truth, _ = exact_search(
        svd_codec.encode(sample.base[:2_000]), svd_codec.encode_queries(sample.queries[:100]), 10, Metric.COSINE
    )
    assert recall(index.search(sample.queries[:100], 10)[1], truth, 10).mean() > 0.95
    np.testing.assert_allclose(index.reconstruct(7), svd_codec.decode(svd_codec.encode(sample.base[7:8]))[0], atol=1e-5)

    with pytest.raises(IndexArgumentError, match="ids: 1999 is in the index already, and faiss cannot update 'HNSW16'"):
        index.add_with_ids(sample.base[:2], [1_999, 2_000])
    with pytest.raises(VectorIndexError, match="faiss cannot remove from 'HNSW16'"):
        index.remove_ids([5])
    assert index.ntotal == 2_000
    with pytest.raises(IndexArgumentError, match="ids: 2000 is not in the index"):
        index.reconstruct(2_000)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("Flatt", "faiss cannot make 'Flatt' over 8 dimensions"),
        ("IVF4,PQ3", "faiss cannot make 'IVF4,PQ3' over 8 dimensions"),
        ("IDMap2,Flat", "expected one without IDMap, got 'IDMap2,Flat'"),
        ("IVF4,PQ4x4fs", "'IVF4,PQ4x4fs' scans packed lists, from which faiss reads no vector back by id"),
    ],
)
def test_a_description_that_cannot_work_is_refused(description, message):
    with pytest.raises(VectorIndexError, match=re.escape(message)):
        CompressedFaissIndex(identity(Metric.L2), description)


def test_bad_input_is_refused_before_anything_changes():
    index = CompressedFaissIndex(identity(Metric.COSINE), "Flat")
    index.add(rows(3))
    with pytest.raises(
        IndexArgumentError, match=re.escape("faiss takes integers from 0 to 2**63 - 1, got 9223372036854775808")
    ):
        index.add_with_ids(rows(1), [2**63])
    with pytest.raises(IndexArgumentError, match="expected integers from 0 to"):
        index.add_with_ids(rows(1), [-1])
    with pytest.raises(IndexArgumentError, match=re.escape("expected 2 integers, one for each vector, got shape (1,)")):
        index.add_with_ids(rows(2), [5])
    with pytest.raises(BadRowsError, match="row 1 has zero norm"):
        index.add(rows(2) * [[1], [0]])
    with pytest.raises(IndexArgumentError, match="k: expected at least 1, got 0"):
        index.search(rows(1), 0)
    index.remove_ids([0])
    with pytest.raises(IndexArgumentError, match="counting on from ntotal, 2 is taken; use add_with_ids"):
        index.add(rows(2))
    assert index.ntotal == 2
    index.add(np.empty((0, DIM), np.float32))
    assert index.reconstruct_batch([]).shape == (0, DIM)


def test_training_is_refused_where_it_would_spoil_the_index():
    index = CompressedFaissIndex(identity(Metric.L2), "IVF4,Flat")
    with pytest.raises(VectorIndexError, match="faiss cannot train 'IVF4,Flat' on this"):
        index.train(rows(3))
    assert not index.is_trained
    index.train(rows(200))
    index.add(rows(5))
    with pytest.raises(VectorIndexError, match="the index holds 5 elements; train another one"):
        index.train(rows(200))
    assert repr(index) == (
        "<vaecodec_integrations.faiss.CompressedFaissIndex(d=8, code_dim=8, description='IVF4,Flat', ntotal=5)>"
    )


def test_a_file_of_faiss_itself_is_refused(tmp_path):
    faiss.write_index(faiss.IndexFlatL2(DIM), str(tmp_path / "plain"))
    with pytest.raises(IndexFileError, match=r"not a file that CompressedFaissIndex\.save wrote; if faiss wrote it"):
        CompressedFaissIndex.load(tmp_path / "plain", identity(Metric.L2))


def test_offers_what_faiss_offers_or_says_why_not():
    index = CompressedFaissIndex(identity(Metric.L2), "Flat")
    # The names that end so are the same methods for pointers in C++.
    theirs = {n for n in dir(faiss.Index) if not n.startswith("_") and not n.endswith(("_c", "_ex"))}
    assert {name for name in theirs if not hasattr(index, name)} == set(NOT_OFFERED)
    with pytest.raises(AttributeError, match="merge_from: it would change elements without the codec"):
        index.merge_from(index)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        index.nothing  # noqa: B018


def test_methods_take_the_parameters_of_faiss():
    methods = [name for name, _ in inspect.getmembers(CompressedFaissIndex, inspect.isfunction) if name[0] != "_"]
    shared = [name for name in methods if hasattr(faiss.Index, name)]
    assert len(shared) == 12
    for name in shared:
        mine, theirs = (inspect.signature(getattr(c, name)).parameters for c in (CompressedFaissIndex, faiss.Index))
        assert list(mine) == [parameter for parameter in theirs if parameter not in PARAMETERS_LEFT_OUT], name


def test_results_are_written_where_the_caller_wants_them():
    index = CompressedFaissIndex(identity(Metric.L2), "Flat")
    vectors = rows(50)
    index.add(x=vectors)
    scores, ids, found = np.empty((5, 3), np.float32), np.empty((5, 3), np.int64), np.empty((5, 3, DIM), np.float32)
    index.search_and_reconstruct(x=vectors[:5], k=3, D=scores, I=ids, R=found)
    wanted = index.search(vectors[:5], 3)
    np.testing.assert_array_equal(scores, wanted[0])
    np.testing.assert_array_equal(ids, wanted[1])
    np.testing.assert_array_equal(found, vectors[ids])
    row = np.empty(DIM, np.float32)
    index.reconstruct(7, row)
    np.testing.assert_array_equal(row, vectors[7])
    assert index.assign(vectors[:5], 3, labels=ids) is ids
    with pytest.raises(IndexArgumentError, match=r"D: expected an array of float32 and shape \(5, 3\) to write to"):
        index.search(vectors[:5], 3, D=np.empty((5, 2), np.float32))


def test_elements_are_removed_by_a_selector_of_faiss():
    index = CompressedFaissIndex(identity(Metric.L2), "Flat")
    index.add(rows(20))
    assert index.remove_ids(faiss.IDSelectorRange(5, 15)) == 10
    assert index.remove_ids(faiss.IDSelectorBatch([1, 2, 5])) == 2
    assert index.ntotal == 8


def test_settings_of_a_search_are_followed_or_refused():
    vectors = rows(400)
    lists = CompressedFaissIndex(identity(Metric.L2), "IVF8,Flat")
    lists.train(vectors)
    lists.add(vectors)
    assert (lists.nprobe, lists.nlist) == (1, 8)
    lists.nprobe = 8
    np.testing.assert_array_equal(
        lists.search(vectors[:50], 10)[1], exact_search(vectors, vectors[:50], 10, Metric.L2)[0]
    )
    graph = CompressedFaissIndex(identity(Metric.L2), "HNSW8")
    graph.hnsw.efSearch = 99
    assert faiss.downcast_index(graph.inner.index).hnsw.efSearch == 99
    with pytest.raises(AttributeError, match="nprobe: expected an index with inverted lists, got 'HNSW8'"):
        graph.nprobe = 4
    with pytest.raises(AttributeError, match="verbose: this class follows no such setting; set it on the attribute"):
        graph.verbose = True


def test_every_search_of_faiss():
    plain = faiss.IndexFlatL2(DIM)
    index = CompressedFaissIndex(identity(Metric.L2), "Flat")
    vectors, queries = rows(200), rows(5, seed=1)
    for each in (plain, index):
        each.add(vectors)
    assert index.metric_type == plain.metric_type
    np.testing.assert_array_equal(index.assign(queries, 3), plain.assign(queries, 3))
    np.testing.assert_array_equal(index.reconstruct_n(5, 3), vectors[5:8])
    np.testing.assert_array_equal(index.reconstruct_n(), vectors)
    for mine, theirs in zip(index.range_search(queries, 4.0), plain.range_search(queries, 4.0), strict=True):
        np.testing.assert_allclose(np.asarray(mine), theirs, rtol=1e-4)
    scores, ids, found = index.search_and_reconstruct(queries, 201)
    assert (ids[:, 200] == -1).all()
    assert np.isnan(found[:, 200]).all()
    np.testing.assert_array_equal(found[:, :200], vectors[ids[:, :200]])
    np.testing.assert_array_equal(scores, index.search(queries, 201)[0])
    index.reset()
    assert index.ntotal == 0


def test_search_parameters_are_those_of_faiss():
    index = CompressedFaissIndex(identity(Metric.L2), "IVF8,Flat")
    vectors = rows(400)
    index.train(vectors)
    index.add(vectors)
    every = index.search(vectors[:50], 10, params=faiss.SearchParametersIVF(nprobe=8))
    np.testing.assert_array_equal(every[1], exact_search(vectors, vectors[:50], 10, Metric.L2)[0])
    assert (index.search(vectors[:50], 10)[1] != every[1]).any()
    with pytest.raises(IndexArgumentError, match="faiss cannot search 'IVF8,Flat' so"):
        index.search(vectors, 10, params=faiss.SearchParametersHNSW(efSearch=8))
