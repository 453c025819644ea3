"""Decide whether a learned codec ships: it is surely better in what it is for, and worse than no linear codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaecodec.evaluation import Interval, best, paired_bootstrap
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.recipe import Aim

# Figures that may not be lost, by what a codec is for; those that a collection does not have are left out.
_VETOES = {
    Aim.NEIGHBOURS: ("recall@10", "recall@1", "recall@100", "kept@100", "ndcg@10"),
    Aim.RELEVANCE: ("ndcg@10", "relevant@100"),
}


@dataclass(frozen=True)
class Comparison:
    """One figure of the learned codec beside that of the linear codec which is best in it.

    Attributes:
        figure: its name, such as ``recall@10``.
        over: kind of the linear codec.
        difference: learned minus linear, with its paired 95 % interval over the queries.
    """

    figure: str
    over: str
    difference: Interval

    @property
    def lost(self) -> bool:
        """Whether the whole interval lies below zero."""
        return self.difference.high < 0

    def __str__(self) -> str:
        return f"{self.figure} minus that of {self.over}: {self.difference:+.3f}"


@dataclass(frozen=True)
class Gate:
    """Whether the learned codec ships.

    Attributes:
        aim: what the codec is for.
        comparisons: every figure of the contract, that of the aim first.
    """

    aim: Aim
    comparisons: tuple[Comparison, ...]

    @property
    def over(self) -> str:
        """The linear codec that is best in what the codec is for: it ships where the learned one does not."""
        return self.comparisons[0].over

    @property
    def difference(self) -> Interval:
        """Learned minus linear in what the codec is for."""
        return self.comparisons[0].difference

    @property
    def lost(self) -> tuple[Comparison, ...]:
        """The figures that forbid to ship the learned codec, the worst first."""
        lost = [each for each in self.comparisons if each.lost and each.figure in _VETOES[self.aim]]
        return tuple(sorted(lost, key=lambda each: each.difference.mean))

    @property
    def passed(self) -> bool:
        """Whether the learned codec is surely better in what it is for, and no figure that counts is lost."""
        return self.difference.low > 0 and not self.lost

    @property
    def worth(self) -> float:
        """The gain in what the codec is for, less what is lost."""
        return self.difference.mean + sum(each.difference.mean for each in self.lost)

    def __str__(self) -> str:
        first = str(self.comparisons[0])
        if self.lost:
            worst = "; ".join(f"{each.figure} by {each.difference:+.3f} against {each.over}" for each in self.lost)
            return f"The learned codec loses {worst}: exporting the linear codec {self.over}."
        if not self.passed:
            return (
                "The learned codec's gain is not significant: exporting the linear codec. "
                f"{first[0].upper()}{first[1:]}."
            )
        text = f"The learned codec ships: {first} on the confirmation queries."
        paid = "; ".join(str(each) for each in self.comparisons if each.lost)
        return f"{text} It keeps fewer of the neighbours: {paid}." if paid else text

    def to_json(self) -> dict[str, Any]:
        """Return the decision as JSON values."""
        return {
            "decision": str(self),
            "passed": self.passed,
            "aim": str(self.aim),
            "over": self.over,
            "difference": self.difference._asdict(),
            "comparisons": [
                {"figure": each.figure, "over": each.over, "difference": each.difference._asdict()}
                for each in self.comparisons
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Gate:
        """Read what :meth:`to_json` gave."""
        return cls(
            Aim(content["aim"]),
            tuple(
                Comparison(each["figure"], each["over"], Interval(**each["difference"]))
                for each in content["comparisons"]
            ),
        )


def gate(learned: QueryFigures, linear: Mapping[str, QueryFigures], aim: Aim = Aim.NEIGHBOURS) -> Gate:
    """Compare each figure with that of the linear codec which is best in it, by a paired bootstrap over queries.

    Args:
        learned: figures of the learned codec, per query.
        linear: those of the linear codecs, by kind.
        aim: what the codec is for. Of neighbours no figure may be lost, of relevance only those of relevant documents.
    """
    known = dict.fromkeys((aim.figure, *(name for names in _VETOES.values() for name in names)))
    comparisons = []
    for name in known:
        if name in learned:
            over = best(linear, name)
            comparisons.append(Comparison(name, over, paired_bootstrap(learned[name], linear[over][name])))
    return Gate(aim, tuple(comparisons))
