"""Divide the time of a fit: a run of the recipe that was asked for comes first, trials share the rest.

A trial is only worth its time if it is long enough to choose by. Where the budget does not hold all trials at that
length beside the run that was asked for, there are none.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import NamedTuple

from vaecodec_training.observe import Progress

# Shares of the budget for each short run and for the final run. With four widths there are nine short runs and one of
# twice their length. If pairs are known, there are also short runs for the other objective, its long run, and a run at
# full width.
_SHORT, _FINAL = 0.05, 0.4
_SHORT_OF_BOTH, _FINAL_OF_BOTH, _OTHER = 0.03, 0.25, 0.12
_LONGEST = 60.0
# A short run takes an epoch, or so many steps where an epoch has more: enough to tell one setting from another.
_SHORT_STEPS = 100
# To measure the pace, take half an epoch, but between so many steps.
_PROBE_EPOCHS, _FEWEST_PROBE_STEPS, _PROBE_STEPS = 0.5, 4, 50


class Pace(NamedTuple):
    """Hold how long training takes, in seconds.

    Attributes:
        epoch_seconds: for an epoch.
        run_seconds: for each run besides its epochs: validating its start and its end.
    """

    epoch_seconds: float
    run_seconds: float

    def seconds(self, epochs: float) -> float:
        """Return the time of a run."""
        return self.run_seconds + epochs * self.epoch_seconds

    def epochs(self, seconds: float) -> float:
        """Return how many epochs fit into a time; negative where it is too short for a run."""
        return math.floor(10 * (seconds - self.run_seconds) / self.epoch_seconds) / 10

    def measured_again(self, seconds: float, epochs: float) -> Pace:
        """Return the pace of other settings, of which a run was timed."""
        return self._replace(epoch_seconds=max(seconds - self.run_seconds, 0.5 * seconds) / epochs)


@dataclass
class Stopwatch:
    """Measure the pace of one run: an observer of its steps, made as the run begins."""

    steps_per_epoch: float
    start: tuple[float, float] = field(default_factory=lambda: clock())
    steps: list[tuple[float, float]] = field(default_factory=list)

    def __call__(self, _: Progress) -> None:
        self.steps.append(clock())

    def pace(self) -> Pace:
        """Return the pace, now that the run has ended."""
        whole = taken(self.start)
        each = [
            min(now - then for now, then in zip(later, earlier, strict=True)) for earlier, later in pairwise(self.steps)
        ]
        step = median(each) if each else whole  # a run that diverged at once
        return Pace(step * self.steps_per_epoch, max(0.0, whole - step * len(self.steps)))


@dataclass(frozen=True)
class Budget:
    """Divide the seconds of a fit.

    Attributes:
        seconds: for all training.
        recipe_epochs: of the recipe that was asked for, which is trained in any case.
        steps_per_epoch: of the optimiser.
        pace: as measured.
        runs: how many short runs there are before the final one; the last of them is of twice the length.
        other_runs: how many runs serve another aim, if pairs are known; the last two are of twice the length.
    """

    seconds: float
    recipe_epochs: float
    steps_per_epoch: float
    pace: Pace
    runs: int
    other_runs: int = 0

    @property
    def floor(self) -> float:
        """Return the seconds of the run that was asked for."""
        return self.pace.seconds(self.recipe_epochs)

    @property
    def least(self) -> float:
        """Return the seconds that all trials take at least."""
        epochs = self._lengths * self._shortest
        return (self.runs + 1 + self.other_runs) * self.pace.run_seconds + epochs * self.pace.epoch_seconds

    @property
    def has_trials(self) -> bool:
        """Tell whether the trials fit beside the run that was asked for."""
        return self.floor + self.least <= self.seconds

    def short(self, pace: Pace) -> float:
        """Return the epochs of a short run at a pace."""
        share = _SHORT_OF_BOTH if self.other_runs else _SHORT
        each = min(share * self.seconds, (self.seconds - self.floor) / self._lengths)
        return min(_LONGEST, max(self._shortest, pace.epochs(each)))

    def final(self, pace: Pace) -> float:
        """Return the epochs of the final run at a pace, if there is time for its whole share."""
        return min(_LONGEST, pace.epochs((_FINAL_OF_BOTH if self.other_runs else _FINAL) * self.seconds))

    def other(self, pace: Pace) -> float:
        """Return the most epochs of a long run for the other aim: its share, but not less than two short runs."""
        return max(2 * self.short(pace), min(_LONGEST, pace.epochs(_OTHER * self.seconds)))

    def room(self, pace: Pace, spent: float) -> float:
        """Return how many epochs fit into what is left after the runs so far and those that must follow."""
        reserved = 2 * _OTHER + (self.other_runs - 2) * _SHORT_OF_BOTH if self.other_runs else 0.0
        return pace.epochs(self.seconds * (1 - reserved) - spent - self.floor)

    def __str__(self) -> str:
        return (
            f"a budget of {self.seconds:.0f} s has no time for trials: the recipe as it is takes about "
            f"{self.floor:.0f} s ({self.recipe_epochs:g} epochs of {self.pace.epoch_seconds:.1f} s), and trials would "
            f"take at least {self.least:.0f} s more; it is trained once, with the width that suits linear codecs. For "
            f"trials give a budget of {1.1 * (self.floor + self.least):.0f} s or more, a tenth more than both; to "
            "shorten the training give fewer documents, or a recipe of fewer epochs"
        )

    @property
    def _lengths(self) -> int:
        """Return how many times the length of a short run all trials take, with a final run of two."""
        return self.runs + 3 + (self.other_runs + 2 if self.other_runs else 0)

    @property
    def _shortest(self) -> float:
        return min(1.0, round(_SHORT_STEPS / self.steps_per_epoch, 2))


def probe_epochs(steps_per_epoch: float) -> float:
    """Return the epochs of the run that the pace is measured by."""
    return min(max(_PROBE_EPOCHS * steps_per_epoch, _FEWEST_PROBE_STEPS), _PROBE_STEPS) / steps_per_epoch


def clock() -> tuple[float, float]:
    """Return the seconds that have passed and those that the processor worked for this process."""
    return time.perf_counter(), time.process_time()


def taken(start: tuple[float, float]) -> float:
    """Return the seconds that the work itself took, whatever else the machine did and however many threads worked."""
    return min(now - then for now, then in zip(clock(), start, strict=True))
