"""Schedule the learning rate and the weights of the regularisers over a run: pure functions of its progress."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from vaecodec_training.recipe import Recipe, Schedule
from vaecodec_training.state import RunState

# Each step adds this share of log(KL / target) to the logarithm of the KL weight, but no more than the limit.
_KL_GAIN = 0.1


class InForce(NamedTuple):
    """Hold the settings of one step.

    Attributes:
        learning_rate, weight_decay: of the optimiser.
        kl_weight: of the KL divergence in nats per vector.
    """

    learning_rate: float
    weight_decay: float
    kl_weight: float

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        """Set the rate and the decay of each of :func:`~vaecodec_training.model.parameter_groups`."""
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * group["rate"]
            group["weight_decay"] = self.weight_decay if group["decays"] else 0.0


def in_force(recipe: Recipe, state: RunState, steps: int) -> InForce:
    """Compute the settings of the next step from the recipe, the progress, and what rollbacks have changed."""
    share = learning_rate_factor((state.step + 0.5) / steps, recipe)
    return InForce(
        learning_rate=recipe.learning_rate * state.learning_rate_scale * share,
        weight_decay=recipe.weight_decay * state.regulariser_scale,
        kl_weight=recipe.kl * state.regulariser_scale * state.kl_multiplier * kl_factor(state.step / steps, recipe),
    )


def learning_rate_factor(progress: float, recipe: Recipe) -> float:
    """Return the share of the learning rate in force after a share of the run: a linear warm-up, then the recipe's
    schedule."""
    if progress < recipe.warmup:
        return progress / recipe.warmup
    if recipe.schedule is Schedule.STEPS:
        return 1.0 if progress < 0.6 else 0.1 if progress < 0.85 else 0.01
    return 0.5 * (1 + math.cos(math.pi * (progress - recipe.warmup) / max(1 - recipe.warmup, 1e-9)))


def kl_factor(progress: float, recipe: Recipe) -> float:
    """Return the share of the KL weight in force: in each cycle a linear rise, then all of it (Fu et al. 2019)."""
    within = progress * recipe.experimental.kl_cycles % 1 if progress < 1 else 1.0
    return min(1.0, within / recipe.kl_warmup) if recipe.kl_warmup else 1.0


def controlled(multiplier: float, kl: float, recipe: Recipe) -> float:
    """Move the multiplier of the KL weight so that the KL, in nats per vector, comes nearer to the recipe's target."""
    error = math.log(max(kl, 1e-6) / recipe.kl_target)
    return multiplier * math.exp(_KL_GAIN * max(-1.0, min(1.0, error)))
