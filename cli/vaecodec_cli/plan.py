"""Define the command ``vaecodec plan``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec.interface import Metric
from vaecodec.sources.bad_rows import OnBadRows
from vaecodec.sources.files import VectorFiles
from vaecodec.text import visible
from vaecodec_cli.console import Terminal, print_json, table
from vaecodec_cli.options import AsJson, Columns, Documents, MetricOption, OnBadRowsChoice, SizeLimits
from vaecodec_cli.progress import steps_shown
from vaecodec_integrations.plan import GoalRequest, plan_files
from vaecodec_integrations.plan.planner import SAMPLE_ROWS
from vaecodec_integrations.plan.stores import StoreName
from vaecodec_integrations.plan.text import STORE_LABELS, basis, headline, rows, to_json

NOT_MET = 3


@dataclass(frozen=True, kw_only=True)
class PlanData:
    """Name the data that the plan is made for."""

    panel: ClassVar[str] = "Data"

    data: Documents
    queries: Annotated[
        str | None,
        typer.Option(help="Embeddings of queries that no codec was trained on. Default: take some documents."),
    ] = None
    columns: Columns
    metric: MetricOption = Metric.COSINE
    on_bad_rows: OnBadRowsChoice = OnBadRows.FAIL
    sample: Annotated[
        int, typer.Option(min=1, help="Number of documents to search in. More are slower, and closer to your index.")
    ] = SAMPLE_ROWS

    def files(self) -> VectorFiles:
        """Return the files."""
        return VectorFiles(
            documents=self.columns.documents(self.data),
            queries=self.columns.queries(self.queries),
            metric=self.metric,
            on_bad_rows=self.on_bad_rows,
        )


@dataclass(frozen=True, kw_only=True)
class PlanGoal:
    """Say what to reach."""

    panel: ClassVar[str] = "Goal"

    target: Annotated[str | None, typer.Option(help='What to reach, e.g. "recall@10>=0.95".')] = None
    rerank: Annotated[
        int,
        typer.Option(help="Score up to this many times k candidates again with originals on disk. 1: no re-ranking."),
    ] = 1
    limits: SizeLimits
    place: Annotated[
        list[StoreName] | None,
        typer.Option("--for", help="Where vectors may be kept. Can be repeated. Default: qdrant, hnswlib and packed."),
    ] = None

    def request(self) -> GoalRequest:
        """Return the goal as it was written."""
        return GoalRequest(
            target=self.target,
            rerank=self.rerank,
            code_bytes=self.limits.budget,
            ram=self.limits.ram,
            vectors=self.limits.vectors,
            stores=tuple(self.place or ()),
        )


def plan(
    given: PlanData,
    wanted: PlanGoal,
    codec: Annotated[
        list[Path] | None, typer.Option(help="Codec file to consider beside the linear ones. Can be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the cheapest width, code and re-ranking that meet a goal, with costs and instructions.

    Exit code 3: no compression meets the goal.
    """
    with steps_shown("reading vectors") as step:
        result = plan_files(given.files(), wanted.request(), codecs=codec or (), rows=given.sample, on_step=step)
    if as_json:
        print_json(to_json(result))
    else:
        console = Terminal()
        console.print(headline(result), style="bold")
        console.print(basis(result))
        head, *lines = rows(result)
        console.print(table(*head, rows=lines))
        for answer in result.answers:
            if answer.instructions:
                console.print(f"\n# {STORE_LABELS[answer.store]}", style="bold")
                print(visible(answer.instructions), end="")
    if not result.met:
        raise typer.Exit(NOT_MET)
