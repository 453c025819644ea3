"""Find vectors that lie outside the range that a code was calibrated for.

A code clips what it cannot hold, as a converter does with a signal that is too loud. A few such rows are normal. Many
mean that the vectors are not of the kind that the codec was trained for, such as rows that were not normalised.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from vaecodec.errors import SaturationWarning
from vaecodec.interface import FloatArray
from vaecodec.vectors import ROUNDING

# A Gaussian coordinate is practically never this many standard deviations from its mean. In the real collections of
# docs/benchmarks.md at most 3 % of the rows hold one that is; of the same rows times two, at least 46 %.
FARTHEST = 6
SATURATED_SHARE = 0.05
"""Share of a call's rows from which on :class:`~vaecodec.errors.SaturationWarning` is given."""
_FEWEST_ROWS = 10


def far_rows(latents: FloatArray, mean: FloatArray, spread: FloatArray) -> NDArray[np.bool_]:
    """Tell which rows hold a value farther than six spreads, and than rounding, from the mean: bool (n,).

    The spread of a dimension in which all training rows are equal is rounding, and no measure for other rows.

    Args:
        latents: float32 (n, k).
        mean, spread: float32 (k,), of the training rows.
    """
    size = np.sqrt(np.square(mean, dtype=np.float64).sum() + np.square(spread, dtype=np.float64).sum())
    return np.asarray((np.abs(latents - mean) > FARTHEST * spread + np.float32(ROUNDING * size)).any(axis=1))


def warn_if_saturated(saturated: int, rows: int, name: str) -> None:
    """Warn when more than 5 % of the rows lie outside the range of their code, and there are ten rows or more.

    Args:
        saturated: how many of the rows :meth:`vaecodec.codes.Code.saturated` names.
        rows: how many rows were encoded.
        name: the code's.
    """
    if rows >= _FEWEST_ROWS and saturated > SATURATED_SHARE * rows:
        warnings.warn(
            f"{saturated:,} of {rows:,} vectors lie outside the range of the code ({name}) and were clipped; expected "
            f"at most {SATURATED_SHARE:.0%}. Compare them with the training data: are they normalised in the same way, "
            "and made by the same model?",
            SaturationWarning,
            stacklevel=3,
        )
