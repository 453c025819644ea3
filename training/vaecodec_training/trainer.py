"""The training loop: one function, :func:`train`, and the state it carries from step to step."""

from __future__ import annotations

import copy
import json
import math
import os
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import NDArray
from torch import Tensor, nn

from vaecodec.codes import Calibration, Code
from vaecodec.drift import KEY as DRIFT_KEY
from vaecodec.drift import Encoded, Reference
from vaecodec.errors import CheckpointError, DivergedError, RecipeError
from vaecodec.interface import FloatArray, Metric
from vaecodec.provenance import made_now
from vaecodec.scores import KEY as SCORE_KEY
from vaecodec.sources import RandomAccessSource
from vaecodec_training import losses
from vaecodec_training.channel import Channel, in_units_of_spread, learned_rotation
from vaecodec_training.checkpoint import (
    STATE,
    Checkpoint,
    load_checkpoint,
    load_state,
    new_model,
    save_checkpoint,
    save_state,
)
from vaecodec_training.data.batches import ShuffledBatches
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import Encode, QueryFigures
from vaecodec_training.diagnostics import (
    BelowBaselineWarning,
    InstabilityWarning,
    Record,
    TrainingWarning,
    effective_rank,
    inspect,
    inspect_shift,
)
from vaecodec_training.model import VariationalCodec
from vaecodec_training.queue import Queue
from vaecodec_training.recipe import Recipe, Schedule, Start
from vaecodec_training.validation import best_linear, gain, intervals

# A step is undone when its loss (without the KL term, whose weight rises by plan) exceeds this multiple of the
# median of the last losses, or is not finite. Each time the learning rate is halved and the regularisers grow.
SPIKE_FACTOR = 3.0
SPIKE_WINDOW = 64
MOST_ROLLBACKS = 4
_REGULARISER_GROWTH = 1.5

# The KL weight's logarithm moves each step by this share of the logarithm of KL over target, at most by this much.
_KL_GAIN = 0.1

# Variances span orders of magnitude where weights move by fractions, so their head learns so much faster.
_HEAD_RATE = 20.0

_ENCODE_ROWS = 4096

# Held-out queries whose nearest documents say how scores between latents relate to those between embeddings.
_SCORED_QUERIES = 512

# Nested widths share the weight of the distillation in proportion to this power of theirs.
_NESTED_POWER = 1.5

# Steps between two measurements of the latents for a codec that is trained for codes.
_MEASURE_EVERY = 50


@dataclass(frozen=True)
class Progress:
    """Where a run is, after each step.

    Attributes:
        step, steps: of the optimiser.
        loss: of this step, weighted sum of ``terms`` and the KL.
        terms: each term unweighted; ``kl`` is in nats per vector.
        gradient_norm: before clipping.
        learning_rate: in force.
        record: the last checkpoint's figures, None before the first.
        best: highest validation recall@10 so far; at first that of the start.
    """

    step: int
    steps: int
    loss: float
    terms: dict[str, float]
    gradient_norm: float
    learning_rate: float
    record: Record | None
    best: float


Observer = Callable[[Progress], None]


@dataclass(frozen=True, eq=False)
class TrainedRun:
    """What a run led to.

    Attributes:
        checkpoint: the best model by validation recall@10.
        figures: its validation figures, per query.
        baselines: those of the linear codecs, by kind.
        history: one record per checkpoint.
        warnings: the pitfalls that were seen.
    """

    checkpoint: Checkpoint
    figures: QueryFigures
    baselines: dict[str, QueryFigures]
    history: tuple[Record, ...]
    warnings: tuple[TrainingWarning, ...]

    def to_json(self) -> dict[str, Any]:
        """The figures and warnings, as JSON values."""
        provenance = self.checkpoint.provenance
        return {
            "validation": provenance["validation"],
            "gain": provenance["gain"],
            "warnings": [{"kind": type(each).__name__, "message": str(each)} for each in self.warnings],
        }


def train(
    collection: Collection,
    recipe: Recipe,
    run: Path,
    *,
    resume: bool = False,
    observers: Sequence[Observer] = (),
    accelerator: str = "auto",
) -> TrainedRun:
    """Train a codec and leave the best checkpoint, by validation recall@10, in a folder.

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

    Raises:
        CheckpointError: there is nothing to resume, or it belongs to another recipe or collection.
        DivergedError: the run stayed unstable after every remedy.
        RecipeError: the recipe does not fit the data.
    """
    refuse_mismatch(recipe, collection)
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    fabric = Fabric(
        accelerator=accelerator,
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision=recipe.precision.value,
    )
    fabric.launch()
    run.mkdir(parents=True, exist_ok=True)
    return _Trainer(fabric, collection, recipe, run, resume, observers).run()


def refuse_mismatch(recipe: Recipe, collection: Collection) -> None:
    """Raise what :func:`train` would raise for a recipe that asks for more than the collection holds.

    Raises:
        RecipeError: the recipe does not fit the data.
    """
    if recipe.asymmetric and collection.queries is None:
        raise RecipeError(
            "asymmetric: expected queries to train the query encoder on, got none; give queries or leave asymmetric out"
        )


def learning_rate_factor(progress: float, recipe: Recipe) -> float:
    """Share of the learning rate in force after a share of the run: a linear warm-up, then the recipe's schedule."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    if recipe.schedule is Schedule.STEPS:
        return 1.0 if progress < 0.6 else 0.1 if progress < 0.85 else 0.01
    return 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / max(1 - recipe.warmup, 1e-9)))


def kl_factor(progress: float, recipe: Recipe) -> float:
    """Share of the KL weight in force: in each cycle a linear rise, then all of it (Fu et al. 2019)."""
    within = progress * recipe.kl_cycles % 1 if progress < 1 else 1.0
    return min(1.0, within / recipe.kl_warmup) if recipe.kl_warmup else 1.0


@dataclass
class _Position:
    """What besides tensors carries over from step to step; JSON values only."""

    step: int = 0
    cursor: int = 0
    """Batches drawn. Goes on when steps are undone, so that a bad batch is not met again."""
    rollbacks: int = 0
    learning_rate_scale: float = 1.0
    regulariser_scale: float = 1.0
    kl_multiplier: float = 1.0
    """Moved by the KL controller."""
    best: float = -1.0
    losses: list[float] = field(default_factory=list)
    """Of the last steps, without the KL term: what a spike is measured against."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of each figure since the last checkpoint."""
    history: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[list[str]] = field(default_factory=list)


class _Trainer:
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
        self.collection = collection
        self.recipe = recipe
        self.folder = run
        self.observers = observers
        self.found: list[TrainingWarning] = []
        self.at = _Position()
        self.baselines = self._coded_baselines() if recipe.for_codes else collection.baselines(recipe.dim)
        self.batches = _Batches(collection, recipe, fabric.world_size)
        self.steps = max(1, round(recipe.epochs * self.batches.per_epoch / recipe.accumulate))
        self.every = max(1, self.steps // recipe.checkpoints)
        self.model = self._new_model().to(fabric.device)
        self.optimizer = torch.optim.AdamW(self._parameter_groups(), lr=recipe.learning_rate)
        self.wrapped, self.wrapped_optimizer = fabric.setup(self.model, self.optimizer)
        self.average = copy.deepcopy(self.model) if recipe.average else None
        needs_keys = recipe.momentum > 0 and (recipe.queue > 0 or recipe.contrastive > 0)
        self.key_encoder = copy.deepcopy(self.model.encoder).requires_grad_(False) if needs_keys else None
        self.queue = Queue(recipe.queue, collection.dim, recipe.dim, fabric.device)
        self.channel = Channel(recipe, collection.metric).to(fabric.device) if recipe.for_codes else None
        self.served_figures: QueryFigures | None = None
        self.kl = torch.zeros(recipe.dim)
        if resume:
            self._restore(*self._saved_state())
        elif collection.shift is not None:
            self._warn(inspect_shift(collection.shift, recipe))

    def run(self) -> TrainedRun:
        if self.at.best < 0:
            self._checkpoint(None)
        good = self._state()
        while self.at.step < self.steps:
            problem = self._step()
            if problem:
                good = self._roll_back(good, problem)
            elif self.at.step % self.every == 0 or self.at.step == self.steps:
                self._checkpoint(self._record())
                good = self._state()
        return self._finish()

    # One step

    def _step(self) -> str | None:
        """One step of the optimiser; what went wrong, if anything, before any weight changed."""
        recipe, at = self.recipe, self.at
        if self.channel is not None and at.step % _MEASURE_EVERY == 0:
            self.channel.measure(in_numpy(self.model.encode, self.model)(self.collection.validation.documents))
        progress = at.step / self.steps
        share = learning_rate_factor((at.step + 0.5) / self.steps, recipe)
        rate = recipe.learning_rate * at.learning_rate_scale * share
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["rate"]
            group["weight_decay"] = recipe.weight_decay * at.regulariser_scale if group["decays"] else 0.0
        kl_weight = recipe.kl * at.regulariser_scale * at.kl_multiplier * kl_factor(progress, recipe)
        means: dict[str, Tensor] = {}
        distortion = torch.zeros((), device=self.fabric.device)
        self.optimizer.zero_grad()
        for part in range(recipe.accumulate):
            batch = self.batches.at(at.cursor, self.fabric.global_rank, self.fabric.device)
            at.cursor += 1
            with self.fabric.no_backward_sync(self.wrapped, enabled=part < recipe.accumulate - 1):
                terms, kl = self._terms(batch)
                weighted = sum(
                    (getattr(recipe, name) * term for name, term in terms.items()),
                    torch.zeros((), device=self.fabric.device),
                )
                loss = weighted
                if kl is not None:
                    terms["kl"] = kl.sum()
                    loss = loss + kl_weight * losses.free_bits(kl, recipe.free_bits)
                    self.kl = kl.detach()
                self.fabric.backward(loss / recipe.accumulate)
            distortion += weighted.detach() / recipe.accumulate
            for name, term in {**terms, "loss": loss}.items():
                means[name] = means.get(name, torch.zeros_like(term)) + term.detach() / recipe.accumulate
        figures = self._reduced({**means, "distortion": distortion})
        norm = float(
            self.fabric.clip_gradients(
                self.wrapped,
                self.wrapped_optimizer,
                max_norm=recipe.clip or math.inf,
                error_if_nonfinite=False,
            )
            or 0.0
        )
        problem = self._problem(figures.pop("distortion"), figures["loss"], norm)
        if problem:
            return problem
        self.wrapped_optimizer.step()
        at.step += 1
        self._follow()
        if recipe.kl_target and at.step / self.steps > recipe.kl_warmup:
            error = math.log(max(figures["kl"], 1e-6) / recipe.kl_target)
            at.kl_multiplier *= math.exp(_KL_GAIN * max(-1.0, min(1.0, error)))
        self._report(figures, norm, rate)
        return None

    def _terms(self, batch: _Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        """Every term of one batch that the recipe weighs, and the KL per dimension (k,)."""
        recipe = self.recipe
        documents, queries = batch.documents, batch.queries
        posterior = self.wrapped(
            documents, queries, batch.noise if recipe.kl else None, recipe.widths if recipe.reconstructs else ()
        )
        terms: dict[str, Tensor] = {}
        if recipe.alignment:
            terms["alignment"] = self._alignment(batch, posterior.mean, posterior.query_mean)
        if recipe.reconstructs:
            count = len(recipe.widths)
            for name, function in (
                ("reconstruction", losses.cosine_reconstruction),
                ("reconstruction_mse", losses.squared_reconstruction),
            ):
                if getattr(recipe, name):
                    values = [function(documents, decoded) for decoded in posterior.reconstructions]
                    terms[name] = torch.stack(values).sum() / count
        keys = None
        if self.key_encoder is not None:
            with torch.no_grad():
                keys = self._gathered(self.key_encoder(documents))
        if recipe.contrastive:
            terms["contrastive"] = self._contrastive(batch, posterior.mean, posterior.query_mean, keys)
        if recipe.queue:
            latents = keys if keys is not None else self._gathered(posterior.mean.detach())
            self.queue.push(self._gathered(documents), latents, self.at.step)
        kl = None
        if posterior.log_var is not None:
            kl = losses.kl_per_dimension(self._gathered(posterior.mean), self._gathered(posterior.log_var))
        return terms, kl

    def _alignment(self, batch: _Batch, mean: Tensor, query_mean: Tensor | None) -> Tensor:
        """Distillation over all documents of the step as columns.

        Without queries every document is a row; with them every other one, since the queries are rows as well.
        """
        recipe = self.recipe
        columns = torch.cat([self._gathered(batch.documents), self.queue.vectors])
        latent_columns = coded_columns = self._gathered(mean)
        if self.channel is not None:
            coded_columns = self._gathered(self.channel(self._cut(mean, recipe.dim), batch.noise, self.at.step))
        stride = 1 if query_mean is None else 2
        first = self.fabric.global_rank * len(mean)
        own = torch.arange(first, first + len(mean), stride, device=mean.device)
        rows: list[tuple[Tensor, Tensor, Tensor | None]] = [(batch.documents[::stride], mean[::stride], own)]
        if batch.queries is not None and query_mean is not None:
            rows.append((batch.queries, query_mean, None))
        temperature = recipe.temperature * self.collection.scale
        total = mean.new_zeros(())
        for vectors, latents, itself in rows:
            teacher = losses.comparable(vectors, columns, self.collection.metric)
            for width in recipe.widths:
                # Nested widths are served as floats, the whole width as codes.
                searched = coded_columns if width == recipe.dim else latent_columns
                student = losses.comparable(
                    self._cut(latents, width),
                    torch.cat([self._cut(searched, width), self._cut(self.queue.latents, width)]),
                    self.collection.metric,
                )
                # Narrow prefixes err more; weighed so, the wide ones are not sacrificed to them.
                weight: float = float(width) ** _NESTED_POWER
                total = total + weight * losses.distillation(*teacher, *student, temperature, itself)
        weights: float = sum(float(width) ** _NESTED_POWER for width in recipe.widths)
        return total / (len(rows) * weights)

    def _contrastive(self, batch: _Batch, mean: Tensor, query_mean: Tensor | None, keys: Tensor | None) -> Tensor:
        """InfoNCE of queries against their documents, or of perturbed copies against the documents themselves."""
        recipe = self.recipe
        if self.collection.pairs is not None and query_mean is not None:
            asked = query_mean
        else:
            size = recipe.contrastive_noise / math.sqrt(batch.documents.shape[1])
            norms = batch.documents.norm(dim=1, keepdim=True)
            copies = batch.documents + size * norms * batch.perturbation
            # Through the wrapped module, so that several processes exchange these gradients too.
            asked = self.wrapped(copies, None, None, ()).mean
        if keys is None:
            keys = self._gathered(mean)
        # The documents of this process come first, so that query i finds its own at column i.
        first = self.fabric.global_rank * len(mean)
        keys = keys.roll(-first, 0)
        return losses.info_nce(
            F.normalize(asked, dim=1),
            F.normalize(keys, dim=1),
            F.normalize(self.queue.latents, dim=1),
            recipe.contrastive_temperature,
        )

    def _cut(self, latents: Tensor, width: int) -> Tensor:
        prefix = latents[:, :width]
        return F.normalize(prefix, dim=1) if self.collection.metric is Metric.COSINE else prefix

    def _gathered(self, rows: Tensor) -> Tensor:
        """Rows of all processes in order, with their gradient."""
        if self.fabric.world_size == 1:
            return rows
        gathered = self.fabric.all_gather(rows, sync_grads=rows.requires_grad)
        assert isinstance(gathered, Tensor)  # a tensor in, a tensor out
        return gathered.flatten(0, 1)

    def _reduced(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Means over all processes, as numbers, in one exchange."""
        values: Tensor = torch.stack([value.double() for value in figures.values()])
        if self.fabric.world_size > 1:
            reduced = self.fabric.all_reduce(values, reduce_op="mean")
            assert isinstance(reduced, Tensor)  # a tensor in, a tensor out
            values = reduced
        return dict(zip(figures, values.tolist(), strict=True))

    def _problem(self, distortion: float, loss: float, norm: float) -> str | None:
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(norm):
            return "the gradient is not finite"
        # Byte budgets take turns, and a small one errs many times more than a large one: like is compared with like.
        turns = max(1, len(self.recipe.target_bytes))
        recent = self.at.losses[-turns::-turns]
        if len(recent) >= 4 and distortion > SPIKE_FACTOR * statistics.median(recent):
            return f"the loss jumped from {statistics.median(recent):.4g} to {distortion:.4g}"
        self.at.losses.append(distortion)
        del self.at.losses[: -SPIKE_WINDOW * turns]
        return None

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the averaged weights towards the present ones."""
        pairs: list[tuple[nn.Module, nn.Module, float]] = []
        if self.key_encoder is not None:
            pairs.append((self.key_encoder, self.model.encoder, self.recipe.momentum))
        if self.average is not None:
            # Early on the average may not lag behind: the same rule as in TensorFlow's ExponentialMovingAverage.
            pairs.append((self.average, self.model, min(self.recipe.average, (1 + self.at.step) / (10 + self.at.step))))
        for average, source, decay in pairs:
            torch._foreach_lerp_(list(average.parameters()), list(source.parameters()), 1 - decay)

    def _report(self, figures: dict[str, float], norm: float, rate: float) -> None:
        at = self.at
        for name, value in {**figures, "gradient_norm": norm, "count": 1.0}.items():
            at.sums[name] = at.sums.get(name, 0.0) + value
        if self.fabric.is_global_zero and self.observers:
            record = Record.from_json(at.history[-1]) if at.history else None
            loss = figures["loss"]
            terms = {name: value for name, value in figures.items() if name != "loss"}
            progress = Progress(at.step, self.steps, loss, terms, norm, rate, record, at.best)
            for observer in self.observers:
                observer(progress)

    # Checkpoints

    def _record(self) -> Record:
        at, recipe = self.at, self.recipe
        count = at.sums.pop("count")
        means = {name: total / count for name, total in at.sums.items()}
        at.sums.clear()
        progress = at.step / self.steps
        return Record(
            step=at.step,
            recall=0.0,
            loss=means.pop("loss"),
            gradient_norm=means.pop("gradient_norm"),
            terms=means,
            kl=tuple(self.kl.tolist()) if recipe.kl else (),
            kl_weight=recipe.kl * at.regulariser_scale * at.kl_multiplier * kl_factor(progress, recipe),
            learning_rate=self.optimizer.param_groups[0]["lr"],
            effective_rank=0.0,
            queue_age=self.queue.age(at.step),
        )

    def _checkpoint(self, record: Record | None) -> None:
        """Validate, keep the model if it is the best, save the state. Without a record it is the start's."""
        served = self.average if self.average is not None else self.model
        figures = self._figures(served)
        recall = float(figures["recall@10"].mean())
        if record is not None:
            latents = in_numpy(served.encoder, served)(self.collection.validation.documents)
            measured = Record(**{**record.__dict__, "recall": recall, "effective_rank": effective_rank(latents)})
            self.at.history.append(measured.to_json())
            self._warn(inspect([Record.from_json(entry) for entry in self.at.history], self.recipe))
        if recall > self.at.best:
            self.at.best = recall
            self.served_figures = figures
            if self.fabric.is_global_zero:
                save_checkpoint(self.folder, self._served(served, figures))
        if self.fabric.is_global_zero:
            tensors, values = self._state()
            save_state(self.folder, tensors, {**values, **self._identity()})
        self.fabric.barrier()

    def _served(self, model: VariationalCodec, figures: QueryFigures) -> Checkpoint:
        """The model with its latents in the order or rotation that suits their use, and where it came from."""
        ordered = new_model(self.collection.dim, self.recipe, self.collection.metric).eval()
        # By attribute: a parameter in units of the spread gives its value.
        ordered.load_state_dict({name: attrgetter(name)(model) for name in ordered.state_dict()})
        raw = in_numpy(ordered.encoder, ordered)(self.collection.validation.documents)
        variance = raw.var(axis=0)
        bounds = [0, *self.recipe.widths]
        order = [low + np.argsort(-variance[low:high], kind="stable") for low, high in pairwise(bounds)]
        ordered.reorder(torch.from_numpy(np.concatenate(order)))
        if self.recipe.target:
            latents = in_numpy(ordered.encode, ordered)(self.collection.sample)
            ordered.rotate(torch.from_numpy(self._rotation(latents)))
        best = best_linear(self.baselines)
        provenance = {
            "recipe": self.recipe.to_dict(),
            "data": self.collection.to_json(),
            "seed": self.recipe.seed,
            **made_now(),
            "validation": {
                "codec": intervals(figures),
                **{kind: intervals(baseline) for kind, baseline in self.baselines.items()},
            },
            "gain": {"over": best, **gain(figures, self.baselines[best])},
            "diagnostics": {"history": self.at.history, "warnings": self.at.warnings},
        }
        return Checkpoint(ordered, self.recipe, self.collection.metric, self.collection.embedder, provenance)

    def _figures(self, model: VariationalCodec) -> QueryFigures:
        """Of the latents, or of what their codes decode to when it is these that are trained for."""
        encode = in_numpy(model.encode, model)
        return self.collection.validation.figures(
            self._through_code(encode) if self.recipe.for_codes else encode,
            in_numpy(model.encode_queries, model),
            self.collection.metric,
        )

    def _coded_baselines(self) -> dict[str, QueryFigures]:
        """The same code on the latents that training starts from."""
        kind = self.collection.start_kind
        linear = self.collection.linear(self.recipe.dim, kind)
        encode = self._through_code(linear.encode)
        return {str(kind): self.collection.validation.figures(encode, linear.encode_queries, self.collection.metric)}

    def _through_code(self, encode: Callable[[FloatArray], FloatArray]) -> Callable[[FloatArray], FloatArray]:
        """An encoder whose latents have been through the code trained for, the middle one of several.

        As in the file that is served, rotation and calibration are fitted on training documents.
        """
        fitted_on = encode(self.collection.calibration_sample)
        rotation = self._rotation(fitted_on)
        code = self._code(fitted_on @ rotation)

        def encode_and_decode(rows: FloatArray) -> FloatArray:
            return code.decode(code.encode(encode(rows) @ rotation)) @ rotation.T

        return encode_and_decode

    def _code(self, latents: FloatArray) -> Code:
        recipe = self.recipe
        size = recipe.target_bytes[len(recipe.target_bytes) // 2] if recipe.target_bytes else None
        calibration = Calibration.fit(latents, self.collection.metric, memory=recipe.trellis_memory)
        return calibration.code(dtype=recipe.target or None, bytes=size)

    def _rotation(self, latents: FloatArray) -> FloatArray:
        """What suits the uniform code trained for; nested widths stay apart."""
        if self.recipe.nested_dims or not self.recipe.target:
            return np.eye(latents.shape[1], dtype=np.float32)
        return learned_rotation(latents, self._code(latents))

    def _finish(self) -> TrainedRun:
        """Write the whole history beside the best model and return both."""
        checkpoint = load_checkpoint(self.folder)
        figures = self.served_figures or self._figures(checkpoint.model)
        best = checkpoint.provenance["gain"]["over"]
        difference = gain(figures, self.baselines[best])["recall@10"]
        if difference["low"] <= 0:
            self._warn(
                [
                    BelowBaselineWarning(
                        f"recall@10 {figures['recall@10'].mean():.3f} is not surely above that of the linear "
                        f"codec {best!r} (difference {difference['low']:.3f} to {difference['high']:.3f}); use the "
                        "linear codec, give more rows or queries, or train longer"
                    )
                ]
            )
        provenance = {
            **checkpoint.provenance,
            "diagnostics": {"history": self.at.history, "warnings": self.at.warnings},
        }
        if self.channel is not None:
            provenance["rates"] = self.channel.rates
        model = checkpoint.model
        encode, encode_queries, decode = (
            in_numpy(function, model) for function in (model.encode, model.encode_queries, model.decode)
        )
        reference = self._drift_reference(encode, encode_queries, decode)
        scores = self.collection.validation.score_calibration(encode, encode_queries, checkpoint.metric)
        codes = Calibration.fit(encode(self.collection.sample), checkpoint.metric, memory=self.recipe.trellis_memory)
        calibration = {
            **checkpoint.calibration,
            "codes": codes.to_json(),
            **({SCORE_KEY: scores.to_json()} if scores is not None else {}),
            **({DRIFT_KEY: reference.to_json()} if reference is not None else {}),
        }
        final = Checkpoint(
            checkpoint.model, self.recipe, checkpoint.metric, checkpoint.embedder, provenance, calibration
        )
        if self.fabric.is_global_zero:
            save_checkpoint(self.folder, final)
        self.fabric.barrier()  # whichever process returns finds the files complete
        history = tuple(Record.from_json(entry) for entry in self.at.history)
        return TrainedRun(final, figures, self.baselines, history, tuple(self.found))

    def _drift_reference(self, encode: Encode, encode_queries: Encode, decode: Encode) -> Reference | None:
        """What vectors that were not trained on look like to the codec, where enough of them were held out."""
        metric, queries = self.collection.metric, self.collection.held_out_queries
        return Reference.fit(
            Encoded.encode(encode, decode, self.collection.held_out),
            Encoded.encode(encode_queries, decode, queries) if len(queries) else None,
            metric,
            metric,
        )

    def _warn(self, found: Sequence[TrainingWarning]) -> None:
        """Each kind once a run."""
        for warning in found:
            name = type(warning).__name__
            if name not in [known for known, _ in self.at.warnings] or isinstance(warning, InstabilityWarning):
                self.at.warnings.append([name, str(warning)])
                self.found.append(warning)
                if self.fabric.is_global_zero:
                    warnings.warn(warning, stacklevel=2)

    # State

    def _state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Copies of everything the next step depends on."""
        tensors: dict[str, Tensor] = {}
        for name, module in self._modules().items():
            tensors |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
        tensors |= {f"queue.{key}": value.clone() for key, value in self.queue.state().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value.clone() for key, value in entry.items()}
        return tensors, copy.deepcopy(self.at.__dict__)

    def _restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        for name, module in self._modules().items():
            module.load_state_dict(under(f"{name}."))
        self.queue.restore(under("queue."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.").items():
            index, entry = key.split(".")
            state.setdefault(int(index), {})[entry] = value.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        self.at = _Position(**copy.deepcopy(values))

    def _modules(self) -> dict[str, nn.Module]:
        modules: dict[str, nn.Module | None] = {
            "model": self.model,
            "average": self.average,
            "keys": self.key_encoder,
            "channel": self.channel,
        }
        return {name: module for name, module in modules.items() if module is not None}

    def _identity(self) -> dict[str, Any]:
        return {"recipe": self.recipe.to_dict(), "data": self.collection.identity}

    def _saved_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
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

    def _roll_back(
        self, good: tuple[dict[str, Tensor], dict[str, Any]], problem: str
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return to the last good state, past the batch that hurt, with a smaller step and stronger regularisers."""
        failed, position = self.at.step + 1, self.at
        if position.rollbacks == MOST_ROLLBACKS:
            raise DivergedError(
                f"step {failed}: {problem}, after {MOST_ROLLBACKS} rollbacks had brought the learning rate down to "
                f"{self.recipe.learning_rate * position.learning_rate_scale:.2g}; start with a lower learning_rate, "
                f"and check the data for outliers. The best checkpoint is kept in {self.folder}"
            )
        tensors, values = good
        self._restore(tensors, values)
        self.at.cursor = position.cursor
        self.at.rollbacks = position.rollbacks + 1
        self.at.learning_rate_scale = position.learning_rate_scale / 2
        self.at.regulariser_scale = position.regulariser_scale * _REGULARISER_GROWTH
        self._warn(
            [
                InstabilityWarning(
                    f"step {failed}: {problem}; went back to step {self.at.step} with half the learning rate and "
                    f"{_REGULARISER_GROWTH} times the weight decay and KL weight; if this repeats, lower learning_rate"
                )
            ]
        )
        return self._state()

    # Start

    def _new_model(self) -> VariationalCodec:
        collection, recipe = self.collection, self.recipe
        model = new_model(collection.dim, recipe, collection.metric)
        if recipe.start is Start.LINEAR:
            model.start_at(collection.linear(recipe.dim, collection.start_kind))
        variance = torch.from_numpy(in_numpy(model.encoder, model)(collection.validation.documents).var(axis=0))
        model.start_noise(variance)
        if recipe.for_codes:
            for encoder in (model.encoder, model.query_encoder):
                if encoder is not None:
                    in_units_of_spread(encoder, variance)
        # Several processes demand a gradient for every parameter that has not been declared fixed.
        model.log_var.requires_grad_(recipe.kl > 0)
        model.decoder.requires_grad_(recipe.reconstructs)
        return model

    def _parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices are decayed; biases are not, nor is the log-variance head, whose zero means a variance of 1."""
        groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
        for name, entry in self.model.named_parameters():
            if entry.requires_grad:
                head = name.startswith("log_var")
                key = (entry.ndim > 1 and not head, _HEAD_RATE if head else 1.0)
                groups.setdefault(key, []).append(entry)
        return [{"params": entries, "decays": key[0], "rate": key[1]} for key, entries in groups.items()]


@dataclass(frozen=True)
class _Batch:
    """This process's share of a batch.

    Attributes:
        documents: (n, d); the first of them are the companions of ``queries``, row for row.
        queries: (n // 2, d), or None.
        noise: (n, k) standard normal, for the posterior.
        perturbation: (n, d) standard normal, for InfoNCE without pairs; otherwise empty.
    """

    documents: Tensor
    queries: Tensor | None
    noise: Tensor
    perturbation: Tensor


class _Batches:
    """Any batch of the run by its number: it depends on the seed and that number alone."""

    def __init__(self, collection: Collection, recipe: Recipe, processes: int) -> None:
        self.recipe = recipe
        self.dim = collection.dim
        self.cosine = collection.metric is Metric.COSINE
        self.processes = processes
        rows = collection.document_rows
        # Every process takes as many documents, and every other one of them is a row of the distillation.
        unit = 4 * processes
        size = max(unit, min(recipe.batch, len(rows)) // unit * unit)
        self.per_epoch = max(1, len(rows) // size)
        self.pairs, alone = None, size
        companions = collection.companions
        if companions is not None and collection.queries is not None:
            # A query meets its own document: without it the one neighbour that matters most is missing.
            alone = size // 2
            sources = [_Chosen(collection.queries, companions[:, 0]), _Chosen(collection.documents, companions[:, 1])]
            count = min(size // 2, len(companions)) // (2 * processes) * 2 * processes
            self.pairs = _Numbered(ShuffledBatches(sources, np.arange(len(companions)), count, recipe.seed + 1))
        self.perturbs = recipe.contrastive > 0 and collection.pairs is None
        self.documents = _Numbered(ShuffledBatches([collection.documents], rows, alone, recipe.seed))

    def at(self, number: int, rank: int, device: torch.device) -> _Batch:
        """A process's share of a batch. All shares in the order of their processes are the batch of one process."""
        (documents,) = self.documents[number]
        generator = torch.Generator().manual_seed((self.recipe.seed << 32) + number)
        parts, queries = [documents], None
        if self.pairs is not None:
            queries, paired = self.pairs[number]
            parts = [paired, documents]
        shares, noises, perturbations = [], [], []
        for part in parts:
            shares.append(self._share(torch.from_numpy(part), rank))
            noises.append(self._share(torch.randn(len(part), self.recipe.dim, generator=generator), rank))
            if self.perturbs:
                perturbations.append(self._share(torch.randn(part.shape, generator=generator), rank))
        return _Batch(
            self._compared(torch.cat(shares)).to(device),
            None if queries is None else self._compared(self._share(torch.from_numpy(queries), rank)).to(device),
            torch.cat(noises).to(device),
            torch.cat([*perturbations, torch.empty(0, self.dim)]).to(device),
        )

    def _share(self, rows: Tensor, rank: int) -> Tensor:
        size = len(rows) // self.processes
        return rows[rank * size : (rank + 1) * size]

    def _compared(self, rows: Tensor) -> Tensor:
        return F.normalize(rows, dim=1) if self.cosine else rows


class _Numbered:
    """Batches of all epochs under one running number; reading on is cheap, jumping restarts the epoch's reader."""

    def __init__(self, batches: ShuffledBatches) -> None:
        self._batches = batches
        self._next = -1
        self._reader: Iterator[tuple[FloatArray, ...]] = iter(())

    def __getitem__(self, number: int) -> tuple[FloatArray, ...]:
        epoch, within = divmod(number, self._batches.per_epoch)
        if number != self._next or within == 0:
            self._reader = self._batches.epoch(epoch, within)
        self._next = number + 1
        return next(self._reader)


class _Chosen:
    """Rows of a source in any order and with repetitions, as a source."""

    def __init__(self, source: RandomAccessSource, chosen: NDArray[np.int64]) -> None:
        self.name = source.name
        self.dim = source.dim
        self.rows = len(chosen)
        self._source = source
        self._chosen = chosen

    def blocks(self, rows: int | None = None) -> Iterator[NDArray[np.floating[Any]]]:
        step = rows or _ENCODE_ROWS
        for start in range(0, self.rows, step):
            yield self.take(np.arange(start, min(start + step, self.rows)))

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.floating[Any]]:
        distinct, back = np.unique(self._chosen[rows], return_inverse=True)
        taken: NDArray[np.floating[Any]] = self._source.take(distinct)[back]
        return taken


def in_numpy(function: Callable[[Tensor], Tensor], model: nn.Module) -> Callable[[FloatArray], FloatArray]:
    """Run a model's function over arrays in blocks."""
    device = next(model.parameters()).device

    def apply(rows: FloatArray) -> FloatArray:
        with torch.inference_mode():
            blocks = [
                function(torch.from_numpy(rows[start : start + _ENCODE_ROWS]).to(device)).float().cpu().numpy()
                for start in range(0, len(rows), _ENCODE_ROWS)
            ]
        return np.concatenate(blocks)

    return apply
