"""Refuse to fill vectors by one embedding model where another one has begun."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vaecodec.errors import MigrationError
from vaecodec.interface import FloatArray
from vaecodec.vectors import normalised

# So many stored vectors are compared with their texts embedded again.
COMPARED_ROWS = 16
# Most stored vectors and those of the same texts, embedded again, have at least this cosine: rounding, and models that
# round by batches, are above it, other models far below. Some texts may have changed since they were embedded.
_SAME_MODEL = 0.95


def agreement(stored: Sequence[FloatArray], again: FloatArray, where: str) -> float:
    """Return the mean cosine between stored vectors and the same texts embedded again.

    Args:
        stored: at least one, float32 (d,) each.
        again: float32 (n, d), the same texts by the model that is to go on.
        where: what holds the vectors, for the message.

    Raises:
        MigrationError: they are of another model.
    """
    same = all(len(row) == again.shape[1] for row in stored)
    cosines = np.einsum("ij,ij->i", normalised(np.stack(stored)), normalised(again)) if same else np.zeros(1)
    mean = float(cosines.mean())
    if np.median(cosines) < _SAME_MODEL:
        raise MigrationError(
            f"{where}: expected the vectors of this model, got others (mean cosine {mean:.2f} to the same texts "
            "embedded again); give the model that embedded them, or another place for the new vectors"
        )
    return mean
