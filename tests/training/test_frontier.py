"""Test the frontier of a fit: what is tried for relevance, what stands beside, and how it is summed up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vaecodec.sources import ArraySource
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import HeldOut
from vaecodec_training.frontier import Point, draw_frontier, frontier, relevance_trials
from vaecodec_training.recipe import Aim, Recipe


def figures(recall: float, ndcg: float) -> dict[str, dict[str, float]]:
    means = {"recall@10": recall, "recall@100": recall, "ndcg@10": ndcg}
    return {name: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for name, mean in means.items()}


def step(recall: float, ndcg: float, dim: int = 32) -> dict[str, Any]:
    return {"recipe": {"dim": dim}, "validation": figures(recall, ndcg)}


@pytest.fixture(scope="module")
def part(sample) -> HeldOut:
    documents, queries = ArraySource(sample.train[:1_000]), ArraySource(sample.train_queries[:1_000])
    return Collection.open(documents, queries, pairs="aligned").validation


def test_linear_maps_hidden_layers_and_noise_are_tried_and_the_recipe_that_was_asked_for() -> None:
    trials = relevance_trials(Recipe(dim=48, seed=3), 40_000)
    assert {(trial.dim, trial.seed, trial.objective) for trial in trials.values()} == {(48, 3, Aim.RELEVANCE)}
    assert {name: trial.input_noise > 0 for name, trial in trials.items()} == {
        "relevance": True,
        "relevance mlp": False,
        "relevance mlp noise": True,
    }
    assert [trial.hidden > 0 for trial in trials.values()].count(True) == 2
    asked = Recipe.for_relevance(rows=40_000, weight=0.6, dim=48)
    assert relevance_trials(asked, 40_000) == {
        "relevance as asked": asked,
        **relevance_trials(Recipe(dim=48), 40_000),
    }
    # What is asked for and tried anyway is tried once.
    tried = relevance_trials(trials["relevance mlp"], 40_000)
    assert list(tried) == ["relevance as asked", "relevance", "relevance mlp noise"]
    # Codes may follow the pairs more closely.
    of_codes = relevance_trials(Recipe.for_code(target_bytes=(48,), dim=48), 40_000)
    assert list(of_codes) == [*trials, "relevance mlp heavier"]
    assert of_codes["relevance mlp heavier"].contrastive > of_codes["relevance mlp"].contrastive
    assert {trial.target_bytes for trial in of_codes.values()} == {(48,)}


def test_the_points_hold_the_trials_of_the_width_chosen_and_what_stands_beside(part: HeldOut, tmp_path: Path) -> None:
    steps = {
        "baselines": {"32": {"svd": figures(0.5, 0.3), "truncation": figures(0.2, 0.4)}},
        "vae": step(0.6, 0.41),
        "sweep 16": step(0.4, 0.3, dim=16),
        "default": step(0.7, 0.45),
        "relevance": step(0.55, 0.5),
        "relevance mlp": step(0.52, 0.47),
        "relevance mlp noise": {"recipe": {"dim": 32}, "diverged": "the loss is not finite"},
        "full width": step(0.65, 0.6, dim=64),
    }
    found = frontier(steps, Recipe(dim=32), "default", "full width", part)
    points = {point["name"]: Point(**point) for point in found["points"]}
    assert list(points) == [
        "uncompressed",
        "best linear by figure",
        "uncompressed + the same training",
        "vae",
        "default",
        "relevance",
        "relevance mlp",
    ]
    assert points["uncompressed"].stored == "384 floats"
    assert points["uncompressed"].figures["recall@10"]["mean"] == 1.0
    # Each figure's own best linear codec.
    best = points["best linear by figure"].figures
    assert (best["recall@10"]["mean"], best["ndcg@10"]["mean"]) == (0.5, 0.4)
    assert found["summary"].startswith(
        "Old neighbours kept against right documents found, on validation queries: this codec, default (32 floats): "
        "recall@10 0.700, nDCG@10 0.450; uncompressed (384 floats): recall@10 1.000, nDCG@10 0."
    )
    assert "relevance (32 floats): recall@10 0.550, nDCG@10 0.500" in found["summary"]
    assert "relevance mlp (" not in found["summary"]  # worse in both than another trial
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'vaecodec[report]'")
    draw_frontier(list(points.values()), "default", tmp_path / "frontier.png")
    assert (tmp_path / "frontier.png").stat().st_size > 5_000


def test_a_search_without_a_stable_opponent_has_a_frontier_too(part: HeldOut) -> None:
    steps = {
        "baselines": {"32": {"svd": figures(0.5, 0.3)}},
        "final": step(0.6, 0.41),
        "full width": {"recipe": {"dim": 64}, "diverged": "the loss is not finite"},
    }
    found = frontier(steps, Recipe(dim=32), "final", "full width", part)
    names = [point["name"] for point in found["points"]]
    assert names == ["uncompressed", "best linear by figure", "final"]
    assert np.isfinite([point["figures"]["ndcg@10"]["mean"] for point in found["points"]]).all()
