"""Define the command ``vaecodec fuse``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from vaecodec.extras import require
from vaecodec.fused import Pooling
from vaecodec_cli.console import print_file, print_json
from vaecodec_cli.options import AsJson, Overwrite
from vaecodec_cli.progress import working


@dataclass(frozen=True, kw_only=True)
class JoinOptions:
    """Say how the embedding model's output becomes the codec's input."""

    pooling: Annotated[
        Pooling | None,
        typer.Option(help="How to combine a text's token vectors into one. Needed if the model's files do not say."),
    ] = None
    output: Annotated[
        str | None, typer.Option(help="Model output that holds the embeddings. Needed if several could.")
    ] = None
    normalise: Annotated[
        bool | None,
        typer.Option(help="Normalise embeddings before the codec. Codecs of metric cosine always do that themselves."),
    ] = None
    queries: Annotated[
        bool,
        typer.Option(
            "--queries", help="Use the codec's query encoder, which differs from that of documents in some codecs."
        ),
    ] = False


def fuse(
    embedder: Annotated[Path, typer.Argument(help="Embedding model in ONNX, e.g. model.onnx.")],
    codec: Annotated[Path, typer.Argument(help="Codec file, trained on that model's embeddings.")],
    out: Annotated[Path, typer.Option(help="File to write, e.g. model128.onnx.")],
    join: JoinOptions,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Join an embedding model with a codec in one ONNX file: tokens in, latents out."""
    require("onnx", extra="export")
    from vaecodec_exporters.fuse import fuse as write_fused

    with working("joining and checking"):
        fused = write_fused(embedder, codec, out, **vars(join), overwrite=overwrite)
    if as_json:
        print_json({"file": str(out), "bytes": out.stat().st_size, **fused.to_json()})
        return
    made = f"{fused.output}, pooling {fused.pooling}, {fused.codec.dim} -> {fused.codec.code_dim}"
    print_file(out, f"{made}, {out.stat().st_size / 1e6:.1f} MB")
