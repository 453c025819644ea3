"""Embed a collection again as names and files say: all of ``vaecodec reembed`` in one call."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from vaecodec.bulk import OnProgress
from vaecodec.codec import Codec
from vaecodec.fused import Pooling
from vaecodec_integrations.embedder import OnnxEmbedder
from vaecodec_integrations.qdrant.connection import open_client
from vaecodec_integrations.qdrant.layout import UNNAMED
from vaecodec_integrations.qdrant.reembedding.estimate import Cost, estimate
from vaecodec_integrations.qdrant.reembedding.job import Reembedding, read_ids
from vaecodec_integrations.qdrant.reembedding.judged import read_judged
from vaecodec_integrations.qdrant.reembedding.run import ReembeddingOutcome, reembed


@dataclass(frozen=True, kw_only=True)
class ReembeddingRequest:
    """Describe a change of the embedding model by names and files.

    Attributes:
        collection: holds the old model's vectors, and the texts in its payload.
        model: the new model: an ONNX file with ``tokenizer.json`` beside it.
        pooling, prompt, query_prompt: see :class:`~vaecodec_integrations.embedder.OnnxEmbedder`; queries are embedded
            only where the gain is estimated.
        url: address of the server; give exactly one of ``url`` and ``path``.
        path: folder of Qdrant's local mode.
        into, named, vector, text, texts_per_second: see :class:`Reembedding`.
        codec: the codec file that compresses the new vectors; None to store them as they are.
        first_ids: a file of ids to embed first, one a line.
    """

    collection: str
    model: Path
    pooling: Pooling | None = None
    prompt: str | None = None
    query_prompt: str | None = None
    url: str | None = None
    path: Path | None = None
    into: str | None = None
    named: str | None = None
    vector: str = UNNAMED
    text: str = "text"
    codec: Path | None = None
    first_ids: Path | None = None
    texts_per_second: float | None = None


def reembed_at(
    request: ReembeddingRequest, *, alias: str | None = None, progress: OnProgress = lambda _done, _total: None
) -> ReembeddingOutcome:
    """Load the model, connect, and embed what is not embedded yet, as :func:`reembed` does.

    Args:
        request: what is embedded again, and where.
        alias: see :func:`reembed`.
        progress: see :func:`reembed`.

    Raises:
        ArtifactError: the codec file cannot be used.
        MigrationError, InvalidVectorsError, StoreError: see :func:`reembed`.
    """
    with _opened(request, _embedder(request)) as job:
        return reembed(job, alias=alias, progress=progress)


def estimate_at(
    request: ReembeddingRequest,
    *,
    price_per_million: float | None = None,
    judged: str | os.PathLike[str] | None = None,
) -> Cost:
    """Embed a sample, and tell what all texts will cost and what is gained; see :func:`estimate`. Nothing is written.

    Args:
        request: what would be embedded again.
        price_per_million: see :func:`estimate`.
        judged: a file of queries whose answers are known, as :func:`read_judged` takes it, to tell the gain.

    Raises:
        UnusableDataError: see :func:`read_judged`.
        ArtifactError: the model or the codec file cannot be used.
        MigrationError, InvalidVectorsError, StoreError: see :func:`estimate`.
    """
    queries = None if judged is None else read_judged(judged)
    embedder = _embedder(request)
    with _opened(request, embedder) as job:
        return estimate(
            job,
            count_tokens=embedder.count_tokens,
            price_per_million=price_per_million,
            queries=queries,
            embed_queries=embedder.embed_queries,
        )


def _embedder(request: ReembeddingRequest) -> OnnxEmbedder:
    return OnnxEmbedder(
        request.model, pooling=request.pooling, prompt=request.prompt, query_prompt=request.query_prompt
    )


@contextmanager
def _opened(request: ReembeddingRequest, embedder: OnnxEmbedder) -> Iterator[Reembedding]:
    codec = None if request.codec is None else Codec.load(request.codec)
    first_ids = () if request.first_ids is None else read_ids(request.first_ids)
    with closing(open_client(url=request.url, path=request.path)) as client:
        yield Reembedding(
            client,
            request.collection,
            embedder,
            into=request.into,
            named=request.named,
            vector=request.vector,
            text=request.text,
            codec=codec,
            first_ids=first_ids,
            texts_per_second=request.texts_per_second,
        )
