"""Decide whether a learned codec ships: it does when it is surely better than the best linear codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vaecodec.evaluation import Interval, best, paired_bootstrap
from vaecodec_training.data.held_out import QueryFigures

SELECTED = "recall@10"


@dataclass(frozen=True)
class Gate:
    """Whether the learned codec ships.

    Attributes:
        over: the best linear codec of the same width on the same queries.
        difference: learned minus linear, mean of recall@10 with its paired 95 % interval.
    """

    over: str
    difference: Interval

    @property
    def passed(self) -> bool:
        """Whether the whole interval lies above zero."""
        return self.difference.low > 0

    def __str__(self) -> str:
        text = f"recall@10 minus that of {self.over}: {self.difference:+.3f}"
        if self.passed:
            return f"The learned codec ships: {text} on the confirmation queries."
        return f"The learned codec's gain is not significant: exporting the linear codec. {text[0].upper()}{text[1:]}."


def gate(learned: QueryFigures, linear: Mapping[str, QueryFigures]) -> Gate:
    """Compare per-query figures with those of the best of the linear codecs, by a paired bootstrap over queries."""
    over = best(linear, SELECTED)
    return Gate(over, paired_bootstrap(learned[SELECTED], linear[over][SELECTED]))
