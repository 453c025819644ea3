"""Test pairs from tables: rows or ids, text or whole numbers, and what is said when they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from qdrant_client import QdrantClient, models

from vaecodec.errors import MissingColumnError, UnusableDataError
from vaecodec.sources import ArraySource, VectorSource, open_source
from vaecodec_integrations.qdrant.source import QdrantSource
from vaecodec_integrations.report.inputs import read_relevance
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.pair_files import read_pairs

ROWS = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
DOCUMENTS, QUERIES = ["d-7", "d-2", "d-9", "d-4"], [30, 10, 20]
PAIRS = [("10", "d-9", 2.0), ("30", "d-7", 1.0), ("10", "d-4", 0.5)]
EXPECTED = [[1, 2, 2.0], [0, 0, 1.0], [1, 3, 0.5]]


def save_vectors(path: Path, vectors: np.ndarray, **ids: Any) -> str:
    kind = pa.list_(pa.float32(), vectors.shape[1])
    parquet.write_table(pa.table({**ids, "vector": pa.array(vectors.tolist(), kind)}), path)
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> tuple[VectorSource, VectorSource]:
    documents = save_vectors(tmp_path / "docs.parquet", ROWS, document_id=DOCUMENTS)
    queries = save_vectors(tmp_path / "queries.parquet", ROWS[:3], id=QUERIES)
    return open_source(documents), open_source(queries)


def lines(header: str, separator: str) -> str:
    return "\n".join([header, *(separator.join(map(str, row)) for row in PAIRS)]) + "\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("clicks.csv", lines("query_id,document_id,clicks", ",")),
        ("clicks.CSV", "\ufeff" + lines("query_id,document_id,weight", ",").replace("\n", "\r\n")),
        ("qrels.tsv", lines("query-id\tcorpus-id\tscore", "\t")),
        (
            "clicks.jsonl",
            "\n".join(json.dumps({"query_id": int(q), "doc_id": d, "grade": g, "at": "now"}) for q, d, g in PAIRS),
        ),
    ],
)
def test_tables_of_ids_become_row_numbers(sources: Any, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    np.testing.assert_array_equal(read_pairs(str(tmp_path / name), *sources), EXPECTED)


@pytest.mark.parametrize("query_ids", [["10", "30", "10"], [10, 30, 10]])
def test_parquet_may_hold_ids_as_text_or_numbers(sources: Any, tmp_path: Path, query_ids: list[Any]) -> None:
    columns = {"query": ["how", "what", "how"], "query_id": query_ids, "document_id": [pair[1] for pair in PAIRS]}
    parquet.write_table(pa.table(columns), tmp_path / "pairs.parquet")
    found = read_pairs(str(tmp_path / "pairs.parquet"), *sources)
    np.testing.assert_array_equal(found, np.array(EXPECTED)[:, :2])


def test_row_numbers_in_a_table_need_no_ids(tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("document,query\n3,0\n2,1\n")
    np.testing.assert_array_equal(read_pairs(str(tmp_path / "pairs.csv")), [[0, 3], [1, 2]])


def from_npz(folder: Path) -> VectorSource:
    np.savez(folder / "docs.npz", vectors=ROWS, document_id=np.array(DOCUMENTS))
    return open_source(folder / "docs.npz")


def from_hdf5(folder: Path) -> VectorSource:
    with h5py.File(folder / "docs.h5", "w") as file:
        file["train"] = ROWS
        file["id"] = DOCUMENTS
    return open_source(folder / "docs.h5")


def from_qdrant_payload(_: Path) -> VectorSource:
    client = QdrantClient(":memory:")
    client.create_collection("docs", models.VectorParams(size=8, distance=models.Distance.DOT))
    points = [
        models.PointStruct(id=10 * row, vector=ROWS[row].tolist(), payload={"document_id": DOCUMENTS[row], "text": "a"})
        for row in range(4)
    ]
    client.upsert("docs", [*points, models.PointStruct(id=35, vector={}, payload={"document_id": "none"})])
    return QdrantSource(client, "docs")


@pytest.mark.parametrize("opened", [from_npz, from_hdf5, from_qdrant_payload])
def test_ids_come_from_other_sources_too(sources: Any, tmp_path: Path, opened: Callable[[Path], VectorSource]) -> None:
    (tmp_path / "pairs.csv").write_text(lines("query_id,document_id,grade", ","))
    np.testing.assert_array_equal(read_pairs(str(tmp_path / "pairs.csv"), opened(tmp_path), sources[1]), EXPECTED)


def test_the_ids_of_points_are_taken_where_the_payload_holds_none(sources: Any, tmp_path: Path) -> None:
    client = QdrantClient(":memory:")
    client.create_collection("docs", models.VectorParams(size=8, distance=models.Distance.DOT))
    client.upsert("docs", [models.PointStruct(id=10 * row, vector=ROWS[row].tolist()) for row in range(4)])
    (tmp_path / "pairs.csv").write_text("query_id,document_id\n20,30\n10,0\n")
    found = read_pairs(str(tmp_path / "pairs.csv"), QdrantSource(client, "docs"), sources[1])
    np.testing.assert_array_equal(found, [[2, 3], [1, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query_id,document_id\n10,d-1\n10,d-9\n11,d-3\n", r"queries\.parquet: has no rows with 1 of the 2 .*: '11'"),
        ("query_id,document_id\n10,d-1\n10,d-9\n30,d-3\n", r"has no rows with 2 of the 3 .*: 'd-1', 'd-3'; leave"),
        ("query_id,document_id\n10,\n", r"row 0, document_id: expected an id, text or a whole number, got ''"),
        ("query_id,document_id,grade\n10,d-9,much\n", r"numbers in the column grade of .*, got 'much' in row 0"),
        ("query_id,document_id\n10,d-9,3\n", r"expected 2 values in every row of .*csv, got 3 in row 0"),
        ("query_id,document_id\n", r"expected at least one pair in .*csv, got none"),
        ("", r"expected the columns query and document, .*, got none"),
        ("query_id,text\n10,a\n", r"or query_id and document_id, in .*csv, got query_id, text"),
        ("query_id,document_id\n10,\0\n\xff", r"expected a table of pairs, got .*csv"),
    ],
)
def test_what_does_not_fit_is_named(sources: Any, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pairs.csv").write_text(text, encoding="latin-1")
    with pytest.raises(UnusableDataError, match=message):
        read_pairs(str(tmp_path / "pairs.csv"), *sources)


def test_sources_need_ids_of_their_own(sources: Any, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(lines("query_id,document_id,grade", ","))
    with pytest.raises(UnusableDataError, match="vectors: its rows have no ids; save vectors and ids as Parquet"):
        read_pairs(str(pairs), ArraySource(ROWS), sources[1])
    with pytest.raises(UnusableDataError, match=r"expected documents and queries, whose ids .* names, got none"):
        read_pairs(str(pairs))
    nameless = open_source(save_vectors(tmp_path / "nameless.parquet", ROWS, text=DOCUMENTS))
    with pytest.raises(MissingColumnError, match=r"expected a column of ids, document_id or .*; it has: text, vector"):
        read_pairs(str(pairs), nameless, sources[1])
    twice = open_source(save_vectors(tmp_path / "twice.parquet", ROWS, id=["d-9", "d-7", "d-4", "d-7"]))
    with pytest.raises(UnusableDataError, match="expected each id once, got 'd-7' in the rows 1 and 3"):
        read_pairs(str(pairs), twice, sources[1])


def test_a_pair_that_is_there_twice_is_refused(sample: Any) -> None:
    documents, queries = ArraySource(sample.train[:500]), ArraySource(sample.train_queries[:500])
    with pytest.raises(UnusableDataError, match="expected each pair once, got query row 3 with document row 4 again"):
        Collection.open(documents, queries, pairs=np.array([[3, 4], [4, 4], [3, 4]]))


def test_equal_texts_with_ids_of_their_own_stay_on_one_side(sample: Any, tmp_path: Path) -> None:
    """A log names the same question under many ids, with answers of which some are held out and some are not."""
    rows = 1_200
    texts = np.repeat(sample.train_queries[: rows // 4], 4, axis=0)  # each question four times
    documents = np.concatenate([sample.train[: rows - 100], sample.train[:100]])  # the first hundred twice
    files = (
        save_vectors(tmp_path / "docs.parquet", documents, document_id=[f"d{row}" for row in range(rows)]),
        save_vectors(tmp_path / "queries.parquet", texts, query_id=[f"q{row}" for row in range(rows)]),
    )
    pairs = tmp_path / "clicks.csv"
    pairs.write_text("query_id,document_id\n" + "".join(f"q{row},d{row}\n" for row in range(rows)))
    opened = [open_source(file) for file in files]
    known = read_pairs(str(pairs), *opened)
    collection = Collection.open(*opened, pairs=known, validation=0.2, confirmation=0.1)
    assert collection.queries is not None
    assert collection.confirmation is not None
    assert collection.pairs is not None
    trained = {row.tobytes() for row in collection.queries.take(collection.query_rows)}
    judged = [{row.tobytes() for row in part.queries} for part in (collection.validation, collection.confirmation)]
    assert len(trained) > 50
    assert min(map(len, judged)) > 20
    assert not trained & (judged[0] | judged[1])
    assert not judged[0] & judged[1]
    answered = {row.tobytes() for row in collection.documents.take(np.unique(collection.pairs[:, 1]))}
    assert not answered & {row.tobytes() for row in collection.validation.documents}


def test_a_report_reads_pairs_with_their_grades(sources: Any, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(lines("query_id,document_id,grade", ","))
    found = read_relevance(str(pairs), str(tmp_path / "docs.parquet"), str(tmp_path / "queries.parquet"))
    assert found.rows == [[0], [2, 3], []]
    assert found.grades == [[1.0], [2.0, 0.5], []]


def test_columns_of_a_damaged_table_have_one_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pairs.parquet"
    parquet.write_table(pa.table({"query": [0, 1], "document": [1, 0]}), path)
    whole = parquet.ParquetFile.read

    def short(file: Any, columns: list[str]) -> Any:
        return whole(file, columns=columns)[: 1 if columns == ["document"] else 2]

    monkeypatch.setattr(parquet.ParquetFile, "read", short)
    with pytest.raises(UnusableDataError, match="damaged Parquet data: a column does not have 2 values, as the file"):
        read_pairs(str(path))


def test_a_number_that_no_float_holds_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(f'{{"query": 0, "document": 1{"0" * 400}}}\n')
    with pytest.raises(UnusableDataError, match=r"expected numbers in the column document of .*, got 10+ in row 0"):
        read_pairs(str(path))
