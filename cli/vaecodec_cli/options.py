"""Define the options that several commands share, alone and in sets, and read their texts.

An option set is a frozen dataclass whose fields are options or further sets. A command takes it as one parameter, and
:func:`flat` turns it into the single options that typer reads. Options of a set with a ``panel`` are shown under that
heading in ``--help``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import typer
from typer.models import OptionInfo

from vaecodec import __version__
from vaecodec.interface import Metric
from vaecodec.sources.bad_rows import OnBadRows
from vaecodec.sources.open import check_location, locate

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and everything else to standard error.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log details to standard error.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]

Documents = Annotated[
    str,
    typer.Argument(
        help="Embeddings of the documents: a file with one vector per row, or an address. FILE#COLUMN works."
    ),
]
Pairs = Annotated[
    str | None,
    typer.Option(
        help="Which document answers which query: 'aligned' where query i belongs to document i; a .npy of row numbers "
        "(query, document), with grades as a third column where some answer better; or a table, Parquet, .csv, .tsv or "
        ".jsonl, with the columns query_id and document_id, or row numbers as query and document, and perhaps grade, "
        "weight or clicks."
    ),
]
Column = Annotated[
    str | None,
    typer.Option(help="Column, dataset, array or vector that holds the documents. Needed if there are several."),
]
CodecFile = Annotated[Path, typer.Option("--codec", help="Codec file, e.g. vae128.onnx.")]
Dim = Annotated[int | None, typer.Option(help="Latent width to use, if the codec file offers several.")]
RecipeFile = Annotated[Path | None, typer.Option(help="TOML file of settings. docs/training.md lists them.")]
Target = Annotated[
    str, typer.Option(help="Train for codes: bytes per vector such as 48 or 32,48,64; or int8, int4, int2, binary.")
]
Objective = Annotated[str, typer.Option(help="What to train for: neighbours, or relevance where pairs are known.")]
MetricOption = Annotated[Metric, typer.Option(help="How the embeddings are compared.")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace an existing codec file. Indexes and codes made with it can no longer be read."
    ),
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
        return tuple(int(width) for width in text.split(",")) if text.strip() else ()
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
    if column is not None and not column.strip():
        raise typer.BadParameter(f"expected the name of a column, got {column!r}")
    return location if column is None or locate(location)[1] else f"{location}#{column}"


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Say which columns hold the vectors of documents and of queries."""

    column: Column = None
    query_column: Annotated[str | None, typer.Option(help="Vector column of the queries file.")] = None

    def documents(self, location: str) -> str:
        """Return the location of documents with their column."""
        return with_column(location, self.column)

    def queries(self, location: str | None) -> str | None:
        """Return the location of queries with their column; None where there are none."""
        if location is None and self.query_column is not None:
            raise typer.BadParameter("--query-column needs --queries")
        return None if location is None else with_column(location, self.query_column)


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """Name the collection to train a codec on."""

    panel: ClassVar[str] = "Data"

    data: Documents
    queries: Annotated[
        str | None, typer.Option(help="Embeddings of queries. A few thousand of them improve the codec.")
    ] = None
    pairs: Pairs = None
    columns: Columns
    metric: MetricOption = Metric.COSINE
    embedder: Embedder = ""


@dataclass(frozen=True, kw_only=True)
class CheckedTrainingData:
    """Name a collection to train on, and say what to do with rows that cannot be used."""

    panel: ClassVar[str] = "Data"

    data: TrainingData
    on_bad_rows: OnBadRowsChoice = OnBadRows.FAIL

    def files(self) -> dict[str, Any]:
        """Return what :class:`~vaecodec_training.data.files.TrainingFiles` is made of.

        Call it before libraries are imported that take seconds: a wrong name is an error at once.
        """
        data = self.data
        if data.pairs is not None and data.queries is None:
            raise typer.BadParameter("--pairs needs --queries")
        documents, queries = data.columns.documents(data.data), data.columns.queries(data.queries)
        check_location(documents)
        if queries is not None:
            check_location(queries, queries=True)
        return {
            "documents": documents,
            "queries": queries,
            "pairs": data.pairs,
            "metric": data.metric,
            "embedder": data.embedder,
            "on_bad_rows": self.on_bad_rows,
        }


@dataclass(frozen=True, kw_only=True)
class SizeLimits:
    """Limit the bytes that the stored vectors may take."""

    budget: Annotated[int | None, typer.Option("--bytes", help="Largest number of bytes of a stored vector.")] = None
    ram: Annotated[str | None, typer.Option(help="Largest RAM for all vectors, index included, e.g. 8GB.")] = None
    vectors: Annotated[
        str | None, typer.Option(help="Number of vectors that there will be, e.g. 50M. Default: as many as DATA has.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class CodecOutput:
    """Name the codec file to write."""

    out: Annotated[Path, typer.Option(help="Codec file to write, e.g. vae128.onnx.")]
    overwrite: Overwrite = False


def flat(command: Callable[..., None]) -> Callable[..., None]:
    """Make a command of single options, as typer reads them, from one that takes option sets.

    Raises:
        ValueError: two options have the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    sets = {name: hint for name, hint in hints.items() if _is_set(hint)}
    parameters: list[inspect.Parameter] = []
    for name, one in inspect.signature(command).parameters.items():
        single = one.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += _parameters(sets[name]) if name in sets else [single]

    @functools.wraps(command)
    def run(**options: Any) -> None:
        inside = {one.name for kind in sets.values() for one in _parameters(kind)}
        alone = {name: value for name, value in options.items() if name not in inside}
        command(**alone, **{name: _filled(kind, options) for name, kind in sets.items()})

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # without line ends
    return run


def _is_set(hint: Any) -> bool:
    return isinstance(hint, type) and is_dataclass(hint)


def _parameters(kind: type[Any], panel: str = "") -> list[inspect.Parameter]:
    """Return every option of a set and of the sets within it, in their order."""
    hints = get_type_hints(kind, include_extras=True)
    panel = getattr(kind, "panel", panel)
    found: list[inspect.Parameter] = []
    for field in fields(kind):
        if _is_set(hints[field.name]):
            found += _parameters(hints[field.name], panel)
            continue
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        hint = _in_panel(hints[field.name], panel)
        found.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint))
    return found


def _in_panel(hint: Any, panel: str) -> Any:
    (option,) = hint.__metadata__
    if not panel or not isinstance(option, OptionInfo):
        return hint
    option = copy.copy(option)
    option.rich_help_panel = panel
    return Annotated[hint.__origin__, option]


def _filled(kind: type[Any], options: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(
        **{
            field.name: _filled(hints[field.name], options) if _is_set(hints[field.name]) else options[field.name]
            for field in fields(kind)
        }
    )
