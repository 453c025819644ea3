"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaecodec import __version__
from vaecodec.errors import AmbiguousColumnError
from vaecodec.interface import Metric
from vaecodec.sources import VectorSource, open_source
from vaecodec.sources.bad_rows import OnBadRows, list_path, without_bad_rows
from vaecodec.sources.open import locate

if TYPE_CHECKING:
    from vaecodec_training.data.collection import Collection

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and everything else to standard error.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log details to standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

Documents = Annotated[
    str,
    typer.Argument(help="Embeddings of the documents: a file with one vector a row, or an address. FILE#COLUMN works."),
]
Queries = Annotated[str | None, typer.Option(help="Embeddings of queries. A few thousand of them improve the codec.")]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Which query belongs to which document: a .npy of row numbers (query, document), with grades as a third "
        "column where some answer better; a Parquet file with the columns query, document and perhaps grade; or "
        "'aligned' where query i belongs to document i."
    ),
]
Column = Annotated[
    str | None, typer.Option(help="Column, dataset, array or vector name of the documents, where there are several.")
]
QueryColumn = Annotated[str | None, typer.Option(help="Vector column of the queries file.")]
CodecFile = Annotated[Path, typer.Option("--codec", help="Codec file, e.g. vae128.onnx.")]
Dim = Annotated[int | None, typer.Option(help="Width of the latents, where the codec file has several.")]
RecipeFile = Annotated[Path | None, typer.Option(help="TOML file of settings. docs/training.md lists them.")]
Target = Annotated[
    str, typer.Option(help="Train for codes: bytes per vector such as 48 or 32,48,64; or int8, int4, int2, binary.")
]
MetricOption = Annotated[Metric, typer.Option(help="How the embeddings are compared.")]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace another codec's file. Indexes and codes made by that codec are lost."),
]
Embedder = Annotated[str, typer.Option(help="Name of the embedding model. It is kept in the file.")]
OnBadRowsChoice = Annotated[
    OnBadRows,
    typer.Option(
        "--on-bad-rows",
        help="What to do with rows that hold NaN, have no direction or no vector: stop at the first, skip and list "
        "them, or list them all and stop.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vaecodec {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Compress embedding vectors: train a codec, export it, encode, index, and measure what it costs."""


def widths(text: str) -> tuple[int, ...]:
    """Read numbers such as 32,64."""
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError:
        raise typer.BadParameter(f"expected widths such as 32,64, got {text!r}") from None


def duration(text: str) -> float:
    """Read a duration such as 90s, 10m or 1.5h, in seconds."""
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    try:
        value = float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"expected a duration such as 90s, 10m or 1.5h, got {text!r}")
    return value


def with_column(location: str, column: str | None) -> str:
    """Return a location with its column, ``docs.parquet#title``. A column that it names already stays."""
    return location if column is None or locate(location)[1] else f"{location}#{column}"


def open_documents(location: str, column: str | None, *, bad_rows: bool = False) -> VectorSource:
    """Open documents; where the location holds several columns, the error names the option that chooses one."""
    try:
        return open_source(location, column=column, bad_rows=bad_rows)
    except AmbiguousColumnError as error:
        raise AmbiguousColumnError(f"{error}, with --column or {location}#COLUMN") from None


def open_queries(location: str, column: str | None, *, bad_rows: bool = False) -> VectorSource:
    """Open queries as :func:`open_documents` opens documents."""
    try:
        return open_source(location, column=column, queries=True, bad_rows=bad_rows)
    except AmbiguousColumnError as error:
        raise AmbiguousColumnError(f"{error}, with --query-column or {location}#COLUMN") from None


def open_collection(
    documents: VectorSource,
    queries: VectorSource | None,
    pairs: str | None,
    metric: Metric,
    embedder: str,
    *,
    on_bad_rows: OnBadRows,
    out: Path,
    confirmation: float = 0.0,
) -> Collection:
    """Open a collection of documents and queries; bad rows are listed beside the output."""
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.data.pairs import read_pairs

    known = read_pairs(pairs) if pairs else None
    sources = [documents] if queries is None else [documents, queries]
    documents, *asked = without_bad_rows(sources, metric, on_bad_rows, list_path(out))
    return Collection.open(
        documents,
        asked[0] if asked else None,
        pairs=known,
        metric=metric,
        embedder=embedder,
        confirmation=confirmation,
    )
