"""Define the command ``vaecodec info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vaecodec.card import card as make_card
from vaecodec.card import describe
from vaecodec.evaluation import KEPT_MEANS
from vaecodec.fused import FusedModel
from vaecodec.text import visible
from vaecodec_cli.console import Terminal, print_json, table, tables_for
from vaecodec_cli.options import AsJson


def info(
    file: Annotated[Path, typer.Argument(help="Codec file, e.g. vae128.onnx, or one that 'vaecodec fuse' wrote.")],
    card: Annotated[bool, typer.Option("--card", help="Print a Markdown card for a model page instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a codec file says about itself: widths, metric, identity, origin, and what was measured."""
    if as_json:
        print_json(FusedModel.read_any(file).to_json())
    elif card:
        print(visible(make_card(file)), end="")
    else:
        found = describe(file)
        console = Terminal()
        console.print(table("", "", title=str(file), rows=found.facts.items()))
        if found.figures:
            rows = [(name, *figures) for name, figures in found.figures.items()]
            title = "Measured on held-out rows (mean, 95 % interval)"
            for part in tables_for(console.width, ["codec", *found.metrics], rows, title=title):
                console.print(part)
            if "kept@100" in found.metrics:
                console.print(KEPT_MEANS)
