"""Map the latents of one codec to those of another, to search an old collection while a new one is being filled.

A bridge is a codec whose embeddings are the *new* codec's latents and whose latents are the *old* codec's. After the
new codec it encodes into the old collection; its ``decode`` turns what the old collection holds into new latents.
:func:`fit_bridge` fits it, ``vaecodec bridge`` writes it as a file, :class:`BridgedCodec` puts it behind the new
codec.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaecodec.codec import Codec
from vaecodec.errors import CodecMismatchError, UnusableDataError
from vaecodec.evaluation import Figures, exact_search, recall
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.vectors import as_compared, as_vectors, normalised_or_zero

# Key in the provenance of a bridge between codecs, with the identities of both.
BRIDGE = "bridge"
# Key in the provenance of a bridge between embedding models, with the map that was fitted and the number of texts.
MODEL_BRIDGE = "model_bridge"

FEWEST_ROWS = 500
DEPTH = 10

# One row in five is held out to measure on, and one in five of these is a query.
_SHARE = 5
# Relative to the mean variance of the latents. The figures do not depend on it within a factor of ten either way.
_RIDGE = 1e-3


@dataclass(frozen=True, eq=False)
class Affine:
    """Compute y = matrix x + bias.

    Attributes:
        matrix: float32 (out, in).
        bias: float32 (out,).
    """

    matrix: FloatArray
    bias: FloatArray

    @classmethod
    def fit(cls, inputs: FloatArray, outputs: FloatArray) -> Affine:
        """Fit a ridge regression of float32 (n, out) on (n, in), the bias not shrunk (Hoerl and Kennard 1970)."""
        means = [rows.mean(axis=0, dtype=np.float64) for rows in (inputs, outputs)]
        centred = inputs - means[0]
        moment = centred.T @ centred / len(inputs)
        moment += np.eye(len(moment)) * (_RIDGE * np.trace(moment) / len(moment) + np.finfo(np.float32).tiny)
        matrix = np.linalg.solve(moment, centred.T @ (outputs - means[1]) / len(inputs)).T
        return cls(matrix.astype(np.float32), (means[1] - matrix @ means[0]).astype(np.float32))

    def __call__(self, rows: FloatArray, metrics: tuple[Metric, Metric]) -> FloatArray:
        """Map float32 (n, in) to float32 (n, out); the metrics say on which side rows have unit norm."""
        mapped = np.asarray(as_compared(rows, metrics[0]) @ self.matrix.T + self.bias)
        return normalised_or_zero(mapped) if metrics[1] is Metric.COSINE else mapped


@dataclass(frozen=True, eq=False)
class Bridge:
    """Map between the latents of two codecs, in numpy; a :class:`~vaecodec.interface.VectorCodec`.

    Attributes:
        documents: new latents of documents to old ones.
        queries: new latents of queries to old ones; the same map where both codecs encode queries as documents.
        back: old latents of documents to new ones.
        metric, latent_metric: how the new and the old codec's latents are compared.
        old_id, new_id: identities of both codecs.
        embedder: name of the embedding model that the new codec was trained for.
    """

    documents: Affine
    queries: Affine
    back: Affine
    metric: Metric
    latent_metric: Metric
    old_id: str
    new_id: str
    embedder: str = ""

    @property
    def dim(self) -> int:
        """Return the width of the new codec's latents."""
        return len(self.back.bias)

    @property
    def code_dim(self) -> int:
        """Return the width of the old codec's latents."""
        return len(self.documents.bias)

    @property
    def codec_id(self) -> str:
        """Return the sha256 over both identities and the weights."""
        digest = hashlib.sha256(f"{self.old_id}/{self.new_id}".encode())
        for map_ in (self.documents, self.queries, self.back):
            digest.update(np.ascontiguousarray(map_.matrix, "<f4").tobytes() + map_.bias.astype("<f4").tobytes())
        return digest.hexdigest()

    def encode(self, vectors: Any) -> FloatArray:
        """Encode new latents of documents, float (n, dim), to old ones, float32 (n, code_dim)."""
        return self.documents(as_vectors(vectors, self.dim, self.metric), (self.metric, self.latent_metric))

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Encode new latents of queries, float (n, dim), to old ones, float32 (n, code_dim)."""
        rows = as_vectors(vectors, self.dim, self.metric, name="queries")
        return self.queries(rows, (self.metric, self.latent_metric))

    def decode(self, codes: Any) -> FloatArray:
        """Decode old latents of documents, float (n, code_dim), to new ones, float32 (n, dim)."""
        rows = as_vectors(codes, self.code_dim, self.latent_metric, name="codes")
        return self.back(rows, (self.latent_metric, self.metric))


class BridgedCodec:
    """Put the new codec in front of a collection that the old one filled; a :class:`~vaecodec.interface.VectorCodec`.

    Embeddings are those of the new codec, latents and identity those of the old one, so that an index or a Qdrant
    client opened with it accepts the old collection: queries are carried over to the old latents, documents that are
    added, too, and what is read comes back in the new codec's space.

    Args:
        new: the codec that the application uses from now on.
        bridge: the file that ``vaecodec bridge`` wrote.

    Raises:
        CodecMismatchError: the file is no bridge, or leads to another codec.
    """

    def __init__(self, new: VectorCodec, bridge: Codec) -> None:
        record = _record(bridge.metadata.provenance)
        if record is None:
            raise CodecMismatchError(
                f"bridge: expected the file of a bridge, got the codec {bridge.codec_id[:12]}…; "
                "make one with: vaecodec bridge OLD NEW --sample X.npy --out bridge.onnx"
            )
        if record["new"] != new.codec_id or bridge.dim != new.code_dim:
            raise CodecMismatchError(
                f"new: expected codec {record['new'][:12]}… of {bridge.dim} dimensions, which the bridge leads to, got "
                f"{new.codec_id[:12]}… of {new.code_dim}; load that one, or make a bridge for this one"
            )
        self._new = new
        self._bridge = bridge
        self._old_id: str = record["old"]

    @classmethod
    def load(cls, new: str | os.PathLike[str], bridge: str | os.PathLike[str]) -> BridgedCodec:
        """Load both files; raises as the constructor and :meth:`Codec.load <vaecodec.Codec.load>` do."""
        return cls(Codec.load(new), Codec.load(bridge))

    @property
    def dim(self) -> int:
        """Return the width of the new embeddings."""
        return self._new.dim

    @property
    def code_dim(self) -> int:
        """Return the width of the old latents."""
        return self._bridge.code_dim

    @property
    def metric(self) -> Metric:
        """Return how the new embeddings are compared."""
        return self._new.metric

    @property
    def latent_metric(self) -> Metric:
        """Return how the old latents are compared."""
        return self._bridge.latent_metric

    @property
    def codec_id(self) -> str:
        """Return the identity of the old codec, since the collection holds its latents."""
        return self._old_id

    @property
    def embedder(self) -> str:
        """Return the new embedding model's name."""
        return self._new.embedder

    def encode(self, vectors: Any) -> FloatArray:
        """Encode new documents, float (n, dim), to old latents, float32 (n, code_dim); raises
        ``InvalidVectorsError``."""
        return self._bridge.encode(self._new.encode(vectors))

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Encode new queries, float (n, dim), to old latents, float32 (n, code_dim); raises ``InvalidVectorsError``."""
        return self._bridge.encode_queries(self._new.encode_queries(vectors))

    def decode(self, codes: Any) -> FloatArray:
        """Decode old latents, float (n, code_dim), to new embeddings, float32 (n, dim); raises
        ``InvalidVectorsError``."""
        return self._new.decode(self._bridge.decode(codes))


class BridgedModel:
    """Put a new embedding model in front of a collection that an old one filled; a
    :class:`~vaecodec.interface.VectorCodec`.

    For a collection whose embedding model cannot be run any more, and which a codec of that model filled. Embeddings
    are the new model's, latents and identity those of the old codec.

    Args:
        bridge: the file that ``vaecodec bridge`` wrote from samples embedded by both models.
        old: the codec that filled the collection.

    Raises:
        CodecMismatchError: the file is no bridge between models, or leads to embeddings of another width.
    """

    def __init__(self, bridge: Codec, old: VectorCodec) -> None:
        if MODEL_BRIDGE not in bridge.metadata.provenance:
            raise CodecMismatchError(
                f"bridge: expected a bridge between two embedding models, got the codec {bridge.codec_id[:12]}…; make "
                "one with: vaecodec bridge --sample OLD.npy --new-sample NEW.npy --out bridge.onnx"
            )
        if bridge.code_dim != old.dim or old.metric is not Metric.COSINE:
            raise CodecMismatchError(
                f"old: expected a codec of embeddings of width {bridge.code_dim}, compared by cosine, to which the "
                f"bridge leads, got one of width {old.dim}, compared by {old.metric}"
            )
        self._bridge = bridge
        self._old = old

    @classmethod
    def load(cls, bridge: str | os.PathLike[str], old: str | os.PathLike[str]) -> BridgedModel:
        """Load both files; raises as the constructor and :meth:`Codec.load <vaecodec.Codec.load>` do."""
        return cls(Codec.load(bridge), Codec.load(old))

    @property
    def dim(self) -> int:
        """Return the width of the new embeddings."""
        return self._bridge.dim

    @property
    def code_dim(self) -> int:
        """Return the width of the old latents."""
        return self._old.code_dim

    @property
    def metric(self) -> Metric:
        """Return how the new embeddings are compared."""
        return self._bridge.metric

    @property
    def latent_metric(self) -> Metric:
        """Return how the old latents are compared."""
        return self._old.latent_metric

    @property
    def codec_id(self) -> str:
        """Return the identity of the old codec, since the collection holds its latents."""
        return self._old.codec_id

    @property
    def embedder(self) -> str:
        """Return the new embedding model's name."""
        return self._bridge.embedder

    def encode(self, vectors: Any) -> FloatArray:
        """Encode new documents, float (n, dim), to old latents, float32 (n, code_dim); raises
        ``InvalidVectorsError``."""
        return self._old.encode(self._bridge.encode(vectors))

    def encode_queries(self, vectors: Any) -> FloatArray:
        """Encode new queries, float (n, dim), to old latents, float32 (n, code_dim); raises ``InvalidVectorsError``."""
        return self._old.encode_queries(self._bridge.encode_queries(vectors))

    def decode(self, codes: Any) -> FloatArray:
        """Decode old latents, float (n, code_dim), to new embeddings, float32 (n, dim); raises
        ``InvalidVectorsError``."""
        return self._bridge.decode(self._old.decode(codes))


def decoded_by(codec: VectorCodec) -> str:
    """Return the identity of the codec whose latents this one decodes: its own, or that of a bridge's old codec."""
    metadata = getattr(codec, "metadata", None)
    record = None if metadata is None else _record(metadata.provenance)
    return codec.codec_id if record is None else record["old"]


def _record(provenance: Mapping[str, Any]) -> dict[str, str] | None:
    """Return the identities of the codecs that a bridge joins; None where the file says of none."""
    record = provenance.get(BRIDGE)
    if not isinstance(record, dict) or not all(isinstance(record.get(name), str) for name in ("old", "new")):
        return None
    return {name: record[name] for name in ("old", "new")}


def fit_bridge(
    old: VectorCodec, new: VectorCodec, sample: Any, new_sample: Any = None
) -> tuple[Bridge, Mapping[str, Figures]]:
    """Fit the maps on four rows of five and measure them on the fifth.

    Args:
        old: what filled the collection.
        new: what shall be used from now on.
        sample: float (n, old.dim), n >= 500: embeddings such as the collection's.
        new_sample: float (n, new.dim), the same texts in the same order embedded for the new codec, where the embedding
            model is another; by default the sample itself.

    Returns:
        The bridge, and what :func:`measure_bridge` finds on held-out rows, one in five of which are queries.

    Raises:
        InvalidVectorsError: a sample has a bad row or another width.
        UnusableDataError: there are too few rows, or the samples are not equally long.
    """
    old_rows = as_vectors(sample, old.dim, old.metric, name="sample")
    new_rows = as_vectors(sample if new_sample is None else new_sample, new.dim, new.metric, name="new sample")
    if len(old_rows) != len(new_rows):
        raise UnusableDataError(
            f"new sample: expected as many rows as the sample has, in the same order, {len(old_rows):,}, got "
            f"{len(new_rows):,}"
        )
    fewest = max(FEWEST_ROWS, 2 * max(old.code_dim, new.code_dim))
    if len(old_rows) < fewest:
        raise UnusableDataError(f"sample: expected at least {fewest:,} rows for a bridge, got {len(old_rows):,}")
    held_out = np.arange(len(old_rows)) % _SHARE == 0
    asked = held_out & (np.arange(len(old_rows)) % _SHARE**2 == 0)
    searched = held_out & ~asked
    bridge = _fit(old, new, old_rows[~held_out], new_rows[~held_out])
    across = None if new_sample is None else (new_rows[searched], new_rows[asked])
    return bridge, measure_bridge(old, new, bridge, old_rows[searched], old_rows[asked], across)


def _fit(old: VectorCodec, new: VectorCodec, old_rows: FloatArray, new_rows: FloatArray) -> Bridge:
    latents, old_latents = new.encode(new_rows), old.encode(old_rows)
    queries, old_queries = new.encode_queries(new_rows), old.encode_queries(old_rows)
    documents = Affine.fit(latents, old_latents)
    shared = np.array_equal(latents, queries) and np.array_equal(old_latents, old_queries)
    return Bridge(
        documents=documents,
        queries=documents if shared else Affine.fit(queries, old_queries),
        back=Affine.fit(old_latents, latents),
        metric=new.latent_metric,
        latent_metric=old.latent_metric,
        old_id=old.codec_id,
        new_id=new.codec_id,
        embedder=new.embedder,
    )


def measure_bridge(
    old: VectorCodec,
    new: VectorCodec,
    bridge: VectorCodec,
    documents: FloatArray,
    queries: FloatArray,
    across: tuple[FloatArray, FloatArray] | None = None,
) -> dict[str, Figures]:
    """Measure recall@10 in every way to search while a collection migrates, against exact search on the new embeddings.

    Args:
        old: the codec of the collection.
        new: the codec to come.
        bridge: between them.
        documents: float32 (n, old.dim), checked.
        queries: float32 (m, old.dim), checked.
        across: the same documents and queries by the new embedding model, where there is another.

    Returns:
        float64 (m,) each: ``re-encoded`` (the new codec alone: what a finished migration gives), ``bridged`` (the old
        latents, searched through the bridge), ``carried over`` (the old latents as new ones, searched with the new
        codec), and with one embedding model ``decoded, re-encoded`` (what the old codec restores, encoded by the new
        one) and ``old`` (the old codec alone).
    """
    new_documents, new_queries = (documents, queries) if across is None else across
    truth, _ = exact_search(new_documents, new_queries, DEPTH, new.metric)
    latents, asked = old.encode(documents), new.encode_queries(new_queries)

    def figures(searched: FloatArray, queries: FloatArray, metric: Metric) -> Figures:
        return recall(exact_search(searched, queries, DEPTH, metric)[0], truth, DEPTH)

    found = {
        "re-encoded": figures(new.encode(new_documents), asked, new.latent_metric),
        "bridged": figures(latents, bridge.encode_queries(asked), old.latent_metric),
        "carried over": figures(bridge.decode(latents), asked, new.latent_metric),
    }
    if across is None:
        found["decoded, re-encoded"] = figures(new.encode(old.decode(latents)), asked, new.latent_metric)
        found["old"] = figures(latents, old.encode_queries(queries), old.latent_metric)
    return found
