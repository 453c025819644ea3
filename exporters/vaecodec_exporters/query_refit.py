"""Fit the query entry point of a codec file anew, for documents whose codes stay: ``vaecodec refit-queries``."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaecodec.artifact import UNSIGNED, Metadata, read_artifact, sign
from vaecodec.calibration import fitted_to_queries
from vaecodec.codec import Codec
from vaecodec.codes import Code
from vaecodec.errors import ExportError, UnusableDataError
from vaecodec.evaluation import Interval, bootstrap
from vaecodec.graph.nodes import Precision
from vaecodec.interface import FloatArray, Metric
from vaecodec.provenance import made_now
from vaecodec_exporters.checkpoint import residual_weights
from vaecodec_exporters.graph import (
    PARITY_BOUNDS,
    CodecWeights,
    ResidualWeights,
    build_model,
    check_parity,
    start,
    typical_rows,
)
from vaecodec_exporters.output import refuse_existing, write_codec_file
from vaecodec_exporters.stored_weights import read_weights
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.files import TrainingFiles
from vaecodec_training.gate import Gate, gate
from vaecodec_training.model import ResidualMap
from vaecodec_training.query_map import STEPS, QueryMap, figures, fit_query_map
from vaecodec_training.recipe import Aim, LatentMetric

# Rows to check that the documents' latents are the same to the bit before and after.
_COMPARED_ROWS = 1_000

CONFIRMATION = 0.1
"""Share of documents and queries that the file is judged on."""


@dataclass(frozen=True)
class RefittedQueries:
    """Hold what a refit of the queries' side gained.

    Attributes:
        through: what documents are kept as: ``float32 latents``, or the name of a code.
        before, after: mean figures of held-out queries among held-out documents, with their 95 % intervals.
        gate: each figure's paired difference, after minus before.
        queries: how many held-out queries.
    """

    through: str
    before: dict[str, Interval]
    after: dict[str, Interval]
    gate: Gate
    queries: int

    def __str__(self) -> str:
        changes = [f"{each.figure} {each.difference:+.3f}" for each in self.gate.comparisons]
        return f"{self.queries:,} held-out queries through {self.through}: {', '.join(changes)}"

    def to_json(self) -> dict[str, Any]:
        """Return all as JSON values."""
        return {
            "through": self.through,
            "queries": self.queries,
            "before": {name: value._asdict() for name, value in self.before.items()},
            "after": {name: value._asdict() for name, value in self.after.items()},
            "difference": {each.figure: each.difference._asdict() for each in self.gate.comparisons},
        }


def refit_queries(
    codec: str | os.PathLike[str],
    collection: Collection,
    path: str | os.PathLike[str],
    *,
    dtype: str | None = None,
    bytes: int | None = None,  # noqa: A002
    steps: int = STEPS,
    overwrite: bool = False,
    on_step: Callable[[int, int], None] = lambda _, __: None,
) -> RefittedQueries:
    """Write a codec file whose queries find more among documents that are encoded already.

    The queries' map gets a hidden layer and learns that its similarities to what is stored of the documents equal the
    original ones. Documents are encoded and decoded as before, to the bit, and the file keeps the identity of the
    codec for documents: indexes, files of codes and collections that the old file filled are searched with the new one.
    It has one width: nested ones are left out, since queries are fitted to all latents together.

    Args:
        codec: the codec file that filled the index.
        collection: documents such as those in the index, and queries; opened with a confirmation part. Its pairs count
            a little where it knows some.
        path: the file to write.
        dtype, bytes: the code that documents are kept as, see :meth:`vaecodec.Codec.code`; by default float32 latents.
        steps: of the training.
        overwrite: replace another codec file at ``path``.
        on_step: called after every step of the training with its number and that of the last one.

    Raises:
        OutputExistsError: ``path`` is the codec file itself; or another one is there and ``overwrite`` is False, or
            what is there is no codec file.
        ArtifactError: the codec file cannot be used.
        UnusableDataError: the collection is not of this codec's embeddings, or has no queries or no confirmation part.
        ExportError: held-out queries do not find significantly more, or lose another figure; no file is written. Or the
            codec file is not in float32.
        InvalidBudgetError, NotCalibratedError: the codec has no such code.
    """
    old, code = _checked(codec, path, dtype, bytes, overwrite)
    data, metadata = read_artifact(codec)
    _check(collection, old)
    weights = read_weights(data)

    def stored(documents: FloatArray) -> FloatArray:
        latents = old.encode(documents)
        return latents if code is None else code.decode(code.encode(latents))

    first = _query_map(weights, metadata)
    fitted = fit_query_map(collection, stored, first, steps=steps, on_step=on_step)
    found = _judged(collection, stored, first, fitted, metadata, "float32 latents" if code is None else code.name)
    if not found.gate.passed:
        raise ExportError(
            f"refit-queries: expected queries that find more and lose nothing, got on {found}; no file was written; "
            "give more queries, or keep the codec as it is"
        )
    changed = CodecWeights(weights.encoder, weights.decoder, residual_weights(fitted.map), weights.root_latents)
    _write(path, changed, _Refitted(old, fitted), _metadata(metadata, old, fitted, collection, found), data)
    return found


def refit_queries_of_files(
    codec: str | os.PathLike[str], files: TrainingFiles, path: str | os.PathLike[str], **settings: Any
) -> RefittedQueries:
    """Do what :func:`refit_queries` does with vectors in files; a tenth of them is held out for confirmation.

    Args:
        codec: the codec file that filled the index; its metric and embedder are taken, whatever ``files`` says.
        files: documents such as those in the index, queries, and perhaps pairs; bad rows are listed beside ``path``.
        path: the file to write.
        settings: of :func:`refit_queries`.
    """
    known, _ = _checked(codec, path, settings.get("dtype"), settings.get("bytes"), settings.get("overwrite", False))
    files = replace(files, metric=known.metric, embedder=known.embedder)
    return refit_queries(
        codec, files.collection(files.sources(), Path(path), confirmation=CONFIRMATION), path, **settings
    )


def _checked(
    codec: str | os.PathLike[str],
    path: str | os.PathLike[str],
    dtype: str | None,
    size: int | None,
    overwrite: bool,
) -> tuple[Codec, Code | None]:
    """Return the codec and the code asked for, after the output was checked; the input itself is refused as one."""
    refuse_existing(path, overwrite=overwrite, inputs=[codec])
    known = Codec.load(codec)
    return known, None if dtype is None and size is None else known.code(dtype=dtype, bytes=size)


def _check(collection: Collection, codec: Codec) -> None:
    if (collection.dim, collection.metric) != (codec.dim, codec.metric):
        raise UnusableDataError(
            f"expected vectors of width {codec.dim} that are compared by {codec.metric}, as the codec's, got "
            f"{collection.dim} and {collection.metric}"
        )
    if collection.queries is None or collection.confirmation is None:
        raise UnusableDataError("expected queries, a part of which is held out for confirmation, got none")


def _query_map(weights: CodecWeights, metadata: Metadata) -> QueryMap:
    form = LatentMetric.DOT
    if weights.root_latents:
        form = LatentMetric.ROOT
    elif metadata.latent_metric is Metric.COSINE:
        form = LatentMetric.COSINE
    return QueryMap(_trainable(weights.query_encoder or weights.encoder), metadata.metric, form)


def _trainable(weights: ResidualWeights) -> ResidualMap:
    """Return the map of a file as a module."""
    out, width = weights.linear.shape
    hidden = 0 if weights.hidden is None else len(weights.hidden)
    made = ResidualMap(width, out, hidden, torch.Generator().manual_seed(0))
    values = {"linear.weight": weights.linear, "linear.bias": weights.bias}
    if weights.hidden is not None and weights.hidden_bias is not None and weights.output is not None:
        values |= {"hidden.weight": weights.hidden, "hidden.bias": weights.hidden_bias}
        values |= {"output.weight": weights.output, "output.bias": np.zeros(out, np.float32)}
    made.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()})
    return made


def _judged(
    collection: Collection,
    stored: Callable[[FloatArray], FloatArray],
    first: QueryMap,
    fitted: QueryMap,
    metadata: Metadata,
    through: str,
) -> RefittedQueries:
    """Compare both maps on the confirmation rows, by what the codec is for."""
    part = collection.confirmation
    assert part is not None
    kept = stored(part.documents)
    before, after = (figures(part, kept, each) for each in (first, fitted))
    recipe = metadata.provenance.get("recipe")
    relevance = isinstance(recipe, dict) and recipe.get("objective") == Aim.RELEVANCE and "ndcg@10" in before
    aim = Aim.RELEVANCE if relevance else Aim.NEIGHBOURS
    return RefittedQueries(
        through=through,
        before={name: bootstrap(values) for name, values in before.items()},
        after={name: bootstrap(values) for name, values in after.items()},
        gate=gate(after, {"before": before}, aim),
        queries=len(part.queries),
    )


@dataclass(frozen=True)
class _Refitted:
    """Encode as the codec does, with another map of queries."""

    codec: Codec
    queries: QueryMap

    @property
    def metric(self) -> Metric:
        return self.codec.metric

    @property
    def latent_metric(self) -> Metric:
        return self.codec.latent_metric

    def encode(self, vectors: Any) -> FloatArray:
        return self.codec.encode(vectors)

    def encode_queries(self, vectors: Any) -> FloatArray:
        return self.queries.encode(vectors)

    def decode(self, codes: Any) -> FloatArray:
        return self.codec.decode(codes)


def _metadata(
    metadata: Metadata, old: Codec, fitted: QueryMap, collection: Collection, found: RefittedQueries
) -> Metadata:
    return replace(
        metadata,
        nested_dims=(),
        documents_id=metadata.identity,
        codec_id=UNSIGNED,
        calibration=fitted_to_queries(metadata.calibration, _Refitted(old, fitted), collection.calibration_rows),
        provenance={
            **metadata.provenance,
            "query_refit": {**found.to_json(), "data": collection.to_json(), **made_now()},
        },
    )


def _write(
    path: str | os.PathLike[str],
    weights: CodecWeights,
    codec: _Refitted,
    metadata: Metadata,
    old: bytes,
) -> None:
    """Build and check the file; documents must come out as before, to the bit."""
    new = sign(build_model(weights, metadata))
    references = {"embedding": codec.encode, "query": codec.encode_queries, "code": codec.decode}
    typical = typical_rows(metadata, references)
    check_parity(new, references, PARITY_BOUNDS[Precision.FLOAT32], typical)
    rows = np.random.default_rng(0).standard_normal((_COMPARED_ROWS, metadata.dim), dtype=np.float32)
    rows = np.concatenate([rows, typical.get("embedding", rows[:0])])
    graphs = start(old), start(new)
    latents = [graph.run(["latent"], {"embedding": rows})[0] for graph in graphs]
    restored = [graph.run(["reconstruction"], {"code": latents[0]})[0] for graph in graphs]
    for before, after in (latents, restored):
        if before.tobytes() != after.tobytes():
            raise ExportError(
                "refit-queries: expected documents to be encoded as before, got other bits; no file was written"
            )
    write_codec_file(path, new, overwrite=True)
