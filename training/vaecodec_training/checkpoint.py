"""Keep a run's folder: ``model.safetensors`` and ``run.json`` to serve from, ``state.safetensors`` to resume from.

Every file is replaced atomically, and none holds a pickle. ``model.safetensors`` also holds the text of ``run.json``
and one digest over both, so that weights never meet the record of others, and damage is found. A process that dies
between the two files leaves a folder that is refused until the run is resumed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vaecodec.errors import CheckpointError, VaecodecError
from vaecodec.files import write_atomically
from vaecodec.files.stored_json import parse_object
from vaecodec.interface import Metric
from vaecodec_training.model import VariationalCodec
from vaecodec_training.recipe import Recipe

MODEL = "model.safetensors"
RUN = "run.json"
STATE = "state.safetensors"
LOCK = ".lock"
_FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """Hold the best model of a run and where it came from.

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
        """Return ``vae``, or ``ae`` when nothing limits the rate: neither a KL term nor a code."""
        return "vae" if self.recipe.kl or self.recipe.for_codes else "ae"

    @property
    def nested_dims(self) -> tuple[int, ...]:
        """Return the smaller latent widths that stand alone."""
        return self.recipe.nested_dims


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write what :func:`load_checkpoint` reads; the folder must exist."""
    weights = _contiguous(checkpoint.model.state_dict())
    content = {
        "format": _FORMAT,
        "weights": weights_digest(weights, ""),  # so that the record says which weights it belongs to
        "dim": checkpoint.model.dim,
        "metric": str(checkpoint.metric),
        "embedder": checkpoint.embedder,
        "recipe": checkpoint.recipe.to_dict(),
        "provenance": checkpoint.provenance,
        "calibration": checkpoint.calibration,
    }
    record = json.dumps(content, indent=1, allow_nan=False)
    write_atomically(run / MODEL, save(weights, {"record": record, "digest": weights_digest(weights, record)}))
    write_atomically(run / RUN, record.encode())


def load_checkpoint(run: Path) -> Checkpoint:
    """Read the best model of a run.

    Args:
        run: the folder that ``vaecodec train`` wrote.

    Raises:
        CheckpointError: the folder is not a run, is damaged, or was written by a newer version; or its process died
            while it saved.
        RecipeError: its recipe is not one of this version.
    """
    try:
        record = (run / RUN).read_text(encoding="utf-8")
        content = parse_object(record)
        weights, metadata = _read(run / MODEL)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{run}: expected a training run with {MODEL} and {RUN}, but {Path(error.filename or MODEL).name} "
            "is not there; has the run reached its first checkpoint?"
        ) from None
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{run}: damaged: {error}") from None
    if content.get("format") != _FORMAT:
        raise CheckpointError(f"{run}: expected a run of format {_FORMAT}; it was written by another version")
    if metadata.get("record") != record:
        raise CheckpointError(
            f"{run}: {MODEL} does not fit {RUN}: the training ended between the two files, or one was replaced; resume "
            "the training, which writes both anew"
        )
    if metadata.get("digest") != weights_digest(weights, record):
        raise CheckpointError(f"{run}: damaged: the weights or the record changed after they were saved; train again")
    try:
        return _checkpoint(content, weights)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # a right digest does not prove that the content is right
        if isinstance(error, VaecodecError):
            raise
        raise CheckpointError(f"{run}: expected weights and a record of one model, got others: {error}") from None


def _checkpoint(content: Mapping[str, Any], weights: Mapping[str, Tensor]) -> Checkpoint:
    recipe, metric = Recipe.from_dict(content["recipe"]), Metric(content["metric"])
    dim = content["dim"]
    # Compare sizes before memory is taken: a forged record could ask for a model of any size.
    wanted = {
        "encoder.linear": (recipe.dim, dim),
        "encoder.hidden": (recipe.hidden, dim),
        "decoder.hidden": (recipe.decoder_hidden, recipe.dim),
    }
    for name, shape in wanted.items():
        stored = tuple(weights[f"{name}.weight"].shape) if shape[0] else None
        if stored not in (None, shape):
            raise ValueError(f"{name} has the shape {stored}, where the record calls for {shape}")
    model = new_model(dim, recipe, metric)
    model.load_state_dict(weights)
    return Checkpoint(model.eval(), recipe, metric, content["embedder"], content["provenance"], content["calibration"])


def mend(run: Path) -> None:
    """Write ``run.json`` again from ``model.safetensors`` if a process died before it could; otherwise do nothing."""
    try:
        weights, metadata = _read(run / MODEL)
    except (OSError, ValueError, SafetensorError):
        return  # the function that loads the file says what is wrong
    record = metadata.get("record", "")
    if metadata.get("digest") == weights_digest(weights, record):
        write_atomically(run / RUN, record.encode())


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118 - no mapping


def weights_digest(weights: Mapping[str, Tensor], record: str) -> str:
    """Return the SHA-256 over the record and every tensor with its name and shape."""
    digest = hashlib.sha256(record.encode())
    for name in sorted(weights):
        digest.update(f"/{name}{list(weights[name].shape)}".encode())
        digest.update(weights[name].numpy().tobytes())
    return digest.hexdigest()


def new_model(dim: int, recipe: Recipe, metric: Metric) -> VariationalCodec:
    """Return a model of a recipe's shape with its seed's random weights."""
    return VariationalCodec(
        dim,
        recipe.dim,
        hidden=recipe.hidden,
        decoder_hidden=recipe.decoder_hidden,
        asymmetric=recipe.asymmetric,
        metric=metric,
        form=recipe.form(metric),
        seed=recipe.seed,
    )


def save_state(run: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write everything a run needs to go on, bit for bit: tensors by name, and JSON values."""
    kept, text = _contiguous(tensors), json.dumps(values)
    write_atomically(run / STATE, save(kept, {"values": text, "digest": weights_digest(kept, text)}))


def load_state(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what :func:`save_state` wrote.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = run / STATE
    if not path.exists():
        raise CheckpointError(f"{run}: nothing to resume, {STATE} is not there; start without resume")
    try:
        tensors, metadata = _read(path)
        if metadata["digest"] != weights_digest(tensors, metadata["values"]):
            raise ValueError("its content does not fit its checksum; start without resume")
        return tensors, parse_object(metadata["values"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the copies on the CPU, none of which shares memory with another, as safetensors demands."""
    return {
        name: torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach()) for name, tensor in tensors.items()
    }
