"""Read the ids of a source's rows, and find rows by their ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import MissingColumnError, UnusableDataError
from vaecodec.sources.base import VectorSource

_SHOWN = 3


@runtime_checkable
class IdentifiedSource(VectorSource, Protocol):
    """Read a source whose rows have ids: Parquet, ``.npz``, HDF5, and collections."""

    def ids(self, columns: Sequence[str]) -> Iterable[Any]:
        """Return the id of every row, in the order of the rows.

        Args:
            columns: names that the column of ids may have; the first that is there is read. Collections take their
                points' ids.

        Raises:
            MissingColumnError: there is none of these columns.
        """
        ...


def choose_id_column(name: str, what: str, found: Iterable[str], columns: Sequence[str]) -> str:
    """Return the first of ``columns`` that was found; ``what`` is what the format calls a column."""
    found = list(found)
    for column in columns:
        if column in found:
            return column
    raise MissingColumnError(
        f"{name}: expected a {what} of ids, {' or '.join(columns)}; it has: {', '.join(sorted(found)) or 'nothing'}"
    )


def as_id(value: Any, where: str) -> str:
    """Return an id as text: 7 and "7" are the same id.

    Raises:
        UnusableDataError: the value is neither text nor a whole number.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if whole or (isinstance(value, str) and value):
        return str(value)
    if type(value).__name__ == "UUID":
        return str(value)
    raise UnusableDataError(f"{where}: expected an id, text or a whole number, got {value!r}")


def rows_of_ids(wanted: Sequence[str], source: VectorSource, columns: Sequence[str]) -> NDArray[np.int64]:
    """Return the row of each id in a source.

    Args:
        wanted: ids as text.
        source: whose rows have ids.
        columns: as :meth:`IdentifiedSource.ids` takes them.

    Returns:
        int64 (n,).

    Raises:
        UnusableDataError: the source has no ids, lacks some that are wanted, or has one of them twice.
        MissingColumnError: the source has no column of such a name.
    """
    if not isinstance(source, IdentifiedSource):
        raise UnusableDataError(
            f"{source.name}: its rows have no ids; save vectors and ids as Parquet or .npz, or give row numbers"
        )
    first: dict[str, int] = dict.fromkeys(wanted, -1)
    for row, value in enumerate(source.ids(columns)):
        found = as_id(value, f"{source.name}, row {row}")
        before = first.get(found)
        if before is None:
            continue
        if before >= 0:
            raise UnusableDataError(
                f"{source.name}: expected each id once, got {found!r} in the rows {before} and {row}"
            )
        first[found] = row
    unknown = [wanted_id for wanted_id, row in first.items() if row < 0]
    if unknown:
        shown = ", ".join(map(repr, unknown[:_SHOWN])) + (", ..." if len(unknown) > _SHOWN else "")
        raise UnusableDataError(
            f"{source.name}: has no rows with {len(unknown):,} of the {len(first):,} ids in the pairs: {shown}; "
            "leave these pairs out, or add the rows"
        )
    return np.fromiter((first[wanted_id] for wanted_id in wanted), np.int64, len(wanted))
