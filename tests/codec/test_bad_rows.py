"""Test one policy for rows that cannot be used, whatever reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaecodec.bulk import BulkOptions, encode
from vaecodec.errors import BadRowsError, MissingColumnError, OutputExistsError
from vaecodec.interface import Metric
from vaecodec.linear import fit_linear
from vaecodec.sources import ArraySource, RandomAccessSource, VectorSource, open_source
from vaecodec.sources.bad_rows import LeftOutWarning, OnBadRows, without_bad_rows
from vaecodec_training.data.pairs import checked_pairs
from vaecodec_training.data.sample import with_random_access

ROWS = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
BAD = [0, 4, 8]


@pytest.fixture
def by_number() -> ArraySource:
    rows = ROWS.copy()
    rows[0], rows[4], rows[8, 2] = np.nan, 0, np.inf
    return ArraySource(rows, name="docs")


@pytest.fixture
def in_order(tmp_path: Path) -> VectorSource:
    vectors = [None if number in BAD else ROWS[number].tolist() for number in range(9)]
    pq.write_table(pa.table({"v": pa.array(vectors, pa.list_(pa.float32()))}), tmp_path / "x.parquet")
    return open_source(tmp_path / "x.parquet", bad_rows=True)


def test_bad_rows_are_left_out_and_listed(by_number: ArraySource, in_order: VectorSource, tmp_path: Path) -> None:
    listed = tmp_path / "run.bad-rows.csv"
    with pytest.warns(
        LeftOutWarning, match=r"^6 rows are left out: row 0 of docs: NaN.*; row 4 of docs: zero norm; ro"
    ):
        good = without_bad_rows([by_number, in_order], Metric.COSINE, OnBadRows.SKIP, listed)
    for source in good:
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(2))), np.delete(ROWS, BAD, axis=0))
    assert isinstance(good[0], RandomAccessSource)
    np.testing.assert_array_equal(good[0].take(np.array([1, 3])), ROWS[[2, 5]])
    assert [line.split(",")[1] for line in listed.read_text().splitlines()] == ["row", *["0", "4", "8"] * 2]


def test_a_report_reads_everything_and_stops(by_number: ArraySource, tmp_path: Path) -> None:
    with pytest.raises(
        BadRowsError, match=r"^2 rows cannot be used: row 0 of docs: .*; row 8 of docs: .*csv lists them"
    ):
        without_bad_rows([by_number], Metric.L2, OnBadRows.REPORT, tmp_path / "a.csv")
    (tmp_path / "mine.csv").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"mine\.csv: exists already"):
        without_bad_rows([by_number], Metric.L2, OnBadRows.REPORT, tmp_path / "mine.csv")
    assert without_bad_rows([by_number], Metric.L2, OnBadRows.FAIL) == [by_number]


def test_pairs_keep_the_numbers_of_the_files(by_number: ArraySource, in_order: VectorSource) -> None:
    with pytest.warns(LeftOutWarning, match="6 rows"):
        good = [with_random_access(s) for s in without_bad_rows([by_number, in_order], Metric.COSINE, OnBadRows.SKIP)]
    pairs = np.array([[1, 2], [5, 7], [3, 3]])
    taken = checked_pairs(pairs, good[0], good[1])
    np.testing.assert_array_equal(good[1].take(np.unique(taken.rows[:, 0])), ROWS[[1, 3, 5]])
    np.testing.assert_array_equal(good[0].take(np.unique(taken.rows[:, 1])), ROWS[[2, 3, 7]])


def test_the_first_file_may_hold_only_bad_rows(tmp_path: Path) -> None:
    """pandas writes a column without a single vector as nulls without a type; another model's vectors are narrower."""
    floats = pa.list_(pa.float32())
    pq.write_table(pa.table({"id": [1, 2], "vector": pa.nulls(2)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"id": [3], "vector": pa.array([[1.0]], floats)}), tmp_path / "b.parquet")
    pq.write_table(pa.table({"id": [4, 5], "vector": pa.array([[1, 2], [3, 4]], floats)}), tmp_path / "c.parquet")
    source = open_source(tmp_path, bad_rows=True)
    read = np.concatenate(list(source.blocks()))
    np.testing.assert_array_equal(read, [[np.nan] * 2] * 3 + [[1, 2], [3, 4]])
    result = encode(
        tmp_path,
        tmp_path.with_name("out"),
        fit_linear(np.eye(2, dtype=np.float32), 1),
        options=BulkOptions(on_bad_rows=OnBadRows.SKIP),
    )
    assert (result.rows, result.bad_rows) == (2, 3)
    listed = result.output.with_name("out.bad-rows.csv").read_text().splitlines()[1:]
    assert [line.split(",")[1:] for line in listed] == [["0", "no vector"], ["1", "no vector"], ["0", "width 1"]]
    assert pq.read_table(result.output)["id"].to_pylist() == [4, 5]
    with pytest.raises(MissingColumnError, match=r"a\.parquet: has no column of floating point vectors"):
        open_source(tmp_path)
