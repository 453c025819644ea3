"""``vaecodec migrate`` and ``vaecodec rollback``."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from traceback import walk_tb
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vaecodec.errors import InvalidBudgetError, MigrationError, NotCalibratedError
from vaecodec.extras import require
from vaecodec.interface import Metric
from vaecodec_cli.info import AsJson, print_json
from vaecodec_cli.progress import shown

if TYPE_CHECKING:
    from vaecodec import Codec
    from vaecodec_integrations.qdrant import PackedRows
    from vaecodec_integrations.qdrant.migrate import Estimate, Migration, Outcome


class Keep(StrEnum):
    """Where uncompressed vectors are kept."""

    DISK = "disk"
    FILE = "file"
    NONE = "none"


Url = Annotated[str | None, typer.Option(help="Qdrant's address; the key is taken from QDRANT_API_KEY.")]
LocalPath = Annotated[Path | None, typer.Option("--path", help="A folder of Qdrant's local mode, instead of --url.")]
Collection = Annotated[str, typer.Option(help="The collection to compress; it is never deleted.")]
Into = Annotated[str | None, typer.Option(help="Name of the compressed collection.")]
Named = Annotated[
    str | None,
    typer.Option(help="Instead of --into: add the latents to the collection as this vector (Qdrant 1.18 or later)."),
]


def migrate(
    collection: Collection,
    codec: Annotated[Path, typer.Option(help="The codec file; with --train it is written.")],
    url: Url = None,
    path: LocalPath = None,
    into: Into = None,
    named: Named = None,
    vector: Annotated[str, typer.Option(help="Which vector to compress; by default the unnamed one.")] = "",
    keep_originals: Annotated[
        Keep, typer.Option(help="Where to keep uncompressed vectors to re-rank with.")
    ] = Keep.NONE,
    originals_path: Annotated[Path | None, typer.Option("--originals", help="File for --keep-originals file.")] = None,
    originals_codec: Annotated[
        Path | None, typer.Option(help="For --keep-originals file: store codes of this codec instead of float16.")
    ] = None,
    originals_bytes: Annotated[int | None, typer.Option(help="Bytes of such a code.")] = None,
    switch_alias: Annotated[
        str | None, typer.Option(help="Point this alias at the compressed collection once both sides agree.")
    ] = None,
    train: Annotated[bool, typer.Option("--train", help="Train the codec on the collection first.")] = False,
    queries: Annotated[Path | None, typer.Option(help="For --train: embeddings of real queries.")] = None,
    recipe: Annotated[Path | None, typer.Option(help="For --train: TOML file of settings.")] = None,
    dim: Annotated[
        int | None, typer.Option(help="Width of the latents: one that the file holds or, with --train, to be trained.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and estimate the size.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Points per request.")] = 1000,
    state: Annotated[Path | None, typer.Option(help="State file; remembers how far the copy came.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compress an existing Qdrant collection: copy, catch up, compare searches, switch an alias.

    May be interrupted and run again at any time. Runs while the application writes to the source: run it again until
    it repairs nothing, then pause writes for the last run.
    """
    require("qdrant_client", extra="qdrant")
    from vaecodec import Codec
    from vaecodec_integrations.qdrant import migrate as work
    from vaecodec_integrations.qdrant.layout import Originals

    console = Console(stderr=as_json)
    if (into is None) == (named is None):
        raise typer.BadParameter("give one of --into and --named")
    if (keep_originals is Keep.FILE) != (originals_path is not None):
        raise typer.BadParameter("--keep-originals file and --originals PATH need each other")
    if (originals_codec is None) != (originals_bytes is None):
        raise typer.BadParameter("--originals-codec and --originals-bytes need each other")
    if originals_codec is not None and keep_originals is not Keep.FILE:
        raise typer.BadParameter("--originals-codec needs --keep-originals file")
    if not train and (queries is not None or recipe is not None):
        raise typer.BadParameter(f"--queries and --recipe need --train; without it {codec} is used as it is")
    if dry_run and train and not codec.exists():
        raise typer.BadParameter(f"--dry-run writes nothing, and there is no {codec} yet; train it by vaecodec train")
    with _opened(url, path) as client:
        if switch_alias is not None:
            work.check_alias(client, collection, into, switch_alias)
        if train and codec.exists():
            console.print(f"{codec} exists: used, not trained again", soft_wrap=True)
        elif train:
            with redirect_stdout(sys.stderr) if as_json else nullcontext():
                _train(work.training_rows, client, collection, vector, codec, queries, recipe, dim)
        loaded = Codec.load(codec, dim=dim)
        migration = work.Migration(
            client,
            collection,
            loaded,
            state or Path(f"vaecodec-migrate-{collection}-{into or named}.json"),
            into=into,
            named=named,
            vector=vector,
            originals=Originals(keep_originals),
            originals_path=originals_path,
            originals_encoding=_packed(loaded, originals_codec, originals_bytes),
            batch_size=batch_size,
        )
        estimate = work.estimate(migration)
        console.print(_estimated(migration, estimate))
        document = {"collection": collection, "target": migration.target, "estimate": asdict(estimate)}
        if dry_run:
            if as_json:
                print_json(document)
            return
        with closing(migration), shown(f"{collection} -> {into or named}, copied and compared", "points") as progress:
            done = 0

            def advance(points: int) -> None:
                nonlocal done
                done += points
                progress(done, 2 * estimate.points)  # each point is copied and then compared

            outcome = work.migrate(migration, advance=advance)
        console.print(_result(outcome))
        if switch_alias is not None:
            if not outcome.settled:
                raise MigrationError(
                    f"expected both sides to agree before the alias {switch_alias!r} is switched, got "
                    f"{outcome.repaired} points repaired, {outcome.removed} removed, {outcome.source_points} against "
                    f"{outcome.target_points} points; pause writes and run the same command again"
                )
            work.switch_alias(migration, switch_alias)
            console.print(f"The alias {switch_alias!r} now points at {into!r}.")
        elif not outcome.settled:
            console.print("Some points were repaired: writes went on. Run the same command again.")
        elif named is not None:
            console.print(_still_to_do(collection, vector, named), soft_wrap=True, highlight=False, markup=False)
        if as_json:
            result = {**asdict(outcome), "settled": outcome.settled}
            print_json({**document, "outcome": result, "switched_alias": switch_alias})


def rollback(
    collection: Collection,
    url: Url = None,
    path: LocalPath = None,
    into: Into = None,
    named: Named = None,
    as_json: AsJson = False,
) -> None:
    """Undo a migration: the alias points at the source again, or the added vector is removed."""
    require("qdrant_client", extra="qdrant")
    from vaecodec_integrations.qdrant.migrate import roll_back

    if (into is None) == (named is None):
        raise typer.BadParameter("give one of --into and --named")
    with _opened(url, path) as client:
        done = roll_back(client, collection, into=into, named=named)
        if as_json:
            print_json({"collection": collection, "done": done})
        else:
            Console().print(done)


def _packed(codec: Codec, path: Path | None, bytes: int | None) -> PackedRows | None:  # noqa: A002 - the option's word
    """How a file stores originals as codes of another codec, if it shall."""
    if path is None or bytes is None:
        return None
    require("numba", extra="packed")
    from vaecodec import Codec
    from vaecodec_integrations.qdrant import PackedRows

    wide = Codec.load(path)
    if (wide.dim, wide.metric) != (codec.dim, codec.metric):
        raise typer.BadParameter(
            f"--originals-codec: expected a codec for {codec.dim} dimensions compared by {codec.metric}, as "
            f"--codec is, got one for {wide.dim} compared by {wide.metric}"
        )
    try:
        wide.code(bytes=bytes)
    except (InvalidBudgetError, NotCalibratedError) as error:
        raise typer.BadParameter(f"--originals-codec, --originals-bytes: {error}") from error
    return PackedRows(wide, bytes=bytes)


def _train(
    training_rows: Callable[[Any, str, str, Path], Metric],
    client: Any,
    collection: str,
    vector: str,
    codec: Path,
    queries: Path | None,
    recipe: Path | None,
    dim: int | None,
) -> None:
    """Write the codec file by ``vaecodec train`` over the collection's vectors; the run stays beside the file."""
    from vaecodec_cli.train import train

    # Beside the codec, because the usual place of temporary files may be in memory.
    with tempfile.TemporaryDirectory(dir=codec.absolute().parent) as folder:
        rows = Path(folder) / "rows.npy"
        metric = training_rows(client, collection, vector, rows)
        train(
            str(rows),
            codec.with_suffix(".run"),
            queries=None if queries is None else str(queries),
            recipe=recipe,
            dim=dim,
            metric=metric,
            export=codec,
        )


@contextmanager
def _opened(url: str | None, path: Path | None) -> Iterator[Any]:
    """A client of the server or folder; what these refuse ends the command with one line."""
    from qdrant_client import QdrantClient
    from qdrant_client.http.exceptions import ApiException

    if (url is None) == (path is None):
        raise typer.BadParameter("give one of --url and --path")
    if path is not None and not path.is_dir():  # the client would make it
        raise typer.BadParameter(f"--path: there is no folder {path}")
    address = {"path": str(path)} if url is None else {"url": url, "api_key": os.environ.get("QDRANT_API_KEY")}
    try:
        opened = QdrantClient(**address)
    except RuntimeError as error:  # another process has the folder open
        raise MigrationError(f"{path}: {error}") from error
    with closing(opened) as client:
        try:
            yield client
        except ApiException as error:
            raise MigrationError(f"{url}: the server does not answer, or refuses: {error}") from error
        except ValueError as error:  # how the local mode says that there is no such collection
            *_, (raised, _) = walk_tb(error.__traceback__)
            if not str(raised.f_globals.get("__name__")).startswith("qdrant_client."):
                raise
            raise MigrationError(f"{path or url}: {error}") from error


def _estimated(migration: Migration, estimate: Estimate) -> Table:
    table = Table(title=f"{migration.collection} -> {migration.target}", show_header=False, title_justify="left")
    table.add_row("points", f"{estimate.points:,}")
    table.add_row("vectors now", f"{estimate.source_bytes:,} bytes")
    table.add_row("compressed" if migration.named is None else "latents added", f"{estimate.target_bytes:,} bytes")
    table.add_row("originals added", f"{estimate.originals_bytes:,} bytes")
    return table


def _still_to_do(collection: str, vector: str, named: str) -> str:
    """How the memory is saved that the uncompressed vector goes on to take beside the latents."""
    diff = (
        "models.VectorParamsDiff(on_disk=True, hnsw_config=models.HnswConfigDiff(m=0), "
        "quantization_config=models.Disabled.DISABLED)"
    )
    return (
        f"{collection!r} holds both vectors now, and takes more memory than before. Once all searches say "
        f"using={named!r}, put the uncompressed vector on disk, without graph and quantisation:\n"
        f"client.update_collection({collection!r}, vectors_config={{{vector!r}: {diff}}})"
    )


def _result(outcome: Outcome) -> Table:
    table = Table(show_header=False)
    table.add_row("copied", f"{outcome.copied:,} points")
    table.add_row("repaired", f"{outcome.repaired:,} points")
    table.add_row("removed", f"{outcome.removed:,} points")
    table.add_row("source, target", f"{outcome.source_points:,}, {outcome.target_points:,} points")
    table.add_row("recall@10 before", f"{_share(outcome.recall_before)} ({outcome.queries} of its own vectors)")
    if outcome.recall_latents is not None:
        table.add_row("of the latents, exactly", _share(outcome.recall_latents))
    table.add_row("recall@10 after", _share(outcome.recall_after))
    return table


def _share(recall: float | None) -> str:
    return "-" if recall is None else f"{recall:.3f}"
