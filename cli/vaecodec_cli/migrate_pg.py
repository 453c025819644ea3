"""Define the command ``vaecodec migrate-pg``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec.errors import CodecMismatchError, InvalidBudgetError, NotCalibratedError, UnsupportedRequestError
from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_json
from vaecodec_cli.options import AsJson, CodecFile, Dim
from vaecodec_cli.progress import shown


class ColumnType(StrEnum):
    """Name the type of the compressed column."""

    VECTOR = "vector"
    HALFVEC = "halfvec"
    BIT = "bit"


@dataclass(frozen=True, kw_only=True)
class ColumnSource:
    """Say which column is compressed, and by which codec."""

    url: Annotated[str, typer.Option(envvar="PG_URL", help="Address of the database: postgresql://USER@HOST/NAME.")]
    table: Annotated[str, typer.Option(help="The table, with its schema where needed.")]
    column: Annotated[str, typer.Option(help="The column of uncompressed vectors. It is never dropped.")]
    codec: CodecFile
    key: Annotated[str, typer.Option(help="A unique column, usually the primary key.")] = "id"
    dim: Dim = None


@dataclass(frozen=True, kw_only=True)
class ColumnTarget:
    """Say where the latents go."""

    panel: ClassVar[str] = "Target"

    into: Annotated[str, typer.Option(help="Name of the compressed column. It is added where it is missing.")]
    storage: Annotated[ColumnType, typer.Option(help="Type of the compressed column.")] = ColumnType.VECTOR
    originals: Annotated[
        str | None, typer.Option(help="Name of a bytea column for originals, to re-rank with: float16, or codes.")
    ] = None
    originals_bytes: Annotated[
        int | None, typer.Option(help="Store codes of so many bytes for each vector there, instead of float16.")
    ] = None
    originals_codec: Annotated[
        Path | None, typer.Option(help="The codec whose codes these are. Default: the one of --codec.")
    ] = None
    switch: Annotated[
        bool, typer.Option("--switch", help="At the end, give the uncompressed column's name to the compressed one.")
    ] = False

    def check(self, source: ColumnSource) -> None:
        """Refuse one column for two purposes."""
        taken = {source.column: "the source's", source.key: "the key's"}
        for option, name in (("--into", self.into), ("--originals", self.originals)):
            if name in taken:
                raise typer.BadParameter(f"{option}: expected another name than {taken[name]}, got {name!r}")
            taken[name or ""] = "the compressed column's"
        if self.originals_bytes is not None and self.originals is None:
            raise typer.BadParameter("--originals-bytes needs a column: --originals NAME")
        if self.originals_codec is not None and self.originals_bytes is None:
            raise typer.BadParameter("--originals-codec needs the size of its codes: --originals-bytes N")


def migrate_pg(
    source: ColumnSource,
    target: ColumnTarget,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of one transaction.")] = 1000,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that the codec refuses, and list them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compress a pgvector column: fill a second column batch by batch, then exchange the names.

    You can interrupt the command and run it again at any time. It runs while the application reads and writes.
    """
    require("psycopg", extra="postgres")
    from vaecodec import Codec
    from vaecodec_integrations.postgres.column import CompressedColumn
    from vaecodec_integrations.postgres.migration import ColumnMigration, check_address, migrate_at
    from vaecodec_integrations.reranking import OriginalsColumn

    target.check(source)
    try:
        check_address(source.url)
    except UnsupportedRequestError as error:
        raise typer.BadParameter(f"--url: {error}") from None
    codec = Codec.load(source.codec, dim=source.dim)
    kept = OriginalsColumn(target.originals) if target.originals else None
    if target.originals and target.originals_bytes is not None:
        owner = codec if target.originals_codec is None else Codec.load(target.originals_codec)
        kept = OriginalsColumn(target.originals, owner, target.originals_bytes)
    try:
        column = CompressedColumn(codec, source.table, target.into, storage=str(target.storage), originals=kept)
    except (CodecMismatchError, InvalidBudgetError, NotCalibratedError) as error:
        raise typer.BadParameter(f"--originals-bytes: {error}") from error
    migration = ColumnMigration(column, source.column, source.key)
    with shown(f"{source.table}.{target.into}") as progress:
        result = migrate_at(
            source.url,
            migration,
            switch_names=target.switch,
            batch_rows=batch_size,
            skip_bad_rows=skip_bad_rows,
            advance=progress,
        )
    recall = None if result.recall is None else result.recall._asdict()
    if as_json:
        print_json({**asdict(result), "recall": recall, "switched": target.switch})
        return
    console = Terminal()
    console.print(f"{result.filled:,} rows filled, {result.left:,} left without a latent")
    if result.bad_keys:
        console.print(f"bad rows: {', '.join(map(str, result.bad_keys))}")
    if recall is not None:
        console.print(f"recall@10 among a sample of {result.sampled:,} rows: {interval(recall)}")
