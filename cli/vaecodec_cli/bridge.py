"""``vaecodec bridge``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from vaecodec.extras import require
from vaecodec_cli.console import Terminal, interval, print_file, print_json, table
from vaecodec_cli.options import AsJson, Column, Embedder, Overwrite, Pairs, open_documents, open_queries, with_column

if TYPE_CHECKING:
    from vaecodec_exporters.bridge import ExportedBridge

_MODELS = "Two embedding models"
# What each figure of a bridge is of: what is searched, and with what.
_SEARCHES = {
    "re-encoded": ("encoded by the new codec", "new codec"),
    "bridged": ("encoded by the old codec", "new codec and bridge"),
    "carried over": ("encoded by the old codec, carried over the bridge", "new codec"),
    "decoded, re-encoded": ("encoded and decoded by the old codec, encoded by the new one", "new codec"),
    "old": ("encoded by the old codec", "old codec"),
}


def bridge(
    sample: Annotated[
        str, typer.Option(help="Embeddings such as the collection's: a file with one vector a row, or an address.")
    ],
    out: Annotated[Path, typer.Option(help="Bridge file to write, e.g. bridge.onnx.")],
    old: Annotated[Path | None, typer.Argument(help="Codec file that filled the collection.")] = None,
    new: Annotated[Path | None, typer.Argument(help="Codec file to use from now on.")] = None,
    new_sample: Annotated[
        str | None,
        typer.Option(help="The same texts, in the same order, embedded by the new model, where the model is another."),
    ] = None,
    queries: Annotated[
        str | None, typer.Option(help="Without codecs: queries embedded by the old model.", rich_help_panel=_MODELS)
    ] = None,
    new_queries: Annotated[
        str | None, typer.Option(help="The same queries embedded by the new model.", rich_help_panel=_MODELS)
    ] = None,
    pairs: Pairs = None,
    least: Annotated[
        float,
        typer.Option(min=0, help="Share of the new model's nDCG@10 that has to be left.", rich_help_panel=_MODELS),
    ] = 0.6,
    embedder: Embedder = "",
    column: Column = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a bridge to a collection that an old codec or an old embedding model filled, and say what it costs.

    With two codecs the bridge leads from the latents of the new one to those of the old one. Without codecs it leads
    from a new embedding model to an old one that cannot be run any more; then --new-sample is needed.
    """
    require("onnx", extra="export")
    if old is None or new is None:
        if old is not None or new_sample is None or (queries is None) != (new_queries is None):
            raise typer.BadParameter(
                "expected OLD and NEW, two codec files; or, for two models, --new-sample, and --queries with "
                "--new-queries or neither"
            )
        require("torch", extra="train")
        from vaecodec_exporters.model_bridge import bridge_models, embedded_by_both
        from vaecodec_training.data.pairs import read_pairs

        asked = None
        if queries is not None and new_queries is not None:
            asked = embedded_by_both(open_queries(queries, None), open_queries(new_queries, None))
        found = bridge_models(
            out,
            embedded_by_both(*(open_documents(with_column(text, column), None) for text in (sample, new_sample))),
            asked,
            None if pairs is None else read_pairs(pairs),
            least=least,
            embedder=embedder,
            overwrite=overwrite,
        )
        if as_json:
            print_json(found.to_json())
            return
        title = f"share of the new model's nDCG@10 that is kept, {found.queries:,} held-out queries, [95 % interval]"
        rows = [(str(kind), f"{kept:.3f}") for kind, kept in found.kept.items()]
        Terminal().print(table("map", "kept", title=title, rows=rows))
        print_file(out, f"the map {found.chosen}, {out.stat().st_size:,} bytes")
        return
    from vaecodec.codec import Codec
    from vaecodec_exporters.bridge import fit_and_export_bridge

    exported = fit_and_export_bridge(
        Codec.load(old),
        Codec.load(new),
        out,
        open_documents(sample, column),
        None if new_sample is None else open_documents(with_column(new_sample, column), None),
        overwrite=overwrite,
    )
    if as_json:
        print_json(exported.summaries)
        return
    Terminal().print(_recalls(exported))
    widths = f"latents {exported.bridge.dim} -> {exported.bridge.code_dim} and back"
    print_file(out, f"{widths}, {out.stat().st_size:,} bytes")


def _recalls(exported: ExportedBridge) -> Table:
    title = f"recall@10 of {exported.queries:,} held-out queries, mean [95 % interval]"
    rows = [
        (documents, queries, interval(exported.summaries[name]["recall@10"]))
        for name, (documents, queries) in _SEARCHES.items()
        if name in exported.summaries
    ]
    return table("documents", "queries", "recall@10", title=title, rows=rows)
