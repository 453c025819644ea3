"""Decide whether a codec is better than what needs no training, by all figures together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vaecodec.evaluation import KEPT_MEANS, Figures, Interval, best, paired_bootstrap

# Figures that a codec must not lose, by its objective. The first is the one it should win.
_DECIDING = {
    "neighbours": ("recall@10", "recall@1", "recall@100", "kept@100", "ndcg@10"),
    "relevance": ("ndcg@10", "relevant@100"),
}

# Names of the figures in the text.
FIGURES = {
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "relevant@10": "relevant in top 10",
    "relevant@100": "relevant in top 100",
}


@dataclass(frozen=True)
class Difference:
    """Hold a method minus the best baseline in one figure, paired over the queries, and that baseline's name."""

    rival: str
    interval: Interval


@dataclass(frozen=True)
class Verdict:
    """Say whether a codec, or a code of it, is better than untrained ways that take as many bytes.

    Attributes:
        method: the name of the codec or code.
        opponent: what it is compared with, in words: the best of these in each figure.
        better: whether it wins the figure that it was trained for and loses none of the others.
        text: the same in words, with the figures.
        differences: for each figure, against the baseline that is best by it.
        worse: the figures whose interval lies below that baseline.
    """

    method: str
    opponent: str
    better: bool
    text: str
    differences: Mapping[str, Difference]
    worse: tuple[str, ...]


def verdict(
    method: str,
    figures: Mapping[str, Figures],
    baselines: Mapping[str, Mapping[str, Figures]],
    label: Callable[[str], str],
    size: str,
    objective: str,
    opponent: str = "best linear baseline",
) -> Verdict:
    """Compare a method with its baselines, each figure with the baseline that is best by it.

    Args:
        method: the method's name.
        figures: its figures of every query.
        baselines: the same of each baseline, by name.
        label: returns what a baseline is called in print.
        size: what method and baselines have in common, in words.
        objective: ``neighbours`` or ``relevance``: what the codec was trained for.
        opponent: what the best of the baselines is called.
    """
    rivals = {metric: best(baselines, metric) for metric in figures}
    differences = {
        metric: Difference(rival, paired_bootstrap(figures[metric], baselines[rival][metric]))
        for metric, rival in rivals.items()
    }
    deciding = [metric for metric in _DECIDING[objective] if metric in figures]
    if not deciding:  # trained for relevance, but no relevant documents are known here
        deciding = [metric for metric in _DECIDING["neighbours"] if metric in figures]
    goal, *others = deciding
    worse = tuple(metric for metric in deciding if differences[metric].interval.high < 0)
    won = differences[goal].interval.low > 0
    judgement = "beats" if won else "is worse than" if goal in worse else "does not beat"
    rival, interval = differences[goal].rival, differences[goal].interval
    named = label(rival)
    if not named.endswith(size):
        named += f"; {size}"
    text = (
        f"{method} {judgement} the {opponent} ({named}): {figure(goal)} "
        f"{figures[goal].mean():.3f} against {baselines[rival][goal].mean():.3f}, paired difference "
        f"{interval:+.3f} (95 % interval)."
    )
    lost = [
        f"{figure(metric)} ({label(differences[metric].rival)}: {differences[metric].interval:+.3f})"
        for metric in others
        if metric in worse
    ]
    if lost:
        text += f" It loses {' and '.join(filter(None, (', '.join(lost[:-1]), lost[-1])))}."
        if "kept@100" in worse:
            text += f" {KEPT_MEANS}"
    elif won and others:
        text += " No other figure is lost."
    if objective == "relevance" and "recall@10" not in deciding:
        text += f" It was trained for relevance: recall@10 differs by {differences['recall@10'].interval:+.3f}."
    return Verdict(method, opponent, won and not worse, text, differences, worse)


def figure(metric: str) -> str:
    """Return what a figure is called in print."""
    return FIGURES.get(metric, metric)
