"""Define the command ``vaecodec compress``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from vaecodec_cli.console import Terminal, how_to_resume, print_json
from vaecodec_cli.options import AsJson, CheckedTrainingData, SizeLimits, duration
from vaecodec_cli.progress import LOGGER, TrainingBar
from vaecodec_cli.train import require_training

if TYPE_CHECKING:
    from vaecodec_integrations.plan import GoalRequest

NOT_MET = 3


class Place(StrEnum):
    """Say where the vectors will be kept."""

    QDRANT = "qdrant"
    HNSWLIB = "hnswlib"
    PGVECTOR = "pgvector"
    FILES = "files"


def _once(show: Callable[[str], None]) -> Callable[[str], None]:
    """Show each step as it begins; what it does in detail, after a colon, is for the log."""
    last = ""

    def step(name: str) -> None:
        nonlocal last
        main = name.partition(":")[0]
        if main != last:
            show(main)
        else:
            LOGGER.debug("%s", name)
        last = main

    return step


@dataclass(frozen=True, kw_only=True)
class CompressGoal:
    """Say what to reach."""

    panel: ClassVar[str] = "Goal"

    save: Annotated[str | None, typer.Option(help="Share of the memory to save: half, or a figure such as 75%.")] = None
    limits: SizeLimits
    recall: Annotated[float | None, typer.Option(help="Share of the ten nearest to keep, e.g. 0.95.")] = None

    def request(self) -> GoalRequest:
        """Return the goal as it was written."""
        from vaecodec_integrations.plan import GoalRequest

        limits = self.limits
        return GoalRequest(
            save=self.save, recall=self.recall, code_bytes=limits.budget, ram=limits.ram, vectors=limits.vectors
        )


def compress(
    checked: CheckedTrainingData,
    out: Annotated[Path, typer.Option(help="Folder for codec.onnx, the training and the report.")],
    wanted: CompressGoal,
    place: Annotated[
        Place,
        typer.Option(
            "--for", help="Where the vectors will be kept. 'files' are files of codes, which PackedIndex searches."
        ),
    ] = Place.FILES,
    time: Annotated[
        str,
        typer.Option("--budget", help="Time for all training, e.g. 90s, 10m, 1.5h. The other steps take minutes more."),
    ] = "10m",
    as_json: AsJson = False,
) -> None:
    """Train a codec, compare it with untrained ones, and recommend what to use and the command to run next.

    Give at least one goal: --save, --bytes, --ram with --vectors, or --recall. Repeat the command to go on after an
    interruption. Exit code 3: the goal is not met.
    """
    seconds, files, goal = duration(time), checked.files(), wanted.request()
    require_training(export=True)
    from vaecodec_integrations.compress import CompressionData
    from vaecodec_integrations.compress import compress as run
    from vaecodec_integrations.plan.stores import StoreName

    store = StoreName.PACKED if place is Place.FILES else StoreName(place)
    console = Terminal(stderr=as_json)
    with how_to_resume(console, f"repeat the command to go on from {out}"), TrainingBar() as bar:
        found = run(
            CompressionData(**files),
            goal,
            out,
            store=store,
            budget=seconds,
            observers=[bar],
            on_step=_once(lambda step: console.print(f"{step} ...", style="dim")),
        )
    for line in found.lines:
        console.print(line)
    if found.report is not None:
        console.print(f"The report is {found.report / 'report.html'}.")
    if found.command:
        console.print("Next:")
        console.print(found.command)
    if as_json:
        print_json(found.to_json())
    if not found.met:
        raise typer.Exit(NOT_MET)
