"""Find points whose vector cannot be compressed: they hold NaN or infinity, or have no direction under cosine."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from qdrant_client import models

from vaecodec.bulk import OnBadRows
from vaecodec.errors import BadRowsError, InvalidVectorsError
from vaecodec.files import replacing
from vaecodec.interface import FloatArray, Metric
from vaecodec.vectors import NO_DIRECTION, NOT_FINITE, faults
from vaecodec_integrations.qdrant.migration.job import Migration, by_name

_COLUMNS = ("id", "reason")
_HINT = "to copy such points without this vector, choose on_bad_rows=skip (--on-bad-rows skip)"

BadPoints = dict[Any, str]


def bad_points_path(migration: Migration) -> Path:
    """Return the file that lists them, beside the state file."""
    return migration.state.with_name(migration.state.name + ".bad-points.csv")


def find_bad(migration: Migration, records: Sequence[models.Record | models.ScoredPoint]) -> BadPoints:
    """Return the ids of bad points, each with the reason."""
    held = {r.id: by_name(r.vector).get(migration.vector) for r in records}
    rows = {i: np.array(v if migration.multi else [v], np.float32) for i, v in held.items() if v is not None}
    if not rows or _reason(migration, np.concatenate(list(rows.values()))) is None:
        return {}
    reasons = {point_id: _reason(migration, vectors) for point_id, vectors in rows.items()}
    return {point_id: reason for point_id, reason in reasons.items() if reason is not None}


def _reason(migration: Migration, vectors: FloatArray) -> str | None:
    """Return why vectors cannot be compressed, or None."""
    broken, undirected = faults(vectors)
    if broken.any():
        return NOT_FINITE
    if undirected.any() and migration.codec.metric is Metric.COSINE:
        return NO_DIRECTION
    try:
        migration.codec.encode(vectors)
    except InvalidVectorsError as error:
        return str(error)
    return None


def without_bad(
    migration: Migration, records: list[models.Record], error: InvalidVectorsError
) -> tuple[list[models.Record], BadPoints]:
    """Remove the vector of bad points, so that the rest of these points can be copied.

    Args:
        migration: says whether that is allowed.
        records: points of the source.
        error: what encoding them raised.

    Raises:
        InvalidVectorsError: the policy is to fail, or the error is of another kind.
    """
    if migration.on_bad_rows is not OnBadRows.SKIP:
        raise type(error)(f"{error}; {_HINT}") from error
    bad = find_bad(migration, records)
    if not bad:
        raise error
    kept = []
    for record in records:
        if record.id in bad:
            vectors = {name: vector for name, vector in by_name(record.vector).items() if name != migration.vector}
            record = record.model_copy(update={"vector": vectors})
        kept.append(record)
    return kept, bad


class BadPointsList:
    """Write the list of bad points of one pass over the source.

    Args:
        path: the file, for messages.
        file: where the lines go.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.count = path, 0
        self.first: tuple[Any, str] | None = None
        self._writer = csv.writer(file)
        self._writer.writerow(_COLUMNS)

    def add(self, bad: BadPoints) -> None:
        """Add points with their reasons."""
        self._writer.writerows(bad.items())
        self.count += len(bad)
        self.first = self.first or next(iter(bad.items()), None)


@contextmanager
def listing(migration: Migration) -> Iterator[BadPointsList]:
    """Open the list of bad points. When the block ends it takes the place of an older one; an empty one is removed."""
    path = bad_points_path(migration)
    with replacing(path) as binary:
        text = TextIOWrapper(binary, "utf-8", newline="")
        found = BadPointsList(path, text)
        yield found
        text.detach()
    if not found.count:
        path.unlink()


def report_bad(migration: Migration, pages: Iterator[list[models.Record]]) -> None:
    """Read all points, list the bad ones, and raise ``BadRowsError`` if there are any."""
    with listing(migration) as bad:
        for records in pages:
            bad.add(find_bad(migration, records))
    if bad.first is not None:
        point_id, reason = bad.first
        raise BadRowsError(
            f"collection {migration.collection!r}: {bad.count:,} points cannot be compressed, the first is "
            f"{point_id!r}: {reason}; {bad.path} lists them all; nothing was written; {_HINT}"
        )
