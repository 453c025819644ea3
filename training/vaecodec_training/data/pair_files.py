"""Read which document answers which query, from files that name both by row number or by id."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import SourceError, UnusableDataError
from vaecodec.files.stored_json import parse_object
from vaecodec.sources import VectorSource
from vaecodec.sources.arrays import read_npy
from vaecodec.sources.base import malformed_if_it_fails
from vaecodec.sources.ids import as_id, rows_of_ids
from vaecodec.sources.parquet import open_parquet

# Accepted column names. The last ones are those of BEIR's judgements.
_ROWS = (("query",), ("document",))
_IDS = (("query_id", "query-id"), ("document_id", "doc_id", "corpus-id"))
_GRADES = ("grade", "weight", "clicks", "score")

# Columns of a source that may hold its ids.
QUERY_IDS = (*_IDS[0], "id", "_id")
DOCUMENT_IDS = (*_IDS[1], "id", "_id")

_TABLES = (".parquet", ".csv", ".tsv", ".jsonl")

Table = dict[str, Sequence[Any]]


def read_pairs(
    location: str, documents: VectorSource | None = None, queries: VectorSource | None = None
) -> NDArray[Any] | Literal["aligned"]:
    """Read what ``pairs`` of :meth:`Collection.open` may be.

    Args:
        location: ``aligned``; or a ``.npy`` file (p, 2) of rows (query, document), or (p, 3) with grades; or a table:
            Parquet, ``.csv``, ``.tsv`` or ``.jsonl``. A table has the columns ``query_id`` and ``document_id``, whose
            ids are those of the sources, or ``query`` and ``document``, row numbers; and perhaps ``grade``, ``weight``
            or ``clicks``. BEIR's ``query-id``, ``corpus-id`` and ``score`` are read, too.
        documents, queries: where the vectors lie; a table of ids needs them. Their ids are in the column of the same
            name as in the table, or ``id``; collections have ids of their own.

    Returns:
        Row numbers (p, 2) or (p, 3), or ``"aligned"``.

    Raises:
        UnusableDataError: the file cannot be read, lacks a column, or names ids that the sources lack.
        MissingColumnError: a source has no column of ids.

    Examples:
        >>> from vaecodec_training.data.pair_files import read_pairs
        >>> read_pairs("aligned")
        'aligned'
    """
    if location == "aligned":
        return "aligned"
    path = Path(location)
    suffix = path.suffix.lower()
    kind = "a table of pairs" if suffix in _TABLES else "'aligned' or a .npy file of integers (p, 2)"
    try:
        if suffix not in _TABLES:
            return read_npy(path)
        table = _parquet(path) if suffix == ".parquet" else _text_table(path)
    except UnusableDataError:
        raise
    except (OSError, ValueError, SourceError) as error:
        raise UnusableDataError(f"pairs: expected {kind}, got {location}: {error}") from None
    return _matched(path, table, documents, queries)


def _matched(
    path: Path, table: Table, documents: VectorSource | None, queries: VectorSource | None
) -> NDArray[np.float64]:
    """Return the rows and grades of a table."""
    ids = [next((name for name in names if name in table), "") for names in _IDS]
    grade = next((name for name in _GRADES if name in table), "")
    columns: list[Any] = []
    if all(ids):
        if documents is None or queries is None:
            raise UnusableDataError(f"pairs: expected documents and queries, whose ids {path} names, got none")
        given = zip(ids, (queries, documents), (QUERY_IDS, DOCUMENT_IDS), strict=True)
        for name, source, known in given:
            wanted = [as_id(value, f"{path}, row {row}, {name}") for row, value in enumerate(table[name])]
            columns.append(rows_of_ids(wanted, source, known))
    elif all(name in table for (name,) in _ROWS):
        columns = [_numbers(path, name, table[name]) for (name,) in _ROWS]
    else:
        raise UnusableDataError(
            "pairs: expected the columns query and document, row numbers of both, or query_id and document_id, in "
            f"{path}, got {', '.join(table) or 'none'}"
        )
    if not len(columns[0]):
        raise UnusableDataError(f"pairs: expected at least one pair in {path}, got none")
    if grade:
        columns.append(_numbers(path, grade, table[grade]))
    return np.stack(columns, axis=1).astype(np.float64)


def _numbers(path: Path, name: str, values: Sequence[Any]) -> NDArray[np.float64]:
    try:
        return np.asarray([float(value) for value in values], np.float64)
    except (TypeError, ValueError, OverflowError):
        row = next(row for row, value in enumerate(values) if not _is_number(value))
        raise UnusableDataError(
            f"pairs: expected numbers in the column {name} of {path}, got {values[row]!r} in row {row}"
        ) from None


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def _parquet(path: Path) -> Table:
    with open_parquet(path) as parquet:
        known = parquet.schema_arrow.names
        wanted = {name for names in (*_ROWS, *_IDS, _GRADES) for name in names}
        with malformed_if_it_fails(f"{path}: damaged Parquet data"):
            found = {name: parquet.read(columns=[name]).column(0).to_pylist() for name in known if name in wanted}
            if any(len(values) != parquet.metadata.num_rows for values in found.values()):
                raise ValueError(f"a column does not have {parquet.metadata.num_rows:,} values, as the file says")
    return {name: found.get(name, ()) for name in known}


def _text_table(path: Path) -> Table:
    """Return the columns of a ``.csv``, ``.tsv`` or ``.jsonl`` file."""
    with path.open(encoding="utf-8-sig", newline="") as file, malformed_if_it_fails(f"{path}: not a readable table"):
        rows = _json_rows(file) if path.suffix.lower() == ".jsonl" else _separated_rows(file, path.suffix.lower())
        names, *values = rows
        short = next((number for number, row in enumerate(values) if len(row) != len(names)), None)
        if short is not None:
            raise UnusableDataError(
                f"pairs: expected {len(names)} values in every row of {path}, got {len(values[short])} in row {short}"
            )
    return dict(zip(names, zip(*values, strict=True) if values else ((),) * len(names), strict=True))


def _separated_rows(file: Iterator[str], suffix: str) -> list[list[str]]:
    rows = [row for row in csv.reader(file, delimiter="\t" if suffix == ".tsv" else ",") if row]
    return rows or [[]]


def _json_rows(file: Iterator[str]) -> list[list[Any]]:
    objects = [parse_object(line) for line in file if line.strip()]
    names = list(objects[0]) if objects else []
    return [names, *([entry[name] for name in names if name in entry] for entry in objects)]
