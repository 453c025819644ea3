"""Define the command ``vaecodec drift``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from vaecodec.drift.monitor import check_files
from vaecodec.errors import NotCalibratedError
from vaecodec.text import one_line
from vaecodec_cli.console import Terminal, print_json
from vaecodec_cli.options import AsJson, CodecFile, Columns
from vaecodec_cli.progress import working

DRIFT, NOT_COMPARED = 3, 4


def drift(
    codec: CodecFile,
    data: Annotated[str, typer.Option(help="New documents: a file with one vector per row, or an address.")],
    columns: Columns,
    queries: Annotated[
        str | None, typer.Option(help="New queries: a file with one vector per row, or an address.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check whether new vectors still match the training data.

    Exit code 0: they match. 3: something has drifted: train again. 4: documents or queries could not be compared,
    because the codec file holds no statistics of them or they are fewer than 100; what was compared has not drifted.
    1: something is wrong with a file. 2: wrong usage.
    """
    try:
        with working("reading vectors"):
            report = check_files(codec, columns.documents(data), columns.queries(queries))
    except NotCalibratedError as error:
        print(f"error: {one_line(f'{codec}: {error}')}", file=sys.stderr)
        raise typer.Exit(NOT_COMPARED) from None
    if as_json:
        print_json(report.to_json())
    else:
        Terminal().print(str(report))
    if report.drifted:
        raise typer.Exit(DRIFT)
    if report.not_compared:
        raise typer.Exit(NOT_COMPARED)
