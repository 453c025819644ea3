"""Show on standard error how far a command has come: a bar on a terminal, a line now and then in a log.

The level of the logger says how much: ``-q`` hides progress, ``-v`` adds what the library logs on the way.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from threading import Event, Thread
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from vaecodec.text import one_line, visible
from vaecodec_cli.console import Terminal

if TYPE_CHECKING:
    from vaecodec_training.observe import Progress as StepProgress

SECONDS = 20.0
"""Between two lines of a log."""

# So that a clock which stands still does not turn the watch into a loop.
_SHORTEST_WAIT = 0.01

LOGGER = logging.getLogger("vaecodec_cli")

_PACKAGES = ("vaecodec", "vaecodec_training", "vaecodec_exporters", "vaecodec_integrations", "vaecodec_cli")

# Narrow enough to show the time left on a screen of 80 columns.
_NAME_WIDTH, _BAR_WIDTH = 20, 10


class _Lines(logging.Handler):
    """Write log records as lines to the current standard error.

    Attributes:
        last: when the last line was written.
    """

    last = time.perf_counter()

    def emit(self, record: logging.LogRecord) -> None:
        self.last = time.perf_counter()
        print(visible(self.format(record)), file=sys.stderr, flush=True)


class _Details(logging.Handler):
    """Keep the last detail that was logged: the step that the work is at.

    Attributes:
        step: that detail; empty before the first.
        shows: what is told of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.step = ""
        self.shows: list[Callable[[str], object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.DEBUG:
            return
        self.step = record.getMessage()
        for show in self.shows:
            show(one_line(self.step))

    @contextmanager
    def told(self, show: Callable[[str], object]) -> Iterator[None]:
        """Tell a display of each detail for a while."""
        self.shows.append(show)
        try:
            yield
        finally:
            self.shows.remove(show)


_LINES, _DETAILS = _Lines(), _Details()


def set_level(*, verbose: bool = False, quiet: bool = False) -> None:
    """Log to standard error: progress, details too, or only what is wrong."""
    _LINES.setLevel(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    for name in _PACKAGES:
        logger = logging.getLogger(name)
        logger.setLevel(logging.WARNING if quiet else logging.DEBUG)
        for handler in (_LINES, _DETAILS):
            if handler not in logger.handlers:
                logger.addHandler(handler)


set_level()


@contextmanager
def alive(command: str) -> Iterator[None]:
    """Log a line where a command has been silent for 20 seconds: the step it is at, and since when it runs.

    On a terminal something moves instead.
    """
    if not LOGGER.isEnabledFor(logging.INFO) or Terminal(stderr=True).is_terminal:
        yield
        return
    start, ended = time.perf_counter(), Event()
    _DETAILS.step, _LINES.last = "", start

    def watch() -> None:
        while not ended.wait(max(_SHORTEST_WAIT, _LINES.last + SECONDS - time.perf_counter())):
            if time.perf_counter() - _LINES.last >= SECONDS:
                since = timedelta(seconds=round(time.perf_counter() - start))
                LOGGER.info("%s: %s, %s so far", command, _DETAILS.step or "at work", since)

    thread = Thread(target=watch, name="vaecodec-alive", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def working(name: str) -> Iterator[None]:
    """Show on a terminal that work goes on, and the step that it is at; elsewhere :func:`alive` tells it."""
    console = Terminal(stderr=True, quiet=not LOGGER.isEnabledFor(logging.INFO))
    if not console.is_terminal:
        yield
        return
    with console.status(visible(name)) as status, _DETAILS.told(lambda step: status.update(Text(step))):
        yield


@contextmanager
def shown(name: str, unit: str = "rows") -> Iterator[Callable[[int, int], None]]:
    """Give what is called with the units done and their total."""
    console = Terminal(stderr=True, quiet=not LOGGER.isEnabledFor(logging.INFO))
    if not console.is_terminal:
        yield LogLines(name, unit, seconds=SECONDS)
        return
    columns = (_Name(), BarColumn(_BAR_WIDTH), MofNCompleteColumn(), _Rate(unit), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(one_line(name), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def steps_shown(first: str) -> Iterator[Callable[[str], None]]:
    """Give what is called with the name of each step that begins; ``first`` is the first one's."""
    console = Terminal(stderr=True, quiet=not LOGGER.isEnabledFor(logging.INFO))
    if not console.is_terminal:
        LOGGER.info("%s", first)
        last = time.perf_counter()

        def log(step: str) -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last >= SECONDS:
                last = now
                LOGGER.info("%s", step)
            else:
                LOGGER.debug("%s", step)

        yield log
        return
    with console.status(visible(first)) as status, _DETAILS.told(lambda step: status.update(Text(step))):
        yield lambda step: status.update(Text(one_line(step)))


class LogLines:
    """Log the units done, the rate of this run and the time left, as one line every few seconds.

    Args:
        name: of what is read.
        unit: of what is counted.
        seconds: between two lines.
    """

    def __init__(self, name: str, unit: str = "rows", *, seconds: float = SECONDS) -> None:
        self._name, self._unit, self._seconds = name, unit, seconds
        self._first: int | None = None
        self._done = 0
        self._start = self._last = time.perf_counter()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = time.perf_counter()
        if self._first is None:  # do not count the work of an earlier run
            self._first, self._start, self._last = done, now, now
        elif done < self._done:  # the next run has begun
            self._first, self._start = done, now
        self._done = done
        if now - self._last < self._seconds:
            return
        self._last = now
        rate = (done - self._first) / max(now - self._start, _SHORTEST_WAIT)
        left = f", {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        counted = f"{done:,} of {total:,} {self._unit}, {rate:,.{0 if rate >= 10 else 1}f} {self._unit}/s"
        LOGGER.info("%s: %s%s%s", self._name, counted, left, note and f", {note}")


class TrainingBar:
    """Show the progress of a training run with its live figures; an observer of ``train``."""

    def __init__(self) -> None:
        console = Terminal(stderr=True, quiet=not LOGGER.isEnabledFor(logging.INFO))
        self._log = None if console.is_terminal else LogLines("train", "steps", seconds=SECONDS)
        self._bar = _BarWithFigures(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(_BAR_WIDTH), TimeRemainingColumn(), console=console
        )
        self._task = self._bar.add_task("train", total=None, figures="")
        self._told = _DETAILS.told(lambda step: self._bar.update(self._task, figures=step))

    def __enter__(self) -> TrainingBar:
        if self._log is None:
            self._bar.start()
            self._told.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._log is None:
            self._told.__exit__(None, None, None)
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
        if self._log is not None:
            _DETAILS.step = f"training, step {progress.step:,} of {progress.steps:,}"
            self._log(progress.step, progress.steps, ", ".join(figures))
        else:
            self._bar.update(self._task, total=progress.steps, completed=progress.step, figures=", ".join(figures))


class _BarWithFigures(Progress):
    """Show a progress bar with a line of figures below it, so that both fit the screen."""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        for task in self.tasks:
            yield Text(task.fields["figures"])


class _Name(ProgressColumn):
    """Show the name of what is processed, or the end of a long name."""

    def __init__(self) -> None:
        super().__init__(Column(no_wrap=True))

    def render(self, task: Task) -> Text:
        name = task.description
        return Text(name if len(name) <= _NAME_WIDTH else "…" + name[1 - _NAME_WIDTH :])


class _Rate(ProgressColumn):
    """Show the units per second over the last seconds."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f} {self._unit}/s" if task.speed else "")
