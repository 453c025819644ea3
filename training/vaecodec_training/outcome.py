"""Finish the best model of a run: latents in their final order, provenance and calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import attrgetter
from typing import Any

import numpy as np
import torch

from vaecodec.calibration import CodecCalibration
from vaecodec.evaluation import best
from vaecodec.provenance import made_now
from vaecodec_training.channel import rotation_for
from vaecodec_training.checkpoint import Checkpoint, new_model
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.diagnostics import Record, TrainingWarning
from vaecodec_training.full_size import FullSize
from vaecodec_training.model import ModelCodec, VariationalCodec, in_numpy
from vaecodec_training.recipe import Recipe
from vaecodec_training.state import RunState
from vaecodec_training.validation import gain, gains, intervals


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """Hold the result of a run.

    Attributes:
        checkpoint: the best model on the validation rows, by the figure of its objective.
        figures: its validation figures, per query.
        baselines: those of the linear codecs, by kind.
        history: one record per checkpoint.
        warnings: the pitfalls that were seen.
        full_size: the same figures among all documents, or None where these were not searched.
    """

    checkpoint: Checkpoint
    figures: QueryFigures
    baselines: dict[str, QueryFigures]
    history: tuple[Record, ...]
    warnings: tuple[TrainingWarning, ...]
    full_size: FullSize | None = None

    @property
    def best_linear(self) -> dict[str, str]:
        """Return each figure's best linear codec, by kind."""
        return {name: best(self.baselines, name) for name in self.figures}

    @property
    def gains(self) -> dict[str, dict[str, float]]:
        """Return each figure minus that of the best linear codec in it, as mean, low and high."""
        return gains(self.figures, self.baselines)

    def to_json(self) -> dict[str, Any]:
        """Return the figures and warnings, as JSON values."""
        provenance = self.checkpoint.provenance
        return {
            "validation": provenance["validation"],
            "gain": provenance["gain"],
            "full_size": provenance.get("full_size"),
            "warnings": [{"kind": type(each).__name__, "message": str(each)} for each in self.warnings],
        }


def served(model: VariationalCodec, collection: Collection, recipe: Recipe) -> VariationalCodec:
    """Return a copy of the model with its latents in the order or rotation that suits their use."""
    ordered = new_model(collection.dim, recipe, collection.metric).eval()
    # Read attributes, not the state: a parameter stored in units of the spread then gives its value.
    ordered.load_state_dict({name: attrgetter(name)(model) for name in ordered.state_dict()})
    variance = in_numpy(ordered.encoder, ordered)(collection.validation.documents).var(axis=0)
    bounds = [0, *recipe.widths]
    order = [low + np.argsort(-variance[low:high], kind="stable") for low, high in pairwise(bounds)]
    ordered.reorder(torch.from_numpy(np.concatenate(order)))
    if recipe.target:
        latents = in_numpy(ordered.encode, ordered)(collection.sample)
        ordered.rotate(torch.from_numpy(rotation_for(latents, recipe, ordered.latent_metric)))
    return ordered


def provenance(
    figures: QueryFigures,
    baselines: Mapping[str, QueryFigures],
    measured: Mapping[str, Any],
    collection: Collection,
    recipe: Recipe,
    state: RunState,
) -> dict[str, Any]:
    """Return where a model came from and how good it is; JSON values.

    Args:
        figures: of the model.
        baselines: those of the linear codecs.
        measured: the intervals of these, which every checkpoint repeats.
        collection: what it is trained on.
        recipe: how.
        state: how far.
    """
    linear = best(baselines, recipe.objective.figure)
    return {
        "recipe": recipe.to_dict(),
        "data": collection.to_json(),
        "seed": recipe.seed,
        **made_now(),
        "validation": {"codec": intervals(figures), **measured},
        "gain": {"over": linear, **gain(figures, baselines[linear])},
        "diagnostics": {"history": state.history, "warnings": state.warnings},
    }


def calibrated(checkpoint: Checkpoint, collection: Collection, *, staged: bool = True) -> Checkpoint:
    """Return the checkpoint with what its file will hold beside the weights: codes, scores and drift.

    ``staged`` is as in :meth:`vaecodec.calibration.CodecCalibration.fit`.
    """
    codec, rows = ModelCodec(checkpoint.model), collection.calibration_rows
    calibration = CodecCalibration.fit(codec, rows, memory=checkpoint.recipe.trellis_memory, staged=staged)
    return replace(checkpoint, calibration=calibration.to_json())
