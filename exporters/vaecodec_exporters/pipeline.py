"""Turn a collection into a codec file in one call: what ``vaecodec train --export`` and ``vaecodec fit`` do.

:func:`fit` searches for a recipe, asks the gate, and exports the learned codec or the best linear one.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from vaecodec.artifact import read_artifact
from vaecodec.calibration import CodecCalibration
from vaecodec.errors import ArtifactError
from vaecodec.extras import require
from vaecodec.files.outputs import check_file, check_is_folder
from vaecodec.linear import LinearKind
from vaecodec_exporters.checkpoint import export_checkpoint
from vaecodec_exporters.linear import export_linear
from vaecodec_exporters.output import refuse_existing
from vaecodec_training.channel import rotation_for
from vaecodec_training.data.collection import Collection
from vaecodec_training.frontier import draw_frontier
from vaecodec_training.gate import Gate
from vaecodec_training.observe import Observer
from vaecodec_training.outcome import TrainedRun
from vaecodec_training.recipe import Recipe
from vaecodec_training.search import RECIPE, RUN, OnStep, search
from vaecodec_training.search_result import SearchResult
from vaecodec_training.trainer import train

CODEC = "codec.onnx"
PICTURE = "recall.png"
FRONTIER = "frontier.png"
FULL_WIDTH = "full-width.onnx"


@dataclass(frozen=True)
class Fitted:
    """Hold the result of a fit.

    Attributes:
        codec: the codec file.
        recipe: the recipe of the last training run, as TOML.
        record: ``run.json``, every figure of every step.
        picture: recall against bytes, or None where matplotlib is not installed.
        frontier: old neighbours kept against nDCG@10; None without pairs, too.
        full_width: a codec file of all dimensions after the training for relevance, the fair opponent of codecs
            trained on pairs; None where no pairs are known, the budget left no time for it, or it diverged.
        search: the steps and the gate's decision.
    """

    codec: Path
    recipe: Path
    record: Path
    picture: Path | None
    frontier: Path | None
    full_width: Path | None
    search: SearchResult

    @property
    def gate(self) -> Gate:
        """Return the decision on the confirmation rows; see :attr:`SearchResult.ships` for all that decides."""
        return self.search.gate

    @property
    def ships(self) -> bool:
        """Tell whether the file holds the learned codec."""
        return self.search.ships

    @property
    def linear(self) -> str:
        """Name the best linear codec, which the file holds otherwise."""
        return self.search.linear

    @property
    def lines(self) -> list[str]:
        """Return the summary for people: the decision first, then the width and why."""
        return self.search.lines

    def to_json(self) -> dict[str, Any]:
        """Return the summary for programs."""
        return {
            "run": str(self.record),
            "learned_ships": self.ships,
            "best_linear": self.linear,
            "difference": self.gate.difference._asdict(),
            "comparisons": self.gate.to_json()["comparisons"],
            "full_size": self.search.full_size,
            "full_width": None if self.full_width is None else str(self.full_width),
            "reason_for_width": self.search.content["steps"]["knee"]["reason"],
        }


def fit(
    collection: Collection,
    out: str | os.PathLike[str],
    *,
    dims: Sequence[int] | None = None,
    budget: float = 600.0,
    recipe: Recipe | None = None,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
) -> Fitted:
    """Search for width and recipe, and write the codec file that the held-out confirmation rows speak for.

    Steps that ``out`` holds already are not repeated.

    Args:
        collection: opened with a confirmation part.
        out: folder for ``codec.onnx``, ``run.json``, ``recipe.toml``, the training runs, and pictures; where pairs are
            known, for ``full-width.onnx``, too.
        dims: widths to choose among; by default as :func:`vaecodec_training.search.search` does.
        budget: seconds for all training; the length of the runs is chosen by it.
        recipe: where to start from, with what the codec is for and which codes it has to survive; the steps change
            its weights, width, learning rate and length.
        observers: of every training run.
        on_step: called with the name and the figures of each step when it has ended.

    Raises:
        RecipeError: no widths, or not all of them below that of the embeddings; or the recipe does not fit the
            data.
        TrainingError: this is one of several processes.
        CheckpointError: ``out`` holds the fit of other data or settings.
        DivergedError: all trials stayed unstable, or the final run of a recipe with nested widths did.
        OutputExistsError: ``out`` holds files that no fit wrote, under names that this one needs.
        MissingExtraError: onnx is not installed.
    """
    require("onnx", extra="export")
    out = Path(out)
    check_fit(out)
    found = search(collection, out, dims=dims, budget=budget, recipe=recipe, observers=observers, on_step=on_step)
    file = out / CODEC
    if _is_written(file, found):
        pass
    elif found.ships:
        export_checkpoint(found.run, file)
    else:
        _export_linear(collection, found, file)
    opponent = None if found.opponent is None else out / FULL_WIDTH
    if found.opponent is not None and opponent is not None and not opponent.exists():
        export_checkpoint(found.opponent, opponent)
    picture, traded = None, None
    if find_spec("matplotlib"):
        picture = out / PICTURE
        found.draw(picture)
        if found.points:
            traded = out / FRONTIER
            draw_frontier(found.points, found.content["steps"]["frontier"]["served"], traded)
    return Fitted(file, out / RECIPE, out / RUN, picture, traded, opponent, found)


def check_fit(out: Path) -> None:
    """Check that a fit may be written to a folder: before its data is read.

    Raises:
        OutputExistsError: ``out`` is a file, or holds files that no fit wrote, under names that a fit needs.
    """
    check_is_folder(out)
    if not (out / RUN).exists():
        for name in (CODEC, PICTURE, FRONTIER, FULL_WIDTH):
            check_file(out / name, is_ours=lambda _: False, parents=True)


def train_and_export(
    collection: Collection,
    recipe: Recipe,
    run: str | os.PathLike[str],
    *,
    export: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    observers: Sequence[Observer] = (),
) -> TrainedRun | None:
    """Train a codec, keep its best checkpoint in a folder, and write it as a codec file.

    Started by ``torchrun`` every process calls this; the first one exports.

    Args:
        collection: what to train and validate on.
        recipe: how.
        run: folder for the run.
        export: the codec file to write at the end, or None.
        overwrite: replace another codec file at ``export``.
        resume: go on from the folder's last state.
        observers: called after every step.

    Returns:
        The run; None in all processes but the first.

    Raises:
        OutputExistsError: another codec file is at ``export`` and ``overwrite`` is False, or it is no codec file.
        TrainingError: as :func:`vaecodec_training.trainer.train`.
        ExportError: the exported graph does not compute what torch computes; no file is written.
    """
    check_training(run, export, overwrite=overwrite, resume=resume)
    result = train(collection, recipe, Path(run), resume=resume, observers=observers)
    if not leads():
        return None
    if export is not None:
        export_checkpoint(result.checkpoint, export, overwrite=overwrite)  # not what the folder holds by now
    return result


def check_training(
    run: str | os.PathLike[str],
    export: str | os.PathLike[str] | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
) -> None:
    """Check the outputs of :func:`train_and_export`, with its arguments: before its data is read.

    Raises:
        OutputExistsError: ``run`` is a file; or another codec file is at ``export`` and ``overwrite`` is False, or it
            is no codec file.
    """
    check_is_folder(Path(run))
    if export is None:
        return
    require("onnx", extra="export")
    # A resumed run that had ended writes the same file again, so do not refuse that. Do not check a file inside the
    # run's own folder either, which is not there yet.
    if leads() and not resume and not _comes_with(Path(run), Path(export)):
        refuse_existing(export, overwrite=overwrite)


def _comes_with(run: Path, export: Path) -> bool:
    """Tell whether the folder of a file is missing and will be made together with the run's."""
    folder = export.absolute().parent
    return not folder.exists() and folder in (run.absolute(), *run.absolute().parents)


def leads() -> bool:
    """Tell whether this process, of those that ``torchrun`` starts, is the one that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"


def _is_written(path: Path, found: SearchResult) -> bool:
    """Tell whether the file holds the codec that this search led to."""
    try:
        provenance = read_artifact(path)[1].provenance
    except ArtifactError:
        return False
    return (provenance.get("gate"), provenance.get("confirmation")) == (
        str(found.gate),
        found.content["steps"]["gate"]["confirmation"],
    )


def _export_linear(collection: Collection, found: SearchResult, path: Path) -> None:
    """Write the best linear codec with everything that a learned one has in its file."""
    recipe = found.recipe
    codec = collection.linear(found.dim, LinearKind(found.linear))
    rotation = rotation_for(codec.encode(collection.calibration_sample), recipe, codec.latent_metric)
    turned = not np.array_equal(rotation, np.eye(len(rotation)))
    if turned:
        codec = codec.rotated(rotation)
    export_linear(
        codec,
        path,
        provenance={
            "data": collection.to_json(),
            "gate": str(found.gate),
            "confirmation": found.content["steps"]["gate"]["confirmation"],
            "full_size": found.full_size,
        },
        calibration=CodecCalibration.fit(codec, collection.calibration_rows, memory=recipe.trellis_memory),
        nested=not turned,
    )
