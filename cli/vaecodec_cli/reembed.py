"""``vaecodec reembed``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vaecodec.codec import Codec
from vaecodec.errors import MigrationError
from vaecodec.extras import require
from vaecodec_cli.console import Terminal, print_json, table
from vaecodec_cli.migrate import LocalPath, Url, check_one
from vaecodec_cli.options import AsJson
from vaecodec_cli.progress import shown

if TYPE_CHECKING:
    from vaecodec_integrations.qdrant.reembedding import Cost, Outcome

_TARGET, _MODEL, _RUN = "Target", "Model", "Run"


def reembed(
    collection: Annotated[
        str, typer.Option(help="The collection whose texts are embedded again. With --into it is only read.")
    ],
    model: Annotated[
        Path,
        typer.Option(
            help="The new embedding model: an ONNX file with tokenizer.json beside it.", rich_help_panel=_MODEL
        ),
    ],
    into: Annotated[str | None, typer.Option(help="Name of the new collection.", rich_help_panel=_TARGET)] = None,
    named: Annotated[
        str | None,
        typer.Option(
            help="Instead of --into: name of a new vector in the collection itself (Qdrant 1.18 or later).",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    text: Annotated[str, typer.Option(help="Key of the text in the payload, e.g. page.content.")] = "text",
    vector: Annotated[str, typer.Option(help="Name of the old model's vector. Default: the unnamed one.")] = "",
    url: Url = None,
    path: LocalPath = None,
    codec: Annotated[
        Path | None, typer.Option(help="Compress the new vectors by this codec file.", rich_help_panel=_TARGET)
    ] = None,
    switch_alias: Annotated[
        str | None,
        typer.Option(
            help="Point this alias at the new collection when nothing is left to do.", rich_help_panel=_TARGET
        ),
    ] = None,
    first_ids: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="File with one id a line, to embed these first: the ones that are found most often.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    texts_per_second: Annotated[
        float | None, typer.Option(min=0.001, help="Embed at most so many texts a second.", rich_help_panel=_RUN)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Embed a sample, estimate the cost, write nothing.", rich_help_panel=_RUN)
    ] = False,
    price: Annotated[
        float | None, typer.Option(min=0, help="Price of a million tokens, for --dry-run.", rich_help_panel=_RUN)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Embed the texts of a Qdrant collection again by another model, into a new collection or a new vector.

    You can interrupt it and run it again at any time: what is done is not embedded again. Meanwhile the library
    searches both models at once (docs/change-of-model.md). Run it until nothing is left to do, then pause writes, and
    run it with --switch-alias.
    """
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.embedder import OnnxEmbedder
    from vaecodec_integrations.qdrant.connection import open_client
    from vaecodec_integrations.qdrant.reembedding import Reembedding, estimate
    from vaecodec_integrations.qdrant.reembedding import reembed as run
    from vaecodec_integrations.qdrant.reembedding.job import read_ids

    check_one({"--url": url, "--path": path})
    check_one({"--into": into, "--named": named})
    embedder = OnnxEmbedder(model)
    console = Terminal(stderr=as_json)
    with closing(open_client(url=url, path=path)) as client:
        job = Reembedding(
            client,
            collection,
            embedder,
            into=into,
            named=named,
            vector=vector,
            text=text,
            codec=None if codec is None else Codec.load(codec),
            first_ids=() if first_ids is None else read_ids(first_ids),
            texts_per_second=texts_per_second,
        )
        if dry_run:
            cost = estimate(job, count_tokens=embedder.count_tokens, price_per_million=price)
            console.print(_cost(cost))
            document = asdict(cost)
        else:
            with shown(f"{collection} -> {into or named}", "points") as bar:
                outcome = run(job, alias=switch_alias, progress=bar)
            console.print(_outcome(outcome))
            if outcome.switched_alias != switch_alias:
                raise MigrationError(outcome.next_step(switch_alias))
            console.print(outcome.next_step(switch_alias))
            document = asdict(outcome)
    if as_json:
        print_json(document)


def _cost(cost: Cost) -> Table:
    rows = [("texts", f"{cost.texts:,}"), ("tokens", f"{cost.tokens:,}"), ("hours", f"{cost.hours:,.2f}")]
    return table(rows=rows if cost.money is None else [*rows, ("price", f"{cost.money:,.2f}")])


def _outcome(outcome: Outcome) -> Table:
    return table(
        rows=[
            ("embedded", f"{outcome.embedded:,} texts"),
            ("without a text", f"{outcome.without_text:,} points"),
            ("other payloads", f"{outcome.payloads:,} points"),
            ("removed", f"{outcome.removed:,} points"),
        ]
    )
