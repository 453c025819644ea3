"""``vaecodec migrate``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from vaecodec.bulk import OnBadRows
from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError, InvalidBudgetError, MigrationError, NotCalibratedError
from vaecodec.evaluation import Interval
from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_json
from vaecodec_cli.options import AsJson
from vaecodec_cli.progress import shown

if TYPE_CHECKING:
    from vaecodec_integrations.qdrant import PackedRows
    from vaecodec_integrations.qdrant.migration import Estimate, Migration, Outcome


class Keep(StrEnum):
    """Where uncompressed vectors are kept."""

    DISK = "disk"
    FILE = "file"
    NONE = "none"


_SERVER, _TARGET, _ORIGINALS, _RUN = "Server", "Target", "Originals for re-ranking", "Run"

Url = Annotated[
    str | None,
    typer.Option(help="Address of the Qdrant server. The key is read from QDRANT_API_KEY.", rich_help_panel=_SERVER),
]
LocalPath = Annotated[
    Path | None,
    typer.Option(
        "--path",
        exists=True,
        file_okay=False,
        help="Folder of Qdrant's local mode, instead of --url.",
        rich_help_panel=_SERVER,
    ),
]
Collection = Annotated[str, typer.Option(help="The collection to compress. Nothing in it is ever deleted.")]
Into = Annotated[str | None, typer.Option(help="Name of the new, compressed collection.", rich_help_panel=_TARGET)]
Named = Annotated[
    str | None,
    typer.Option(
        help="Instead of --into: add the latents to the collection as a vector of this name (Qdrant 1.18 or later).",
        rich_help_panel=_TARGET,
    ),
]


def migrate(
    collection: Collection,
    codec: Annotated[Path, typer.Option(help="The codec file.")],
    vector: Annotated[str, typer.Option(help="Name of the vector to compress. Default: the unnamed one.")] = "",
    dim: Annotated[int | None, typer.Option(help="Latent width, where the codec file has several.")] = None,
    url: Url = None,
    path: LocalPath = None,
    into: Into = None,
    named: Named = None,
    code_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes",
            help="RAM for the codes of one vector in the new collection, e.g. one byte for each latent or less; the "
            "latents then lie on disk. Default: stored and quantised as the source is.",
            rich_help_panel=_TARGET,
        ),
    ] = None,
    switch_alias: Annotated[
        str | None,
        typer.Option(help="Point this alias at the new collection when both sides are equal.", rich_help_panel=_TARGET),
    ] = None,
    keep_originals: Annotated[
        Keep, typer.Option(help="Where to keep the uncompressed vectors.", rich_help_panel=_ORIGINALS)
    ] = Keep.NONE,
    originals_path: Annotated[
        Path | None,
        typer.Option("--originals", help="The file for --keep-originals file.", rich_help_panel=_ORIGINALS),
    ] = None,
    originals_codec: Annotated[
        Path | None,
        typer.Option(help="Store codes of this codec in that file instead of float16.", rich_help_panel=_ORIGINALS),
    ] = None,
    originals_bytes: Annotated[
        int | None, typer.Option(help="Bytes of such a code.", rich_help_panel=_ORIGINALS)
    ] = None,
    on_bad_rows: Annotated[
        OnBadRows,
        typer.Option(
            help="Points whose vector holds NaN or has no direction: stop, copy them without it and list them, or "
            "list them all before anything is written.",
            rich_help_panel=_RUN,
        ),
    ] = OnBadRows.FAIL,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, estimate the size, write nothing.", rich_help_panel=_RUN),
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Points per request.", rich_help_panel=_RUN)] = 1000,
    state: Annotated[
        Path | None,
        typer.Option(
            help="State file, which remembers how far the copy came. Default: named after the collections.",
            rich_help_panel=_RUN,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compress a Qdrant collection: copy it, catch up with new writes, compare searches, switch an alias.

    You can interrupt it and run it again at any time. The application may go on writing to the source: run it again
    until it repairs nothing, then pause writes for the last run.
    """
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.qdrant.connection import open_client
    from vaecodec_integrations.qdrant.layout import Originals
    from vaecodec_integrations.qdrant.migration import Migration, estimate
    from vaecodec_integrations.qdrant.migration import migrate as run

    check_one({"--url": url, "--path": path})
    check_one({"--into": into, "--named": named})
    if (keep_originals is Keep.FILE) != (originals_path is not None):
        raise typer.BadParameter("--keep-originals file and --originals PATH need each other")
    if (originals_codec is None) != (originals_bytes is None):
        raise typer.BadParameter("--originals-codec and --originals-bytes need each other")
    if originals_codec is not None and keep_originals is not Keep.FILE:
        raise typer.BadParameter("--originals-codec needs --keep-originals file")
    loaded = Codec.load(codec, dim=dim)
    encoding = _packed(loaded, originals_codec, originals_bytes)
    console = Terminal(stderr=as_json)
    with closing(open_client(url=url, path=path)) as client:
        migration = Migration(
            client,
            collection,
            loaded,
            state or Path(f"vaecodec-migrate-{collection}-{into or named}.json"),
            into=into,
            named=named,
            vector=vector,
            originals=Originals(keep_originals),
            originals_path=originals_path,
            originals_encoding=encoding,
            code_bytes=code_bytes,
            batch_size=batch_size,
            on_bad_rows=on_bad_rows,
        )
        document: dict[str, Any] = {"collection": collection, "target": migration.target}
        if dry_run:
            size = estimate(migration, alias=switch_alias)
            console.print(_size(migration, size))
            document["estimate"] = asdict(size)
        else:
            with closing(migration), shown(f"{collection} -> {into or named}, copied and compared", "points") as bar:
                outcome = run(
                    migration,
                    alias=switch_alias,
                    started=lambda size: console.print(_size(migration, size)),
                    progress=bar,
                )
            console.print(_result(outcome))
            if outcome.switched_alias != switch_alias:
                raise MigrationError(outcome.next_step)
            console.print(outcome.next_step)
            document |= {
                "estimate": asdict(outcome.estimate),
                "outcome": outcome.to_json(),
                "switched_alias": outcome.switched_alias,
            }
    if as_json:
        print_json(document)


def check_one(options: Mapping[str, object]) -> None:
    """Refuse both or none of two options."""
    if [value is None for value in options.values()].count(False) != 1:
        raise typer.BadParameter(f"give one of {' and '.join(options)}")


def _packed(codec: Codec, path: Path | None, bytes: int | None) -> PackedRows | None:  # noqa: A002 - the option's word
    """Return how a file stores originals as codes of another codec, where that was asked for."""
    if path is None or bytes is None:
        return None
    from vaecodec_integrations.qdrant import PackedRows

    try:
        rows = PackedRows(Codec.load(path), bytes=bytes)
        rows.check_fits(codec)
    except CodecMismatchError as error:
        raise typer.BadParameter(f"--originals-codec: {error}") from error
    except (InvalidBudgetError, NotCalibratedError) as error:
        raise typer.BadParameter(f"--originals-codec, --originals-bytes: {error}") from error
    return rows


def _size(migration: Migration, size: Estimate) -> Table:
    table = Table(title=f"{migration.collection} -> {migration.target}", show_header=False, title_justify="left")
    table.add_row("points", f"{size.points:,}")
    table.add_row("vectors now", f"{size.source_bytes:,} bytes")
    table.add_row("compressed" if migration.named is None else "latents added", f"{size.target_bytes:,} bytes")
    table.add_row("originals added", f"{size.originals_bytes:,} bytes")
    return table


def _result(outcome: Outcome) -> Table:
    table = Table(show_header=False)
    table.add_row("copied", f"{outcome.copied:,} points")
    table.add_row("repaired", f"{outcome.repaired:,} points")
    table.add_row("removed", f"{outcome.removed:,} points")
    if outcome.bad_points:
        table.add_row("without the vector", f"{outcome.bad_points:,} points")
    table.add_row("source, target", f"{outcome.source_points:,}, {outcome.target_points:,} points")
    table.add_row("recall@10 before", f"{_share(outcome.recalls.before)} ({outcome.queries} of its own vectors)")
    if outcome.recalls.latents is not None:
        table.add_row("of the latents, exactly", _share(outcome.recalls.latents))
    table.add_row("recall@10 after", _share(outcome.recalls.after))
    return table


def _share(recall: Interval | None) -> str:
    return "-" if recall is None else interval(recall._asdict())
