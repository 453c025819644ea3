"""Notice vectors that lie outside the range that a code was calibrated for.

A code clips what it cannot hold, as a converter does with a signal that is too loud. A few such rows are normal. Many
mean that the vectors are not of the kind that the codec was trained for, such as rows that were not normalised.
"""

from __future__ import annotations

import warnings

from vaecodec.errors import SaturationWarning

# A coordinate of a Gaussian is never so many standard deviations from its mean. Of the real collections in
# docs/benchmarks.md at most 3 % of the rows hold one; of the same rows times two it is 46 % or more.
FARTHEST = 6
SATURATED_SHARE = 0.05
"""Share of a call's rows from which on :class:`~vaecodec.errors.SaturationWarning` is given."""
_FEWEST_ROWS = 10


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
