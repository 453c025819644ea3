"""Rows that cannot be encoded."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class BadRow(NamedTuple):
    """A row that cannot be encoded: its file, its number within the file, and why."""

    file: str
    row: int
    reason: str


class OnBadRows(StrEnum):
    """What happens to rows that hold NaN or infinity, have no direction under cosine, or have no vector."""

    FAIL = "fail"
    """Stop at the first one."""
    SKIP = "skip"
    """Leave them out of the output, and list them in ``OUT.bad-rows.csv``."""
    REPORT = "report"
    """Read everything, list them all in ``OUT.bad-rows.csv``, and stop if there are any."""
