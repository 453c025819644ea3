"""Progress of commands that run for long, on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

if TYPE_CHECKING:
    from vaecodec_training.observe import Progress as StepProgress

SECONDS = 30.0  # between two lines of a log


@contextmanager
def shown(name: str, unit: str = "rows") -> Iterator[Callable[[int, int], None]]:
    """What is called with the units done and their total: a bar on a terminal, a line now and then in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield LogLines(name, unit, seconds=SECONDS)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class LogLines:
    """Units done, rate and time left, as a line every so many seconds; the rate is that of this run.

    Args:
        name: of what is read.
        unit: of what is counted.
        seconds: between two lines.
    """

    def __init__(self, name: str, unit: str = "rows", *, seconds: float = SECONDS) -> None:
        self._name, self._unit, self._seconds = name, unit, seconds
        self._first: int | None = None
        self._start = self._last = time.perf_counter()

    def __call__(self, done: int, total: int) -> None:
        now = time.perf_counter()
        if self._first is None:  # what an earlier run has done is not this one's speed
            self._first, self._start, self._last = done, now, now
        if now - self._last < self._seconds:
            return
        self._last = now
        rate = (done - self._first) / (now - self._start)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        counted = f"{done:,} of {total:,} {self._unit}, {rate:,.0f} {self._unit}/s"
        print(f"{self._name}: {counted}{left}", file=sys.stderr, flush=True)


class _Rate(ProgressColumn):
    """Units per second over the last while."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed else "")


class TrainingBar:
    """A progress bar with the live figures of a training run; an observer of ``train``."""

    def __init__(self, console: Console) -> None:
        self._bar = Progress(
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._task = self._bar.add_task("train", total=None, figures="")

    def __enter__(self) -> TrainingBar:
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def __call__(self, progress: StepProgress) -> None:
        figures = [f"loss {progress.loss:.4f}", f"best so far {progress.best:.3f}"]
        if progress.record is not None:
            record = progress.record
            figures.append(f"now {record.recall:.3f}, rank {record.effective_rank:.0f}")
            if record.kl:
                figures.append(f"KL {sum(record.kl):.0f} nats, {record.active_dims} active")
            if record.queue_age:
                figures.append(f"queue {record.queue_age:.0f} steps old")
        figures.append(f"gradient {progress.gradient_norm:.2g}")
        self._bar.update(self._task, total=progress.steps, completed=progress.step, figures=", ".join(figures))
