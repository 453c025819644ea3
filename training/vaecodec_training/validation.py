"""Compare figures with their baselines."""

from __future__ import annotations

from collections.abc import Mapping

from vaecodec.evaluation import bootstrap, paired_bootstrap
from vaecodec_training.data.held_out import QueryFigures


def best_linear(baselines: Mapping[str, QueryFigures]) -> str:
    """The kind of the highest mean recall@10."""
    return max(baselines, key=lambda kind: float(baselines[kind]["recall@10"].mean()))


def intervals(figures: QueryFigures) -> dict[str, dict[str, float]]:
    """Means with their 95 % bootstrap intervals over the queries, as JSON values."""
    return {name: bootstrap(values)._asdict() for name, values in figures.items()}


def gain(figures: QueryFigures, baseline: QueryFigures) -> dict[str, dict[str, float]]:
    """Paired differences to a baseline with their 95 % intervals, as JSON values."""
    return {name: paired_bootstrap(values, baseline[name])._asdict() for name, values in figures.items()}
