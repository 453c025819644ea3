"""Write a bridge between two codecs in the format of the codecs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vaecodec.artifact import Kind, Metadata
from vaecodec.bridge import KEY, Bridge
from vaecodec.evaluation import Figures, bootstrap
from vaecodec.provenance import made_now
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec


def export_bridge(
    bridge: Bridge, path: str | os.PathLike[str], figures: Mapping[str, Figures]
) -> dict[str, dict[str, Any]]:
    """Write a bridge as one ONNX file, a codec from the new codec's latents to the old one's.

    Args:
        bridge: as :func:`vaecodec.bridge.fit_bridge` returned it.
        path: the target; replaced atomically when it exists.
        figures: what was measured with it, recall@10 per query.

    Returns:
        The means with their 95 % intervals, as they were written.

    Raises:
        ParityError: the graph does not compute what numpy computes; no file is written.
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
            KEY: {"old": bridge.old_id, "new": bridge.new_id},
            **made_now(),
            "validation": summaries,
        },
    )
    references = {"embedding": bridge.encode, "query": bridge.encode_queries, "code": bridge.decode}
    write_codec(path, weights, metadata, references)
    return summaries
