"""Rows that cannot be encoded or trained on: what they are, what to do with them, and the list of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple


class OnBadRows(StrEnum):
    """What to do with rows that hold NaN or infinity, have no direction under cosine, or have no vector."""

    FAIL = "fail"
    """Stop at the first one."""
    SKIP = "skip"
    """Leave them out, and list them."""
    REPORT = "report"
    """Read everything, list them all, and stop if there are any."""


class BadRow(NamedTuple):
    """A row that cannot be encoded: its file, its number within the file, and why."""

    file: str
    row: int
    reason: str


def list_path(output: Path) -> Path:
    """Return the path of the list of bad rows that belongs to an output: ``OUT.bad-rows.csv``."""
    return output.with_name(output.name + ".bad-rows.csv")


def is_list_of_bad_rows(path: Path) -> bool:
    """Tell whether vaecodec wrote a file of bad rows."""
    with path.open("rb") as file:
        return file.readline() == HEADER


def lines(rows: Iterable[tuple[object, ...]]) -> bytes:
    """Format rows as CSV. Names that are not UTF-8 are written with backslashes."""
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode("utf-8", "backslashreplace")


def first_bad_row(path: Path) -> BadRow:
    """Read the first entry of a list that holds one."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        name, row, reason = next(rows)
    return BadRow(name, int(row), reason)


HEADER = lines([BadRow._fields])
