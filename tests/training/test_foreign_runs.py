"""Run folders that somebody else signed: a digest is no proof of who wrote them, so their content is checked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from vaecodec.errors import CheckpointError, RecipeError
from vaecodec.interface import Metric
from vaecodec_training.checkpoint import (
    MODEL,
    RUN,
    Checkpoint,
    load_checkpoint,
    new_model,
    save_checkpoint,
    weights_digest,
)
from vaecodec_training.recipe import Recipe

Change = Callable[[dict[str, Any], dict[str, torch.Tensor]], object]


def sign(run: Path, record: str, weights: dict[str, torch.Tensor]) -> None:
    (run / MODEL).write_bytes(save(weights, {"record": record, "digest": weights_digest(weights, record)}))
    (run / RUN).write_text(record)


@pytest.fixture
def forge(tmp_path: Path) -> Callable[[Change], None]:
    """Write a run whose record and weights were changed and signed anew."""
    recipe = Recipe(dim=4, hidden=8)
    model = new_model(16, recipe, Metric.COSINE)
    save_checkpoint(tmp_path, Checkpoint(model, recipe, Metric.COSINE, "", {}))

    def write(change: Change) -> None:
        record, weights = json.loads((tmp_path / RUN).read_text()), dict(model.state_dict())
        change(record, weights)
        sign(tmp_path, json.dumps(record), weights)

    return write


def test_a_run_that_is_signed_anew_as_it_was_is_loaded(forge, tmp_path: Path) -> None:
    forge(lambda record, weights: None)
    assert load_checkpoint(tmp_path).model.dim == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record, weights: record.update(dim=10**9), r"encoder.linear has the shape \(4, 16\)"),
        (lambda record, weights: record.update(dim="16"), "calls for"),
        (lambda record, weights: record["recipe"].update(hidden=65_536), r"encoder.hidden has the shape \(8, 16\)"),
        (lambda record, weights: record.pop("recipe"), "'recipe'"),
        (lambda record, weights: record.pop("provenance"), "'provenance'"),
        (lambda record, weights: record.update(metric="taxi"), "'taxi' is not a valid Metric"),
        (lambda record, weights: record.update(recipe=[1]), "expected weights and a record of one model"),
        (lambda record, weights: weights.pop("log_var.bias"), "log_var.bias"),
        (lambda record, weights: weights.update(more=torch.zeros(2)), "more"),
        (lambda record, weights: weights.update({"log_var.bias": torch.zeros(9)}), "log_var.bias"),
        (lambda record, weights: weights.pop("encoder.linear.weight"), "encoder.linear.weight"),
    ],
)
def test_a_record_of_another_model_is_refused(forge, tmp_path: Path, change: Change, message: str) -> None:
    forge(change)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path)


def test_a_record_of_any_depth_is_refused(tmp_path: Path, forge) -> None:
    forge(lambda record, weights: None)
    sign(tmp_path, "[" * 100_000, {"a": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="damaged: the JSON values are nested too deeply"):
        load_checkpoint(tmp_path)


def test_a_recipe_that_is_no_recipe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    for text, message in (
        ("a = " + "[" * 8_000, "not a TOML file of a recipe"),
        ("a." * 50_000 + "b = 1", "more than the 16,384 bytes that a recipe may have"),
        ("dim = " + "9" * 5_000, "not a TOML file of a recipe"),
    ):
        path.write_text(text)
        with pytest.raises(RecipeError, match=message):
            Recipe.load(path)
    with pytest.raises(RecipeError, match="directory"):
        Recipe.load(tmp_path)
