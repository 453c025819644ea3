"""Define the command ``vaecodec plan``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec.errors import EvaluationInputError
from vaecodec.interface import Metric
from vaecodec.sources import VectorSource
from vaecodec.sources.bad_rows import OnBadRows, without_bad_rows
from vaecodec_cli.console import Terminal, print_json, table
from vaecodec_cli.options import AsJson, Columns, Documents, MetricOption, OnBadRowsChoice, SizeLimits, with_column
from vaecodec_cli.progress import steps_shown
from vaecodec_cli.text import visible
from vaecodec_integrations.plan import Goal
from vaecodec_integrations.plan import plan as make_plan
from vaecodec_integrations.plan.goal import read_goal
from vaecodec_integrations.plan.planner import SAMPLE_ROWS
from vaecodec_integrations.plan.stores import StoreName
from vaecodec_integrations.plan.text import LABELS, basis, headline, rows, to_json

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

    def open(self) -> tuple[VectorSource, VectorSource | None]:
        """Open documents and queries."""
        lenient = self.on_bad_rows is not OnBadRows.FAIL
        return self.columns.open(self.data, self.queries, bad_rows=lenient)


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

    def read(self, source: VectorSource) -> Goal:
        """Return the goal, before any vector is read."""
        limits = self.limits
        try:
            goal = read_goal(
                source,
                target=self.target,
                rerank=self.rerank,
                code_bytes=limits.budget,
                ram=limits.ram,
                vectors=limits.vectors,
            )
            return replace(goal, stores=tuple(self.place)) if self.place else goal
        except EvaluationInputError as error:
            raise typer.BadParameter(str(error)) from None


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
    source, queries = given.open()
    goal = wanted.read(source)
    with steps_shown("reading vectors") as step:
        sources = [source] if queries is None else [source, queries]
        source, *rest = without_bad_rows(sources, given.metric, given.on_bad_rows)
        result = make_plan(
            source,
            goal,
            queries=rest[0] if rest else None,
            codecs=codec or (),
            metric=given.metric,
            rows=given.sample,
            location=with_column(given.data, given.columns.column),
            on_step=step,
        )
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
                console.print(f"\n# {LABELS[answer.store]}", style="bold")
                print(visible(answer.instructions), end="")
    if not result.met:
        raise typer.Exit(NOT_MET)
