"""Define the command ``vaecodec migrate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer
from rich.table import Table

from vaecodec.bulk import OnBadRows
from vaecodec.errors import CodecMismatchError, InvalidBudgetError, MigrationError, NotCalibratedError
from vaecodec.evaluation import Interval
from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_json
from vaecodec_cli.options import AsJson, Dim
from vaecodec_cli.progress import shown
from vaecodec_cli.server import Collection, Server, Target

if TYPE_CHECKING:
    from vaecodec_integrations.qdrant.migration import MigrationOutcome, MigrationRequest, MigrationSize


# Values of --keep-originals that are not file names.
_WITHOUT_FILE = ("none", "disk")


@dataclass(frozen=True, kw_only=True)
class MigrationSource:
    """Say which vector is compressed, and by which codec."""

    collection: Collection
    codec: Annotated[Path, typer.Option(help="The codec file.")]
    vector: Annotated[str, typer.Option(help="Name of the vector to compress. Default: the unnamed one.")] = ""
    dim: Dim = None


@dataclass(frozen=True, kw_only=True)
class MigrationTarget:
    """Say where the compressed vectors go, and how they are stored."""

    panel: ClassVar[str] = "Target"

    place: Target
    code_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes",
            min=1,
            help="RAM for the code of each vector in the new collection, e.g. one byte per latent or less. The latents "
            "then stay on disk. Default: stored and quantised as the source is.",
        ),
    ] = None
    switch_alias: Annotated[
        str | None,
        typer.Option(help="Point this alias at the new collection once it holds the same points as the source."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class OriginalsOptions:
    """Say whether and where uncompressed vectors are kept."""

    panel: ClassVar[str] = "Originals for re-ranking"

    keep_originals: Annotated[
        str,
        typer.Option(
            help="Where to keep uncompressed vectors: none; disk, as a vector on the server's disk; or a file to write."
        ),
    ] = "none"
    originals_codec: Annotated[
        Path | None, typer.Option(help="Store codes of this codec in that file, instead of float16.")
    ] = None
    originals_bytes: Annotated[int | None, typer.Option(help="Bytes of such a code, for each vector.")] = None

    def check(self) -> None:
        """Refuse options that would be ignored."""
        if (self.originals_codec is None) != (self.originals_bytes is None):
            raise typer.BadParameter("--originals-codec and --originals-bytes need each other")
        if self.originals_codec is not None and self.keep_originals in _WITHOUT_FILE:
            raise typer.BadParameter("--originals-codec needs a file: --keep-originals FILE")


@dataclass(frozen=True, kw_only=True)
class MigrationRun:
    """Say how the migration runs."""

    panel: ClassVar[str] = "Run"

    on_bad_rows: Annotated[
        OnBadRows,
        typer.Option(
            help="What to do with points whose vector holds NaN or has no direction: stop at the first, skip the "
            "vector and list them, or list them all before anything is written."
        ),
    ] = OnBadRows.FAIL
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything, estimate the size, write nothing.")] = (
        False
    )
    batch_size: Annotated[int, typer.Option(min=1, help="Points per request.")] = 1000
    state: Annotated[
        Path | None,
        typer.Option(help="File that records how far the copy got. Default: named after the collections."),
    ] = None


def migrate(
    source: MigrationSource,
    server: Server,
    target: MigrationTarget,
    originals: OriginalsOptions,
    how: MigrationRun,
    as_json: AsJson = False,
) -> None:
    """Compress a Qdrant collection: copy it, catch up with new writes, compare searches, switch an alias.

    You can interrupt it and run it again at any time. The application may go on writing to the source: run it again
    until it repairs nothing, then pause writes for the last run.

    The vectors stay those of the same embedding model. To embed the texts again by another model, call `vaecodec
    reembed`.
    """
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.qdrant.migration import estimate_at, migrate_at

    server.check()
    place, alias = target.place, target.switch_alias
    place.check_new(source.collection, source.vector, alias)
    originals.check()
    request = _request(source, server, target, originals, how)
    to = place.into or source.collection
    console = Terminal(stderr=as_json)
    document: dict[str, Any] = {"collection": source.collection, "target": to}

    def show(size: MigrationSize) -> None:
        document["estimate"] = asdict(size)
        console.print(_size(f"{source.collection} -> {to}", size, added=place.named is not None))

    if how.dry_run:
        show(estimate_at(request, alias=alias))
    else:
        with shown(f"{source.collection} -> {place.into or place.named}, copied and compared", "points") as bar:
            outcome = migrate_at(request, alias=alias, started=show, progress=bar)
        console.print(_result(outcome))
        if outcome.switched_alias != alias:
            raise MigrationError(outcome.next_step)
        console.print(outcome.next_step)
        document |= {"outcome": outcome.to_json(), "switched_alias": outcome.switched_alias}
    if as_json:
        print_json(document)


def _request(
    source: MigrationSource, server: Server, target: MigrationTarget, originals: OriginalsOptions, how: MigrationRun
) -> MigrationRequest:
    from vaecodec_integrations.qdrant.migration import MigrationRequest

    request = MigrationRequest(
        **vars(source),
        **vars(server),
        **vars(target.place),
        **vars(originals),
        code_bytes=target.code_bytes,
        batch_size=how.batch_size,
        on_bad_rows=how.on_bad_rows,
        state=how.state,
    )
    try:
        request.originals_encoding  # noqa: B018 - which raises where the options cannot be used
    except CodecMismatchError as error:
        raise typer.BadParameter(f"--originals-codec: {error}") from error
    except (InvalidBudgetError, NotCalibratedError) as error:
        raise typer.BadParameter(f"--originals-codec, --originals-bytes: {error}") from error
    return request


def _size(title: str, size: MigrationSize, *, added: bool) -> Table:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_row("points", f"{size.points:,}")
    table.add_row("vectors now", f"{size.source_bytes:,} bytes")
    table.add_row("latents added" if added else "compressed", f"{size.target_bytes:,} bytes")
    if size.codes_bytes is not None:
        table.add_row("of it in memory", f"{size.codes_bytes:,} bytes")
    table.add_row("originals added", f"{size.originals_bytes:,} bytes")
    return table


def _result(outcome: MigrationOutcome) -> Table:
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
