"""Test that the gate reads every figure, each beside the linear codec that is best in it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from vaecodec_training.gate import Gate, gate
from vaecodec_training.recipe import Aim


def figures(queries: int = 500, **means: float) -> dict[str, np.ndarray]:
    """Return figures that vary from query to query in the same way for every codec."""
    spread = np.random.default_rng(0).uniform(-0.1, 0.1, queries)
    names = {"recall_10": "recall@10", "recall_100": "recall@100", "kept_100": "kept@100", "ndcg_10": "ndcg@10"}
    names |= {"recall_1": "recall@1", "relevant_100": "relevant@100"}
    return {names[name]: mean + spread for name, mean in means.items()}


def test_the_gate_asks_for_the_whole_interval() -> None:
    random = np.random.default_rng(0)
    base = random.uniform(0, 0.8, 500)
    linear = {"svd": {"recall@10": base}, "truncation": {"recall@10": base / 2}}
    better = gate({"recall@10": base + 0.05}, linear)
    assert better.passed
    assert better.over == "svd"
    assert better.difference.mean == pytest.approx(0.05)
    assert str(better).startswith("The learned codec ships: recall@10 minus that of svd: +0.050 ")
    assert better.finding.startswith("The learned codec is better than the linear ones of its width: recall@10 minus ")
    unsure = gate({"recall@10": base + random.normal(0.005, 0.2, 500)}, linear)
    assert unsure.difference.low < 0 < unsure.difference.high
    assert not unsure.passed
    assert unsure.finding.startswith("The learned codec's gain is not significant. Recall@10 minus that of svd: ")


def test_a_codec_that_loses_one_figure_does_not_ship_as_better() -> None:
    linear = {
        "svd": figures(recall_10=0.5, recall_100=0.7, kept_100=0.9),
        "svd-dot": figures(recall_10=0.45, recall_100=0.75, kept_100=0.9),
    }
    # Better than svd in both, but svd-dot is the rival in recall@100.
    decision = gate(figures(recall_10=0.6, recall_100=0.72, kept_100=0.9), linear)
    assert decision.difference.low > 0
    assert not decision.passed
    assert [(each.figure, each.over) for each in decision.lost] == [("recall@100", "svd-dot")]
    assert str(decision) == (
        "The learned codec loses recall@100 to svd-dot (-0.030 [-0.030, -0.030]): exporting the linear codec svd."
    )
    assert decision.finding == "The learned codec loses recall@100 to svd-dot (-0.030 [-0.030, -0.030])."
    assert gate(figures(recall_10=0.6, recall_100=0.75, kept_100=0.9), linear).passed


@pytest.mark.parametrize("lost", ["recall_1", "recall_100", "kept_100", "ndcg_10"])
def test_any_figure_forbids_a_codec_for_neighbours(lost: str) -> None:
    even: dict[str, Any] = dict.fromkeys(("recall_1", "recall_10", "recall_100", "kept_100", "ndcg_10"), 0.5)
    linear = {"svd": figures(**even)}
    assert gate(figures(**{**even, "recall_10": 0.6}), linear).passed
    assert not gate(figures(**{**even, "recall_10": 0.6, lost: 0.49}), linear).passed


def test_for_relevance_only_relevant_documents_count_and_lost_neighbours_are_named() -> None:
    linear = {
        "svd": figures(recall_10=0.6, recall_100=0.7, ndcg_10=0.4, relevant_100=0.8),
        "truncation": figures(recall_10=0.3, recall_100=0.4, ndcg_10=0.45, relevant_100=0.7),
    }
    learned = figures(recall_10=0.5, recall_100=0.7, ndcg_10=0.5, relevant_100=0.8)
    decision = gate(learned, linear, Aim.RELEVANCE)
    assert decision.passed
    assert decision.over == "truncation"
    assert str(decision) == (
        "The learned codec ships: ndcg@10 minus that of truncation: +0.050 [+0.050, +0.050] on the confirmation "
        "queries. It keeps fewer of the neighbours: recall@10 minus that of svd: -0.100 [-0.100, -0.100]."
    )
    assert not gate(learned, linear).passed
    fewer = {**learned, "relevant@100": learned["relevant@100"] - 0.01}
    assert [each.figure for each in gate(fewer, linear, Aim.RELEVANCE).lost] == ["relevant@100"]


def test_a_decision_is_read_back_as_it_was() -> None:
    linear = {"svd": figures(recall_10=0.5, ndcg_10=0.6), "pca": figures(recall_10=0.4, ndcg_10=0.7)}
    decision = gate(figures(recall_10=0.6, ndcg_10=0.65), linear)
    assert Gate.from_json(json.loads(json.dumps(decision.to_json()))) == decision
