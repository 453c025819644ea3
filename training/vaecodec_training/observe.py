"""Observe a run: what is reported after each step, and the means that a checkpoint records."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vaecodec_training.diagnostics import InstabilityWarning, Record, TrainingWarning
from vaecodec_training.state import RunState


@dataclass(frozen=True)
class Progress:
    """Hold the progress of a run after each step.

    Attributes:
        step, steps: of the optimiser.
        loss: of this step, weighted sum of ``terms`` and the KL.
        terms: each term unweighted; ``kl`` is in nats per vector.
        gradient_norm: before clipping.
        learning_rate: in force.
        record: the last checkpoint's figures, None before the first.
        best: highest validation figure of the objective so far; at first that of the start.
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


class Reporter:
    """Tell observers of every step, and warn of each kind of pitfall once a run.

    Attributes:
        found: the warnings of this process so far.
    """

    def __init__(self, observers: Sequence[Observer], steps: int, speaks: bool) -> None:
        self._observers = observers if speaks else ()
        self._steps = steps
        self._speaks = speaks
        self.found: list[TrainingWarning] = []

    def step(self, state: RunState, figures: dict[str, float], gradient_norm: float, learning_rate: float) -> None:
        """Add a step's figures to the sums of the next checkpoint, and tell the observers."""
        for name, value in {**figures, "gradient_norm": gradient_norm, "count": 1.0}.items():
            state.sums[name] = state.sums.get(name, 0.0) + value
        if not self._observers:
            return
        record = Record.from_json(state.history[-1]) if state.history else None
        terms = {name: value for name, value in figures.items() if name != "loss"}
        progress = Progress(
            state.step, self._steps, figures["loss"], terms, gradient_norm, learning_rate, record, state.best
        )
        for observer in self._observers:
            observer(progress)

    def warn(self, state: RunState, found: Sequence[TrainingWarning]) -> None:
        """Warn of what is found for the first time, and keep it with the run. Instability is told every time."""
        for warning in found:
            name = type(warning).__name__
            if name not in [known for known, _ in state.warnings] or isinstance(warning, InstabilityWarning):
                state.warnings.append([name, str(warning)])
                self.found.append(warning)
                if self._speaks:
                    warnings.warn(warning, stacklevel=2)


def taken_means(state: RunState) -> dict[str, float]:
    """Return the mean of each figure since the last checkpoint, and start new sums."""
    count = state.sums.pop("count")
    means = {name: total / count for name, total in state.sums.items()}
    state.sums.clear()
    return means
