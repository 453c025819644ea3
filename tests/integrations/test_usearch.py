"""Test CompressedUsearchIndex against usearch itself, beyond what every index must do (test_index_contract.py)."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import LinearCodec, LinearKind, Metric
from vaecodec.errors import (
    CodecMismatchError,
    IndexArgumentError,
    IndexFileError,
    VectorIndexError,
)
from vaecodec.evaluation import exact_search, recall
from vaecodec_integrations.hnsw import CompressedIndex
from vaecodec_integrations.usearch.index import FROM_USEARCH, METRICS, NOT_OFFERED, CompressedUsearchIndex

usearch = pytest.importorskip("usearch.index", reason="usearch is not installed: pip install 'vaecodec[usearch]'")

DIM = 6


def identity(metric: Metric) -> LinearCodec:
    return LinearCodec(LinearKind.TRUNCATION, np.eye(DIM, dtype=np.float32), np.zeros(DIM, np.float32), metric)


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)


@pytest.mark.parametrize("metric", list(Metric))
def test_answers_as_usearch_does(metric):
    plain = usearch.Index(ndim=DIM, metric=METRICS[metric], dtype="f32")
    compressed = CompressedUsearchIndex(identity(metric))
    vectors = rows(200)
    keys = np.arange(1_000, 1_200)
    # With one thread the graph depends on nothing but the order.
    np.testing.assert_array_equal(compressed.add(keys, vectors, threads=1), plain.add(keys, vectors, threads=1))

    for queries in (rows(5, seed=1), rows(1, seed=2)[0]):
        expected, actual = plain.search(queries, 7), compressed.search(queries, 7)
        assert type(actual) is type(expected)
        np.testing.assert_array_equal(actual.keys, expected.keys)
        np.testing.assert_allclose(actual.distances, expected.distances, rtol=1e-4, atol=1e-5)

    truth, _ = exact_search(vectors, rows(5, seed=1), 7, metric)
    np.testing.assert_array_equal(compressed.search(rows(5, seed=1), 7, exact=True).keys, truth + 1_000)
    assert len(compressed.search(rows(1), 500)) == 200  # as many as there are


KEYS = st.integers(0, 12)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.lists(KEYS, min_size=1, max_size=6)),
        st.tuples(st.just("remove"), st.lists(KEYS, min_size=1, max_size=6)),
    ),
    max_size=12,
)


@given(operations=OPERATIONS)
@settings(max_examples=40)
def test_holds_what_a_dictionary_would(operations):
    index, model = CompressedUsearchIndex(identity(Metric.L2)), dict[int, np.ndarray]()
    for number, (operation, keys) in enumerate(operations):
        if operation == "add":
            vectors = rows(len(keys), number)
            index.add(keys, vectors)
            model.update(zip(keys, vectors, strict=True))
        else:
            assert index.remove(keys) == len(model.keys() & set(keys))
            for key in keys:
                model.pop(key, None)
        assert len(index) == index.size == len(model)
        assert sorted(index.keys.tolist()) == sorted(model)
        assert index.contains(np.arange(13)).tolist() == [key in model for key in range(13)]
        for key, vector in zip(range(13), index.get(np.arange(13)), strict=True):
            np.testing.assert_array_equal(vector, model.get(key))
    for key, vector in model.items():
        assert index.search(vector, 1).keys.tolist() == [key]


def test_keys_are_counted_on_from_the_size_unless_one_is_taken():
    index = CompressedUsearchIndex(identity(Metric.L2))
    assert index.add(None, rows(3)).tolist() == [0, 1, 2]
    assert index.add(None, rows(2)).tolist() == [3, 4]
    index.remove(1)
    with pytest.raises(IndexArgumentError, match="counting on from the size, 4 is taken; give the keys"):
        index.add(None, rows(2))
    assert sorted(index.keys.tolist()) == [0, 2, 3, 4]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([1, 2], "expected 3 integers, one for each vector, got shape (2,)"),
        ([1, -2, 3], "expected integers from 0 to 2**64 - 1, got -2"),
        ([1.0, 2.0, 3.0], "got dtype float64"),
    ],
)
def test_wrong_keys_insert_nothing(keys, message):
    """usearch would make 2**64 - 2 of -2, and 1 of 1.5."""
    index = CompressedUsearchIndex(identity(Metric.L2))
    with pytest.raises(IndexArgumentError, match=re.escape(message)):
        index.add(keys, rows(3))
    assert len(index) == 0


def test_single_keys_and_empty_batches():
    index = CompressedUsearchIndex(identity(Metric.L2))
    vector = rows(1)[0]
    index.add(2**64 - 1, vector.tolist())
    assert 2**64 - 1 in index
    assert 5 not in index
    np.testing.assert_array_equal(index.get(2**64 - 1), vector)
    assert index.get(5) is None
    assert index.get([]) == ()
    assert index.add([], np.empty((0, DIM), np.float32)).shape == (0,)
    assert len(index.search(np.empty((0, DIM), np.float32))) == 0
    assert index.remove(5) == 0
    with pytest.raises(IndexArgumentError, match="count: expected at least 1, got 0"):
        index.search(vector, 0)


def test_updating_everything_costs_no_recall(svd_codec, sample):
    index = CompressedUsearchIndex(svd_codec, expansion_search=100)
    for _ in range(3):
        index.add(np.arange(2_000), sample.base[:2_000], threads=1)
    truth, _ = exact_search(
        svd_codec.encode(sample.base[:2_000]), svd_codec.encode_queries(sample.queries[:100]), 10, Metric.COSINE
    )
    assert len(index) == 2_000
    assert recall(index.search(sample.queries[:100], 10).keys.astype(np.int64), truth, 10).mean() > 0.97


@pytest.mark.parametrize(("dtype", "error"), [("f16", 1e-3), ("bf16", 1e-2), ("i8", 3e-2)])
def test_latents_can_be_kept_smaller(svd_codec, sample, tmp_path, dtype, error):
    index = CompressedUsearchIndex(svd_codec, dtype=dtype, connectivity=8, expansion_add=60, expansion_search=90)
    assert (index.dtype, index.connectivity, index.expansion_add, index.expansion_search) == (dtype, 8, 60, 90)
    index.add(np.arange(500), sample.base[:500])
    expected = svd_codec.decode(svd_codec.encode(sample.base[:500]))
    np.testing.assert_allclose(np.stack(index.get(np.arange(500))), expected, atol=error)

    index.save(tmp_path / "index")
    # Less than the latents alone would take as float32.
    assert (tmp_path / "index").stat().st_size < 500 * 64 * 4
    loaded = CompressedUsearchIndex(svd_codec)
    loaded.expansion_search = 33
    loaded.load(tmp_path / "index")
    assert (loaded.dtype, loaded.expansion_search) == (dtype, 33)
    assert repr(loaded) == (
        f"<vaecodec_integrations.usearch.CompressedUsearchIndex(ndim=384, code_dim=64, dtype={dtype!r}, size=500)>"
    )
    loaded.expansion_search = 90
    np.testing.assert_array_equal(loaded.search(sample.queries[:9], 5).keys, index.search(sample.queries[:9], 5).keys)


def test_a_dtype_that_would_spoil_the_distances_is_refused():
    with pytest.raises(IndexArgumentError, match="one of f32, f16, bf16 for latents compared by l2, got 'i8'"):
        CompressedUsearchIndex(identity(Metric.L2), dtype="i8")
    with pytest.raises(IndexArgumentError, match="one of f32, f16, bf16, i8 for latents compared by cosine, got 'b1'"):
        CompressedUsearchIndex(identity(Metric.COSINE), dtype="b1")


def test_files_of_others_are_refused_and_change_nothing(tmp_path):
    pytest.importorskip("hnswlib", reason="hnswlib is not installed: pip install 'vaecodec[hnsw]'")
    codec = identity(Metric.L2)
    index = CompressedUsearchIndex(codec)
    index.add([7], rows(1))
    plain = usearch.Index(ndim=DIM, metric="l2sq", dtype="f32")
    plain.add(np.arange(3), rows(3))
    plain.save(str(tmp_path / "plain"))
    other: Any = CompressedIndex("l2", DIM, codec)
    other.init_index(5)
    other.save_index(tmp_path / "hnswlib")
    for name in ("plain", "hnswlib"):
        with pytest.raises(IndexFileError, match=r"not a file that CompressedUsearchIndex\.save wrote"):
            index.load(tmp_path / name)
    assert index.keys.tolist() == [7]


def pair(n: int = 50, connectivity: int | None = None) -> tuple[Any, CompressedUsearchIndex]:
    """Make the same index, plain and compressed by a codec that changes nothing."""
    vectors = rows(n)
    plain = usearch.Index(ndim=DIM, metric="l2sq", dtype="f32", connectivity=connectivity)
    compressed = CompressedUsearchIndex(identity(Metric.L2), connectivity=connectivity)
    for index in (plain, compressed):
        index.add(np.arange(n), vectors, threads=1)
    return plain, compressed


def public(value: Any) -> set[str]:
    return {name for name in dir(value) if not name.startswith("_")}


def test_offers_what_usearch_offers_or_says_why_not():
    plain, compressed = pair()
    attributes = {"path"}  # an index of usearch remembers its file; this one does not
    assert public(plain) - public(compressed) - attributes == set(NOT_OFFERED)
    assert public(compressed) - public(plain) == {"codec"}
    for name in NOT_OFFERED:
        with pytest.raises(AttributeError, match=f"{name}: .*call load|{name}: .* load it"):
            getattr(compressed, name)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        compressed.nothing  # noqa: B018
    with pytest.raises(AttributeError, match="metric"):
        setattr(compressed, "metric", "ip")  # noqa: B010


def test_methods_take_the_parameters_of_usearch():
    # Arrays know their own type; what is got is float32.
    missing = {("add", "dtype"), ("search", "dtype"), ("get", "dtype"), ("cluster", "dtype")}
    shared = public(usearch.Index) & public(CompressedUsearchIndex)
    assert len(shared) > 20
    for name in sorted(shared):
        theirs = getattr(usearch.Index, name)
        if not callable(theirs):
            continue
        ours = inspect.signature(getattr(CompressedUsearchIndex, name)).parameters
        if any(parameter.kind is parameter.VAR_KEYWORD for parameter in ours.values()):
            continue
        wanted = [p for p in inspect.signature(theirs).parameters if (name, p) not in missing]
        assert list(ours) == wanted, name


def test_tells_of_the_graph_what_usearch_tells():
    plain, compressed = pair()
    for name in sorted(set(FROM_USEARCH) - {"level_stats", "levels_stats", "stats", "hardware_acceleration"}):
        assert getattr(compressed, name) == getattr(plain, name), name
    assert compressed.stats.nodes == plain.stats.nodes == 50
    assert compressed.level_stats(0).nodes == 50
    assert compressed.metric == plain.metric
    assert (compressed.specs["size"], compressed.specs["ndim"], compressed.specs["code_dim"]) == (50, DIM, DIM)


def test_keys_are_counted_fetched_renamed_and_deleted_as_in_usearch():
    plain, compressed = pair()
    np.testing.assert_array_equal(compressed[7], plain[7])
    np.testing.assert_array_equal(np.stack(compressed[[7, 9]]), np.stack(plain[[7, 9]]))
    np.testing.assert_array_equal(compressed.vectors, rows(50)[compressed.keys.astype(int)])
    for index in (plain, compressed):
        del index[7]
        assert (index.count(7), index.count(8), index.count([7, 8]).tolist()) == (0, 1, [0, 1])
        assert index.rename(8, 70) is True
        assert (8 in index, 70 in index) == (False, True)
        assert index.rename([70, 1000], [8, 71]) == [True, False]
        np.testing.assert_allclose(index.pairwise_distance(8, 9), ((rows(50)[8] - rows(50)[9]) ** 2).sum(), rtol=1e-5)
        index.clear()
        assert len(index) == 0
        index.add(np.arange(5), rows(5))
        index.reset()
        assert len(index) == 0
    with pytest.raises(IndexArgumentError, match="expected keys that are free, got 9, which is taken"):
        pair()[1].rename(8, 9)
    with pytest.raises(IndexArgumentError, match="expected each key once"):
        pair()[1].rename([8, 9], [60, 60])
    with pytest.raises(VectorIndexError, match="copy: expected True"):
        compressed.add(1, rows(1), copy=False)


def test_bytes_in_memory_copies_and_progress():
    plain, compressed = pair()
    content = compressed.save()
    assert len(content) == compressed.serialized_length
    loaded = CompressedUsearchIndex(identity(Metric.L2))
    for given_bytes in (content, bytearray(content), memoryview(content)):
        loaded.load(given_bytes)
        np.testing.assert_array_equal(loaded.search(rows(4), 5).keys, plain.search(rows(4), 5).keys)
    with pytest.raises(IndexFileError, match="index in memory: truncated or changed"):
        loaded.load(content[:-1])
    twin = compressed.copy()
    compressed.remove(3)
    assert (len(twin), len(compressed)) == (50, 49)
    totals: set[int] = set()

    def progress(done: int, total: int) -> bool:
        totals.add(total)
        return True

    progress.__annotations__ = {"done": int, "total": int, "return": bool}  # usearch looks at them
    twin.add(None, rows(5, seed=1), threads=1, progress=progress)
    assert totals == {5}


def test_two_indexes_are_joined_and_one_is_clustered():
    plain, compressed = pair(300, connectivity=4)
    assert compressed.join(compressed.copy()) == plain.join(plain.copy())
    assert compressed.cluster(min_count=2, max_count=50).centroids_popularity[0].size > 1
    assert compressed.cluster(vectors=rows(30), min_count=2, max_count=10).matches.keys.shape == (30, 1)
    with pytest.raises(CodecMismatchError, match="expected an index of the same codec"):
        compressed.join(CompressedUsearchIndex(identity(Metric.DOT)))
