"""``vaecodec --version``, ``info`` and ``doctor``, and what all commands share: ``--json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vaecodec import __version__
from vaecodec.artifact import Metadata, read_artifact
from vaecodec.evaluation import Interval
from vaecodec.fused import FusedModel

if TYPE_CHECKING:
    from vaecodec.doctor import Diagnosis, Extra

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document, and everything else to standard error.")]
TROUBLE = 3


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vaecodec {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Learned compression of embedding vectors: train, export, encode, index, and report what it cost."""


def info(
    file: Annotated[Path, typer.Argument(help="A codec file, e.g. vae128.onnx, or one that 'vaecodec fuse' wrote.")],
    as_json: AsJson = False,
) -> None:
    """Show what a codec file says of itself: widths, metric, identity, origin, and what was measured."""
    found = FusedModel.read_any(file)
    if as_json:
        print_json(found.to_json())
        return
    console = Console()
    metadata = found.codec if isinstance(found, FusedModel) else found
    fused = {}
    if isinstance(found, FusedModel):
        made = f"output {found.output} of an embedding model, pooling {found.pooling}, encoded as {found.entry}"
        fused = {"takes": f"tokens: {made}", "fused id": found.fused_id}
    console.print(_summary(file, file.stat().st_size, metadata, fused))
    validation = metadata.provenance.get("validation")
    if validation:
        console.print(_figures(validation))


def doctor(as_json: AsJson = False) -> None:
    """Examine the installation: versions, execution providers that really work, threads, and what extras are for.

    Exit code 0: nothing is broken, though extras may be missing. 3: something is broken; what and why is said.
    """
    from vaecodec.doctor import examine  # onnxruntime takes a while to import

    with Console(stderr=True).status("importing the installed extras"):
        found = examine()
    if as_json:
        print_json(found.to_json())
    else:
        _show(found)
    if found.troubles:
        raise typer.Exit(TROUBLE)


def print_json(document: Any) -> None:
    """The document that a command prints under ``--json``: the only thing it writes to standard output."""
    print(json.dumps(document, indent=2, allow_nan=False))


def describe(file: Path) -> dict[str, Any]:
    """What commands that write a codec file say of it under ``--json``."""
    data, metadata = read_artifact(file)
    known = metadata.to_json()
    shown = ("codec_id", "kind", "dim", "code_dim", "metric", "latent_metric", "nested_dims", "embedder")
    return {"file": str(file), "bytes": len(data), **{name: known[name] for name in shown}}


def _show(found: Diagnosis) -> None:
    console = Console(highlight=False)
    rows = [(name, "", text) for name, text in found.versions.items()]
    rows += [(each.name, "works" if each.works else "unusable", each.problem) for each in found.providers]
    variables = [f"{name}={value}" for name, value in found.thread_variables.items()]
    rows.append(("threads", "", ", ".join([f"{found.usable_cores} of {found.cores} cores", *variables])))
    for extra in found.extras:
        state = "broken" if extra.trouble else "installed" if extra.installed else "missing"
        rows.append((f"extra {extra.name}", state, _extra_note(extra)))
    table = Table(show_header=False)
    for column in ("what", "state", "note"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    console.print(table)
    for trouble in found.troubles or ["Nothing is broken."]:
        console.print(escape(trouble), style="bold")


def _extra_note(extra: Extra) -> str:
    if extra.trouble:
        return extra.trouble
    if extra.installed:
        return ", ".join(f"{name} {version}" for name, version in extra.versions.items())
    return f"for {extra.enables}: pip install 'vaecodec[{extra.name}]'"


def _summary(file: Path, size: int, metadata: Metadata, fused: Mapping[str, str]) -> Table:
    provenance = metadata.provenance
    rows = {
        **fused,
        "codec id": metadata.codec_id,
        "kind": " ".join(filter(None, (str(metadata.kind), provenance.get("linear", "")))),
        "embeddings": f"{metadata.dim} dimensions, compared by {metadata.metric}",
        "latents": f"{metadata.code_dim} dimensions, compared by {metadata.latent_metric}",
        "nested dims": _ranges(metadata.nested_dims),
        "embedder": metadata.embedder,
        "file": f"{size:,} bytes, format {metadata.format_version}",
        "precision": provenance.get("precision", ""),
        "created": provenance.get("created", ""),
        "seed": provenance.get("seed", ""),
        "data": _pairs(provenance.get("data", {})),
        "trained for": "; ".join(_rate(rate) for rate in provenance.get("rates", [])),
        "versions": _pairs(provenance.get("versions", {})),
    }
    table = Table(title=str(file), show_header=False, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows.items():
        if value != "":
            table.add_row(name, str(value))
    return table


def _figures(validation: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row per codec, one column per metric: the mean and its 95 % interval."""
    metrics = list(dict.fromkeys(metric for figures in validation.values() for metric in figures))
    table = Table(title="Measured on held-out rows (mean, 95 % interval)", title_justify="left")
    table.add_column("codec")
    for metric in metrics:
        table.add_column(metric, justify="right")
    for name, figures in validation.items():
        table.add_row(name, *(_figure(figures.get(metric)) for metric in metrics))
    return table


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{Interval(**value):.3f}"
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _rate(rate: Mapping[str, float]) -> str:
    return f"codes of {rate['code_bits']:.0f} bits, by the model's KL {rate['kl_bits']:.0f}"


def _pairs(values: Mapping[str, Any]) -> str:
    """Plain values on one line; what is nested is for ``--json``."""
    return ", ".join(f"{key} {value}" for key, value in values.items() if isinstance(value, str | int | float))


def _ranges(widths: tuple[int, ...]) -> str:
    """1, 2, 3, 4, 8 as ``1-4, 8``: a linear codec has every width."""
    runs: list[list[int]] = []
    for width in widths:
        if runs and runs[-1][1] == width - 1:
            runs[-1][1] = width
        else:
            runs.append([width, width])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
