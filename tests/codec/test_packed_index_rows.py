"""Test ids, deletes, filters and threads: a packed index as its users change it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vaecodec import Codec, Metric, fit_linear
from vaecodec.calibration import CodecCalibration
from vaecodec.codes import Calibration
from vaecodec.errors import IndexArgumentError
from vaecodec.packed_index import PackedIndex
from vaecodec.packed_index.growing import Growing
from vaecodec.packed_index.rows import IdLookup, Rows
from vaecodec_exporters.linear import export_linear

CODES = [{"bytes": 16}, {"dtype": "int8"}]


@pytest.fixture(scope="module")
def codec(sample, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    linear = fit_linear(sample.train, 64)
    path = tmp_path_factory.mktemp("rows") / "svd64.onnx"
    calibration = Calibration.fit(linear.encode(sample.train), Metric.COSINE, memory=8)
    export_linear(linear, path, calibration=CodecCalibration(codes=calibration))
    return Codec.load(path)


def index_of(codec: Codec, vectors: np.ndarray, ids: object = None, **code: object) -> PackedIndex:
    index = PackedIndex(codec, **(code or {"bytes": 16}))  # type: ignore[arg-type]
    index.add(vectors, ids)
    return index


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("code", CODES)
def test_ids_name_the_vectors_that_were_added(sample, codec: Codec, code, count: int) -> None:
    ids = np.array([7, -3, 2**62, 0, 99, 5])
    plain, named = index_of(codec, sample.base[:6], **code), index_of(codec, sample.base[:6], ids, **code)
    rows, scores = plain.search(sample.queries[:count], 4)
    found, same = named.search(sample.queries[:count], 4)
    assert np.array_equal(found, ids[rows])
    assert np.array_equal(same, scores)
    assert named.ids.tolist() == ids.tolist()
    named.add(sample.base[6:8], [1, 2])
    assert named.ids.tolist() == [*ids.tolist(), 1, 2]


def test_ids_go_on_from_the_largest_and_are_never_used_twice(sample, codec: Codec) -> None:
    index = index_of(codec, sample.base[:3])
    index.add(sample.base[3:5], [10, 4])
    index.add(sample.base[5:7])
    assert index.ids.tolist() == [0, 1, 2, 10, 4, 11, 12]
    index.delete([12])
    index.add(sample.base[7:8])
    assert index.ids.tolist() == [0, 1, 2, 10, 4, 11, 13]


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("code", CODES)
def test_deleted_vectors_are_not_found(sample, codec: Codec, code, count: int) -> None:
    index, left = index_of(codec, sample.base[:200], **code), index_of(codec, sample.base[100:200], **code)
    index.delete(np.arange(100))
    ids, scores = index.search(sample.queries[:count], 150)
    expected, same = left.search(sample.queries[:count], 150)
    assert len(index) == len(left) == 100
    assert np.array_equal(ids, expected + 100)
    assert np.allclose(scores, same, atol=1e-6)


def test_an_id_can_be_added_again_after_it_was_deleted(sample, codec: Codec) -> None:
    index = index_of(codec, sample.base[:50])
    index.delete([7])
    index.add(sample.base[60:61], [7])
    assert index.search(sample.base[60:61], 1)[0].tolist() == [[7]]
    index.delete([7])
    assert 7 not in index.ids


def test_compacting_changes_no_answer(sample, codec: Codec) -> None:
    index = index_of(codec, sample.base[:300])
    index.delete(np.arange(0, 300, 3))
    before = index.search(sample.queries[:3], 20)
    index.compact()
    after = index.search(sample.queries[:3], 20)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    index.add(sample.base[300:302])
    assert index.ids[-3:].tolist() == [299, 300, 301]


@pytest.mark.parametrize("named", [False, True])
def test_saving_keeps_ids_and_drops_what_was_deleted(sample, codec: Codec, named: bool, tmp_path: Path) -> None:
    index = index_of(codec, sample.base[:300], 5 * np.arange(300) if named else None)
    index.delete([0, 50, 295])
    index.save(tmp_path / "a.index")
    loaded = PackedIndex.load(tmp_path / "a.index", codec)
    assert loaded.ids.tolist() == index.ids.tolist()
    before, after = index.search(sample.queries[:20], 9), loaded.search(sample.queries[:20], 9)
    assert np.array_equal(before[0], after[0])
    assert np.allclose(before[1], after[1], atol=1e-6)
    assert (tmp_path / "a.index").stat().st_size < 297 * (16 + 8) + 512
    for each in (index, loaded):
        each.add(sample.base[300:301])
    assert loaded.ids[-1] == index.ids[-1] == (1496 if named else 300)
    loaded.delete([5])
    assert 5 not in loaded.ids


@pytest.mark.parametrize("count", [1, 12])
@pytest.mark.parametrize("code", CODES)
def test_a_search_among_some_ids(sample, codec: Codec, code, count: int) -> None:
    ids = np.arange(1000, 1300)
    index = index_of(codec, sample.base[:300], ids, **code)
    index.delete([1010])
    among = np.array([1299, 1010, 1003, 1003, 5, 1150])
    found, scores = index.search(sample.queries[:count], 10, among=among)
    assert found.shape == (count, 3)
    assert (np.sort(found, axis=1) == [1003, 1150, 1299]).all()
    whole, expected = index.search(sample.queries[:count], 299)
    places = [[int(np.flatnonzero(row == each)[0]) for each in own] for row, own in zip(whole, found, strict=True)]
    assert (np.diff(places, axis=1) > 0).all()
    assert np.allclose(scores, np.take_along_axis(expected, np.array(places), axis=1), atol=1e-6)
    assert index.search(sample.queries[:count], 10, among=[])[0].shape == (count, 0)


def test_originals_are_looked_up_by_id(sample, codec: Codec) -> None:
    index = index_of(codec, sample.base[20:40], np.arange(20, 40))
    index.delete([25])
    ids, scores = index.search(sample.queries[:5], 3, originals=sample.base[:50], oversample=7)
    expected = sample.queries[:5] @ sample.base[20:40].T
    expected[:, 5] = -1
    assert np.array_equal(ids, 20 + np.argsort(-expected, axis=1)[:, :3])
    assert np.allclose(scores, -np.sort(-expected, axis=1)[:, :3], atol=1e-5)
    with pytest.raises(IndexArgumentError, match=r"originals: expected shape \(40, 384\), got \(39, 384\)"):
        index.search(sample.queries[:1], 3, originals=sample.base[:39])
    index.add(sample.base[:1], [-4])
    with pytest.raises(IndexArgumentError, match="originals: expected ids that are row numbers, got negative ones"):
        index.search(sample.queries[:1], 3, originals=sample.base)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1], "expected one for each of the 2 vectors, got 1"),
        ([5, 5], "expected different ones, got 5 twice"),
        ([1.0, 2.0], r"expected integers of shape \(n,\), got float64 of shape \(2,\)"),
        ([[1, 2]], r"expected integers of shape \(n,\), got int64 of shape \(1, 2\)"),
        (["a", "b"], r"expected integers of shape \(n,\), got <U1 of shape \(2,\)"),
        ([True, False], r"expected integers of shape \(n,\), got bool of shape \(2,\)"),
        (np.array([1, 2**63], np.uint64), "expected at most 9223372036854775807, got 9223372036854775808"),
        ([100, 3], "3 is in the index; delete it first"),
    ],
)
def test_impossible_ids_add_nothing(sample, codec: Codec, ids: object, message: str) -> None:
    index = index_of(codec, sample.base[:5])
    with pytest.raises(IndexArgumentError, match=message):
        index.add(sample.base[5:7], ids)
    assert index.ids.tolist() == [0, 1, 2, 3, 4]
    index.add(sample.base[5:7])
    assert index.ids.tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("ids", "message"), [([1, 9], "9 is not in the index; nothing was deleted"), ([1, 1], "got 1 twice")]
)
def test_impossible_deletes_delete_nothing(sample, codec: Codec, ids: list[int], message: str) -> None:
    index = index_of(codec, sample.base[:5])
    index.delete([0])
    for refused in (ids, [0]):
        with pytest.raises(IndexArgumentError, match=message if refused is ids else "0 is not in the index"):
            index.delete(refused)
    assert index.ids.tolist() == [1, 2, 3, 4]


def test_the_largest_id_leaves_none_for_the_next(sample, codec: Codec, tmp_path: Path) -> None:
    index = index_of(codec, sample.base[:1], [2**63 - 1])
    index.save(tmp_path / "a.index")
    for each in (index, PackedIndex.load(tmp_path / "a.index", codec)):
        with pytest.raises(IndexArgumentError, match="none are left after 9223372036854775807; give ids of your own"):
            each.add(sample.base[1:2])
        assert each.search(sample.base[:1], 1)[0].tolist() == [[2**63 - 1]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ids_are_found_as_a_dictionary_finds_them(data: st.DataObject) -> None:
    """Find ids whatever was sorted already, and whatever was deleted and added again."""
    lookup, ids, deleted = IdLookup(), np.empty(0, np.int64), np.empty(0, np.int64)
    live: dict[int, int] = {}
    for _ in range(data.draw(st.integers(1, 5))):
        sort_all = data.draw(st.booleans())
        own = data.draw(st.lists(st.integers(-5, 25), unique=True, max_size=8))
        own = [each for each in own if each not in live]
        live |= {each: len(ids) + place for place, each in enumerate(own)}
        ids = np.concatenate([ids, np.array(own, np.int64)])
        gone = [each for each in data.draw(st.lists(st.integers(-5, 25), unique=True, max_size=4)) if each in live]
        deleted = np.union1d(deleted, np.array([live.pop(each) for each in gone], np.int64))
        codes = np.empty((len(ids), 1), np.uint8)
        rows = Rows(codes, codes[:0], ids, deleted)
        if sort_all:
            lookup._sort(rows, ids)
        asked = np.arange(-7, 28)
        assert lookup.find(rows, asked).tolist() == [live.get(each, -1) for each in asked.tolist()]


def test_threads_search_while_others_add_and_delete(sample, codec: Codec) -> None:
    """A search sees one state: every id that it returns was there, and none twice."""
    index = index_of(codec, sample.base[:100])

    def change(number: int) -> None:
        first = 100 + 20 * number
        index.add(sample.base[first : first + 20], np.arange(first, first + 20))
        index.delete(np.arange(first, first + 10))
        if number % 5 == 0:
            index.compact()

    def look(number: int) -> None:
        ids, scores = index.search(sample.queries[number : number + 1], 2000)
        assert ids.shape == scores.shape
        assert ids.shape[1] >= 100
        assert len(np.unique(ids)) == ids.shape[1]
        assert (np.diff(scores) <= 0).all()

    with ThreadPoolExecutor(6) as pool:
        jobs = [pool.submit(change, number) for number in range(30)]
        jobs += [pool.submit(look, number) for number in range(60)]
        for job in jobs:
            job.result()
    expected = [*range(100), *(first + each for first in range(100, 700, 20) for each in range(10, 20))]
    assert sorted(index.ids.tolist()) == expected
    alone = index_of(codec, sample.base[expected], expected)
    assert np.array_equal(index.search(sample.queries[:2], 30)[1], alone.search(sample.queries[:2], 30)[1])


def test_a_search_that_began_before_the_index_was_compacted_goes_on(sample, codec: Codec, monkeypatch) -> None:
    index = index_of(codec, sample.base[:100])
    expected = index.search(sample.queries[:1], 5)[0]
    index.add(sample.base[100:130])
    began = index._allowed

    def meanwhile(among):  # after the search took its rows, and before it looks at them
        found = began(among)
        index.delete(np.arange(20, 130))
        index.compact()
        return found

    monkeypatch.setattr(index, "_allowed", meanwhile)
    ids, _ = index.search(sample.queries[:1], 5, among=np.arange(100))
    assert np.array_equal(ids, expected)
    monkeypatch.undo()
    assert index.search(sample.queries[:1], 50)[0].shape == (1, 20)


def test_rows_that_are_read_while_some_are_added_are_whole() -> None:
    """Read at any moment: a reader sees the first n rows for some n."""
    rows, stop = Growing(np.empty(0, np.int64)), threading.Event()

    def read() -> None:
        seen = 0
        while not stop.is_set():
            now = rows.rows
            assert seen <= len(now)
            assert len(now) % 7 == 0
            assert len(now) == 0 or now[-1] == len(now) - 1
            seen = len(now)

    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(read) for _ in range(2)]
        for start in range(0, 7 * 2000, 7):
            rows.append(np.arange(start, start + 7))
        stop.set()
        for job in jobs:
            job.result()
    assert np.array_equal(rows.rows, np.arange(7 * 2000))
