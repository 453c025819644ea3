"""Fit a bridge between two codecs, and write it in the format of the codecs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaecodec.artifact import Kind, Metadata, read_artifact
from vaecodec.codec import Codec
from vaecodec.errors import ArtifactError, OutputExistsError
from vaecodec.evaluation import Figures, bootstrap
from vaecodec.provenance import made_now
from vaecodec.sources import Rows, VectorSource, open_source
from vaecodec.steps import Steps
from vaecodec.two_models.bridge import BRIDGE, Bridge, fit_bridge
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec
from vaecodec_exporters.output import refuse_existing

_SAMPLE_ROWS = 50_000

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExportedBridge:
    """Hold a bridge, and what was measured with it.

    Attributes:
        bridge: the maps that were written.
        queries: how many held-out queries were asked.
        summaries: mean recall@10 with its 95 % interval, for each way to search, as JSON values.
    """

    bridge: Bridge
    queries: int
    summaries: dict[str, dict[str, Any]]


def fit_and_export_bridge(
    old: Codec | str | os.PathLike[str],
    new: Codec | str | os.PathLike[str],
    path: str | os.PathLike[str],
    sample: VectorSource | str,
    new_sample: VectorSource | str | None = None,
    *,
    overwrite: bool = False,
) -> ExportedBridge:
    """Fit a bridge on at most 50,000 rows of a sample, measure the recall across it, and write it as one ONNX file.

    Args:
        old: the codec that filled the collection, or its file.
        new: the codec that is used from now on, or its file.
        path: the target.
        sample: embeddings such as the collection's: a source, or a file or address that
            :func:`vaecodec.sources.open_source` reads.
        new_sample: where the embedding model is another, the same texts by the new one, in order.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: one of the two codecs is at ``path``; or another codec file and ``overwrite`` is False, or it
            is no codec file.
        UnusableDataError: the samples are too small, or differ in their number of rows.
        ArtifactError: a codec file cannot be used.
        SourceError: a sample cannot be read.
        WrongWidthError: a sample is not as wide as its codec expects.
        ExportError: the graph does not compute what numpy computes; no file is written.
    """
    codecs = [each if isinstance(each, Codec) else Codec.load(each) for each in (old, new)]
    _refuse_its_codecs(path, *codecs)
    refuse_existing(path, overwrite=overwrite)
    given = [sample] if new_sample is None else [sample, new_sample]
    sources = [open_source(each) if isinstance(each, str) else each for each in given]
    step = max(1, -(-(sources[0].rows or 0) // _SAMPLE_ROWS))
    if step > 1:
        _LOG.info("%s: every row whose number is a multiple of %d is used, at most 50,000", sources[0].name, step)
    bridge, figures = fit_bridge(*codecs, *(np.concatenate([*every_nth(each, step)]) for each in sources))
    summaries = export_bridge(bridge, path, figures, overwrite=overwrite)
    return ExportedBridge(bridge, len(figures["bridged"]), summaries)


def _refuse_its_codecs(path: str | os.PathLike[str], *codecs: Codec) -> None:
    """Refuse to replace the file of a codec that the bridge leads to or from."""
    try:
        there = read_artifact(path)[1].codec_id
    except (OSError, ArtifactError):
        return
    if there in {codec.metadata.codec_id for codec in codecs}:
        raise OutputExistsError(f"{path}: is an input, which is never overwritten; choose another output")


def export_bridge(
    bridge: Bridge, path: str | os.PathLike[str], figures: Mapping[str, Figures], *, overwrite: bool = False
) -> dict[str, dict[str, Any]]:
    """Write a bridge as one ONNX file, a codec from the new codec's latents to the old one's.

    Args:
        bridge: as :func:`vaecodec.two_models.bridge.fit_bridge` returned it.
        path: the target.
        figures: what was measured with it, recall@10 per query.
        overwrite: replace another codec file at ``path``.

    Returns:
        The means with their 95 % intervals, as they were written.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        ExportError: the graph does not compute what numpy computes; no file is written.
    """
    summaries = {name: {"recall@10": bootstrap(values)._asdict()} for name, values in figures.items()}
    weights = CodecWeights(
        encoder=ResidualWeights(bridge.documents.matrix, bridge.documents.bias),
        decoder=ResidualWeights(bridge.back.matrix, bridge.back.bias),
        query_encoder=None
        if bridge.queries is bridge.documents
        else ResidualWeights(bridge.queries.matrix, bridge.queries.bias),
    )
    metadata = Metadata(
        kind=Kind.LINEAR,
        dim=bridge.dim,
        code_dim=bridge.code_dim,
        metric=bridge.metric,
        latent_metric=bridge.latent_metric,
        embedder=bridge.embedder,
        provenance={
            "linear": "bridge",
            BRIDGE: {"old": bridge.old_id, "new": bridge.new_id},
            **made_now(),
            "validation": summaries,
        },
    )
    references = {"embedding": bridge.encode, "query": bridge.encode_queries, "code": bridge.decode}
    write_codec(path, weights, metadata, references, overwrite=overwrite)
    return summaries


def every_nth(source: VectorSource, step: int) -> Iterator[Rows]:
    """Read rows 0, step, 2 step and so on of a source, block by block."""
    first, say = 0, Steps(_LOG)
    for block in source.blocks():
        say("reading %s: %s rows", source.name, f"{first:,}")
        yield block[-first % step :: step]
        first += len(block)
