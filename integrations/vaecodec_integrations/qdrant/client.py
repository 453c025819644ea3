"""Wrap a Qdrant client so that collections are compressed: vectors of the original width go in and come out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from qdrant_client import QdrantClient

from vaecodec.interface import VectorCodec
from vaecodec_integrations.qdrant.codecs import CodecsArgument
from vaecodec_integrations.qdrant.flows import CHANGES, Call, Flow, Flows, sent_between
from vaecodec_integrations.qdrant.settings import KeptOriginals, checked_settings
from vaecodec_integrations.qdrant.surface import (
    CHANGING,
    COPIED_AS_STORED,
    PASSED_THROUGH,
    STATIC,
    TRANSLATED,
    bound_arguments,
    parameter_names,
    public_methods,
    refusal,
)


class CompressedQdrantClient(QdrantClient):
    """Wrap a ``QdrantClient`` of any kind (local, REST, gRPC) and behave as it does.

    Vectors that have a codec are stored as latents of the codec's ``code_dim``; all other vectors, payloads, ids
    and filters pass untouched. Documents (upsert, upload, update) and queries use the codec's own entry points; raw
    vectors inside recommend, discover, context and feedback queries count as queries. Reading vectors back gives the
    original where one is kept and the reconstruction otherwise. Scores are those of the compressed vectors, unless
    the originals re-rank.

    Args:
        client: the client to wrap; closing this one closes it.
        codec: compresses the unnamed vector.
        codecs: compress vectors by name, ``{"title": codec}``; or give each collection its own, ``{"docs": codec,
            "cache": {"title": codec}}``, or as a function from a collection's name; ``None`` leaves a vector as it is.
        originals: where uncompressed vectors are kept to re-rank with: ``"disk"``, a second vector of the same
            collection, or an :class:`OriginalsFile`, or ``None`` for nowhere.
        rerank: candidates fetched per result wanted, re-ranked by their originals; 4 when originals are kept.
        calibrate: return estimates of the original scores, by the affine calibration in the codec's artifact, and
            read score thresholds as original scores. For plain nearest-neighbour queries without originals.
        trust: accept a filled collection whose metadata holds no codec id, as servers before Qdrant 1.16 keep none.

    Raises:
        CodecMismatchError: by any method that reads or writes vectors, before it does, when another codec filled
            the collection.
        InvalidVectorsError: a vector of the wrong width, with NaN or infinity, or without direction under cosine;
            the message names the point, and nothing of the request is sent.

    Examples:
        >>> import numpy as np
        >>> from vaecodec import Codec
        >>> from qdrant_client import QdrantClient
        >>> from vaecodec_integrations.qdrant import CompressedQdrantClient
        >>> embeddings = np.load("embeddings.npy")
        >>> client = CompressedQdrantClient(QdrantClient(":memory:"), Codec.load("codec.onnx"))
        >>> client.create_collection("docs")
        True
        >>> client.upload_collection("docs", embeddings[:1000], ids=range(1000))
        >>> client.query_points("docs", embeddings[7], limit=10).points[0].id
        7
    """

    def __init__(
        self,
        client: QdrantClient,
        codec: VectorCodec | None = None,
        *,
        codecs: CodecsArgument = None,
        originals: KeptOriginals = None,
        rerank: int | None = None,
        calibrate: bool = False,
        trust: bool = False,
    ) -> None:
        # The base class would open a connection of its own; only its interface is wanted.
        self.wrapped = client
        # Frameworks look at its type to tell a local client from a remote one.
        self._client = client._client
        settings = checked_settings(codec, codecs, originals, rerank, calibrate=calibrate, trust=trust)
        self._flows = Flows(settings, client)

    def __getattr__(self, name: str) -> Any:
        """Return plain attributes of the wrapped client."""
        if name.startswith("_") or name == "wrapped":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.wrapped, name)

    def __del__(self) -> None:
        """Leave the wrapped client open: others may use it."""

    def _run(self, flow: Flow[Any]) -> Any:
        response = None
        while True:
            try:
                call = flow.send(response)
            except StopIteration as done:
                return done.value
            response = self._send(call)

    def _send(self, call: Call) -> Any:
        streamed = {} if call.points is None else {"points": sent_between(call.points, self._send)}
        return getattr(self.wrapped, call.method)(**call.arguments, **streamed)


def _translated(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    names = parameter_names(original)

    @wraps(original)
    def method(self: CompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
        return self._run(getattr(self._flows, name)(**bound_arguments(names, args, kwargs)))

    return method


def _passed(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def method(self: CompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.wrapped, name)(*args, **kwargs)

    @wraps(original)
    def changing(self: CompressedQdrantClient, *args: Any, **kwargs: Any) -> Any:
        with CHANGES.expected():
            return getattr(self.wrapped, name)(*args, **kwargs)

    return changing if name in CHANGING else method


def _copied(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def method(self: CompressedQdrantClient, dest_client: Any, *args: Any, **kwargs: Any) -> Any:
        stored = dest_client.wrapped if isinstance(dest_client, CompressedQdrantClient) else dest_client
        with CHANGES.expected():
            return getattr(self.wrapped, name)(stored, *args, **kwargs)

    return method


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self.wrapped, name))


for _name, _method in public_methods(QdrantClient).items():
    if _name in TRANSLATED:
        setattr(CompressedQdrantClient, _name, _translated(_name, _method))
    elif _name in PASSED_THROUGH:
        setattr(CompressedQdrantClient, _name, _passed(_name, _method))
    elif _name in COPIED_AS_STORED:
        setattr(CompressedQdrantClient, _name, _copied(_name, _method))
    elif _name not in STATIC:
        setattr(CompressedQdrantClient, _name, refusal(_name, _method))
for _name, _value in vars(QdrantClient).items():
    if isinstance(_value, property):
        setattr(CompressedQdrantClient, _name, _attribute(_name))
