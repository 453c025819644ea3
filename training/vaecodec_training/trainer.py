"""Train in one loop: :func:`train`, read from top to bottom."""

from __future__ import annotations

import copy
import json
import math
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from vaecodec.errors import CheckpointError, DivergedError
from vaecodec.files import locked
from vaecodec_training import outcome
from vaecodec_training.checkpoint import (
    LOCK,
    STATE,
    Checkpoint,
    load_state,
    mend,
    save_checkpoint,
    save_state,
)
from vaecodec_training.data.batches import Batches
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.diagnostics import (
    FullSizeWarning,
    InstabilityWarning,
    Record,
    effective_rank,
    inspect,
    inspect_outcome,
    inspect_shift,
)
from vaecodec_training.kept import choose_kept
from vaecodec_training.losses import free_bits
from vaecodec_training.model import VariationalCodec, in_numpy, parameter_groups
from vaecodec_training.objective import Objective
from vaecodec_training.observe import Observer, Reporter, taken_means
from vaecodec_training.outcome import TrainedRun
from vaecodec_training.processes import Processes
from vaecodec_training.recipe import Aim, Recipe, refuse_wider
from vaecodec_training.schedule import controlled, in_force
from vaecodec_training.start import decided, start_model
from vaecodec_training.state import REGULARISER_GROWTH, Parts, RunState, Snapshot
from vaecodec_training.validation import baselines, intervals, validate

MOST_ROLLBACKS = 4

# For a codec that is trained for codes: steps between two measurements of its latents.
_MEASURE_EVERY = 50


def train(
    collection: Collection,
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    accelerator: str = "auto",
    full_size: bool = True,
    staged: bool = True,
) -> TrainedRun:
    """Train a codec and leave the best checkpoint, by the figure of its objective, in a folder.

    On the CPU the same recipe, data and number of threads give the same bits, also when the run was interrupted at
    any time and resumed. Started by ``torchrun`` every process takes an equal share of each batch; the result
    is that of one process but for rounding.

    Args:
        collection: what to train and validate on.
        recipe: how.
        run: the folder for the checkpoint and for the state to resume from; made when it is not there.
        resume: go on from the folder's last state; False starts afresh and replaces what the folder holds.
        observers: called after every step.
        accelerator: Lightning Fabric's name for the device kind, ``cpu`` and ``cuda`` among them.
        full_size: search all documents of the collection once at the end, besides the held-out ones.
        staged: fit the stages of the codes, too, which can take a minute; without them codes are a trellis alone.

    Raises:
        CheckpointError: there is nothing to resume, or it belongs to another recipe or collection.
        OutputBusyError: another training writes to the folder.
        DivergedError: the run stayed unstable after every remedy.
        RecipeError: the recipe does not fit the data.
    """
    refuse_mismatch(recipe, collection)
    refuse_wider(recipe, collection.dim)
    recipe = decided(recipe, collection)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=recipe.precision.value,
    )
    fabric.launch()
    run.mkdir(parents=True, exist_ok=True)
    with locked(run / LOCK, str(run)) if fabric.is_global_zero else nullcontext():
        trainer = _Trainer(fabric, collection, recipe, run, resume, observers)
        return trainer.run(full_size, staged)


def refuse_mismatch(recipe: Recipe, collection: Collection) -> None:
    """Raise what :func:`train` would raise for a recipe that asks for more than the collection holds.

    Raises:
        RecipeError: the recipe does not fit the data.
    """
    judged = recipe.objective is not Aim.RELEVANCE or collection.validation.relevant is not None
    recipe.check_for(queries=collection.queries is not None, pairs=collection.pairs is not None and judged)


class _Trainer:
    """Run one training. The methods stand in the order in which they are called."""

    def __init__(
        self,
        fabric: Fabric,
        collection: Collection,
        recipe: Recipe,
        run: Path,
        resume: bool,
        observers: Sequence[Observer],
    ) -> None:
        self.fabric = fabric
        self.processes = Processes(fabric)
        self.collection = collection
        self.recipe = recipe
        self.folder = run
        self.state = RunState()
        self.baselines = baselines(collection, recipe)
        self.measured = {kind: intervals(figures) for kind, figures in self.baselines.items()}
        self.batches = Batches(collection, recipe, self.processes.count)
        self.steps = max(1, round(recipe.epochs * self.batches.per_epoch))
        self.every = max(1, self.steps // recipe.checkpoints)
        self.reporter = Reporter(observers, self.steps, self.processes.leads)
        self.model = start_model(collection, recipe).to(fabric.device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, collection.unit), lr=recipe.learning_rate)
        self.wrapped, self.wrapped_optimizer = fabric.setup(self.model, self.optimizer)
        self.objective = Objective(recipe, collection, self.model, self.processes)
        self.trained = copy.deepcopy(self.model).requires_grad_(False)
        modules = {"model": self.model, "trained": self.trained, **self.objective.modules}
        self.parts = Parts(modules, self.objective.queue, self.optimizer)
        self.kl = torch.zeros(recipe.dim)
        if resume:
            self.state = self.parts.restore(self._saved())
            if self.processes.leads:
                mend(run)
        elif self.processes.leads:
            (run / STATE).unlink(missing_ok=True)  # an old state does not belong to this run
        if not resume and collection.shift is not None:
            self.reporter.warn(self.state, inspect_shift(collection.shift, recipe))

    def run(self, full_size: bool, staged: bool) -> TrainedRun:
        if self.state.best < 0:
            self._checkpoint(None)
        good = self.parts.snapshot(self.state)
        while self.state.step < self.steps:
            problem = self._step()
            if problem:
                good = self._roll_back(good, problem)
            elif self.state.step % self.every == 0 or self.state.step == self.steps:
                self._checkpoint(self._record())
                good = self.parts.snapshot(self.state)
        return self._finish(full_size, staged)

    def _step(self) -> str | None:
        """Take one step of the optimiser; return what went wrong, if anything, before any weight changed."""
        recipe, state, channel = self.recipe, self.state, self.objective.channel
        if channel is not None and state.step % _MEASURE_EVERY == 0:
            channel.measure(in_numpy(self.model.encode, self.model)(self.collection.validation.documents))
        now = in_force(recipe, state, self.steps)
        now.apply(self.optimizer)
        batch = self.batches.at(state.cursor, self.processes.rank, self.fabric.device)
        state.cursor += 1
        self.optimizer.zero_grad()
        values, kl = self.objective.terms(self.wrapped, batch, state.step)
        distortion = torch.zeros((), device=self.fabric.device)
        for name, term in values.items():
            distortion = distortion + getattr(recipe, name) * term
        loss = distortion
        if kl is not None:
            values["kl"] = kl.sum()
            loss = loss + now.kl_weight * free_bits(kl, recipe.free_bits)
            self.kl = kl.detach()
        self.fabric.backward(loss)
        figures = self.processes.means({**values, "loss": loss, "distortion": distortion})
        norm = self._clipped_norm()
        problem = state.judge(figures.pop("distortion"), figures["loss"], norm, max(1, len(recipe.target_bytes)))
        if problem:
            return problem
        self.wrapped_optimizer.step()
        state.step += 1
        self.objective.follow(self.model.encoder)
        if recipe.kl_target and state.step / self.steps > recipe.kl_warmup:
            state.kl_multiplier = controlled(state.kl_multiplier, figures["kl"], recipe)
        self.reporter.step(state, figures, norm, now.learning_rate)
        return None

    def _clipped_norm(self) -> float:
        """Clip the gradient, and return its norm before."""
        clip = self.recipe.clip or math.inf
        norm = self.fabric.clip_gradients(self.wrapped, self.wrapped_optimizer, max_norm=clip, error_if_nonfinite=False)
        return float(norm or 0.0)

    def _roll_back(self, good: Snapshot, problem: str) -> Snapshot:
        """Return to the last good state, past the batch that hurt, with a smaller step and stronger regularisers."""
        failed = self.state
        if failed.rollbacks == MOST_ROLLBACKS:
            raise DivergedError(
                f"step {failed.step + 1}: {problem}, after {MOST_ROLLBACKS} rollbacks had brought the learning rate "
                f"down to {self.recipe.learning_rate * failed.learning_rate_scale:.2g}; start with a lower "
                f"learning_rate, and check the data for outliers. The best checkpoint is kept in {self.folder}"
            )
        self.state = self.parts.restore(good).rolled_back(failed)
        self.reporter.warn(
            self.state,
            [
                InstabilityWarning(
                    f"step {failed.step + 1}: {problem}; went back to step {self.state.step} with half the learning "
                    f"rate and {REGULARISER_GROWTH} times the weight decay and KL weight; if this repeats, lower "
                    "learning_rate"
                )
            ],
        )
        return self.parts.snapshot(self.state)

    def _record(self) -> Record:
        """Record the means since the last checkpoint and the current settings; the validation figures follow."""
        means = taken_means(self.state)
        return Record(
            step=self.state.step,
            recall=0.0,
            score=0.0,
            loss=means.pop("loss"),
            gradient_norm=means.pop("gradient_norm"),
            terms=means,
            kl=tuple(self.kl.tolist()) if self.recipe.kl else (),
            kl_weight=in_force(self.recipe, self.state, self.steps).kl_weight,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            effective_rank=0.0,
            queue_age=self.objective.queue.age(self.state.step),
        )

    def _checkpoint(self, record: Record | None) -> None:
        """Validate, keep the model if it is the best, save the state. Without a record it is the start's."""
        state = self.state
        figures = validate(self.model, self.collection, self.recipe)
        score = float(figures[self.recipe.objective.figure].mean())
        if record is not None:
            latents = in_numpy(self.model.encoder, self.model)(self.collection.validation.documents)
            recall = float(figures["recall@10"].mean())
            record = replace(record, recall=recall, score=score, effective_rank=effective_rank(latents))
            state.history.append(record.to_json())
            self.reporter.warn(state, inspect([Record.from_json(entry) for entry in state.history], self.recipe))
        if record is not None and score > state.trained:
            state.trained = score
            state.trained_step = state.step
            self.trained.load_state_dict(self.model.state_dict())
        if score > state.best:
            state.best = score
            state.best_step = state.step
            if self.processes.leads:
                save_checkpoint(self.folder, self._as_checkpoint(self.model, figures))
        if self.processes.leads:
            tensors, values = self.parts.snapshot(state)
            save_state(self.folder, tensors, {**values, **self._identity()})
        self.processes.wait()

    def _as_checkpoint(self, model: VariationalCodec, figures: QueryFigures, share: float = 1.0) -> Checkpoint:
        collection, recipe, state = self.collection, self.recipe, self.state
        provenance = outcome.provenance(figures, self.baselines, self.measured, collection, recipe, state)
        return Checkpoint(
            outcome.served(model, collection, recipe),
            recipe,
            collection.metric,
            collection.embedder,
            {**provenance, "trained_share": share},
        )

    def _finish(self, full_size: bool, staged: bool) -> TrainedRun:
        """Choose how much of the training is kept, write that with history and calibration, and return all."""
        state = self.state
        start = start_model(self.collection, self.recipe)
        kept = choose_kept(start, self.trained, self.collection, self.recipe, self.baselines, full_size=full_size)
        figures, whole = kept.figures, kept.full_size
        state.best_step = state.trained_step if kept.share else 0
        self.reporter.warn(state, inspect_outcome(figures, self.baselines, self.recipe, state.best_step))
        if whole is not None and whole.lost:
            self.reporter.warn(state, [FullSizeWarning(whole.lost)])
        checkpoint = self._as_checkpoint(kept.model, figures, kept.share)
        diagnostics = {"history": state.history, "warnings": state.warnings}
        provenance: dict[str, Any] = {**checkpoint.provenance, "diagnostics": diagnostics}
        if whole is not None:
            provenance["full_size"] = whole.to_json()
        if self.objective.channel is not None:
            provenance["rates"] = self.objective.channel.rates
        final = outcome.calibrated(replace(checkpoint, provenance=provenance), self.collection, staged=staged)
        if self.processes.leads:
            save_checkpoint(self.folder, final)
        self.processes.wait()  # so that no process returns before the files are complete
        history = tuple(Record.from_json(entry) for entry in state.history)
        return TrainedRun(final, figures, self.baselines, history, tuple(self.reporter.found), whole)

    def _identity(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_dict(), "data": self.collection.fingerprints}

    def _saved(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state in the folder, of a run of the same recipe and data."""
        tensors, values = load_state(self.folder)
        for name, wanted in json.loads(json.dumps(self._identity())).items():
            saved = values.pop(name)
            if saved != wanted:
                changed = sorted(key for key in wanted.keys() | saved.keys() if wanted.get(key) != saved.get(key))
                raise CheckpointError(
                    f"{self.folder / STATE}: expected a run of the same {name}, but {', '.join(changed)} changed; "
                    "resume with what the run was started with, or start afresh"
                )
        return tensors, values
