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
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_type_hints

import typer
from typer.models import OptionInfo

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
    return _open(location, column, "--column", queries=False, bad_rows=bad_rows)


def open_queries(location: str, column: str | None, *, bad_rows: bool = False) -> VectorSource:
    """Open queries as :func:`open_documents` opens documents."""
    return _open(location, column, "--query-column", queries=True, bad_rows=bad_rows)


def _open(location: str, column: str | None, option: str, *, queries: bool, bad_rows: bool) -> VectorSource:
    try:
        return open_source(location, column=column, queries=queries, bad_rows=bad_rows)
    except AmbiguousColumnError as error:
        raise AmbiguousColumnError(f"{error}, with {option} or {location}#COLUMN") from None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Say which columns hold the vectors of documents and of queries."""

    column: Column = None
    query_column: Annotated[str | None, typer.Option(help="Vector column of the queries file.")] = None

    def open(
        self, documents: str, queries: str | None, *, bad_rows: bool = False
    ) -> tuple[VectorSource, VectorSource | None]:
        """Open documents and, where there are some, queries; ``bad_rows`` lets rows without a vector through."""
        opened = open_documents(documents, self.column, bad_rows=bad_rows)
        if queries is None:
            return opened, None
        return opened, open_queries(queries, self.query_column, bad_rows=bad_rows)


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

    def open(self) -> tuple[VectorSource, VectorSource | None]:
        """Open documents and queries."""
        lenient = self.on_bad_rows is not OnBadRows.FAIL
        return self.data.columns.open(self.data.data, self.data.queries, bad_rows=lenient)

    def collection(
        self, documents: VectorSource, queries: VectorSource | None, out: Path, *, confirmation: float = 0.0
    ) -> Collection:
        """Open a collection of these sources; bad rows are listed beside the output."""
        from vaecodec_training.data.collection import Collection
        from vaecodec_training.data.pair_files import read_pairs

        known = read_pairs(self.data.pairs, documents, queries) if self.data.pairs else None
        sources = [documents] if queries is None else [documents, queries]
        documents, *asked = without_bad_rows(sources, self.data.metric, self.on_bad_rows, list_path(out))
        return Collection.open(
            documents,
            asked[0] if asked else None,
            pairs=known,
            metric=self.data.metric,
            embedder=self.data.embedder,
            confirmation=confirmation,
        )


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
    run.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)  # typer would keep line ends
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
