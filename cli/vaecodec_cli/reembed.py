"""Define the command ``vaecodec reembed``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer
from rich.table import Table

from vaecodec.errors import MigrationError
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
        Pooling, typer.Option(help="How to combine a text's token vectors into one; none if the model does so itself.")
    ] = Pooling.MEAN
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

    def check(self) -> None:
        """Refuse what would be ignored, and numbers that are none."""
        for option, value in (("--texts-per-second", self.texts_per_second), ("--price", self.price)):
            if value is not None and not math.isfinite(value):
                raise typer.BadParameter(f"{option}: expected a number, got {value}")
        if self.price is not None and not self.dry_run:
            raise typer.BadParameter("--price needs --dry-run")


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
        first_ids=how.first_ids,
        texts_per_second=how.texts_per_second,
    )
    alias, console = target.switch_alias, Terminal(stderr=as_json)
    if how.dry_run:
        cost = estimate_at(request, price_per_million=how.price)
        console.print(_cost(cost))
        document = asdict(cost)
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
    return table(rows=rows if cost.money is None else [*rows, ("price", f"{cost.money:,.2f}")])


def _outcome(outcome: ReembeddingOutcome) -> Table:
    return table(
        rows=[
            ("embedded", f"{outcome.embedded:,} texts"),
            ("without a text", f"{outcome.without_text:,} points"),
            ("other payloads", f"{outcome.payloads:,} points"),
            ("removed", f"{outcome.removed:,} points"),
        ]
    )
