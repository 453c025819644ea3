"""Judge codecs among all documents of a collection: with many more neighbours to confuse, figures are lower, and
another linear codec can be the best one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vaecodec.evaluation import IdArray, Truth, exact_search, judge, without_own
from vaecodec.interface import FloatArray, Metric
from vaecodec.steps import Steps
from vaecodec.vectors import as_compared
from vaecodec_training.channel import through_code
from vaecodec_training.data.collection import Collection
from vaecodec_training.data.held_out import DEPTH_OF_LISTS, Encode, HeldOut, QueryFigures
from vaecodec_training.data.sample import evenly_spaced, vectors_at
from vaecodec_training.gate import Gate, gate
from vaecodec_training.model import VariationalCodec, in_numpy
from vaecodec_training.recipe import Recipe
from vaecodec_training.validation import intervals

_LOG = logging.getLogger(__name__)

_QUERIES = 1_000
_BLOCK_ROWS = 16_384
# What all codecs found for so many queries is read at once: some ten thousand documents.
_JUDGED_QUERIES = 250


@dataclass(frozen=True, eq=False)
class FullSize:
    """Hold what was found among all documents.

    Attributes:
        documents: how many were searched.
        unseen: how many of these no weight was fitted to.
        queries: how many held-out queries asked.
        figures: of the learned codec, per query.
        baselines: those of the linear codecs, by kind.
        gate: each figure beside the linear codec that is best in it among so many documents.
        nearest: int64 (queries, 100), the rows that uncompressed vectors find.
    """

    documents: int
    unseen: int
    queries: int
    figures: QueryFigures
    baselines: Mapping[str, QueryFigures]
    gate: Gate
    nearest: IdArray

    def __str__(self) -> str:
        found = "; ".join(str(each) for each in self.gate.comparisons)
        return (
            f"Among all {self.documents:,} documents ({self.unseen:,} of them not trained on), {self.queries:,} "
            f"held-out queries: {found}."
        )

    @property
    def lost(self) -> str:
        """Say what the codec loses among all documents; empty where it loses no figure that counts."""
        losses = "; ".join(each.loss for each in self.gate.lost)
        return f"Among all {self.documents:,} documents the codec loses {losses}." if losses else ""

    def to_json(self) -> dict[str, Any]:
        """Return counts, figures and comparisons as JSON values."""
        return {
            "documents": self.documents,
            "unseen": self.unseen,
            "queries": self.queries,
            "figures": {
                "codec": intervals(self.figures),
                **{kind: intervals(figures) for kind, figures in self.baselines.items()},
            },
            **self.gate.to_json(),
            "decision": str(self),
            "loses": self.lost,
        }


def judge_at_full_size(
    models: Sequence[VariationalCodec],
    collection: Collection,
    recipe: Recipe,
    part: HeldOut,
    known: FullSize | None = None,
) -> list[FullSize]:
    """Search all documents once by exact search, in blocks, for some hundred held-out queries.

    Args:
        models: the learned codecs, which are compared with the same linear ones.
        collection: what they were trained on.
        recipe: how; for a code the documents go through it, and the start is the only linear codec.
        part: whose queries are asked.
        known: what was found for another model by the same arguments; the linear codecs are not searched again.

    Returns:
        What was found, by model.
    """
    asked = evenly_spaced(np.arange(len(part.queries)), _QUERIES)
    codecs = _learned(models, collection, recipe)
    if known is None:
        others = _others(collection, recipe)
        found = _found({**codecs, **others}, collection, part, asked)
        nearest = found.pop("")
    else:
        others = {}
        found, nearest = _found(codecs, collection, part, asked), known.nearest
    figures = _judged(found, nearest, collection, part, asked)
    linear = known.baselines if known else {kind: figures[kind] for kind in others if kind}
    rows = collection.report.rows
    unseen = rows - len(collection.document_rows)
    return [
        FullSize(
            rows, unseen, len(asked), figures[name], linear, gate(figures[name], linear, recipe.objective), nearest
        )
        for name in codecs
    ]


class _Searched(NamedTuple):
    """Hold the maps of a codec, or of the uncompressed vectors."""

    encode: Encode
    encode_queries: Encode
    metric: Metric


def _learned(models: Sequence[VariationalCodec], collection: Collection, recipe: Recipe) -> dict[str, _Searched]:
    """Return the learned codecs under names of their own."""
    codecs = {}
    for number, model in enumerate(models):
        encode = _coded(in_numpy(model.encode, model), model.latent_metric, collection, recipe)
        codecs[f"codec {number}"] = _Searched(encode, in_numpy(model.encode_queries, model), model.latent_metric)
    return codecs


def _others(collection: Collection, recipe: Recipe) -> dict[str, _Searched]:
    """Return the uncompressed vectors under an empty name, and the linear codecs by kind."""

    def unchanged(rows: FloatArray) -> FloatArray:
        return rows

    codecs = {"": _Searched(unchanged, unchanged, collection.metric)}
    for kind, codec in collection.linear_family(recipe.dim).items():
        if not recipe.for_codes or kind == collection.start_kind:
            encode = _coded(codec.encode, codec.latent_metric, collection, recipe)
            codecs[kind] = _Searched(encode, codec.encode_queries, codec.latent_metric)
    return codecs


def _coded(encode: Encode, metric: Metric, collection: Collection, recipe: Recipe) -> Encode:
    return through_code(encode, collection.calibration_sample, recipe, metric) if recipe.for_codes else encode


def _found(
    codecs: Mapping[str, _Searched], collection: Collection, part: HeldOut, asked: NDArray[np.int64]
) -> dict[str, IdArray]:
    """Find the hundred nearest documents of each query by each codec, in one pass over the documents."""
    depth = DEPTH_OF_LISTS + (part.own is not None)
    queries = {name: codec.encode_queries(part.queries[asked]) for name, codec in codecs.items()}
    ids = {name: np.empty((len(asked), 0), np.int64) for name in codecs}
    scores = {name: np.empty((len(asked), 0), np.float32) for name in codecs}
    first = 0
    say = Steps(_LOG)
    for block in collection.documents.blocks(_BLOCK_ROWS):
        say("searching all documents: %s of %s", f"{first:,}", f"{collection.report.rows:,}")
        rows = as_compared(np.asarray(block, np.float32), collection.metric)
        for name, codec in codecs.items():
            near, near_scores = exact_search(codec.encode(rows), queries[name], depth, codec.metric)
            both = np.concatenate([ids[name], near + first], axis=1)
            both_scores = np.concatenate([scores[name], near_scores], axis=1)
            order = np.lexsort((both, -both_scores), axis=1)[:, :depth]
            ids[name] = np.take_along_axis(both, order, axis=1)
            scores[name] = np.take_along_axis(both_scores, order, axis=1)
        first += len(rows)
    if part.own is None:
        return ids
    return {name: without_own(each, part.query_rows[asked]) for name, each in ids.items()}


def _judged(
    found: Mapping[str, IdArray],
    nearest: IdArray,
    collection: Collection,
    part: HeldOut,
    asked: NDArray[np.int64],
) -> dict[str, QueryFigures]:
    """Judge what each codec found; only the documents that are looked at are read again."""
    relevant, grades = None, None
    if part.relevant is not None and collection.known is not None:
        every = np.arange(collection.report.rows)
        rows = part.query_rows[asked]
        relevant, grades = collection.known.within(rows, every).by_query(rows, every)
    # A hundred of a hundred documents say nothing: the first ones tell the judge that there are more, where there are.
    first = np.arange(min(collection.report.rows, DEPTH_OF_LISTS + 1))
    parts: dict[str, list[QueryFigures]] = {name: [] for name in found}
    for start in range(0, len(asked), _JUDGED_QUERIES):
        block = slice(start, start + _JUDGED_QUERIES)
        answers = None if relevant is None else relevant[block]
        lists = [nearest[block], *(ids[block] for ids in found.values())]
        looked_at = np.unique(np.concatenate([first, *(ids.ravel() for ids in lists), *(answers or [])]))
        vectors = vectors_at(collection.documents, looked_at, collection.metric)
        places = np.searchsorted(looked_at, nearest[block])
        truth = Truth.known(vectors, part.queries[asked[block]], collection.metric, places)
        if answers is not None:
            answers = [np.searchsorted(looked_at, each) for each in answers]
        for name, ids in found.items():
            figures = judge(np.searchsorted(looked_at, ids[block]), truth, answers, grades and grades[block])
            parts[name].append(figures)
    return {
        name: {figure: np.concatenate([each[figure] for each in blocks]) for figure in blocks[0]}
        for name, blocks in parts.items()
    }
