"""Fit a bridge between two embedding models, predict what it keeps, and write it in the format of the codecs."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaecodec.artifact import Kind, Metadata
from vaecodec.errors import ExportError, UnusableDataError
from vaecodec.evaluation import IdArray, Interval, ratio_bootstrap
from vaecodec.interface import FloatArray, Metric
from vaecodec.provenance import made_now
from vaecodec.sources import open_source
from vaecodec.two_models.bridge import MODEL_BRIDGE, Affine
from vaecodec.two_models.merging import Embedded
from vaecodec.two_models.retention import Answers, probable_answers, searched_by
from vaecodec.vectors import as_vectors, normalised
from vaecodec_exporters.bridge_sample import Known, embedded_by_both
from vaecodec_exporters.checkpoint import residual_weights
from vaecodec_exporters.graph import CodecWeights, ResidualWeights, write_codec
from vaecodec_exporters.output import refuse_existing
from vaecodec_training.data.pair_files import read_pairs
from vaecodec_training.data.pairs import numbered_pairs
from vaecodec_training.maps import MapKind, fit_map, map_rows
from vaecodec_training.model import ResidualMap

_LOG = logging.getLogger(__name__)

FEWEST_TEXTS = 1_000
LEAST_RETENTION = 0.6

_FOLDS = 5
# Number of documents to use as queries if none are given.
_ASKING = 2_500
# Without known answers nothing tells which model is the better one. The prediction for a chosen map was off by up to
# this much on three samples of two collections, in both directions.
_ANSWERS_UNKNOWN = 0.25


@dataclass(frozen=True, kw_only=True)
class ModelBridgeFiles:
    """Say where texts are stored that both models have embedded, row for row.

    Each is a file or an address that :func:`vaecodec.sources.open_source` reads.

    Attributes:
        old: documents such as those of the collection, by the old model.
        new: the same by the new model.
        old_queries: queries by the old model; None where there are none.
        new_queries: the same by the new model.
        pairs: which document answers which query, as :func:`~vaecodec_training.data.pair_files.read_pairs` reads them.
    """

    old: str
    new: str
    old_queries: str | None = None
    new_queries: str | None = None
    pairs: str | None = None


@dataclass(frozen=True)
class Retention:
    """Hold the share of the new model's nDCG@10 that remains when its queries search the old documents across a bridge.

    Attributes:
        chosen: the map that keeps most.
        kept: the share that each map keeps, with its 95 % interval, over queries that it was not fitted on.
        queries: how many queries.
        documents: how many documents were searched. Among more, less is kept.
        labelled: whether the queries' answers were known. The intervals are much wider where they were not.
    """

    chosen: MapKind
    kept: dict[MapKind, Interval]
    queries: int
    documents: int
    labelled: bool

    def to_json(self) -> dict[str, Any]:
        """Return all as JSON values."""
        kept = {str(kind): share._asdict() for kind, share in self.kept.items()}
        return {
            "chosen": str(self.chosen),
            "kept": kept,
            "queries": self.queries,
            "documents": self.documents,
            "labelled": self.labelled,
        }

    @property
    def best(self) -> Interval:
        """Return the share that the chosen map keeps."""
        return self.kept[self.chosen]


def bridge_models_of_files(
    path: str | os.PathLike[str],
    files: ModelBridgeFiles,
    *,
    least: float = LEAST_RETENTION,
    embedder: str = "",
    overwrite: bool = False,
) -> Retention:
    """Read at most 20,000 evenly spaced texts, and write the map between the models, as :func:`bridge_models` does.

    Args:
        path: the target.
        files: where the texts are stored.
        least: see :func:`bridge_models`.
        embedder: name of the new model.
        overwrite: replace another codec file at ``path``.

    Raises:
        SourceError: a file cannot be read.
        UnusableDataError: queries are given of one model only.
        OutputExistsError, InvalidVectorsError, UnusableDataError, ExportError: see :func:`bridge_models`.
    """
    if (files.old_queries is None) != (files.new_queries is None):
        raise UnusableDataError("queries: expected queries embedded by both models or by none, got those of one")
    refuse_existing(path, overwrite=overwrite)
    if files.pairs is not None and files.old_queries is None:
        raise UnusableDataError("pairs: expected queries beside them, embedded by both models, got none")
    documents, queries = (open_source(files.old), open_source(files.new)), None
    if files.old_queries is not None and files.new_queries is not None:
        queries = open_source(files.old_queries, queries=True), open_source(files.new_queries, queries=True)
    known = None if files.pairs is None or queries is None else read_pairs(files.pairs, documents[0], queries[0])
    sampled = embedded_by_both(documents, queries, known)
    return bridge_models(path, *sampled, least=least, embedder=embedder, overwrite=overwrite)


def bridge_models(
    path: str | os.PathLike[str],
    documents: Embedded,
    queries: Embedded | None = None,
    pairs: Known | None = None,
    *,
    kinds: tuple[MapKind, ...] = tuple(MapKind),
    least: float = LEAST_RETENTION,
    embedder: str = "",
    overwrite: bool = False,
) -> Retention:
    """Write the map from a new embedding model to an old one that cannot be run any more.

    The file is a codec, whose embeddings are the new model's and whose latents are the old one's. Vectors of both are
    compared by cosine.

    Args:
        path: the target.
        documents: texts such as those of the collection, embedded by both models: 2,000 to 5,000, 1,000 at least.
        queries: embedded by both; without them the documents ask.
        pairs: int (p, 2), which query is answered by which document, or ``aligned``; without them what both models
            together find is taken for the answer, and the share may be wrong by .25.
        kinds: of the maps to choose from.
        least: the share of the new model's nDCG@10 that has to be left.
        embedder: name of the new model.
        overwrite: replace another codec file at ``path``.

    Raises:
        OutputExistsError: another codec file is at ``path`` and ``overwrite`` is False, or it is no codec file.
        InvalidVectorsError: a sample has a bad row.
        UnusableDataError: there are too few texts, or the models' rows differ in number.
        ExportError: no map keeps ``least``; no file is written.
    """
    refuse_existing(path, overwrite=overwrite)
    documents = _checked(documents, "documents")
    queries = None if queries is None else _checked(queries, "queries")
    found = predict_retention(documents, queries, pairs, kinds=kinds)
    if found.best.mean < least:
        raise ExportError(
            f"bridge: expected a map that keeps {least:.2f} of the new model's nDCG@10, got {found.best} by "
            f"{found.chosen}, the best one; embed the texts again by the new model (vaecodec reembed), or accept less "
            "(--least, least=)"
        )
    texts = documents if queries is None else _joined(documents, queries)
    _write(path, fit_map(found.chosen, texts.new, texts.old), documents, found, embedder, overwrite)
    return found


def predict_retention(
    documents: Embedded,
    queries: Embedded | None = None,
    pairs: Known | None = None,
    *,
    kinds: tuple[MapKind, ...] = tuple(MapKind),
    seed: int = 0,
) -> Retention:
    """Predict what each map keeps: fit it on four fifths of the texts, ask by the fifth, in turn.

    The best answer to a query is in the same fifth as the query.

    Args:
        documents: float32 of unit norm, by both models.
        queries: float32 of unit norm, by both models.
        pairs: as :func:`bridge_models` takes them.
        kinds: of the maps to compare.
        seed: of the division into fifths.
    """
    if pairs is not None and queries is None:
        raise UnusableDataError("pairs: expected queries beside them, embedded by both models, got none")
    random = np.random.default_rng(seed)
    texts = documents if queries is None else _joined(documents, queries)
    own: IdArray | None = None
    if queries is None:
        own = np.sort(random.permutation(len(documents.old))[:_ASKING])
        asking = own
    else:
        asking = np.arange(len(documents.old), len(texts.old))
    asked = texts.rows(asking)
    if pairs is None:
        answers = probable_answers(documents, asked, own)
    else:
        answers = _known(pairs, len(asked.old), len(documents.old))
    whole = searched_by(documents.new, asked.new, answers, own)
    if not whole.any():
        raise UnusableDataError("pairs: expected answers that the new model finds, got none among its ten best")
    folds = answers_apart(len(texts.old), asking, answers, random)
    kept = {}
    for kind in kinds:
        across = mapped_in_turn(kind, texts, folds)[asking]
        share = ratio_bootstrap(searched_by(documents.old, across, answers, own), whole)
        kept[kind] = share if pairs is not None else _widened(share)
    chosen = max(kept, key=lambda kind: kept[kind].mean)
    return Retention(chosen, kept, len(asking), len(documents.old), pairs is not None)


def _widened(share: Interval) -> Interval:
    below, above = (math.hypot(end - share.mean, _ANSWERS_UNKNOWN) for end in share[1:])
    return Interval(share.mean, max(share.mean - below, 0.0), share.mean + above)


def answers_apart(texts: int, asking: IdArray, answers: Answers, random: np.random.Generator) -> IdArray:
    """Divide texts into fifths, so that a map that is judged by a query was not fitted on its best answer either.

    Args:
        texts: how many there are; the documents come first.
        asking: int64 (nq,), which of the texts ask.
        answers: to these.
        random: draws the fifths.

    Returns:
        int64 (texts,), from 0.
    """
    best = [
        (text, found[0 if answers.grades is None else np.argmax(answers.grades[row])])
        for row, (text, found) in enumerate(zip(asking, map(np.atleast_1d, answers.relevant), strict=True))
        if len(found)
    ]
    ends = np.array(best).T
    # Texts that belong together get the lowest of their numbers.
    groups = np.arange(texts)
    while True:
        lowest, lower = groups[ends].min(axis=0), groups.copy()
        for end in ends:
            np.minimum.at(lower, end, lowest)
        if np.array_equal(lower, groups):
            break
        groups = lower
    # So many texts cannot be left out of a fit.
    groups = np.where(np.bincount(groups)[groups] > texts / _FOLDS, np.arange(texts), groups)
    return np.asarray((random.permutation(texts) % _FOLDS)[groups], np.int64)


def mapped_in_turn(kind: MapKind, texts: Embedded, folds: IdArray) -> FloatArray:
    """Map each text by a map that was fitted on the texts of all folds but its own.

    Args:
        kind: of the maps.
        texts: float32 of unit norm, by both models.
        folds: int64 (n,), from 0; which fold each text is of.

    Returns:
        float32 (n, old width), of unit norm.
    """
    across = np.empty_like(texts.old)
    for fold in range(folds.max() + 1):
        _LOG.debug("fitting the map %s, fold %d of %d", kind, fold + 1, folds.max() + 1)
        fitted = fit_map(kind, texts.new[folds != fold], texts.old[folds != fold])
        across[folds == fold] = map_rows(fitted, texts.new[folds == fold])
    return across


def _write(
    path: str | os.PathLike[str],
    model: ResidualMap,
    documents: Embedded,
    found: Retention,
    embedder: str,
    overwrite: bool,
) -> None:
    back = Affine.fit(documents.old, documents.new)
    weights = CodecWeights(residual_weights(model), ResidualWeights(back.matrix, back.bias))
    shares = {str(kind): {"nDCG@10 kept": share._asdict()} for kind, share in found.kept.items()}
    metadata = Metadata(
        kind=Kind.LINEAR if model.hidden is None else Kind.AE,
        dim=documents.new.shape[1],
        code_dim=documents.old.shape[1],
        metric=Metric.COSINE,
        latent_metric=Metric.COSINE,
        embedder=embedder,
        provenance={
            MODEL_BRIDGE: {"map": str(found.chosen), "documents": len(documents.old), "queries": found.queries},
            **made_now(),
            "validation": shares,
        },
    )

    def forward(rows: FloatArray) -> FloatArray:
        return map_rows(model, rows)

    def backward(rows: FloatArray) -> FloatArray:
        return back(rows, (Metric.COSINE, Metric.COSINE))

    references = {"embedding": forward, "query": forward, "code": backward}
    write_codec(path, weights, metadata, references, overwrite=overwrite)


def _checked(both: Embedded, name: str) -> Embedded:
    if len(both.old) != len(both.new):
        raise _unequal(name, len(both.old), len(both.new))
    rows = [as_vectors(part, part.shape[1], Metric.COSINE, name=name) for part in both]
    if name == "documents" and len(rows[0]) < FEWEST_TEXTS:
        raise UnusableDataError(
            f"{name}: expected at least {FEWEST_TEXTS:,} texts embedded by both models, got {len(rows[0]):,}"
        )
    return Embedded(*map(normalised, rows))


def _unequal(name: str, old: int, new: int) -> UnusableDataError:
    return UnusableDataError(f"{name}: expected the same texts by both models, got {old:,} and {new:,} rows")


def _joined(documents: Embedded, queries: Embedded) -> Embedded:
    return Embedded(*(np.concatenate(pair) for pair in zip(documents, queries, strict=True)))


def _known(pairs: Known, queries: int, documents: int) -> Answers:
    return Answers(*numbered_pairs(pairs, documents, queries).by_query(np.arange(queries), np.arange(documents)))
