"""``vaecodec drift``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vaecodec.codec import Codec
from vaecodec.drift import FEWEST_VECTORS
from vaecodec.errors import InvalidVectorsError, NoReferenceError
from vaecodec.sources import open_source
from vaecodec.vectors import blocks
from vaecodec_cli.info import AsJson, print_json

DRIFT, NOT_COMPARED = 3, 4


def drift(
    codec: Annotated[Path, typer.Option("--codec", help="A codec file, e.g. vae128.onnx.")],
    data: Annotated[str, typer.Option(help="New documents: a file of vectors, one row each, or an address.")],
    queries: Annotated[str | None, typer.Option(help="New queries.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell whether vectors are still such as the codec was trained for.

    Exit code 0: all that was given is. 3: something has drifted, train again. 4: documents or queries could not be
    compared, as the codec file holds no statistics of them or they are fewer than 100; what was compared has not
    drifted. 1: something is wrong with a file. 2: wrong usage.
    """
    try:
        monitor = Codec.load(codec).monitor()
    except NoReferenceError as error:
        print(f"error: {codec}: {error}", file=sys.stderr)
        raise typer.Exit(NOT_COMPARED) from None
    for location, encode in ((data, monitor.encode), (queries, monitor.encode_queries)):
        seen = 0
        for chunk in open_source(location).blocks() if location else ():
            for _, block in blocks(chunk, monitor.dim, monitor.metric, name=str(location), first_row=seen):
                encode(block)
            seen += len(chunk)
        if location and not seen:
            raise InvalidVectorsError(f"{location}: expected at least {FEWEST_VECTORS} vectors, got none")
    report = monitor.check()
    if as_json:
        print_json(report.to_json())
    else:
        print(report)
    if report.drifted:
        raise typer.Exit(DRIFT)
    if report.not_compared:
        raise typer.Exit(NOT_COMPARED)
