"""A collection ready to train on: checked, split once for every run, its linear baselines measured."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecodec.drift import MOST_REFERENCE
from vaecodec.errors import InvalidVectorsError, UnusableDataError, WrongWidthError
from vaecodec.evaluation import IdArray, bootstrap, exact_search, mrr, ndcg, paired_bootstrap, recall
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.linear import LinearCodec, LinearKind, fit_linear
from vaecodec.scores import ScoreCalibration, calibrate_scores
from vaecodec.sources import RandomAccessSource, VectorSource
from vaecodec.vectors import normalised
from vaecodec_training.data import SAMPLE_BYTES, DataReport, Sample, Split, check, split, with_random_access

Encode = Callable[[FloatArray], FloatArray]
Figures = Mapping[str, NDArray[np.float64]]

# Documents searched and queries asked at most: a checkpoint is then validated in about a second.
_MOST_DOCUMENTS = 8_192
_MOST_QUERIES = 2_000
# Of these, as many take part in the calibration of scores.
_SCORED_QUERIES = 512
# Rows that linear codecs are fitted on; their subspace does not change beyond that.
_SAMPLE_ROWS = 200_000
# Rows that the codes of a checkpoint are calibrated on, and their rotation is learned from.
_CALIBRATION_ROWS = 8_192
# Bounds of the search for the nearest documents of each training query: seconds on two cores.
_COMPANION_QUERIES = 16_384
_COMPANION_DOCUMENTS = 40_000

DEPTH = 10


class DroppedPairsWarning(UserWarning):
    """Pairs were left out because the sample that a source is read by lacks one of their rows."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Queries that no weight is fitted to, and the documents they are searched in.

    Among the documents are all held-out ones and, to make the search as hard as that of an index, training documents
    up to 8,192 in all: an index holds those that its codec was trained on, too.

    Attributes:
        documents: float32 (n, d).
        queries: float32 (m, d); where the collection has none, held-out documents, which are then not searched.
        relevant: for each query the rows of ``documents`` that answer it, or None where no pairs are known.
        metric: how the embeddings are compared.
    """

    documents: FloatArray
    queries: FloatArray
    relevant: list[NDArray[np.int64]] | None
    metric: Metric

    @cached_property
    def truth(self) -> IdArray:
        """The ten nearest documents of each query, uncompressed: int64 (m, 10)."""
        return exact_search(self.documents, self.queries, DEPTH, self.metric)[0]

    def figures(self, encode: Encode, encode_queries: Encode, latent_metric: Metric) -> Figures:
        """Per-query figures of a codec, by exact search on its latents: recall@10 and @1, with pairs nDCG and MRR."""
        ids, _ = exact_search(encode(self.documents), encode_queries(self.queries), DEPTH, latent_metric)
        figures = {"recall@10": recall(ids, self.truth, DEPTH), "recall@1": recall(ids, self.truth, 1)}
        if self.relevant is not None:
            figures |= {"ndcg@10": ndcg(ids, self.relevant, DEPTH), "mrr@10": mrr(ids, self.relevant, DEPTH)}
        return figures

    def score_calibration(
        self, encode: Encode, encode_queries: Encode, latent_metric: Metric
    ) -> ScoreCalibration | None:
        """What a codec's scores say about those of the embeddings.

        None for L2, and where scores do not vary together: a collection without neighbours still gets its codec.
        """
        if self.metric is Metric.L2:
            return None
        queries = self.queries[:_SCORED_QUERIES]
        latents, query_latents = encode(self.documents), encode_queries(queries)
        try:
            return calibrate_scores(self.documents, queries, latents, query_latents, latent_metric)
        except InvalidVectorsError:
            return None

    def figures_of(self, codec: VectorCodec) -> Figures:
        """The same for a codec object."""
        return self.figures(codec.encode, codec.encode_queries, codec.latent_metric)


@dataclass(frozen=True)
class Shift:
    """How far queries lie from documents.

    Attributes:
        mean_gap: distance of the two means over the root mean squared norm of the documents.
        angles: principal angles in degrees between the subspaces of the leading axes (as many as :data:`_AXES`),
            ascending.
    """

    mean_gap: float
    angles: tuple[float, ...]

    def __str__(self) -> str:
        median = float(np.median(self.angles))
        return f"query/document shift: mean gap {self.mean_gap:.2f}, median principal angle {median:.0f} degrees"


_AXES = 16


def measure_shift(documents: FloatArray, queries: FloatArray) -> Shift:
    """Compare the means and the leading principal axes of both, float32 (n, d) and (m, d)."""
    axes = min(_AXES, documents.shape[1], len(documents) - 1, len(queries) - 1)
    bases = []
    for rows in (documents, queries):
        _, vectors = np.linalg.eigh(np.cov(rows, rowvar=False))
        bases.append(vectors[:, ::-1][:, :axes])
    cosines = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).clip(-1, 1)
    scale = np.sqrt(np.square(documents).sum(1).mean())
    gap = float(np.linalg.norm(documents.mean(0) - queries.mean(0)) / scale)
    return Shift(gap, tuple(float(angle) for angle in np.degrees(np.arccos(cosines))))


@dataclass(frozen=True, eq=False)
class Collection:
    """Documents, perhaps queries and pairs, and which rows are for what. Made by :meth:`open`.

    Attributes:
        documents, queries: where the vectors are read from.
        document_rows, query_rows: int64, increasing: the rows to train on.
        pairs: int64 (p, 2) training rows (query, document) that belong together, or None.
        validation: what choices are made on.
        confirmation: what is looked at once at the end, or None.
        report, query_report: what the check found.
        shift: of the training queries against the training documents, or None.
        metric: how the embeddings are compared.
        embedder: the embedding model's name, or an empty string.
    """

    documents: RandomAccessSource
    queries: RandomAccessSource | None
    document_rows: NDArray[np.int64]
    query_rows: NDArray[np.int64]
    pairs: NDArray[np.int64] | None
    validation: HeldOut
    confirmation: HeldOut | None
    report: DataReport
    query_report: DataReport | None
    shift: Shift | None
    metric: Metric
    embedder: str

    @classmethod
    def open(
        cls,
        documents: VectorSource,
        queries: VectorSource | None = None,
        *,
        pairs: NDArray[Any] | Literal["aligned"] | None = None,
        metric: Metric = Metric.COSINE,
        embedder: str = "",
        validation: float = 0.05,
        confirmation: float = 0.0,
        seed: int = 0,
        budget: int = SAMPLE_BYTES,
    ) -> Collection:
        """Check both sources and hold rows out by their content.

        Args:
            documents: what an index will hold.
            queries: what it will be searched with, of the same width; need not belong to the documents row for row.
            pairs: integers (p, 2), row numbers of queries and of the documents that answer them, or ``"aligned"``
                when query i belongs to document i. A paired query is held out with its document, and what equals a
                held-out query is not trained on. Numbers are those of the sources also where a sample is drawn;
                pairs that it lacks a row of are left out with a warning.
            metric: how the embeddings are compared.
            embedder: the embedding model's name, kept with the codec.
            validation: share of the rows held out to make choices on.
            confirmation: share held out besides, to be looked at once.
            seed: of the split, and of the samples.
            budget: bytes of float32 that the sample of a source without random access may take.

        Raises:
            UnusableDataError: rows cannot be used, there are too few, or the pairs do not fit.
            WrongWidthError: queries and documents differ in width.
            SourceError: a source is malformed.
        """
        if queries is not None and queries.dim != documents.dim:
            raise WrongWidthError(
                f"{queries.name}: expected queries of width {documents.dim}, as in {documents.name}, got {queries.dim}"
            )
        documents = with_random_access(documents, seed=seed, budget=budget)
        report = check(documents, metric=metric)
        parts = split(report.digests, validation=validation, confirmation=confirmation, seed=seed)
        query_report, query_parts, rows = None, None, None
        if queries is not None:
            queries = with_random_access(queries, seed=seed, budget=budget)
            query_report = check(queries, metric=metric)
            query_parts = split(query_report.digests, validation=validation, confirmation=confirmation, seed=seed)
            if pairs is not None:
                rows = _checked_pairs(pairs, documents, queries)
                query_parts = _apart(_follow(query_parts, parts, rows, query_report.rows), query_report.digests)
        elif pairs is not None:
            raise UnusableDataError("pairs: expected queries to go with them, got none")
        train_queries = query_parts.train if query_parts is not None else np.empty(0, np.int64)

        def held_out(part: Literal["validation", "confirmation"]) -> HeldOut:
            asked = None if query_parts is None else getattr(query_parts, part)
            return _held_out(documents, queries, getattr(parts, part), asked, parts.train, rows, metric)

        return cls(
            documents=documents,
            queries=queries,
            document_rows=parts.train,
            query_rows=train_queries,
            pairs=None if rows is None else _within(rows, train_queries, parts.train),
            validation=held_out("validation"),
            confirmation=held_out("confirmation") if confirmation else None,
            report=report,
            query_report=query_report,
            shift=None
            if queries is None
            else measure_shift(
                _taken(documents, _thinned(parts.train, _MOST_DOCUMENTS), metric),
                _taken(queries, _thinned(train_queries, _MOST_DOCUMENTS), metric),
            ),
            metric=metric,
            embedder=embedder,
        )

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.documents.dim

    @cached_property
    def scale(self) -> float:
        """Unit of similarities: mean squared norm of the training documents, centred under L2; 1 under cosine."""
        if self.metric is Metric.COSINE:
            return 1.0
        rows = self.sample
        if self.metric is Metric.L2:
            rows = rows - rows.mean(0)
        return float(np.square(rows).sum(1).mean())

    def linear(self, dim: int, kind: LinearKind) -> LinearCodec:
        """A linear codec fitted on the training documents."""
        if (dim, kind) not in self._fitted:
            self._fitted[dim, kind] = fit_linear(
                self.sample, dim, kind=kind, metric=self.metric, embedder=self.embedder
            )
        return self._fitted[dim, kind]

    @cached_property
    def companions(self) -> NDArray[np.int64] | None:
        """int64 (p, 2), training rows (query, document) to put into the same batch, or None without queries.

        The known pairs, or where none are known each query with each of its ten nearest documents: otherwise a batch
        would seldom hold the neighbours that a query is asked for. That search is bounded by the constants of this
        module.
        """
        if self.queries is None or self.pairs is not None:
            return self.pairs
        asked = _thinned(self.query_rows, _COMPANION_QUERIES)
        searched = _thinned(self.document_rows, _COMPANION_DOCUMENTS)
        vectors = [_taken(*taken, self.metric) for taken in ((self.documents, searched), (self.queries, asked))]
        nearest, _ = exact_search(vectors[0], vectors[1], DEPTH, self.metric)
        # All nearest ones first, then all second ones: a block of neighbouring rows holds many queries.
        return np.stack([np.tile(asked, nearest.shape[1]), searched[nearest.T.ravel()]], axis=1)

    @property
    def start_kind(self) -> LinearKind:
        """The linear codec that training starts from, whose latents are compared as the embeddings are."""
        return LinearKind.PCA if self.metric is Metric.L2 else LinearKind.SVD

    def baselines(self, dim: int) -> dict[str, Figures]:
        """Validation figures of every linear codec of this width, by the name of its kind."""
        if dim not in self._baselines:
            self._baselines[dim] = {
                str(kind): self.validation.figures_of(self.linear(dim, kind)) for kind in LinearKind
            }
        return self._baselines[dim]

    def to_json(self) -> dict[str, Any]:
        """What an artifact says of the data it was trained on."""
        content: dict[str, Any] = {
            "fingerprint": self.report.fingerprint,
            "rows": self.report.rows,
            "queries": self.query_report.rows if self.query_report else 0,
            "held_out_rows": self.report.rows - len(self.document_rows),
        }
        if self.query_report is not None:
            content["queries_fingerprint"] = self.query_report.fingerprint
        if self.shift is not None:
            content["shift"] = {"mean_gap": self.shift.mean_gap, "angles": list(self.shift.angles)}
        return content

    @property
    def identity(self) -> dict[str, Any]:
        """What a run that goes on must find unchanged. The shift's last bits depend on the number of threads."""
        return {key: value for key, value in self.to_json().items() if key != "shift"}

    @cached_property
    def sample(self) -> FloatArray:
        """At most 200,000 training documents, evenly spaced, float32 (n, d): what is fitted in one piece."""
        return _taken(self.documents, _thinned(self.document_rows, _SAMPLE_ROWS), self.metric)

    @cached_property
    def calibration_sample(self) -> FloatArray:
        """At most 8,192 of these, evenly spaced: enough for what codes are calibrated on."""
        return self.sample[_thinned(np.arange(len(self.sample)), _CALIBRATION_ROWS)]

    @cached_property
    def held_out(self) -> FloatArray:
        """At most 4,096 documents that no weight is fitted to, evenly spaced, float32 (n, d)."""
        rows = np.setdiff1d(np.arange(self.report.rows), self.document_rows, assume_unique=True)
        return _taken(self.documents, _thinned(rows, MOST_REFERENCE), self.metric)

    @cached_property
    def held_out_queries(self) -> FloatArray:
        """The same of the queries; (0, d) where there are none."""
        if self.queries is None or self.query_report is None:
            return np.empty((0, self.dim), np.float32)
        rows = np.setdiff1d(np.arange(self.query_report.rows), self.query_rows, assume_unique=True)
        return _taken(self.queries, _thinned(rows, MOST_REFERENCE), self.metric)

    @cached_property
    def _fitted(self) -> dict[tuple[int, LinearKind], LinearCodec]:
        return {}

    @cached_property
    def _baselines(self) -> dict[int, dict[str, Figures]]:
        return {}


def best_linear(baselines: Mapping[str, Figures]) -> str:
    """The kind of the highest mean recall@10."""
    return max(baselines, key=lambda kind: float(baselines[kind]["recall@10"].mean()))


def intervals(figures: Figures) -> dict[str, dict[str, float]]:
    """Means with their 95 % bootstrap intervals over the queries, as JSON values."""
    return {name: bootstrap(values)._asdict() for name, values in figures.items()}


def gain(figures: Figures, baseline: Figures) -> dict[str, dict[str, float]]:
    """Paired differences to a baseline with their 95 % intervals, as JSON values."""
    return {name: paired_bootstrap(values, baseline[name])._asdict() for name, values in figures.items()}


def read_pairs(text: str) -> NDArray[Any] | Literal["aligned"]:
    """What ``pairs`` of :meth:`Collection.open` may be, from the command line: ``aligned``, or the path of a .npy file.

    Raises:
        UnusableDataError: the file cannot be read.
    """
    if text == "aligned":
        return "aligned"
    try:
        pairs: NDArray[Any] = np.load(text, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UnusableDataError(
            f"pairs: expected 'aligned' or a .npy file of integers (p, 2), got {text}: {error}"
        ) from None
    return pairs


def _checked_pairs(
    pairs: NDArray[Any] | Literal["aligned"], documents: RandomAccessSource, queries: RandomAccessSource
) -> NDArray[np.int64]:
    """The pairs as row numbers of what is trained on, which may be samples."""
    asked, searched = (each.drawn_from if isinstance(each, Sample) else each.rows for each in (queries, documents))
    if isinstance(pairs, str):
        if searched != asked:
            raise UnusableDataError(
                f"pairs: aligned queries and documents must be as many, got {asked:,} queries and {searched:,} "
                "documents"
            )
        rows = np.repeat(np.arange(searched)[:, None], 2, axis=1)
    else:
        rows = np.asarray(pairs)
    if rows.ndim != 2 or rows.shape[1] != 2 or not np.issubdtype(rows.dtype, np.integer) or not len(rows):
        raise UnusableDataError(
            f"pairs: expected integers (p, 2), row numbers of queries and documents, got {rows.dtype} {rows.shape}"
        )
    outside = np.flatnonzero((rows < 0).any(1) | (rows >= [asked, searched]).any(1))
    if len(outside):
        raise UnusableDataError(
            f"pairs: row {outside[0]} is {rows[outside[0]].tolist()}, but there are {asked:,} queries and "
            f"{searched:,} documents"
        )
    return _drawn(rows.astype(np.int64), queries, documents)


def _drawn(rows: NDArray[np.int64], *sources: RandomAccessSource) -> NDArray[np.int64]:
    """Pairs by the row numbers of the samples, without those that one of the samples lacks a row of."""
    kept = rows
    for column, source in enumerate(sources):
        if isinstance(source, Sample):
            kept = kept[np.isin(kept[:, column], source.numbers)]
            kept[:, column] = np.searchsorted(source.numbers, kept[:, column])
    if not len(kept):
        raise UnusableDataError(
            f"pairs: expected pairs whose rows are in the samples that are drawn of sources without random access, got "
            f"none of {len(rows):,}; save the vectors as .npy, which is read without a sample"
        )
    if len(kept) < len(rows):
        warnings.warn(
            DroppedPairsWarning(
                f"pairs: {len(rows) - len(kept):,} of {len(rows):,} left out, because a sample is drawn of sources "
                "without random access and lacks one of their rows; save the vectors as .npy to train on all pairs"
            ),
            stacklevel=2,
        )
    return kept


def _follow(own: Split, documents: Split, pairs: NDArray[np.int64], queries: int) -> Split:
    """Move paired queries to the part of (the last of) their documents."""

    def numbered(parts: Split, rows: int) -> NDArray[np.int64]:
        part = np.zeros(rows, np.int64)
        part[parts.validation], part[parts.confirmation] = 1, 2
        return part

    total = len(documents.train) + len(documents.validation) + len(documents.confirmation)
    part = numbered(own, queries)
    part[pairs[:, 0]] = numbered(documents, total)[pairs[:, 1]]
    return Split(*(np.flatnonzero(part == number) for number in range(3)))


def _apart(parts: Split, digests: NDArray[np.uint64]) -> Split:
    """Without the queries of one text whose documents lie on several sides: they stay on the side looked at last."""

    def outside(rows: NDArray[np.int64], *later: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[~np.isin(digests[rows], digests[np.concatenate(later)])]

    return Split(
        outside(parts.train, parts.validation, parts.confirmation),
        outside(parts.validation, parts.confirmation),
        parts.confirmation,
    )


def _within(pairs: NDArray[np.int64], queries: NDArray[np.int64], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pairs both of whose rows are in the given parts."""
    return pairs[np.isin(pairs[:, 0], queries) & np.isin(pairs[:, 1], documents)]


def _held_out(
    documents: RandomAccessSource,
    queries: RandomAccessSource | None,
    document_rows: NDArray[np.int64],
    query_rows: NDArray[np.int64] | None,
    train_rows: NDArray[np.int64],
    pairs: NDArray[np.int64] | None,
    metric: Metric,
) -> HeldOut:
    relevant = None
    if queries is None or query_rows is None:
        searched, asked, source = _thinned(train_rows, _MOST_DOCUMENTS), document_rows, documents
    else:
        searched = _thinned(document_rows, _MOST_DOCUMENTS)
        searched = np.sort(np.concatenate([searched, _thinned(train_rows, _MOST_DOCUMENTS - len(searched))]))
        asked, source = query_rows, queries
    asked = _thinned(asked, _MOST_QUERIES)
    if pairs is not None:
        known = _within(pairs, asked, searched)
        asked = np.unique(known[:, 0])
        relevant = [np.searchsorted(searched, known[known[:, 0] == query, 1]) for query in asked]
    if len(searched) <= DEPTH or not len(asked):
        raise UnusableDataError(
            f"{source.name}: expected more than {DEPTH} documents to search and at least one held-out query, got "
            f"{len(searched)} and {len(asked)}; give more rows or hold a larger share out"
        )
    return HeldOut(_taken(documents, searched, metric), _taken(source, asked, metric), relevant, metric)


def _thinned(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the rows, evenly spaced."""
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, max(most, 0)).astype(np.int64)]


def _taken(source: RandomAccessSource, rows: NDArray[np.int64], metric: Metric) -> FloatArray:
    vectors = np.asarray(source.take(rows), np.float32)
    return normalised(vectors) if metric is Metric.COSINE else vectors
