"""What several commands print: warnings as lines, codec files, figures with their intervals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rich.console import Console

from vaecodec.evaluation import Interval
from vaecodec_cli.info import describe, print_json

if TYPE_CHECKING:
    from vaecodec_training.data.collection import Collection


@contextmanager
def warnings_on(console: Console) -> Iterator[None]:
    """Show warnings as lines of text, without the place in the code that found them."""

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        console.print(f"[yellow]{category.__name__}[/]: {message}", highlight=False)

    with warnings.catch_warnings():
        warnings.showwarning = cast(Any, show)
        yield


@contextmanager
def how_to_resume(console: Console, how: str) -> Iterator[None]:
    """Say how to go on when the run is interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(f"Interrupted; {how}.", markup=False, highlight=False)
        raise


def print_collection(collection: Collection, console: Console) -> None:
    """Show what the check of a collection found."""
    for found in (collection.report, collection.query_report, collection.shift):
        if found is not None:
            console.print(str(found), highlight=False)


def print_written(file: Path, as_json: bool) -> None:
    """Show the codec file that a command has written."""
    codec = describe(file)
    if as_json:
        print_json(codec)
    else:
        sizes = f"{codec['dim']} -> {codec['code_dim']}, {codec['bytes'] / 1e6:.1f} MB"
        Console().print(f"[bold]{file}[/]: {codec['kind']}, {sizes}")


def interval(figure: Mapping[str, float]) -> str:
    """Format a mean with its 95 % interval, as ``0.812 [0.800, 0.824]``."""
    return f"{Interval(**figure):.3f}"
