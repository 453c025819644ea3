"""Test what a run warns of: each pitfall has a name, a rule and a remedy."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vaecodec.interface import Metric
from vaecodec.sources import ArraySource
from vaecodec_training.checkpoint import MODEL
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.shift import measure_shift
from vaecodec_training.diagnostics import (
    BelowBaselineWarning,
    DegenerateLatentsWarning,
    HeavyContrastiveWarning,
    QueryShiftWarning,
    ReconstructionOverfitWarning,
    Record,
    StaleQueueWarning,
    effective_rank,
    inspect,
    inspect_shift,
)
from vaecodec_training.recipe import Experimental, Recipe, Start, TrainingPrecision
from vaecodec_training.trainer import train

SMALL = Recipe(dim=32, hidden=32, batch=256, epochs=2, checkpoints=3)
# Two epochs do not beat the linear codec significantly; the tests that are about something else do not mind.
pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.BelowBaselineWarning")


@pytest.fixture(scope="module")
def collection(sample) -> Collection:
    return Collection.open(
        ArraySource(sample.train[:2_500]), ArraySource(sample.train_queries[:2_500]), pairs="aligned"
    )


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / MODEL)


def same(left: Path, right: Path) -> bool:
    return all(torch.equal(value, weights(right)[name]) for name, value in weights(left).items())


def record(**changes: object) -> Record:
    values: dict = {
        "step": 10,
        "recall": 0.5,
        "score": 0.5,
        "loss": 1.0,
        "terms": {"alignment": 0.9, "reconstruction": 0.3},
        "kl": (1.0,) * 32,
        "kl_weight": 1e-4,
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
        "effective_rank": 30.0,
        "queue_age": 0.0,
    }
    return Record(**{**values, **changes})


@pytest.mark.parametrize(
    ("name", "changes", "recipe"),
    [
        ("PosteriorCollapseWarning", {"kl": (0.0,) * 20 + (1.0,) * 12}, SMALL),
        ("DegenerateLatentsWarning", {"effective_rank": 3.0}, SMALL),
        (
            "HeavyContrastiveWarning",
            {"terms": {"alignment": 0.1, "contrastive": 3.0}, "loss": 3.1},
            SMALL.replace(contrastive=1.0),
        ),
        ("StaleQueueWarning", {"queue_age": 40.0}, SMALL.replace(queue=10_000, momentum=0.9)),
    ],
)
def test_each_pitfall_has_a_name_and_a_remedy(name: str, changes: dict, recipe: Recipe) -> None:
    assert inspect([record()], recipe) == []
    (warning,) = inspect([record(**changes)], recipe)
    assert type(warning).__name__ == name
    assert str(warning).startswith("step 10: ")


def test_overfitting_to_reconstruction_is_seen_over_three_checkpoints() -> None:
    recalls, errors = (0.50, 0.49, 0.48), (0.30, 0.29, 0.28)
    history = [
        record(score=recall, terms={"alignment": 0.9, "reconstruction": error})
        for recall, error in zip(recalls, errors, strict=True)
    ]
    heavy = SMALL.replace(reconstruction=1.0)
    (warning,) = inspect(history, heavy)
    assert isinstance(warning, ReconstructionOverfitWarning)
    assert "fell from 0.500 to 0.480" in str(warning)
    assert inspect(history[::-1], heavy) == []
    assert inspect(history, SMALL) == []  # alignment leads, and weights nearer to the start are kept


def test_a_heavy_contrastive_weight_is_warned_of_in_a_real_run(collection: Collection, tmp_path: Path) -> None:
    with pytest.warns(HeavyContrastiveWarning, match="lower contrastive"):
        train(collection, SMALL.replace(contrastive=2.0), tmp_path)


def test_a_run_that_does_not_beat_the_linear_codec_says_so(collection: Collection, tmp_path: Path) -> None:
    with pytest.warns(BelowBaselineWarning, match="use the linear codec"):
        train(collection, SMALL.replace(experimental=Experimental(start=Start.RANDOM), kl=0.0, epochs=0.5), tmp_path)


def test_the_shift_of_queries_is_measured_and_warned_of(sample) -> None:
    near = measure_shift(sample.train, sample.train[::-1].copy())
    assert near.mean_gap == pytest.approx(0, abs=1e-5)
    assert max(near.angles) < 1
    moved = np.roll(sample.train_queries, 192, axis=1) + 0.05
    far = measure_shift(sample.train, moved)
    assert inspect_shift(near, SMALL) == []
    (warning,) = inspect_shift(far, SMALL)
    assert isinstance(warning, QueryShiftWarning)
    assert inspect_shift(far, SMALL.replace(asymmetric=True)) == []


def test_queries_far_from_documents_are_warned_of_in_a_real_run(sample, tmp_path: Path) -> None:
    moved = np.roll(sample.train_queries[:1_500], 192, axis=1) + 0.05
    collection = Collection.open(ArraySource(sample.train[:1_500]), ArraySource(moved))
    with pytest.warns(QueryShiftWarning, match="query/document shift: mean gap .* try asymmetric = true"):
        result = train(collection, SMALL.replace(epochs=0.5), tmp_path)
    kinds = [name for name, _ in result.checkpoint.provenance["diagnostics"]["warnings"]]
    assert kinds[0] == "QueryShiftWarning"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(collection, SMALL.replace(epochs=0.5, asymmetric=True), tmp_path)
    assert not [each for each in caught if each.category is QueryShiftWarning]


def test_the_age_of_the_queue_is_measured_and_warned_of_in_a_real_run(collection: Collection, tmp_path: Path) -> None:
    """A queue of 4 batches holds entries of 1 to 4 steps, one of 40 batches of 1 to 40."""
    young = train(collection, SMALL.replace(queue=1024, epochs=1), tmp_path)
    assert young.history[-1].queue_age == pytest.approx(2.5)
    recipe = SMALL.replace(batch=64, queue=40 * 64, momentum=0.9, epochs=1.5, checkpoints=1)
    with pytest.warns(StaleQueueWarning, match=r"20 steps old on average, the momentum encoder averages over 16"):
        stale = train(collection, recipe, tmp_path)
    assert stale.history[-1].queue_age == pytest.approx(20.5)


def test_latents_that_fill_one_dimension_are_warned_of_in_a_real_run(sample, tmp_path: Path) -> None:
    flat = sample.train[:1_500, :1] * np.linspace(1, 2, 64, dtype=np.float32) + 1e-4 * sample.train[:1_500, :64]
    collection = Collection.open(ArraySource(flat), metric=Metric.DOT)
    with pytest.warns(DegenerateLatentsWarning, match=r"the 32 latents have an effective rank of 1\.0"):
        train(collection, SMALL.replace(epochs=0.5), tmp_path)


def test_mixed_precision_trains_to_the_same_but_for_rounding(collection: Collection, tmp_path: Path) -> None:
    full = train(collection, SMALL.replace(epochs=1), tmp_path / "full")
    mixed = train(collection, SMALL.replace(epochs=1, precision=TrainingPrecision.BFLOAT16), tmp_path / "mixed")
    assert not same(tmp_path / "full", tmp_path / "mixed")
    assert weights(tmp_path / "mixed")["encoder.linear.weight"].dtype == torch.float32
    assert mixed.history[-1].loss == pytest.approx(full.history[-1].loss, rel=0.02)
    assert mixed.figures["recall@10"].mean() == pytest.approx(full.figures["recall@10"].mean(), abs=0.01)


def test_effective_rank_counts_dimensions_in_use() -> None:
    latents = np.random.default_rng(0).normal(size=(5_000, 8))
    assert effective_rank(latents) == pytest.approx(8, abs=0.1)
    latents[:, 4:] = 0
    assert effective_rank(latents) == pytest.approx(4, abs=0.1)
    assert effective_rank(np.ones((10, 4))) == 0


def test_latents_of_a_run_that_diverges_have_no_effective_rank() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    assert effective_rank(rows * 1e200) == effective_rank(np.full((50, 4), np.inf)) == 0.0
