"""Detect what goes wrong in training, each with a name, a rule and a remedy.

::

    TrainingWarning
    ├── PosteriorCollapseWarning       most latents carry no information
    ├── ReconstructionOverfitWarning   reconstruction still improves while validation recall falls
    ├── DegenerateLatentsWarning       the latents fill few of their dimensions
    ├── HeavyContrastiveWarning        InfoNCE dominates the objective
    ├── StaleQueueWarning              the queue holds latents of an encoder long gone
    ├── QueryShiftWarning              queries lie far from documents
    ├── InstabilityWarning             a step was undone
    ├── BelowBaselineWarning           the result does not beat the best linear codec
    └── BudgetWarning                  a fit will take longer than asked
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vaecodec_training.data.held_out import QueryFigures
from vaecodec_training.data.shift import Shift
from vaecodec_training.gate import gate
from vaecodec_training.recipe import Aim, Recipe

# A dimension with less KL than this (nats) carries no information about the vector.
ACTIVE_NATS = 0.02
# A smaller fall of recall is noise with a few hundred held-out queries.
_RECALL_NOISE = 0.005
_FAR_MEAN = 0.5
_FAR_ANGLE = 60.0


class TrainingWarning(UserWarning):
    """Something known to spoil codecs was seen; the message ends with the remedy."""


class PosteriorCollapseWarning(TrainingWarning):
    """Most latents carry no information."""


class ReconstructionOverfitWarning(TrainingWarning):
    """Reconstruction still improves while validation recall falls."""


class DegenerateLatentsWarning(TrainingWarning):
    """The latents fill few of their dimensions."""


class HeavyContrastiveWarning(TrainingWarning):
    """InfoNCE dominates the objective."""


class StaleQueueWarning(TrainingWarning):
    """The queue holds latents of an encoder long gone."""


class QueryShiftWarning(TrainingWarning):
    """Queries lie far from documents."""


class InstabilityWarning(TrainingWarning):
    """A step was undone because the loss or its gradient was not finite, or the loss jumped."""


class BelowBaselineWarning(TrainingWarning):
    """The result does not beat the best linear codec on the held-out rows."""


class FullSizeWarning(BelowBaselineWarning):
    """Among all documents the codec loses a figure to a linear codec, whatever it does among the held-out ones."""


class BudgetWarning(TrainingWarning):
    """A fit will take longer than asked, because no run can be shorter than an epoch."""


@dataclass(frozen=True)
class Record:
    """Hold one checkpoint's figures.

    Attributes:
        step: of the optimiser, from 1.
        recall: validation recall@10.
        score: the validation figure that chooses among checkpoints.
        loss: mean since the last checkpoint.
        terms: mean of each term since the last checkpoint, unweighted.
        kl: nats per dimension; empty for a plain autoencoder.
        kl_weight: in force.
        gradient_norm: mean since the last checkpoint, before clipping.
        learning_rate: in force.
        effective_rank: of the held-out latents, see :func:`effective_rank`.
        queue_age: mean age in steps of the queue's entries.
    """

    step: int
    recall: float
    score: float
    loss: float
    terms: dict[str, float]
    kl: tuple[float, ...]
    kl_weight: float
    gradient_norm: float
    learning_rate: float
    effective_rank: float
    queue_age: float

    @property
    def active_dims(self) -> int:
        """Return the number of latents that carry more than :data:`ACTIVE_NATS`."""
        return sum(nats > ACTIVE_NATS for nats in self.kl)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "kl": list(self.kl), "active_dims": self.active_dims}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Record:
        """Read what :meth:`to_json` wrote."""
        values = {key: value for key, value in content.items() if key != "active_dims"}
        return cls(**{**values, "kl": tuple(values["kl"])})


def effective_rank(latents: NDArray[Any]) -> float:
    """Compute exp of the entropy of the covariance's eigenvalue shares (Roy and Vetterli 2007): 1 to k, for (n, k).

    0 where latents do not vary, or are too large for a covariance, as those of a run that diverges.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        covariance = np.cov(latents, rowvar=False).reshape(latents.shape[1], -1)
    if not np.isfinite(covariance).all():
        return 0.0
    values = np.linalg.eigvalsh(covariance).clip(min=0)
    total = values.sum()
    if total <= 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def inspect(history: Sequence[Record], recipe: Recipe) -> list[TrainingWarning]:
    """Return the pitfalls that the checkpoints so far show; call it after each checkpoint."""
    now = history[-1]
    found: list[TrainingWarning] = []
    if recipe.kl and now.kl_weight and now.active_dims < recipe.dim / 2:
        found.append(
            PosteriorCollapseWarning(
                f"step {now.step}: only {now.active_dims} of {recipe.dim} latents carry more than {ACTIVE_NATS} nats; "
                "lower kl, lengthen kl_warmup, raise free_bits, or set kl_target"
            )
        )
    if recipe.reconstruction + recipe.reconstruction_mse >= recipe.alignment and _overfits(history):
        figure = recipe.objective.figure.split("@")[0]
        best = max(record.score for record in history)
        found.append(
            ReconstructionOverfitWarning(
                f"step {now.step}: reconstruction still improves, but validation {figure} fell "
                f"from {best:.3f} to {now.score:.3f}; raise alignment, lower reconstruction, or train for fewer "
                "epochs"
            )
        )
    if now.effective_rank < recipe.dim / 4:
        found.append(
            DegenerateLatentsWarning(
                f"step {now.step}: the {recipe.dim} latents have an effective rank of {now.effective_rank:.1f}; "
                "choose a smaller dim, lower learning_rate or contrastive, or look for duplicates in the data"
            )
        )
    contrastive = recipe.contrastive * now.terms.get("contrastive", 0.0)
    if recipe.objective is Aim.NEIGHBOURS and contrastive > max(
        now.loss / 2, recipe.alignment * now.terms.get("alignment", 0.0)
    ):
        found.append(
            HeavyContrastiveWarning(
                f"step {now.step}: InfoNCE makes {contrastive / now.loss:.0%} of the loss; "
                "it costs recall beyond a light weight: lower contrastive"
            )
        )
    window = max(16.0, 1 / (1 - recipe.momentum) if recipe.momentum < 1 else np.inf)
    if now.queue_age > window:
        found.append(
            StaleQueueWarning(
                f"step {now.step}: the queue's latents are {now.queue_age:.0f} steps old on average, the momentum "
                f"encoder averages over {window:.0f}; shorten queue or raise momentum"
            )
        )
    return found


def inspect_outcome(
    figures: QueryFigures, baselines: Mapping[str, QueryFigures], recipe: Recipe, best_step: int
) -> list[TrainingWarning]:
    """Tell whether the model that is kept is better in what it is for than the best linear codec, and loses no
    figure."""
    chosen_by = recipe.objective.figure
    decision = gate(figures, baselines, recipe.objective)
    over, difference = decision.over, decision.difference
    if best_step == 0:
        message = (
            f"no checkpoint had a higher {chosen_by} than the linear codec that training started from: training does "
            f"not pay here, use the linear codec {over!r}; or give more rows or pairs"
        )
    elif difference.low <= 0:
        message = (
            f"{chosen_by} {figures[chosen_by].mean():.3f} is not significantly above that of the linear codec {over!r} "
            f"(difference {difference.low:.3f} to {difference.high:.3f}); use the linear codec, give more rows "
            "or queries, or train longer"
        )
    elif decision.lost and not recipe.for_codes:
        message = (
            f"the codec loses {decision.lost[0].loss}, a linear codec; "
            "set deep_lists = true, train on more rows, or use the linear codec"
        )
    else:
        return []
    return [BelowBaselineWarning(message)]


def inspect_shift(shift: Shift, recipe: Recipe) -> list[TrainingWarning]:
    """Tell whether queries lie so far from documents that one encoder may not suit both."""
    far = shift.mean_gap > _FAR_MEAN or np.median(shift.angles) > _FAR_ANGLE
    if recipe.asymmetric or not far:
        return []
    return [QueryShiftWarning(f"{shift}; try asymmetric = true, and keep it only if validation recall rises")]


def _overfits(history: Sequence[Record]) -> bool:
    last = history[-3:]
    scores = [record.score for record in last]
    errors = [record.terms.get("reconstruction", 0.0) + record.terms.get("reconstruction_mse", 0.0) for record in last]
    falling = all(later < earlier for earlier, later in pairwise(scores))
    improving = all(later < earlier for earlier, later in pairwise(errors))
    below = scores[-1] < max(record.score for record in history) - _RECALL_NOISE
    return len(last) == 3 and falling and improving and below
