"""Describe a codec file for people: what ``vaecodec info`` shows, and the same as a Markdown card for a model page.

A codec file may come from anybody. What it says of itself is shown where it has the form that vaecodec writes, and left
out elsewhere.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vaecodec.artifact import Metadata
from vaecodec.evaluation import KEPT_MEANS, Interval
from vaecodec.fused import FusedModel


class Description(NamedTuple):
    """Hold what a codec file says about itself.

    Attributes:
        file: the path.
        codec_id: its identity.
        facts: name and text of each fact that is known.
        metrics: names of what was measured on held-out rows.
        figures: name of each codec measured, and its figures, one a metric, as text with their intervals.
    """

    file: Path
    codec_id: str
    facts: dict[str, str]
    metrics: list[str]
    figures: dict[str, list[str]]


def describe(path: str | os.PathLike[str]) -> Description:
    """Read what a codec file, or one that ``vaecodec fuse`` wrote, says of itself.

    Raises:
        ArtifactError: the file is missing, damaged or no codec file.
    """
    found = FusedModel.read_any(path)
    metadata = found.codec if isinstance(found, FusedModel) else found
    facts = _facts(Path(path).stat().st_size, metadata)
    if isinstance(found, FusedModel):
        made = f"output {found.output} of an embedding model, pooling {found.pooling}, encoded as {found.entry}"
        facts = {"takes": f"tokens: {made}", "fused id": found.fused_id, **facts}
    validation = {
        str(name): _mapping(figures) for name, figures in _mapping(metadata.provenance.get("validation")).items()
    }
    known = dict.fromkeys(str(metric) for figures in validation.values() for metric in figures)
    metrics = sorted(known, key=lambda metric: metric != "recall@10")  # what most readers look for first
    return Description(
        file=Path(path),
        codec_id=metadata.codec_id,
        facts={name: text for name, text in facts.items() if text},
        metrics=metrics,
        figures={name: [_figure(figures.get(metric)) for metric in metrics] for name, figures in validation.items()},
    )


def card(path: str | os.PathLike[str], *, repository: str = "") -> str:
    """Return the Markdown card of a codec file: what it is, how to use it, figures, data and limits.

    Args:
        path: the codec file.
        repository: where readers load it from, ``owner/name`` on the Hugging Face Hub; else they have the file.

    Raises:
        ArtifactError: the file is missing, damaged or no codec file.
    """
    found = describe(path)
    file, embedder = found.file.name, found.facts.get("embedder", "")
    parts = [
        "---\nlibrary_name: vaecodec\ntags:\n- vaecodec\n- embeddings\n- compression\n---",
        f"# {_markdown(file)}",
        "This file compresses embedding vectors"
        + (f" of {_markdown(embedder)}" if embedder else "")
        + ". [vaecodec](https://pypi.org/project/vaecodec/) reads it; no other program is needed.",
        _rows(["", ""], [[name, text] for name, text in found.facts.items()]),
        "## Use\n\n" + _use(found, repository),
        "## Figures\n\n" + _figures(found),
        "## Data\n\n" + _data(found),
        "## Limits\n\n"
        "- The codec fits embeddings of the model and of the kind of text that it was trained on. Check others with "
        "`vaecodec drift`, and measure them with `vaecodec report`.\n"
        "- Latents of two codecs cannot be compared. An index that this codec filled can only be searched with it: "
        "keep the file.\n"
        "- Decoding gives the embeddings back approximately.\n"
        "- The identity tells whether the file is whole. It does not tell who made it.",
    ]
    return "\n\n".join(parts) + "\n"


def _use(found: Description, repository: str) -> str:
    arguments = f'load("{_quoted(found.file.name)}")'
    if repository:
        arguments = f'from_pretrained(\n    "{_quoted(repository)}", codec_id="{found.codec_id}"\n)'
    return (
        f"```python\nfrom vaecodec import Codec\n\ncodec = Codec.{arguments}\n"
        "latents = codec.encode(embeddings)  # float (n, width)\n```"
    )


def _facts(size: int, metadata: Metadata) -> dict[str, str]:
    known = metadata.provenance
    rates = known.get("rates")
    return {
        "codec id": metadata.codec_id,
        "kind": " ".join(filter(None, (str(metadata.kind), _plain(known.get("linear"))))),
        "embeddings": f"{metadata.dim} dimensions, compared by {metadata.metric}",
        "latents": f"{metadata.code_dim} dimensions, compared by {metadata.latent_metric}",
        "nested dims": _ranges(metadata.nested_dims),
        "codes": _codes_in_words(_mapping(metadata.calibration.get("codes"))),
        "embedder": metadata.embedder,
        "file": f"{size:,} bytes, format {metadata.format_version}",
        "precision": _plain(known.get("precision")),
        "created": _plain(known.get("created")),
        "seed": _plain(known.get("seed")),
        "data": _data_in_words(_mapping(known.get("data"))),
        "trained for": "; ".join(filter(None, map(_rate, rates if isinstance(rates, list) else []))),
        "versions": _pairs(known.get("versions")),
    }


def _figures(found: Description) -> str:
    if not found.figures:
        return "The file holds no figures. Measure it on your own data with `vaecodec report`."
    rows = [[name, *figures] for name, figures in found.figures.items()]
    return (
        "Measured on held-out rows of the training collection, mean and 95 % interval, beside linear codecs of the "
        "same width."
        + (f" {KEPT_MEANS}" if "kept@100" in found.metrics else "")
        + "\n\n"
        + _rows(["codec", *found.metrics], rows)
    )


def _data(found: Description) -> str:
    data = found.facts.get("data")
    return f"Trained on: {_markdown(data)}." if data else "The file does not say what it was trained on."


def _rows(head: list[str], rows: list[list[str]]) -> str:
    """Format a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell if cell == "---" else _markdown(cell) for cell in line) + " |" for line in lines
    )


def _markdown(text: str) -> str:
    """Escape a text of any origin, so that Markdown shows it unchanged on one line."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return re.sub(r"([\\`*_{}\[\]<>()#|!~$&])", r"\\\1", line)


def _quoted(text: str) -> str:
    return re.sub(r"[^\w.@/ -]", "_", text)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else ""


def _pairs(values: Any) -> str:
    """Format plain values on one line; what is nested is left out."""
    return ", ".join(
        f"{key} {value}" for key, value in _mapping(values).items() if isinstance(value, str | int | float)
    )


def _codes_in_words(codes: Mapping[str, Any]) -> str:
    """Say what codes of a number of bytes are made of; nothing of a file that has none."""
    if not codes:
        return ""
    return "stages, then a trellis" if "residual" in codes else "a trellis alone, without stages"


def _data_in_words(data: Mapping[str, Any]) -> str:
    """Say what was trained on; as plain values where it is not all there."""
    counts = [data.get(name) for name in ("rows", "held_out_rows", "queries")]
    prints = [data.get(name) for name in ("fingerprint", "queries_fingerprint")]
    if not all(isinstance(count, int) for count in counts) or not isinstance(prints[0], str):
        return _pairs(data)
    rows, held_out, queries = counts
    sampled = [data.get(f"{name}_sampled_from") for name in ("rows", "queries")]
    of = [f", a sample of {count:,}" if isinstance(count, int) else "" for count in sampled]
    text = f"{rows:,} documents{of[0]} ({prints[0][:16]}), {held_out:,} of them held out"
    if not queries:
        return f"{text}; no queries"
    return f"{text}; {queries:,} queries{of[1]}" + (f" ({prints[1][:16]})" if isinstance(prints[1], str) else "")


def _rate(rate: Any) -> str:
    bits = [_mapping(rate).get(name) for name in ("code_bits", "kl_bits")]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in bits):
        return ""
    return f"codes of {bits[0]:.0f} bits, by the model's KL {bits[1]:.0f}"


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        parts = [value.get(name) for name in Interval._fields]
        if all(isinstance(part, int | float) for part in parts):
            return f"{Interval(*map(float, parts)):.3f}"  # type: ignore[arg-type]
        return ""
    return f"{value:.3f}" if isinstance(value, float) else _plain(value)


def _ranges(widths: tuple[int, ...]) -> str:
    """Format 1, 2, 3, 4, 8 as ``1-4, 8``: a linear codec has every width."""
    runs: list[list[int]] = []
    for width in widths:
        if runs and runs[-1][1] == width - 1:
            runs[-1][1] = width
        else:
            runs.append([width, width])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
