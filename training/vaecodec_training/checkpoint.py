"""The run folder: ``model.safetensors`` and ``run.json`` for what is served, ``state.safetensors`` to go on from.

Every file is replaced atomically, and none holds a pickle.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from vaecodec.errors import CheckpointError
from vaecodec.files import write_atomically
from vaecodec.interface import Metric
from vaecodec_training.model import VariationalCodec
from vaecodec_training.recipe import Recipe

MODEL = "model.safetensors"
RUN = "run.json"
STATE = "state.safetensors"
_FORMAT = 1


@dataclass(frozen=True)
class Checkpoint:
    """The best model of a run and where it came from.

    Attributes:
        model: in evaluation mode, on the CPU.
        recipe: what it was trained by.
        metric: how the embeddings are compared.
        embedder: the embedding model's name, or an empty string.
        provenance: JSON values: recipe, data, seed, versions, date, validation figures, diagnostics.
        calibration: JSON values fitted on training data.
    """

    model: VariationalCodec
    recipe: Recipe
    metric: Metric
    embedder: str
    provenance: Mapping[str, Any]
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """``vae``, or ``ae`` when nothing limits the rate: neither a KL term nor a code."""
        return "vae" if self.recipe.kl or self.recipe.for_codes else "ae"

    @property
    def nested_dims(self) -> tuple[int, ...]:
        """Smaller latent widths that stand alone."""
        return self.recipe.nested_dims


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write what :func:`load_checkpoint` reads; the folder must exist."""
    write_atomically(run / MODEL, save(_contiguous(checkpoint.model.state_dict())))
    content = {
        "format": _FORMAT,
        "dim": checkpoint.model.dim,
        "metric": str(checkpoint.metric),
        "embedder": checkpoint.embedder,
        "recipe": checkpoint.recipe.to_dict(),
        "provenance": checkpoint.provenance,
        "calibration": checkpoint.calibration,
    }
    write_atomically(run / RUN, json.dumps(content, indent=1, allow_nan=False).encode())


def load_checkpoint(run: Path) -> Checkpoint:
    """Read the best model of a run.

    Args:
        run: the folder that ``vaecodec train`` wrote.

    Raises:
        CheckpointError: the folder is not a run, is damaged, or was written by a newer version.
        RecipeError: its recipe is not one of this version.
    """
    try:
        content = json.loads((run / RUN).read_text(encoding="utf-8"))
        weights = load_file(run / MODEL)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run}: expected a training run with {MODEL} and {RUN}, but {Path(error.filename or MODEL).name} "
            "is not there; did the run reach its first checkpoint?"
        ) from None
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{run}: damaged: {error}") from None
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise CheckpointError(f"{run}: expected a run of format {_FORMAT}; it was written by another version")
    recipe = Recipe.from_dict(content["recipe"])
    metric = Metric(content["metric"])
    model = new_model(content["dim"], recipe, metric)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"{run}: {MODEL} does not fit {RUN}: {error}") from None
    return Checkpoint(model.eval(), recipe, metric, content["embedder"], content["provenance"], content["calibration"])


def new_model(dim: int, recipe: Recipe, metric: Metric) -> VariationalCodec:
    """A model of a recipe's shape with its seed's random weights."""
    return VariationalCodec(
        dim,
        recipe.dim,
        hidden=recipe.hidden,
        decoder_hidden=recipe.decoder_hidden,
        asymmetric=recipe.asymmetric,
        metric=metric,
        seed=recipe.seed,
    )


def save_state(run: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write everything a run needs to go on, bit for bit: tensors by name, and JSON values."""
    write_atomically(run / STATE, save(_contiguous(tensors), {"values": json.dumps(values)}))


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = run / STATE
    if not path.exists():
        raise CheckpointError(f"{run}: nothing to resume, {STATE} is not there; start without resume")
    try:
        with safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})["values"])
            return {name: file.get_tensor(name) for name in file.keys()}, values  # noqa: SIM118 - not a mapping
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, none of which shares memory with another, as safetensors demands."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()) for name, tensor in tensors.items()
    }
