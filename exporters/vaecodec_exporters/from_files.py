"""Turn files of vectors into a codec file in one call: all of ``vaecodec train`` and of ``vaecodec fit``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from vaecodec.sources import VectorSource
from vaecodec_exporters.pipeline import Fitted, check_fit, check_training, fit, train_and_export
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.files import TrainingFiles
from vaecodec_training.observe import Observer
from vaecodec_training.outcome import TrainedRun
from vaecodec_training.recipe import Recipe, refuse_too_large, refuse_wider
from vaecodec_training.request import RecipeRequest
from vaecodec_training.search import OnStep, refuse_processes, refuse_widths

OnOpen = Callable[[Collection], None]
"""Called with the collection when its vectors have been checked, before training begins."""

# Share of the rows that only the gate uses.
_CONFIRMATION = 0.05


def train_files(
    data: TrainingFiles,
    wanted: RecipeRequest,
    run: str | os.PathLike[str],
    *,
    export: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    on_open: OnOpen = lambda _: None,
) -> TrainedRun | None:
    """Open the files, choose the recipe, train, and write the codec file.

    Args:
        data: where the vectors are stored.
        wanted: what the recipe is chosen by.
        run: folder for the run.
        export: the codec file to write at the end, or None.
        overwrite: replace another codec file at ``export``.
        resume: go on from the folder's last state.
        observers: called after every step.
        on_open: see :data:`OnOpen`.

    Returns:
        The run; None in all processes of ``torchrun`` but the first.

    Raises:
        RecipeError: the settings do not fit the data.
        OutputExistsError, TrainingError, ExportError: see :func:`~vaecodec_exporters.pipeline.train_and_export`.
        UnusableDataError, InvalidVectorsError, SourceError: the vectors cannot be used.
    """
    check_training(run, export, overwrite=overwrite, resume=resume)
    sources = data.sources()
    recipe = _recipe(data, wanted, sources)
    refuse_wider(recipe, sources[0].dim)
    collection = data.collection(sources, Path(run), objective=recipe.objective)
    on_open(collection)
    return train_and_export(
        collection, recipe, run, export=export, overwrite=overwrite, resume=resume, observers=observers
    )


def fit_files(
    data: TrainingFiles,
    wanted: RecipeRequest,
    out: str | os.PathLike[str],
    *,
    dims: Sequence[int] | None = None,
    budget: float = 600.0,
    observers: Sequence[Observer] = (),
    on_step: OnStep | None = None,
    on_open: OnOpen = lambda _: None,
) -> Fitted:
    """Open the files, search for width and recipe, and write the codec file that held-out rows confirm.

    Call it again with the same ``out`` to go on after an interruption.

    Args:
        data: where the vectors are stored.
        wanted: what the search starts from.
        out: folder for the fit.
        dims: widths to choose among; see :func:`vaecodec_training.search.search`.
        budget: seconds for all training.
        observers: of every training run.
        on_step: called with the name and the figures of each step when it has ended.
        on_open: see :data:`OnOpen`.

    Raises:
        RecipeError, TrainingError, CheckpointError, OutputExistsError: see :func:`~vaecodec_exporters.pipeline.fit`.
        UnusableDataError, InvalidVectorsError, SourceError: the vectors cannot be used.
    """
    refuse_processes()
    check_fit(Path(out))
    sources = data.sources()
    if dims is not None:
        refuse_widths(dims, sources[0].dim)
    recipe = _recipe(data, wanted, sources)
    for width in dims or ():
        refuse_too_large(recipe.replace(dim=width, nested_dims=()))
    collection = data.collection(sources, Path(out), objective=recipe.objective, confirmation=_CONFIRMATION)
    on_open(collection)
    return fit(collection, out, dims=dims, budget=budget, recipe=recipe, observers=observers, on_step=on_step)


def _recipe(data: TrainingFiles, wanted: RecipeRequest, sources: Sequence[VectorSource]) -> Recipe:
    """Return the recipe for what the sources' headers say, before their rows are read."""
    paired = data.pairs is not None
    recipe = wanted.recipe(sources[0], paired=paired)
    recipe.check_for(queries=data.queries is not None, pairs=paired)
    return recipe
