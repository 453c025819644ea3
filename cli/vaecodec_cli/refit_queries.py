"""Define the command ``vaecodec refit-queries``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import typer

from vaecodec.codes import CodeType
from vaecodec.sources.bad_rows import OnBadRows
from vaecodec_cli.console import Terminal, print_json, print_written, table
from vaecodec_cli.options import AsJson, CodecOutput, Columns, OnBadRowsChoice, Pairs
from vaecodec_cli.progress import steps_shown
from vaecodec_cli.train import require_training


@dataclass(frozen=True, kw_only=True)
class RefitData:
    """Name documents such as those in the index, and queries."""

    panel: ClassVar[str] = "Data"

    docs: Annotated[str, typer.Option(help="Embeddings of documents like those in the index: a file or an address.")]
    queries: Annotated[str, typer.Option(help="Embeddings of queries, a few thousand at least.")]
    pairs: Pairs = None
    columns: Columns
    on_bad_rows: OnBadRowsChoice = OnBadRows.FAIL


@dataclass(frozen=True, kw_only=True)
class StoredAs:
    """Say what documents are kept as in the index."""

    panel: ClassVar[str] = "Stored as"

    budget: Annotated[
        int | None, typer.Option("--bytes", help="Bytes per vector of the index. Default: float32 latents.")
    ] = None
    dtype: Annotated[CodeType | None, typer.Option(help="Or its uniform code.")] = None


def refit_queries(
    codec: Annotated[Path, typer.Argument(help="Codec file that filled the index.")],
    given: RefitData,
    output: CodecOutput,
    stored: StoredAs,
    as_json: AsJson = False,
) -> None:
    """Fit the queries' side of a codec anew, so that searches find more in an index that stays as it is.

    Documents are encoded as before, and existing indexes and codes open with the new file. Nothing is written unless
    held-out queries find significantly more.
    """
    require_training(export=True)
    from vaecodec_exporters.query_refit import refit_queries_of_files
    from vaecodec_training.data.files import TrainingFiles

    with steps_shown("fitting the queries' side") as step:
        found = refit_queries_of_files(
            codec,
            TrainingFiles(
                documents=given.columns.documents(given.docs),
                queries=given.columns.queries(given.queries),
                pairs=given.pairs,
                on_bad_rows=given.on_bad_rows,
            ),
            output.out,
            dtype=stored.dtype,
            bytes=stored.budget,
            overwrite=output.overwrite,
            on_step=lambda done, of: step(f"fitting the queries' side: step {done} of {of}"),
        )
    if as_json:
        print_json({"file": str(output.out), **found.to_json()})
        return
    title = f"{found.queries:,} held-out queries through {found.through}, mean [95 % interval]"
    rows = []
    for each in found.gate.comparisons:
        means = [found.before[each.figure], found.after[each.figure], each.difference]
        rows.append((each.figure, *(f"{mean:.3f}" for mean in means)))
    Terminal().print(table("figure", "before", "after", "difference", title=title, rows=rows))
    print_written(output.out, as_json)
