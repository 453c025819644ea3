"""Define the command ``vaecodec reembed``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.table import Table

from vaecodec.errors import MigrationError
from vaecodec.evaluation import Interval
from vaecodec.extras import require
from vaecodec.fused import Pooling
from vaecodec_cli.console import Terminal, print_json, table
from vaecodec_cli.options import AsJson
from vaecodec_cli.progress import shown
from vaecodec_cli.server import Server, Target

if TYPE_CHECKING:
    from vaecodec_integrations.qdrant.reembedding import Cost, ReembeddingOutcome


@dataclass(frozen=True, kw_only=True)
class ReembedSource:
    """Say which texts are embedded, and by which model."""

    collection: Annotated[
        str, typer.Option(help="The collection whose texts are embedded again. With --into it is only read.")
    ]
    model: Annotated[Path, typer.Option(help="The new embedding model: an ONNX file with tokenizer.json beside it.")]
    pooling: Annotated[
        Pooling | None,
        typer.Option(
            help="How to combine a text's token vectors into one; none if the model does so itself. Default: as "
            "modules.json beside the model says, otherwise mean."
        ),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What to put before each text, e.g. 'passage: '. Default: as the files that modules.json names say, "
            "otherwise nothing."
        ),
    ] = None
    text: Annotated[str, typer.Option(help="Key of the text in the payload, e.g. page.content.")] = "text"
    vector: Annotated[str, typer.Option(help="Name of the old model's vector. Default: the unnamed one.")] = ""


@dataclass(frozen=True, kw_only=True)
class ReembedTarget:
    """Say where the new vectors go."""

    panel: ClassVar[str] = "Target"

    into: Annotated[str | None, typer.Option(help="Name of the new collection.")] = None
    named: Annotated[
        str | None,
        typer.Option(help="Instead of --into: name of a new vector in the collection itself (Qdrant 1.18 or later)."),
    ] = None
    codec: Annotated[Path | None, typer.Option(help="Compress the new vectors by this codec file.")] = None
    switch_alias: Annotated[
        str | None, typer.Option(help="Point this alias at the new collection when nothing is left to do.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ReembedRun:
    """Say in what order and how fast texts are embedded, and what a text costs."""

    panel: ClassVar[str] = "Run"

    first_ids: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with one id a line, to embed these first: the ones that are found most often.",
        ),
    ] = None
    texts_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Embed at most this many texts per second.")
    ] = None
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Embed a sample, estimate the cost, write nothing.")] = (
        False
    )
    price: Annotated[float | None, typer.Option(min=0, help="Price of a million tokens, for --dry-run.")] = None
    judged: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Queries whose answers are known, to estimate the gain in --dry-run: in each line a JSON object with "
            "the query's text, the vector of the old model, and the ids of the points that answer it.",
        ),
    ] = None
    query_prompt: Annotated[
        str | None,
        typer.Option(help="What to put before each query of --judged, e.g. 'query: '. Default: as for --prompt."),
    ] = None

    def check(self) -> None:
        """Refuse what would be ignored, and numbers that are none."""
        for option, value in (("--texts-per-second", self.texts_per_second), ("--price", self.price)):
            if value is not None and not math.isfinite(value):
                raise typer.BadParameter(f"{option}: expected a number, got {value}")
        for option, given in (("--price", self.price is not None), ("--judged", self.judged is not None)):
            if given and not self.dry_run:
                raise typer.BadParameter(f"{option} needs --dry-run")
        if self.query_prompt is not None and self.judged is None:
            raise typer.BadParameter("--query-prompt needs --judged")


def reembed(
    source: ReembedSource, server: Server, target: ReembedTarget, how: ReembedRun, as_json: AsJson = False
) -> None:
    """Embed the texts of a Qdrant collection again by another model, into a new collection or a new vector.

    You can interrupt it and run it again at any time: what is done is not embedded again. Meanwhile the library
    searches both models at once (docs/change-of-model.md). Run it until nothing is left to do, then pause writes, and
    run it with --switch-alias.
    """
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.qdrant.reembedding import ReembeddingRequest, estimate_at, reembed_at

    server.check()
    how.check()
    Target(into=target.into, named=target.named).check_new(source.collection, source.vector, target.switch_alias)
    request = ReembeddingRequest(
        **vars(source),
        **vars(server),
        into=target.into,
        named=target.named,
        codec=target.codec,
        query_prompt=how.query_prompt,
        first_ids=how.first_ids,
        texts_per_second=how.texts_per_second,
    )
    alias, console = target.switch_alias, Terminal(stderr=as_json)
    if how.dry_run:
        cost = estimate_at(request, price_per_million=how.price, judged=how.judged)
        console.print(_cost(cost))
        document = {name: _figure(value) for name, value in asdict(cost).items()}
    else:
        with shown(f"{source.collection} -> {target.into or target.named}", "points") as bar:
            outcome = reembed_at(request, alias=alias, progress=bar)
        console.print(_outcome(outcome))
        if outcome.switched_alias != alias:
            raise MigrationError(outcome.next_step(alias))
        console.print(outcome.next_step(alias))
        document = asdict(outcome)
    if as_json:
        print_json(document)


def _cost(cost: Cost) -> Table:
    rows = [
        ("texts", f"{cost.texts:,}, by a sample of {cost.sampled:,}"),
        ("tokens", f"{cost.tokens:,}"),
        ("hours", f"{cost.hours:,.2f}"),
    ]
    if cost.money is not None:
        rows.append(("price", f"{cost.money:,.2f}"))
    if cost.gain is not None:
        rows += [
            ("judged queries", f"{cost.judged:,}, among the sample"),
            ("nDCG@10, old model", f"{cost.old}"),
            ("nDCG@10, new model", f"{cost.new}"),
            ("gain", f"{cost.gain:+.3f}"),
        ]
    return table(rows=rows)


def _figure(value: Any) -> Any:
    return value._asdict() if isinstance(value, Interval) else value


def _outcome(outcome: ReembeddingOutcome) -> Table:
    return table(
        rows=[
            ("embedded", f"{outcome.embedded:,} texts"),
            ("without a text", f"{outcome.without_text:,} points"),
            ("other payloads", f"{outcome.payloads:,} points"),
            ("removed", f"{outcome.removed:,} points"),
        ]
    )
