"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vaecodec.errors import AmbiguousColumnError
from vaecodec.interface import Metric

if TYPE_CHECKING:
    from vaecodec.sources import VectorSource
    from vaecodec_training.data.collection import Collection

Documents = Annotated[
    str, typer.Argument(help="Embeddings of the documents: a file with one vector a row, or an address.")
]
Queries = Annotated[str | None, typer.Option(help="Embeddings of queries. A few thousand of them improve the codec.")]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Which query belongs to which document: an integer .npy (p, 2) of row numbers (query, document), or "
        "'aligned' where query i belongs to document i."
    ),
]
Column = Annotated[
    str | None, typer.Option(help="Column, dataset, array or vector name of the documents, where there are several.")
]
QueryColumn = Annotated[str | None, typer.Option(help="Vector column of the queries file, where there are several.")]
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


def open_collection(
    documents: VectorSource,
    queries: tuple[str | None, str | None],
    pairs: str | None,
    metric: Metric,
    embedder: str,
    confirmation: float = 0.0,
) -> Collection:
    """Open a collection of documents and, at a location with the name of its column or None, of queries."""
    from vaecodec_training.data.collection import Collection
    from vaecodec_training.data.pairs import read_pairs

    location, column = queries
    return Collection.open(
        documents,
        open_column(location, column, "--query-column") if location else None,
        pairs=read_pairs(pairs) if pairs else None,
        metric=metric,
        embedder=embedder,
        confirmation=confirmation,
    )


def open_column(location: str, column: str | None, option: str = "--column") -> VectorSource:
    """Open a source; where it holds several columns, the error names the option that chooses one."""
    from vaecodec.sources import open_source

    try:
        return open_source(location, column=column)
    except AmbiguousColumnError as error:
        raise AmbiguousColumnError(f"{error}, with {option}") from None
