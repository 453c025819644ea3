"""``vaecodec migrate-pg``."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_json
from vaecodec_cli.options import AsJson
from vaecodec_cli.progress import shown


class ColumnType(StrEnum):
    """The type of the compressed column."""

    VECTOR = "vector"
    HALFVEC = "halfvec"
    BIT = "bit"


def migrate_pg(
    url: Annotated[str, typer.Option(envvar="PG_URL", help="Address of the database: postgresql://USER@HOST/NAME.")],
    table: Annotated[str, typer.Option(help="The table, with its schema where needed.")],
    column: Annotated[str, typer.Option(help="The column of uncompressed vectors. It is never dropped.")],
    codec: Annotated[Path, typer.Option(help="A codec file, e.g. vae128.onnx.")],
    into: Annotated[str, typer.Option(help="Name of the compressed column. It is added where it is missing.")],
    key: Annotated[str, typer.Option(help="A unique column, usually the primary key.")] = "id",
    storage: Annotated[ColumnType, typer.Option(help="Type of the compressed column.")] = ColumnType.VECTOR,
    originals: Annotated[
        str | None, typer.Option(help="Name of a bytea column for float16 originals, to re-rank with.")
    ] = None,
    dim: Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of one transaction.")] = 1000,
    skip_bad_rows: Annotated[
        bool, typer.Option("--skip-bad-rows", help="Leave out rows that the codec refuses, and list them.")
    ] = False,
    switch: Annotated[
        bool, typer.Option("--switch", help="At the end give the compressed column the name of the uncompressed one.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compress a pgvector column: fill a second column batch by batch, then exchange the names.

    The command can be interrupted and run again at any time, and runs while the application reads and writes.
    """
    require("psycopg", extra="postgres")
    from vaecodec import Codec
    from vaecodec_integrations.postgres.column import CompressedColumn
    from vaecodec_integrations.postgres.migration import ColumnMigration, migrate_at
    from vaecodec_integrations.reranking import OriginalsColumn

    kept = OriginalsColumn(originals) if originals else None
    target = CompressedColumn(Codec.load(codec, dim=dim), table, into, storage=str(storage), originals=kept)
    migration = ColumnMigration(target, column, key)
    with shown(f"{table}.{into}") as progress:
        result = migrate_at(
            url,
            migration,
            switch_names=switch,
            batch_rows=batch_size,
            skip_bad_rows=skip_bad_rows,
            advance=progress,
        )
    recall = None if result.recall is None else result.recall._asdict()
    if as_json:
        print_json({**asdict(result), "recall": recall, "switched": switch})
        return
    console = Terminal()
    console.print(f"{result.filled:,} rows filled, {result.left:,} left without a latent")
    if result.bad_keys:
        console.print(f"bad rows: {', '.join(map(str, result.bad_keys))}")
    if recall is not None:
        console.print(f"recall@10 among a sample of the rows: {interval(recall)}")
