"""Test that the unit of the vectors does not matter: what trains at norm 1 trains at norm 500 and at .001."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vaecodec.interface import Metric
from vaecodec.sources import ArraySource
from vaecodec_training.data.collection import Collection
from vaecodec_training.recipe import Recipe
from vaecodec_training.trainer import train

pytestmark = pytest.mark.filterwarnings("ignore::vaecodec_training.diagnostics.TrainingWarning")


@pytest.mark.parametrize("metric", [Metric.DOT, Metric.L2])
def test_vectors_of_any_length_are_trained_alike(metric: Metric, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    centres = np.clip(random.gamma(0.7, 40, (20, 24)), 0, 255)
    rows = np.clip(np.rint(centres[random.integers(0, 20, 900)] + random.normal(0, 12, (900, 24))), 0, 255)
    assert np.linalg.norm(rows, axis=1).mean() > 100
    recipe = Recipe(dim=6, hidden=16, decoder_hidden=8, reconstruction=0.1, batch=128, epochs=2, checkpoints=1)
    losses, rates = [], []
    for unit in (1.0, 512.0, 1 / 512):
        collection = Collection.open(ArraySource((rows / unit).astype(np.float32)), metric=metric, validation=0.2)
        result = train(collection, recipe, tmp_path / f"{unit}")  # which rows are held out depends on their content
        start = result.baselines[str(collection.start_kind)]["recall@10"].mean()
        assert result.figures["recall@10"].mean() > start - 0.02
        losses.append(result.history[-1].loss)
        rates.append(sum(result.history[-1].kl))
    np.testing.assert_allclose(losses, losses[0], rtol=0.2)
    np.testing.assert_allclose(rates, rates[0], rtol=0.1)
