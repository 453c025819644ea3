"""Test collections: what is held out, which pairs are used, and what queries meet in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from vaecodec.errors import UnusableDataError, WrongWidthError
from vaecodec.sources import ArraySource
from vaecodec_training.data.check import check
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.pair_files import read_pairs
from vaecodec_training.data.split import split
from vaecodec_training.recipe import Recipe

SMALL = Recipe(dim=32, hidden=32, batch=256, epochs=2, checkpoints=3)


@pytest.fixture(scope="module")
def collection(sample) -> Collection:
    return Collection.open(
        ArraySource(sample.train[:2_500]), ArraySource(sample.train_queries[:2_500]), pairs="aligned", validation=0.05
    )


def test_held_out_queries_follow_their_documents(collection: Collection) -> None:
    assert collection.pairs is not None
    assert np.array_equal(collection.pairs[:, 0], collection.query_rows)
    assert np.array_equal(collection.query_rows, collection.document_rows)
    validation = collection.validation
    assert validation.relevant is not None
    for query, answers in zip(validation.queries, validation.relevant, strict=True):
        scores = validation.documents @ query
        assert scores[answers[0]] > np.median(scores)


def test_equal_queries_of_several_documents_are_used_on_one_side(sample) -> None:
    documents, queries = sample.train[:1_500], sample.train_queries[:1_500].copy()
    parts = split(check(ArraySource(documents)).digests, validation=0.1, confirmation=0.1)
    train, validation, confirmation = parts.train, parts.validation, parts.confirmation
    queries[train[0]] = queries[validation[0]]  # in training and validation
    queries[train[1]] = queries[validation[1]] = queries[confirmation[1]]  # in all three
    queries[validation[2]] = queries[confirmation[2]]
    collection = Collection.open(
        ArraySource(documents), ArraySource(queries), pairs="aligned", confirmation=0.1, validation=0.1
    )
    assert collection.confirmation is not None
    sides = [queries[collection.query_rows], collection.validation.queries, collection.confirmation.queries]
    texts = [{row.tobytes() for row in side} for side in sides]
    assert not texts[0] & texts[1]
    assert not texts[0] & texts[2]
    assert not texts[1] & texts[2]
    assert queries[train[0]].tobytes() in texts[1]
    assert queries[train[1]].tobytes() in texts[2]
    assert queries[validation[2]].tobytes() in texts[2]
    assert collection.pairs is not None
    assert not np.isin(train[:2], collection.pairs[:, 0]).any()
    assert len(collection.query_rows) > 0.98 * len(train)  # no others are left out


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ("aligned", "aligned queries and documents must be as many, got 900 queries and 1,000 documents"),
        (np.array([[0.5, 1]]), r"expected integers \(p, 2\)"),
        (np.array([[0, 1], [900, 0]]), r"row 1 is \[900, 0\], but there are 900 queries and 1,000 documents"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(sample, pairs, message: str) -> None:
    with pytest.raises(UnusableDataError, match=message):
        Collection.open(ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:900]), pairs=pairs)


def test_pairs_are_read_from_files_without_pickles(tmp_path: Path) -> None:
    np.save(tmp_path / "pairs.npy", np.array([[0, 1], [1, 0]]))
    assert np.array_equal(read_pairs(str(tmp_path / "pairs.npy")), [[0, 1], [1, 0]])
    assert read_pairs("aligned") == "aligned"
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    for name in ("missing.npy", "objects.npy"):
        with pytest.raises(
            UnusableDataError, match=rf"expected 'aligned' or a \.npy file of integers \(p, 2\), got .*{name}"
        ):
            read_pairs(str(tmp_path / name))


def test_pairs_of_a_parquet_file_may_have_grades(tmp_path: Path) -> None:
    path = tmp_path / "pairs.parquet"
    columns = {"grade": [1.0, 0.5], "query": [0, 1], "document": [3, 2]}
    parquet.write_table(pa.table(columns), path)
    np.testing.assert_array_equal(read_pairs(str(path)), [[0, 3, 1], [1, 2, 0.5]])
    parquet.write_table(pa.table({"query": [0], "text": ["a"]}), path)
    with pytest.raises(UnusableDataError, match=r"expected the columns query and document, .* got query, text"):
        read_pairs(str(path))


def test_pairs_without_queries_and_queries_of_another_width_are_refused(sample) -> None:
    with pytest.raises(UnusableDataError, match="expected queries to go with them"):
        Collection.open(ArraySource(sample.train[:1_000]), pairs="aligned")
    with pytest.raises(WrongWidthError, match="expected queries of width 384"):
        Collection.open(ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:1_000, :100]))


def test_queries_without_pairs_share_batches_with_their_nearest_documents(sample) -> None:
    collection = Collection.open(ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:500]))
    companions = collection.companions
    assert companions is not None
    assert len(companions) == 10 * len(collection.query_rows)
    for query in collection.query_rows[:20]:
        scores = sample.train[:1_000][collection.document_rows] @ sample.train_queries[query]
        nearest = collection.document_rows[np.argsort(-scores)[:10]]
        assert list(companions[companions[:, 0] == query, 1]) == list(nearest)


def test_held_out_documents_are_searched_alone_and_none_of_them_is_trained_on(sample) -> None:
    collection = Collection.open(
        ArraySource(sample.train[:2_000]), ArraySource(sample.train_queries[:2_000]), pairs="aligned", confirmation=0.1
    )
    trained = {row.tobytes() for row in collection.documents.take(collection.document_rows)}
    assert collection.confirmation is not None
    for part, share in ((collection.validation, 0.25), (collection.confirmation, 0.35)):
        assert len(part.documents) == pytest.approx(2_000 * share, rel=0.2)
        assert not trained & {row.tobytes() for row in part.documents}


def test_without_queries_held_out_documents_search_the_others_among_them(sample) -> None:
    validation = Collection.open(ArraySource(sample.train[:1_000])).validation
    assert validation.own is not None
    np.testing.assert_array_equal(validation.queries, validation.documents[validation.own])
    assert not (validation.truth.ids == validation.own[:, None]).any()
    same = validation.figures(lambda rows: rows, lambda rows: rows, validation.metric)
    assert {name: values.min() for name, values in same.items()} == dict.fromkeys(same, 1.0)


def test_grades_reach_the_figures(sample) -> None:
    rows = np.arange(1_200)
    # Each query's own document answers it best, the next row's a little.
    pairs = np.concatenate(
        [np.stack([rows, rows, np.full(1_200, 4)], 1), np.stack([rows, (rows + 1) % 1_200, rows * 0 + 1], 1)]
    )
    documents, queries = ArraySource(sample.train[:1_200]), ArraySource(sample.train_queries[:1_200])
    collection = Collection.open(documents, queries, pairs=pairs)
    assert collection.grades is not None
    assert collection.pairs is not None
    assert set(collection.grades[collection.pairs[:, 0] == collection.pairs[:, 1]]) == {4.0}
    validation = collection.validation
    assert validation.relevant is not None
    assert validation.grades is not None
    assert [len(each) for each in validation.relevant] == [len(each) for each in validation.grades]
    several = [number for number, grades in enumerate(validation.grades) if len(grades) == 2]
    assert several
    for number in several:
        own = validation.relevant[number][np.argmax(validation.grades[number])]
        assert validation.documents[own] @ validation.queries[number] > 0.3


@pytest.mark.parametrize(
    ("third", "message"),
    [(-1, "expected grades of at least 0, got -1.0 in row 0"), (0, "expected a grade above 0, got only zeros")],
)
def test_bad_grades_are_refused(sample, third: int, message: str) -> None:
    documents, queries = ArraySource(sample.train[:500]), ArraySource(sample.train_queries[:500])
    with pytest.raises(UnusableDataError, match=message):
        Collection.open(documents, queries, pairs=np.array([[0, 0, third]]))
