"""Print what commands answer: text, tables, files, JSON, and figures with their intervals."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vaecodec.artifact import read_artifact
from vaecodec.evaluation import Interval
from vaecodec.text import one_line, visible

if TYPE_CHECKING:
    from vaecodec_training.data.collection import Collection


# Of a column: a space on both sides and its border.
_CELL_PADDING = 3


class Terminal(Console):
    """Show text as it is: brackets are no markup, and control characters are visible.

    Args:
        stderr: write to standard error.
        quiet: write nothing.
    """

    def __init__(self, *, stderr: bool = False, quiet: bool = False) -> None:
        super().__init__(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render text of any origin; called by rich for every string, those in tables too."""
        return super().render_str(visible(text), **{**options, "markup": False, "emoji": False, "highlight": False})


def table(*columns: str, title: str = "", rows: Any = ()) -> Table:
    """Make a table, whose first column is text and whose others are figures; without a head if no column is named."""
    made = Table(title=title or None, title_justify="left", show_header=any(columns))
    for number, column in enumerate(columns):
        made.add_column(column, justify="right" if number and any(columns) else "left", overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def tables_for(
    width: int, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", bold: Sequence[int] = ()
) -> Iterator[Table]:
    """Make tables of a width: one, or several that repeat the row names where there are too many columns.

    Intervals stand below their means. Rows whose numbers are in ``bold`` are emphasised.
    """
    cells = [[_mean_above_interval(cell) for cell in row] for row in rows]
    lines = [
        [name, *(line for row in cells for line in row[number].split("\n"))] for number, name in enumerate(columns)
    ]
    widths = [max(map(len, column)) + _CELL_PADDING for column in lines]
    groups: list[list[int]] = [[]]
    taken = widths[0]
    for number in range(1, len(widths)):
        if groups[-1] and taken + widths[number] >= width:
            groups.append([])
            taken = widths[0]
        groups[-1].append(number)
        taken += widths[number]
    for group in groups:
        made = table(*(columns[number] for number in (0, *group)), title=title)
        title = ""
        for number, row in enumerate(cells):
            made.add_row(*(row[column] for column in (0, *group)), style="bold" if number in bold else None)
        yield made


def _mean_above_interval(cell: str) -> str:
    return cell.replace(" [", "\n[")


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Show warnings as lines on standard error, without the place in the code that found them."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        Terminal(stderr=True).print(f"{category.__name__}: {one_line(str(message))}", style="yellow")

    with warnings.catch_warnings():
        warnings.showwarning = cast(Any, show)
        yield


@contextmanager
def how_to_resume(console: Console, how: str) -> Iterator[None]:
    """Say how to go on when the run is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Interrupted; {how}.")
        raise


def print_json(document: Any) -> None:
    """Print the document of ``--json``, the only thing on standard output. NaN and infinity become null."""
    print(json.dumps(_finite(document), indent=2, allow_nan=False))


def print_collection(collection: Collection, console: Console) -> None:
    """Show what the check of a collection found."""
    for found in (collection.report, collection.query_report, collection.shift):
        if found is not None:
            console.print(str(found))


def describe(file: Path) -> dict[str, Any]:
    """Return what commands that write a codec file say of it under ``--json``."""
    data, metadata = read_artifact(file)
    known = metadata.to_json()
    shown = ("codec_id", "kind", "dim", "code_dim", "metric", "latent_metric", "nested_dims", "embedder")
    return {"file": str(file), "bytes": len(data), **{name: known[name] for name in shown}}


def print_written(file: Path, as_json: bool) -> None:
    """Show the codec file that a command has written."""
    codec = describe(file)
    if as_json:
        print_json(codec)
    else:
        sizes = f"{codec['dim']} -> {codec['code_dim']}, {codec['bytes'] / 1e6:.1f} MB"
        print_file(file, f"{codec['kind']}, {sizes}")


def print_file(file: Path, what: str, console: Console | None = None) -> None:
    """Show a file that a command has written, and what is in it."""
    (console or Terminal()).print(Text.assemble((visible(str(file)), "bold"), visible(f": {what}")))


def interval(figure: Mapping[str, float]) -> str:
    """Format a mean with its 95 % interval, as ``0.812 [0.800, 0.824]``."""
    return f"{Interval(**figure):.3f}"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
