"""Compare the results of two searches where points may have equal scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def ranking(points: Sequence[Any]) -> list[tuple[float, set[Any]]]:
    """Return the ids of each score, highest first, without those of the lowest score.

    A server returns points of equal scores in any order, and may leave out others of the lowest score.
    """
    ids: dict[float, set[Any]] = {}
    for point in points:
        ids.setdefault(round(point.score, 4), set()).add(point.id)
    return list(ids.items())[:-1]
