"""Split rows into training, validation and confirmation by their content."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import UnusableDataError


@dataclass(frozen=True)
class Split:
    """Hold the row numbers of the three parts of a collection, each int64 and increasing.

    Attributes:
        train: what weights are fitted to.
        validation: what choices are made on.
        confirmation: what is looked at once, after every choice; empty unless asked for.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    confirmation: NDArray[np.int64]


def split(digests: NDArray[np.uint64], *, validation: float = 0.05, confirmation: float = 0.0, seed: int = 0) -> Split:
    """Hold rows out by their content.

    A row's digest is mixed with the seed by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) and read as
    a fraction of 2^64. Below ``validation`` the row is in the validation part, below ``validation + confirmation``
    in the confirmation part, otherwise in the training part. So equal rows share a part, a row keeps its part
    when others come or go or their order changes, and queries that are aligned with documents follow them when
    the documents' row numbers are used for both. The parts' sizes are those fractions only on average.

    Args:
        digests: uint64 (n,), from :func:`check`.
        validation: fraction of the rows held out to make choices on.
        confirmation: fraction held out besides, to be looked at once.
        seed: another seed holds out other rows.

    Raises:
        UnusableDataError: the fractions leave nothing to train on, or there are so few rows that a part is empty.
    """
    if min(validation, confirmation) < 0 or validation + confirmation >= 1:
        raise UnusableDataError(
            f"expected fractions of at least 0 whose sum is below 1, got validation {validation} and "
            f"confirmation {confirmation}"
        )
    mixed = digests + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    first = np.uint64(int(validation * 2**64))
    second = np.uint64(int((validation + confirmation) * 2**64))
    parts = {
        "training": np.flatnonzero(mixed >= second),
        "validation": np.flatnonzero(mixed < first),
        "confirmation": np.flatnonzero((mixed >= first) & (mixed < second)),
    }
    fractions = {"training": 1 - validation - confirmation, "validation": validation, "confirmation": confirmation}
    for name, part in parts.items():
        if fractions[name] > 0 and not len(part):
            raise UnusableDataError(
                f"the {name} part, {fractions[name]:.1%} of {len(digests):,} rows, is empty; give more rows "
                "or a larger fraction"
            )
    return Split(parts["training"], parts["validation"], parts["confirmation"])


def follow_documents(own: Split, documents: Split, pairs: NDArray[np.int64], queries: int) -> Split:
    """Move paired queries to the part of (the last of) their documents."""

    def numbered(parts: Split, rows: int) -> NDArray[np.int64]:
        part = np.zeros(rows, np.int64)
        part[parts.validation], part[parts.confirmation] = 1, 2
        return part

    total = len(documents.train) + len(documents.validation) + len(documents.confirmation)
    part = numbered(own, queries)
    part[pairs[:, 0]] = numbered(documents, total)[pairs[:, 1]]
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def drop_leaks(parts: Split, digests: NDArray[np.uint64]) -> Split:
    """Leave out the queries of one text whose documents lie on several sides: they stay on the side looked at last."""

    def outside(rows: NDArray[np.int64], *later: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[~np.isin(digests[rows], digests[np.concatenate(later)])]

    return Split(
        outside(parts.train, parts.validation, parts.confirmation),
        outside(parts.validation, parts.confirmation),
        parts.confirmation,
    )
