"""Decide whether a learned codec is exported: it must be significantly better in its purpose, and lose no figure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vaecodec.evaluation import KEPT_MEANS, Interval, best, bootstraps
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.recipe import Aim

# Figures that a codec must not lose, by its objective. Figures that a collection does not have are left out.
_VETOES = {
    Aim.NEIGHBOURS: ("recall@10", "recall@1", "recall@100", "kept@100", "ndcg@10"),
    Aim.RELEVANCE: ("ndcg@10", "relevant@100"),
}


@dataclass(frozen=True)
class Comparison:
    """Compare one figure of the learned codec with the linear codec that is best in it.

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
        """Tell whether the whole interval lies below zero."""
        return self.difference.high < 0

    @property
    def loss(self) -> str:
        """Say what is lost, to which codec, and how much of it."""
        return f"{self.figure} to {self.over} ({self.difference:+.3f})"

    def __str__(self) -> str:
        return f"{self.figure} minus that of {self.over}: {self.difference:+.3f}"


@dataclass(frozen=True)
class Gate:
    """Decide whether the learned codec is exported.

    Attributes:
        aim: what the codec is for.
        comparisons: every figure of the contract, that of the aim first.
    """

    aim: Aim
    comparisons: tuple[Comparison, ...]

    @property
    def over(self) -> str:
        """Return the linear codec that is best in the purpose: it is exported where the learned one is not."""
        return self.comparisons[0].over

    @property
    def difference(self) -> Interval:
        """Return learned minus linear in the figure of the purpose."""
        return self.comparisons[0].difference

    @property
    def lost(self) -> tuple[Comparison, ...]:
        """Return the figures that prevent the export of the learned codec, the worst first."""
        lost = [each for each in self.comparisons if each.lost and each.figure in _VETOES[self.aim]]
        return tuple(sorted(lost, key=lambda each: each.difference.mean))

    @property
    def passed(self) -> bool:
        """Tell whether the learned codec is significantly better in its purpose, and no figure that counts is lost."""
        return self.difference.low > 0 and not self.lost

    @property
    def worth(self) -> float:
        """Return the gain in the figure of the purpose, minus what is lost in others."""
        return self.difference.mean + sum(each.difference.mean for each in self.lost)

    def __str__(self) -> str:
        """Say what was found, and what is exported for it."""
        return self._told(f": exporting the linear codec {self.over}", ": exporting the linear codec", "ships")

    @property
    def finding(self) -> str:
        """Say what was found, where something else decides what is exported."""
        return self._told("", "", "is better than the linear ones of its width")

    def _told(self, lost: str, unsure: str, passed: str) -> str:
        first = str(self.comparisons[0])
        if self.lost:
            worst = "; ".join(each.loss for each in self.lost)
            text = f"The learned codec loses {worst}{lost}."
            return f"{text} {KEPT_MEANS}" if "kept@100" in worst else text
        if not self.passed:
            return f"The learned codec's gain is not significant{unsure}. {first[0].upper()}{first[1:]}."
        text = f"The learned codec {passed}: {first} on the confirmation queries."
        paid = "; ".join(str(each) for each in self.comparisons if each.lost)
        return " ".join(
            [
                text,
                *([f"It keeps fewer of the neighbours: {paid}."] if paid else []),
                *([KEPT_MEANS] if "kept@100" in paid else []),
            ]
        )

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
        """Read what :meth:`to_json` returned."""
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
    over = {name: best(linear, name) for name in known if name in learned}
    differences = bootstraps({name: learned[name] - linear[kind][name] for name, kind in over.items()})
    return Gate(aim, tuple(Comparison(name, over[name], difference) for name, difference in differences.items()))
