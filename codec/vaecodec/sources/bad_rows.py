"""Find rows that cannot be encoded or trained on, apply the chosen policy, and list them in a file."""

from __future__ import annotations

import csv
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import BadRowsError
from vaecodec.files import write_atomically
from vaecodec.files.outputs import check_file
from vaecodec.interface import Metric
from vaecodec.sources.base import RandomAccessSource, Rows, VectorSource
from vaecodec.steps import Steps
from vaecodec.vectors import NO_DIRECTION, NOT_FINITE, faults

_LOG = logging.getLogger(__name__)


class OnBadRows(StrEnum):
    """Say what to do with rows that hold NaN or infinity, have no direction under cosine, or have no vector."""

    FAIL = "fail"
    """Stop at the first one."""
    SKIP = "skip"
    """Leave them out, and list them."""
    REPORT = "report"
    """Read everything, list them all, and stop if there are any."""


class BadRow(NamedTuple):
    """Hold the place of a row that cannot be encoded: its file, its number within the file, and why."""

    file: str
    row: int
    reason: str


class LeftOutWarning(UserWarning):
    """Bad rows were left out of what is read."""


class GoodRows:
    """Read only the good rows of a source.

    Attributes:
        numbers: int64 (rows,), increasing: row i is row ``numbers[i]`` of the source.
        drawn_from: how many rows the source has.
    """

    def __init__(self, source: VectorSource, numbers: NDArray[np.int64], drawn_from: int) -> None:
        self.name, self.dim, self.rows = source.name, source.dim, len(numbers)
        self.numbers, self.drawn_from = numbers, drawn_from
        self._source = source

    def blocks(self, rows: int | None = None) -> Iterator[Rows]:
        start = 0
        for block in self._source.blocks(rows):
            first, last = np.searchsorted(self.numbers, [start, start + len(block)])
            if first < last:
                yield block[self.numbers[first:last] - start]
            start += len(block)


class GoodRowsByNumber(GoodRows):
    """Read only the good rows of a source with random access."""

    def __init__(self, source: RandomAccessSource, numbers: NDArray[np.int64], drawn_from: int) -> None:
        super().__init__(source, numbers, drawn_from)
        self._by_number = source

    def take(self, rows: NDArray[np.int64]) -> Rows:
        return self._by_number.take(self.numbers[rows])


def without_bad_rows(
    sources: Sequence[VectorSource], metric: Metric, on_bad_rows: OnBadRows, listed: Path | None = None
) -> list[VectorSource]:
    """Apply one policy to the bad rows of sources, before anything else reads them.

    Args:
        sources: what is read once to find them, unless the policy is to fail: then whatever reads them raises.
            Open Parquet with ``bad_rows=True``, so that rows without a vector can be found.
        metric: under ``COSINE`` rows of zero norm are bad, too.
        on_bad_rows: the policy.
        listed: the file that lists bad rows; by default only the first ten are named in the message.

    Returns:
        The sources, without their bad rows.

    Raises:
        BadRowsError: there are bad rows, and the policy is to report them.
        OutputExistsError: ``listed`` is a file that is no list of bad rows.

    Warns:
        LeftOutWarning: rows are left out.
    """
    if on_bad_rows is OnBadRows.FAIL:
        return list(sources)
    if listed is not None:
        check_file(listed, is_ours=is_list_of_bad_rows, overwrite=True, inputs=[], parents=True)
    kept, bad = zip(*(_sorted_out(source, metric) for source in sources), strict=True)
    found = [row for rows in bad for row in rows]
    if not found:
        return list(kept)
    if listed is not None:
        listed.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(listed, HEADER + lines(found))
    first = "; ".join(f"row {row.row} of {row.file}: {row.reason}" for row in found[:10])
    where = f"; {listed} lists them all" if listed is not None else "; ..." * (len(found) > 10)
    if on_bad_rows is OnBadRows.REPORT:
        raise BadRowsError(f"{len(found):,} rows cannot be used: {first}{where}")
    warnings.warn(LeftOutWarning(f"{len(found):,} rows are left out: {first}{where}"), stacklevel=2)
    return list(kept)


def _sorted_out(source: VectorSource, metric: Metric) -> tuple[VectorSource, list[BadRow]]:
    start, numbers, bad, say = 0, [np.empty(0, np.int64)], [], Steps(_LOG)
    for raw in source.blocks():
        say("looking for bad rows in %s: %s rows", source.name, f"{start:,}")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, and are found
            block = np.asarray(raw, np.float32)
        broken, undirected = faults(block)
        wrong = broken | undirected if metric is Metric.COSINE else broken
        numbers.append(start + np.flatnonzero(~wrong))
        for at in np.flatnonzero(wrong):
            reason = f"{NOT_FINITE}, or no vector" if broken[at] else NO_DIRECTION
            bad.append(BadRow(source.name, start + int(at), reason))
        start += len(block)
    if not bad:
        return source, bad
    good = np.concatenate(numbers)
    if isinstance(source, RandomAccessSource):
        return GoodRowsByNumber(source, good, start), bad
    return GoodRows(source, good, start), bad


def list_path(output: Path) -> Path:
    """Return the path of the list of bad rows that belongs to an output: ``OUT.bad-rows.csv``."""
    output = output.resolve() if output.name in ("", "..") else output
    if not output.name:  # the root folder
        return output / "bad-rows.csv"
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
