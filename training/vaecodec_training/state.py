"""Keep what carries over from step to step, and judge whether a step went wrong."""

from __future__ import annotations

import copy
import math
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from vaecodec_training.queue import Queue

# A step is undone when its loss (without the KL term, whose weight rises by plan) exceeds this multiple of the
# median of the last losses, or is not finite. Each time the learning rate is halved and the regularisers grow.
SPIKE_FACTOR = 3.0
SPIKE_WINDOW = 64
REGULARISER_GROWTH = 1.5


@dataclass
class RunState:
    """Hold what carries over from step to step, except tensors. All values are JSON values."""

    step: int = 0
    cursor: int = 0
    """Batches drawn. It goes on when steps are undone, so that a bad batch is not met again."""
    rollbacks: int = 0
    learning_rate_scale: float = 1.0
    regulariser_scale: float = 1.0
    kl_multiplier: float = 1.0
    """Moved by the KL controller."""
    best: float = -1.0
    trained: float = -1.0
    """The highest score of a checkpoint after the start."""
    trained_step: int = 0
    best_step: int = 0
    """The step whose model is kept; 0 is the linear codec that training started from."""
    losses: list[float] = field(default_factory=list)
    """Of the last steps, without the KL term: what a spike is measured against."""
    sums: dict[str, float] = field(default_factory=dict)
    """Of each figure since the last checkpoint."""
    history: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[list[str]] = field(default_factory=list)

    def rolled_back(self, failed: RunState) -> RunState:
        """Return this state, the last good one, as the run goes on from it after ``failed``.

        The batch that hurt is passed over, the learning rate is halved, and the regularisers grow.
        """
        return replace(
            copy.deepcopy(self),
            cursor=failed.cursor,
            rollbacks=failed.rollbacks + 1,
            learning_rate_scale=failed.learning_rate_scale / 2,
            regulariser_scale=failed.regulariser_scale * REGULARISER_GROWTH,
            warnings=copy.deepcopy(failed.warnings),
        )

    def judge(self, distortion: float, loss: float, gradient_norm: float, turns: int = 1) -> str | None:
        """Return what is wrong with a step, or None after its loss was added to those of later comparisons.

        Args:
            distortion: the loss without the KL term.
            loss: with it.
            gradient_norm: before clipping.
            turns: how many targets take turns. Like is compared with like, as a small byte budget errs many times
                more than a large one.
        """
        if not math.isfinite(loss):
            return "the loss is not finite"
        if not math.isfinite(gradient_norm):
            return "the gradient is not finite"
        recent = self.losses[-turns::-turns]
        if len(recent) >= 4 and distortion > SPIKE_FACTOR * statistics.median(recent):
            return f"the loss jumped from {statistics.median(recent):.4g} to {distortion:.4g}"
        self.losses.append(distortion)
        del self.losses[: -SPIKE_WINDOW * turns]
        return None


Snapshot = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass
class Parts:
    """Hold the tensors that carry over from step to step: those of modules, of the queue and of the optimiser."""

    modules: Mapping[str, nn.Module]
    queue: Queue
    optimizer: torch.optim.Optimizer

    def snapshot(self, state: RunState) -> Snapshot:
        """Copy everything that the next step depends on."""
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}
        tensors |= {f"queue.{key}": value.clone() for key, value in self.queue.state().items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value.clone() for key, value in entry.items()}
        return tensors, asdict(state)

    def restore(self, snapshot: Snapshot) -> RunState:
        """Set all tensors to those of a snapshot, and return its state."""
        tensors, values = snapshot

        def under(prefix: str) -> dict[str, Tensor]:
            return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}

        for name, module in self.modules.items():
            module.load_state_dict(under(f"{name}."))
        self.queue.restore(under("queue."))
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in under("optimizer.").items():
            index, entry = key.split(".")
            state.setdefault(int(index), {})[entry] = value.clone()
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
        return RunState(**copy.deepcopy(values))
