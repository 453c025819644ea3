"""Test CompressedIndex against hnswlib itself: with an identity codec it must be the same index."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
import threading
from typing import Any

import hnswlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from vaecodec import LinearCodec, LinearKind, Metric, fit_linear
from vaecodec.errors import (
    BadRowsError,
    IndexArgumentError,
    IndexFileError,
    VectorIndexError,
    WrongWidthError,
)
from vaecodec.evaluation import exact_search
from vaecodec_integrations.hnsw.index import SPACES, CompressedIndex

DIM = 6


def identity(metric: Metric, dim: int = DIM) -> LinearCodec:
    return LinearCodec(LinearKind.TRUNCATION, np.eye(dim, dtype=np.float32), np.zeros(dim, np.float32), metric)


def pair(metric: Metric, max_elements: int = 40, **options: Any) -> tuple[hnswlib.Index, CompressedIndex]:
    """Make the same empty index, plain and compressed by a codec that changes nothing."""
    indexes = hnswlib.Index(SPACES[metric], DIM), CompressedIndex(SPACES[metric], DIM, identity(metric))
    for index in indexes:
        index.init_index(max_elements, **options)
        index.set_ef(100)
        index.set_num_threads(1)
    return indexes


def rows(n: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def test_offers_everything_that_hnswlib_offers():
    def public(cls: type) -> set[str]:
        return {name for name in dir(cls) if not name.startswith("_")}

    assert public(CompressedIndex) - public(hnswlib.Index) == {"codec"}
    assert public(hnswlib.Index) - public(CompressedIndex) == set()
    for name in public(hnswlib.Index):
        signature = re.match(rf"{name}\(self: hnswlib.Index, /?(.*)\) ->", getattr(hnswlib.Index, name).__doc__ or "")
        if signature:
            theirs = [part.split(":")[0].strip() for part in signature[1].split(", ") if ":" in part]
            assert list(inspect.signature(getattr(CompressedIndex, name)).parameters)[1:] == theirs, name


class SameAsHnswlib(RuleBasedStateMachine):
    """Test that any sequence of calls gives the same answers; where hnswlib refuses, so does the adapter, changing
    nothing.
    """

    @initialize(metric=st.sampled_from([Metric.L2, Metric.DOT]), replace=st.booleans())
    def start(self, metric: Metric, replace: bool) -> None:
        self.plain, self.compressed = pair(metric, max_elements=12, allow_replace_deleted=replace)
        self.replace = replace
        self.seed = self.added = 0
        self.largest = -1

    def fresh(self, n: int) -> np.ndarray:
        self.seed += 1
        return rows(n, self.seed)

    def both(self, call: Any) -> bool:
        """Call the adapter first; what it refuses must fail in hnswlib, on a copy since it may stop half-way."""
        ids = sorted(self.compressed.get_ids_list())
        try:
            actual = call(self.compressed)
        except VectorIndexError:
            assert sorted(self.compressed.get_ids_list()) == ids
            with pytest.raises((RuntimeError, ValueError)):
                call(pickle.loads(pickle.dumps(self.plain)))
            return False
        np.testing.assert_equal(actual, call(self.plain))
        return True

    def add_to_both(self, vectors: np.ndarray, ids: Any, **options: Any) -> None:
        counted = self.added + np.arange(len(vectors)) if ids is None else np.array(ids)
        if ids is None and set(counted.tolist()) & set(self.compressed.get_ids_list()):
            # Where hnswlib would overwrite, the ids go on from the largest.
            counted = self.largest + 1 + np.arange(len(vectors))
        added = self.both(
            lambda index: index.add_items(vectors, ids if index is self.compressed else counted, **options)
        )
        if added:
            self.added += len(vectors)
            self.largest = max(self.largest, int(counted.max()))
        self.both(lambda index: sorted(index.get_ids_list()))
        self.both(lambda index: (index.get_current_count(), index.get_max_elements()))

    @rule(n=st.integers(1, 5))
    def add(self, n: int) -> None:
        self.add_to_both(self.fresh(n), None)

    @rule(ids=st.lists(st.integers(0, 20), min_size=1, max_size=6))
    def add_ids(self, ids: list[int]) -> None:
        self.add_to_both(self.fresh(len(ids)), ids)

    @precondition(lambda self: self.replace)
    @rule(n=st.integers(1, 3))
    def add_in_place_of_deleted(self, n: int) -> None:
        vectors = self.fresh(n)
        self.add_to_both(vectors, 100 * self.seed + np.arange(n), replace_deleted=True)

    @rule(label=st.integers(0, 20))
    def delete(self, label: int) -> None:
        self.both(lambda index: index.mark_deleted(label))

    @rule(label=st.integers(0, 20))
    def undelete(self, label: int) -> None:
        self.both(lambda index: index.unmark_deleted(label))

    @rule(size=st.integers(1, 20))
    def resize(self, size: int) -> None:
        self.both(lambda index: index.resize_index(size))

    @rule(k=st.integers(1, 8), seed=st.integers(0, 100))
    def query(self, k: int, seed: int) -> None:
        queries = rows(3, seed)
        self.both(lambda index: index.knn_query(queries, k))
        self.both(lambda index: index.knn_query(queries, k, 1, lambda label: label % 2 == 0))

    @rule(ids=st.lists(st.integers(0, 20), min_size=1, max_size=4))
    def items(self, ids: list[int]) -> None:
        self.both(lambda index: index.get_items(ids))


TestSameAsHnswlib = SameAsHnswlib.TestCase
TestSameAsHnswlib.settings = settings(max_examples=60, stateful_step_count=25)


@given(
    n=st.integers(1, 30),
    k=st.integers(1, 30),
    metric=st.sampled_from(list(Metric)),
    seed=st.integers(0, 1_000),
    scale=st.floats(0.01, 100),
)
@settings(max_examples=60)
def test_distances_follow_the_space(n, k, metric, seed, scale):
    vectors, queries = scale * rows(n, seed), rows(3, seed + 1)
    plain, compressed = pair(metric)
    plain.add_items(vectors)
    compressed.add_items(vectors)
    k = min(k, n)

    labels, distances = compressed.knn_query(queries, k)

    assert (labels.dtype, distances.dtype) == (np.uint64, np.float32)
    np.testing.assert_allclose(distances, plain.knn_query(queries, k)[1], rtol=1e-4, atol=1e-5)
    scores = exact_search(vectors, queries, k, metric)[1]
    expected = {Metric.COSINE: 1 - scores, Metric.DOT: 1 - scores, Metric.L2: -scores}[metric]
    np.testing.assert_allclose(distances, expected, rtol=1e-3, atol=1e-3)


def test_pca_of_documents_is_searched_by_dot_product(sample):
    codec = fit_linear(sample.train, 64, kind=LinearKind.PCA_DOCUMENTS)
    index = CompressedIndex("cosine", 384, codec)
    index.init_index(1_000)
    index.set_ef(200)
    index.add_items(sample.base[:1_000])
    truth, scores = exact_search(
        codec.encode(sample.base[:1_000]), codec.encode_queries(sample.queries[:20]), 1, Metric.DOT
    )
    labels, distances = index.knn_query(sample.queries[:20])
    np.testing.assert_array_equal(labels, truth)
    np.testing.assert_allclose(distances, 1 - scores, atol=1e-5)


@pytest.mark.parametrize(
    "one",
    [rows(1)[0], rows(1)[0].tolist(), rows(1)[0].astype(np.float16), [1, 0, 0, 0, 2, 0], rows(1)[0][::-1]],
    ids=["array", "list", "float16", "integers in a list", "reversed view"],
)
def test_one_vector_is_one_row_as_in_hnswlib(one):
    plain, compressed = pair(Metric.L2)
    for index in (plain, compressed):
        index.add_items(one, 9)
        index.add_items(rows(5, seed=3).tolist(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(compressed.knn_query(one, k=3), plain.knn_query(one, k=3))
    assert compressed.get_items([9], return_type="list") == plain.get_items([9], return_type="list")


def test_an_empty_batch_is_nothing():
    _, index = pair(Metric.L2)
    index.add_items(np.empty((0, DIM), np.float32))
    index.add_items(rows(3))
    index.add_items(np.empty((0, DIM), np.float32), [])
    assert sorted(index.get_ids_list()) == [0, 1, 2]
    labels, distances = index.knn_query(np.empty((0, DIM), np.float32), k=2)
    assert labels.shape == distances.shape == (0, 2)
    assert index.get_items([]).shape == index.get_items().shape == (0, DIM)
    assert index.get_items([], return_type="list") == []


def test_properties_follow_the_inner_index():
    index = CompressedIndex("l2", DIM, identity(Metric.L2))
    assert (index.space, index.dim, index.element_count, index.max_elements) == ("l2", DIM, 0, 0)
    index.init_index(max_elements=7, M=5, ef_construction=33)
    index.ef = 21
    index.num_threads = 3
    index.add_items(rows(2))
    assert (index.M, index.ef_construction, index.ef, index.num_threads) == (5, 33, 21, 3)
    assert (index.element_count, index.max_elements) == (2, 7)
    index.set_ef(22)
    index.set_num_threads(4)
    assert (index.ef, index.num_threads) == (22, 4)
    assert repr(index) == "<vaecodec_integrations.hnsw.CompressedIndex(space='l2', dim=6, code_dim=6)>"


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 2], "expected 3 integers, one for each vector, got shape (2,)"),
        ([[1, 2, 3]], "got shape (1, 3)"),
        (5, "got shape ()"),
        ([1, -2, 3], "expected integers from 0 to 2**64 - 1, got -2"),
        ([1.0, 2.0, 3.0], "got dtype float64"),
        (["a", "b", "c"], "got dtype <U1"),
        ([1, 2, 2**64], "expected integers from 0 to 2**64 - 1, got 18446744073709551616"),
        (np.array([1, -2, 3], object), "got -2"),
        ([1, True, None], "got dtype object"),
        ([[1], [2, 3], [4]], "got lists of several lengths"),
    ],
)
def test_wrong_ids_insert_nothing(ids, message):
    _, index = pair(Metric.L2)
    with pytest.raises(IndexArgumentError, match=re.escape(message)):
        index.add_items(rows(3), ids)
    assert index.element_count == 0


def test_largest_id():
    _, index = pair(Metric.L2)
    index.add_items(rows(1), [2**64 - 1])
    assert index.get_ids_list() == [2**64 - 1]


def test_a_batch_that_does_not_fit_inserts_nothing():
    _, index = pair(Metric.L2, max_elements=5)
    index.add_items(rows(4), [0, 1, 2, 3])
    message = "the batch holds 2 new ids, but there is room for 1 (max_elements=5)"
    with pytest.raises(VectorIndexError, match=re.escape(message)):
        index.add_items(rows(3, seed=1), [3, 4, 5])
    assert sorted(index.get_ids_list()) == [0, 1, 2, 3]
    np.testing.assert_array_equal(index.get_items([3]), rows(4)[3:])

    index.add_items(rows(3, seed=1), [3, 4, 4])  # two ids are there already
    assert sorted(index.get_ids_list()) == [0, 1, 2, 3, 4]
    with pytest.raises(VectorIndexError, match="expected at least 1, got 0"):
        index.resize_index(0)
    with pytest.raises(VectorIndexError, match="holds 5 elements, got 4"):
        index.resize_index(4)
    index.resize_index(6)
    index.add_items(rows(1, seed=2), [5])
    assert index.element_count == index.max_elements == 6


class TestReplacingDeleted:
    """Test that the adapter avoids what hnswlib does: two vectors under one id, or a failure half-way."""

    @pytest.fixture
    def index(self) -> CompressedIndex:
        index = pair(Metric.L2, max_elements=5, allow_replace_deleted=True)[1]
        index.add_items(rows(5), [0, 1, 2, 3, 4])
        return index

    def test_an_id_that_is_there_is_updated_in_its_place(self, index):
        index.mark_deleted(2)
        index.add_items(rows(1, seed=9), [3], replace_deleted=True)
        labels, _ = index.knn_query(rows(1), k=4)
        assert sorted(labels[0]) == [0, 1, 3, 4]
        np.testing.assert_array_equal(index.get_items([3]), rows(1, seed=9))

    def test_a_deleted_id_comes_back(self, index):
        index.mark_deleted(2)
        with pytest.raises(IndexArgumentError, match="ids: 2 is marked deleted"):
            index.add_items(rows(1, seed=9), [2])
        index.add_items(rows(1, seed=9), [2], replace_deleted=True)
        assert sorted(index.knn_query(rows(1), k=5)[0][0]) == [0, 1, 2, 3, 4]
        np.testing.assert_array_equal(index.get_items([2]), rows(1, seed=9))

    def test_of_equal_ids_the_last_counts(self, index):
        index.mark_deleted(1)
        index.mark_deleted(2)
        index.add_items(rows(3, seed=9), [7, 8, 7], replace_deleted=True)
        assert sorted(index.get_ids_list()) == [0, 3, 4, 7, 8]
        np.testing.assert_array_equal(index.get_items([7, 8]), rows(3, seed=9)[[2, 1]])

    def test_more_new_ids_than_places_insert_nothing(self, index):
        index.mark_deleted(2)
        with pytest.raises(VectorIndexError, match="2 new ids, but there is room for 1"):
            index.add_items(rows(2, seed=9), [8, 9], replace_deleted=True)
        assert sorted(index.get_ids_list()) == [0, 1, 2, 3, 4]
        index.unmark_deleted(2)
        np.testing.assert_array_equal(index.get_items([2]), rows(5)[2:3])

    def test_survives_saving(self, index, tmp_path):
        index.mark_deleted(2)
        index.save_index(str(tmp_path / "index"))
        loaded = pair(Metric.L2)[1]
        loaded.load_index(str(tmp_path / "index"), allow_replace_deleted=True)
        with pytest.raises(VectorIndexError, match="the index holds 4 elements that are not deleted"):
            loaded.knn_query(rows(1), k=5)
        loaded.add_items(rows(1, seed=9), [8], replace_deleted=True)
        assert sorted(loaded.get_ids_list()) == [0, 1, 3, 4, 8]
        with pytest.raises(VectorIndexError, match="there is room for 0"):
            loaded.add_items(rows(1, seed=9), [9], replace_deleted=True)

    def test_must_be_allowed_when_the_index_is_made(self):
        index = pair(Metric.L2)[1]
        with pytest.raises(VectorIndexError, match="pass allow_replace_deleted=True to init_index"):
            index.add_items(rows(1), [8], replace_deleted=True)
        assert index.element_count == 0


def test_more_neighbours_than_there_are():
    _, index = pair(Metric.L2)
    index.add_items(rows(5))
    index.mark_deleted(3)
    with pytest.raises(VectorIndexError, match="k: 5 neighbours wanted, but the index holds 4 elements"):
        index.knn_query(rows(1), k=5)
    with pytest.raises(VectorIndexError, match="for at least one query the filter passes fewer"):
        index.knn_query(rows(1), k=3, num_threads=1, filter=lambda label: label < 2)


@pytest.mark.parametrize("k", [0, -1, 2.0, None])
def test_a_number_of_neighbours_that_would_crash_hnswlib_is_refused(k):
    _, index = pair(Metric.L2)
    index.add_items(rows(5))
    with pytest.raises(IndexArgumentError, match=f"k: expected an integer of at least 1, got {k}"):
        index.knn_query(rows(1), k=k)
    assert index.knn_query(rows(1), k=np.arange(3)[2])[0].shape == (1, 2)  # an integer of numpy


def test_unknown_and_deleted_ids():
    _, index = pair(Metric.L2)
    index.add_items(rows(5))
    index.mark_deleted(3)
    for ids, missing in [([0, 3], 3), ([1, 77], 77)]:
        with pytest.raises(IndexArgumentError, match=f"ids: {missing} is not in the index, or deleted"):
            index.get_items(ids)
    with pytest.raises(IndexArgumentError, match="expected a list of integers, got shape \\(\\)"):
        index.get_items(4)
    with pytest.raises(IndexArgumentError, match="expected 'numpy' or 'list', got 'tuple'"):
        index.get_items([1], return_type="tuple")
    with pytest.raises(IndexArgumentError, match="id 3: The requested to delete element is already deleted"):
        index.mark_deleted(3)
    with pytest.raises(IndexArgumentError, match="id 4: The requested to undelete element is not deleted"):
        index.unmark_deleted(4)
    with pytest.raises(IndexArgumentError, match="id 77: Label not found"):
        index.mark_deleted(77)


def test_every_call_before_init_index_says_so(tmp_path):
    index = CompressedIndex("l2", DIM, identity(Metric.L2))
    calls = [
        lambda: index.add_items(rows(1)),
        lambda: index.knn_query(rows(1)),
        lambda: index.get_items([0]),
        lambda: index.get_ids_list(),
        lambda: index.get_max_elements(),
        lambda: index.get_current_count(),
        lambda: index.mark_deleted(0),
        lambda: index.unmark_deleted(0),
        lambda: index.resize_index(5),
        lambda: index.index_file_size(),
        lambda: index.save_index(tmp_path / "index"),
    ]
    for call in calls:
        with pytest.raises(VectorIndexError, match="call init_index or load_index first"):
            call()
    with pytest.raises(VectorIndexError, match="M: expected at least 2 links"):
        index.init_index(10, M=1)
    index.init_index(10)
    with pytest.raises(VectorIndexError, match="already initialised"):
        index.init_index(10)


def test_the_space_and_width_must_be_the_codecs(svd_codec):
    with pytest.raises(IndexArgumentError, match="made for the metric 'cosine', which is hnswlib's 'cosine', got 'l2'"):
        CompressedIndex("l2", 384, svd_codec)
    with pytest.raises(IndexArgumentError, match="expected one of 'cosine', 'ip', 'l2', got 'euclid'"):
        CompressedIndex("euclid", 384, svd_codec)
    with pytest.raises(WrongWidthError, match="takes embeddings of width 384, got 64"):
        CompressedIndex("cosine", 64, svd_codec)


class TestPickling:
    def test_keeps_everything_that_hnswlib_keeps(self):
        plain, compressed = pair(Metric.L2, max_elements=7, M=5, ef_construction=33)
        for index in (plain, compressed):
            index.add_items(rows(5))
            index.mark_deleted(3)
        copies = [pickle.loads(pickle.dumps(index)) for index in (plain, compressed)]
        for name in ("space", "dim", "M", "ef_construction", "ef", "num_threads", "element_count", "max_elements"):
            assert getattr(copies[1], name) == getattr(copies[0], name), name
        np.testing.assert_array_equal(copies[1].knn_query(rows(3), k=4), copies[0].knn_query(rows(3), k=4))
        compressed.add_items(rows(1, seed=9))
        assert sorted(copies[1].get_ids_list()) == [0, 1, 2, 3, 4]

    def test_an_index_that_was_never_initialised(self):
        restored = pickle.loads(pickle.dumps(CompressedIndex("l2", DIM, identity(Metric.L2))))
        with pytest.raises(VectorIndexError, match="call init_index or load_index first"):
            restored.add_items(rows(1))
        restored.init_index(3)
        restored.add_items(rows(3))
        assert restored.element_count == 3

    def test_deleted_places_can_be_replaced_as_before(self):
        index = pair(Metric.L2, max_elements=3, allow_replace_deleted=True)[1]
        index.add_items(rows(3))
        index.mark_deleted(1)
        restored = copy.deepcopy(index)
        restored.add_items(rows(1, seed=5), [8], replace_deleted=True)
        assert sorted(restored.get_ids_list()) == [0, 2, 8]


class TestIdsThatAreCounted:
    """Test that without ids no element is ever overwritten, which hnswlib does (its issues 36 and 79)."""

    def test_after_loading(self, tmp_path):
        index = pair(Metric.L2)[1]
        index.add_items(rows(10), np.arange(5, 15))
        index.save_index(tmp_path / "index")
        loaded = pair(Metric.L2)[1]
        loaded.load_index(tmp_path / "index", max_elements=20)
        loaded.add_items(rows(3, seed=1))
        assert sorted(loaded.get_ids_list()) == list(range(5, 18))
        np.testing.assert_array_equal(loaded.get_items([12]), rows(10)[7:8])

    def test_after_ids_of_ones_own(self):
        index = pair(Metric.L2)[1]
        index.add_items(rows(2), [2, 30])
        index.add_items(rows(1, seed=1))
        assert sorted(index.get_ids_list()) == [2, 30, 31]

    def test_no_id_follows_the_largest(self):
        index = pair(Metric.L2)[1]
        index.add_items(rows(2), [2, 2**64 - 1])
        with pytest.raises(IndexArgumentError, match=r"none follow 18446744073709551615, .* give the ids"):
            index.add_items(rows(1, seed=2))
        assert index.element_count == 2


def test_of_equal_ids_in_a_batch_the_last_row_counts():
    vectors = rows(400, dim=64)
    index = CompressedIndex("l2", 64, identity(Metric.L2, 64))
    index.init_index(400)
    index.add_items(vectors, np.repeat(np.arange(20), 20), num_threads=8)
    np.testing.assert_array_equal(index.get_items(np.arange(20)), vectors[19::20])


def test_ids_as_a_list_or_as_objects_keep_all_their_digits():
    ids = [17, 2**63 + 5, 2**64 - 1, np.uint64(2**63 + 7)]
    for given_ids in (ids, np.array(ids, object), tuple(ids)):
        index = pair(Metric.L2)[1]
        index.add_items(rows(4), given_ids)
        assert sorted(index.get_ids_list()) == [17, 2**63 + 5, 2**63 + 7, 2**64 - 1]
        np.testing.assert_array_equal(index.get_items(given_ids), rows(4))


def test_vectors_of_the_labels_that_a_query_returns():
    plain, compressed = pair(Metric.L2)
    for index in (plain, compressed):
        index.add_items(rows(20))
    labels, _ = compressed.knn_query(rows(5), k=1)
    np.testing.assert_array_equal(compressed.get_items(labels), plain.get_items(labels))
    labels, _ = compressed.knn_query(rows(5), k=3)
    with pytest.raises(IndexArgumentError, match=r"got shape \(5, 3\)"):  # of which hnswlib takes the first 5
        compressed.get_items(labels)


class TestFile:
    def test_size_is_known_before_saving(self, tmp_path):
        _, index = pair(Metric.COSINE)
        index.add_items(rows(30))
        for label in (4, 11):
            index.mark_deleted(label)
        index.save_index(tmp_path / "index")
        assert (tmp_path / "index").stat().st_size == index.index_file_size()

    def test_loads_with_hnswlibs_defaults(self, tmp_path):
        plain, compressed = pair(Metric.DOT, max_elements=12)
        for index in (plain, compressed):
            index.add_items(rows(10))
            index.mark_deleted(4)
        plain.save_index(str(tmp_path / "plain"))
        compressed.save_index(str(tmp_path / "compressed"))
        for max_elements in (0, 3, 50):
            plain = hnswlib.Index("ip", DIM)
            plain.load_index(str(tmp_path / "plain"), max_elements)
            compressed.load_index(str(tmp_path / "compressed"), max_elements)
            for name in ("ef", "M", "ef_construction", "element_count", "max_elements"):
                assert getattr(compressed, name) == getattr(plain, name), name
            for index in (plain, compressed):
                index.set_ef(50)
            np.testing.assert_array_equal(compressed.knn_query(rows(4), k=5), plain.knn_query(rows(4), k=5))
        compressed.add_items(rows(2, seed=1))
        plain.add_items(rows(2, seed=1))
        assert sorted(compressed.get_ids_list()) == sorted(plain.get_ids_list()) == list(range(12))

    def test_an_index_of_hnswlib_itself_is_refused_with_the_way_out(self, tmp_path):
        plain, compressed = pair(Metric.L2)
        plain.add_items(rows(10))
        plain.save_index(str(tmp_path / "plain"))
        compressed.add_items(rows(3))
        with pytest.raises(IndexFileError, match=r"load it with hnswlib\.Index, take its vectors with get_items"):
            compressed.load_index(tmp_path / "plain")
        assert compressed.element_count == 3

    def test_a_newer_format_is_refused(self, tmp_path):
        _, index = pair(Metric.L2)
        index.save_index(tmp_path / "index")
        newer = bytearray((tmp_path / "index").read_bytes())
        newer[8] = 2
        (tmp_path / "index").write_bytes(newer)
        with pytest.raises(IndexFileError, match="format version 2, but this vaecodec reads 1"):
            index.load_index(tmp_path / "index")

    def test_holds_hnswlibs_own_bytes(self, tmp_path):
        """Read the file as documented: after the header it is what hnswlib writes."""
        plain, compressed = pair(Metric.L2)
        for index in (plain, compressed):
            index.add_items(rows(10))
            index.save_index(str(tmp_path / "index"))
            if index is plain:
                payload = (tmp_path / "index").read_bytes()
        saved = (tmp_path / "index").read_bytes()
        assert saved[:8] == b"VAEHNSW\n"
        header_bytes = int.from_bytes(saved[12:16], "little")
        assert saved[48 + header_bytes :] == payload

    def test_a_folder_that_cannot_be_written_is_read_from(self, tmp_path, monkeypatch):
        _, index = pair(Metric.L2)
        index.add_items(rows(10))
        index.save_index(tmp_path / "index")
        monkeypatch.setattr("os.access", lambda *_: False)
        index.load_index(tmp_path / "index")
        assert index.element_count == 10


def test_threads_adding_at_once_lose_nothing():
    _, index = pair(Metric.COSINE, max_elements=400)
    batches = [rows(40, seed) for seed in range(10)]
    threads = [
        threading.Thread(target=index.add_items, args=(batch, 40 * number + np.arange(40)))
        for number, batch in enumerate(batches)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(index.get_ids_list()) == list(range(400))
    labels, _ = index.knn_query(np.concatenate(batches), k=1)
    assert (labels[:, 0] == np.arange(400)).mean() > 0.99


def test_a_zero_row_under_cosine_names_the_row():
    _, index = pair(Metric.COSINE)
    vectors = rows(4)
    vectors[2] = 0
    with pytest.raises(BadRowsError, match="row 2 has zero norm"):
        index.add_items(vectors)
    assert index.element_count == 0
