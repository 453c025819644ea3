"""Open a collection to train on: check it, split it once for every run, measure its linear baselines."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vaecodec.calibration import CalibrationRows
from vaecodec.drift import MOST_REFERENCE
from vaecodec.errors import UnusableDataError, WrongWidthError
from vaecodec.evaluation import exact_search, similarities
from vaecodec.interface import FloatArray, Metric
from vaecodec.linear import LinearCodec, LinearKind, LinearMoments, linear_kinds
from vaecodec.sources import RandomAccessSource, VectorSource
from vaecodec_training.data.check import DataReport, check
from vaecodec_training.data.held_out import DEPTH, MOST_DOCUMENTS, HeldOut, QueryFigures, held_out_part
from vaecodec_training.data.pairs import Pairs, checked_pairs
from vaecodec_training.data.sample import evenly_spaced, vectors_at, with_random_access
from vaecodec_training.data.shift import Shift, measure_shift
from vaecodec_training.data.split import drop_leaks, follow_documents, split
from vaecodec_training.recipe import Aim

# Most rows to fit linear codecs on. More rows do not change their subspace.
_SAMPLE_ROWS = 200_000


# Rows to calibrate the codes of a checkpoint on, and to learn their rotation from.
_CALIBRATION_ROWS = 8_192
_QUERY_SAMPLE_ROWS = 16_384

# Documents on each side to measure the spread of similarities with.
_SPREAD_ROWS = 1_024


# Documents to hold out by default, within the shares below. Among only 2,000 documents the hundred nearest include
# distant ones, and to keep these, almost nothing of the training was kept (debian-minilm, 40,000 rows).
_HELD_OUT_ROWS = 8_192
# For relevance hold fewer out: 2,000 queries are enough to decide, and training needs every pair.
_HELD_OUT_PAIRS = 2_048
_LEAST_HELD_OUT, _MOST_HELD_OUT = 0.05, 0.25

# Most queries and documents in the search for each training query's nearest documents: seconds on two cores.
_COMPANION_QUERIES = 16_384


_COMPANION_DOCUMENTS = 40_000


def held_out_share(rows: int, objective: Aim = Aim.NEIGHBOURS) -> float:
    """Return the share of so many rows to make choices on: one in twenty, of small collections more, up to a quarter.

    Neighbours among few documents say little about those among many, so that 8,192 documents are held out for them. For
    relevance 2,048 are enough.

    Examples:
        >>> from vaecodec_training.data.collection import held_out_share
        >>> from vaecodec_training.recipe import Aim
        >>> held_out_share(40_000), held_out_share(40_000, Aim.RELEVANCE)
        (0.2048, 0.0512)
    """
    wanted = _HELD_OUT_PAIRS if objective is Aim.RELEVANCE else _HELD_OUT_ROWS
    return min(_MOST_HELD_OUT, max(_LEAST_HELD_OUT, wanted / max(rows, 1)))


@dataclass(frozen=True, eq=False)
class Collection:
    """Hold documents, perhaps queries and pairs, and which rows are for what. Made by :meth:`open`.

    Attributes:
        documents, queries: where the vectors are read from.
        document_rows, query_rows: int64, increasing: the rows to train on.
        pairs: int64 (p, 2) training rows (query, document) that belong together, or None.
        grades: float64 (p,), how well each document answers, or None.
        known: the pairs of all rows, held-out ones among them, or None.
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
    grades: NDArray[np.float64] | None
    known: Pairs | None
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
        validation: float | None = None,
        confirmation: float = 0.0,
        seed: int = 0,
    ) -> Collection:
        """Check both sources and hold rows out by their content.

        A sample is drawn of a source without random access. For a sample of another size call
        :func:`~vaecodec_training.data.sample.with_random_access` before.

        Args:
            documents: what an index will hold.
            queries: what it will be searched with, of the same width; need not belong to the documents row for row.
            pairs: numbers (p, 2), rows of queries and of the documents that answer them, with a third column of
                grades such as clicks where some answer better; or ``"aligned"`` when query i belongs to document i.
                A paired query is held out with its document, and what equals a held-out query is not trained on.
                Numbers are those of the sources also where a sample is drawn; pairs that it lacks a row of are left
                out with a warning.
            metric: how the embeddings are compared.
            embedder: the embedding model's name, kept with the codec.
            validation: share of the rows held out to make choices on; by default :func:`held_out_share`.
            confirmation: share held out besides, to be looked at once.
            seed: of the split, and of the samples.

        Raises:
            UnusableDataError: rows cannot be used, there are too few, or the pairs do not fit.
            WrongWidthError: queries and documents differ in width.
            SourceError: a source is malformed.
        """
        if queries is not None and queries.dim != documents.dim:
            raise WrongWidthError(
                f"{queries.name}: expected queries of width {documents.dim}, as in {documents.name}, got {queries.dim}"
            )
        documents = with_random_access(documents, seed=seed)
        report = check(documents, metric=metric)
        if validation is None:
            validation = held_out_share(report.rows)
        parts = split(report.digests, validation=validation, confirmation=confirmation, seed=seed)
        query_report, query_parts, rows = None, None, None
        if queries is not None:
            queries = with_random_access(queries, seed=seed)
            query_report = check(queries, metric=metric, searched_with=True)
            query_parts = split(query_report.digests, validation=validation, confirmation=confirmation, seed=seed)
            if pairs is not None:
                rows = checked_pairs(pairs, documents, queries)
                query_parts = drop_leaks(
                    follow_documents(query_parts, parts, rows.rows, query_report.rows), query_report.digests
                )
        elif pairs is not None:
            raise UnusableDataError("pairs: expected queries to go with them, got none")
        train_queries = query_parts.train if query_parts is not None else np.empty(0, np.int64)

        def held_out(part: Literal["validation", "confirmation"], others: NDArray[np.int64] | None) -> HeldOut:
            asked = None if query_parts is None else getattr(query_parts, part)
            return held_out_part(documents, queries, getattr(parts, part), asked, rows, metric, others)

        known = None if rows is None else rows.within(train_queries, parts.train)
        return cls(
            documents=documents,
            queries=queries,
            document_rows=parts.train,
            query_rows=train_queries,
            pairs=None if known is None else known.rows,
            grades=None if known is None else known.grades,
            known=rows,
            validation=held_out("validation", None),
            confirmation=held_out("confirmation", parts.validation) if confirmation else None,
            report=report,
            query_report=query_report,
            shift=None
            if queries is None
            else measure_shift(
                vectors_at(documents, evenly_spaced(parts.train, MOST_DOCUMENTS), metric),
                vectors_at(queries, evenly_spaced(train_queries, MOST_DOCUMENTS), metric),
            ),
            metric=metric,
            embedder=embedder,
        )

    @property
    def dim(self) -> int:
        """Return the width of the embeddings."""
        return self.documents.dim

    @cached_property
    def scale(self) -> float:
        """Return the unit of similarities: ten times their standard deviation between one training document and all
        others.

        About 1 under cosine for most models, and .2 for those whose vectors lie in a narrow cone.
        """
        rows = self.sample[evenly_spaced(np.arange(len(self.sample)), 2 * _SPREAD_ROWS)]
        spread = float(np.median(similarities(rows[::2], rows[1::2], self.metric).std(axis=1)))
        return 10 * spread or 1.0

    @cached_property
    def unit(self) -> float:
        """Return the typical norm of the training documents; 1 under cosine."""
        return 1.0 if self.metric is Metric.COSINE else float(np.sqrt(np.square(self.sample).sum(1).mean()))

    def linear(self, dim: int, kind: LinearKind) -> LinearCodec:
        """Return a linear codec fitted on the training documents."""
        if (dim, kind) not in self._fitted:
            linear = self._moments.codec(dim, kind, embedder=self.embedder)
            self._fitted[dim, kind] = replace(linear, fitted_on=None)  # its own rows are replaced by calibration_rows
        return self._fitted[dim, kind]

    def linear_family(self, dim: int) -> dict[str, LinearCodec]:
        """Return every linear codec of this width that the metric tells apart, by the name of its kind."""
        return {str(kind): self.linear(dim, kind) for kind in linear_kinds(self.metric)}

    @cached_property
    def companions(self) -> NDArray[np.int64] | None:
        """Return training rows (query, document) to put into the same batch, int64 (p, 2), or None without queries.

        The known pairs, or where none are known each query with each of its ten nearest documents: otherwise a batch
        would seldom hold the neighbours that a query is asked for. That search is bounded by the constants of this
        module.
        """
        if self.queries is None or self.pairs is not None:
            return self.pairs
        asked = evenly_spaced(self.query_rows, _COMPANION_QUERIES)
        searched = evenly_spaced(self.document_rows, _COMPANION_DOCUMENTS)
        vectors = [vectors_at(*taken, self.metric) for taken in ((self.documents, searched), (self.queries, asked))]
        nearest, _ = exact_search(vectors[0], vectors[1], DEPTH, self.metric)
        # Order: the nearest documents of all queries, then the second ones. So a block of rows holds many queries.
        return np.stack([np.tile(asked, nearest.shape[1]), searched[nearest.T.ravel()]], axis=1)

    @property
    def start_kind(self) -> LinearKind:
        """Return the linear codec that training starts from, whose latents are compared as the embeddings are."""
        return LinearKind.PCA if self.metric is Metric.L2 else LinearKind.SVD

    def best_start(self, dim: int, figure: str, latent_metric: Metric) -> LinearKind:
        """Return the linear codec whose mean of a validation figure is highest, of those that training can start
        from."""
        kinds = [
            LinearKind(kind)
            for kind, codec in self.linear_family(dim).items()
            if codec.latent_metric is latent_metric and kind != LinearKind.PCA_DOCUMENTS
        ]
        measured = self.baselines(dim)
        return max(kinds, key=lambda kind: (float(measured[kind][figure].mean()), kind is self.start_kind))

    def baselines(self, dim: int) -> dict[str, QueryFigures]:
        """Return the validation figures of every linear codec of this width, by the name of its kind."""
        if dim not in self._baselines:
            self._baselines[dim] = {
                kind: self.validation.figures_of(codec) for kind, codec in self.linear_family(dim).items()
            }
        return self._baselines[dim]

    def to_json(self) -> dict[str, Any]:
        """Return what a codec file says about its training data."""
        content: dict[str, Any] = {
            "fingerprint": self.report.fingerprint,
            "rows": self.report.rows,
            "queries": self.query_report.rows if self.query_report else 0,
            "held_out_rows": self.report.rows - len(self.document_rows),
        }
        for name, report in (("rows", self.report), ("queries", self.query_report)):
            if report is not None and report.sampled_from is not None:
                content[f"{name}_sampled_from"] = report.sampled_from
        if self.query_report is not None:
            content["queries_fingerprint"] = self.query_report.fingerprint
        if self.shift is not None:
            content["shift"] = {"mean_gap": self.shift.mean_gap, "angles": list(self.shift.angles)}
        return content

    @property
    def fingerprints(self) -> dict[str, Any]:
        """Return what must be unchanged when a run is resumed.

        The shift is left out: its last bits depend on the number of threads.
        """
        return {key: value for key, value in self.to_json().items() if key != "shift"}

    @cached_property
    def sample(self) -> FloatArray:
        """Return at most 200,000 training documents, evenly spaced, float32 (n, d): what is fitted in one piece."""
        return vectors_at(self.documents, evenly_spaced(self.document_rows, _SAMPLE_ROWS), self.metric)

    @cached_property
    def calibration_sample(self) -> FloatArray:
        """Return at most 8,192 training documents, evenly spaced: enough to calibrate codes on."""
        return self.sample[evenly_spaced(np.arange(len(self.sample)), _CALIBRATION_ROWS)]

    @property
    def calibration_rows(self) -> CalibrationRows:
        """Return the rows that a codec trained on this collection is calibrated on."""
        if self.queries is None:
            searching = CalibrationRows.of_documents(self.validation.documents, self.held_out)
            return replace(searching, documents=self.sample)
        return CalibrationRows(
            documents=self.sample,
            searched=self.validation.documents,
            queries=self.validation.queries,
            unseen=self.held_out,
            unseen_queries=self.held_out_queries,
            training_queries=self.query_sample,
        )

    @cached_property
    def query_sample(self) -> FloatArray:
        """Return at most 16,384 training queries, evenly spaced; (0, d) where there are none."""
        if self.queries is None:
            return np.empty((0, self.dim), np.float32)
        return vectors_at(self.queries, evenly_spaced(self.query_rows, _QUERY_SAMPLE_ROWS), self.metric)

    @cached_property
    def held_out(self) -> FloatArray:
        """Return at most 4,096 documents that no weight is fitted to, evenly spaced, float32 (n, d)."""
        rows = np.setdiff1d(np.arange(self.report.rows), self.document_rows, assume_unique=True)
        return vectors_at(self.documents, evenly_spaced(rows, MOST_REFERENCE), self.metric)

    @cached_property
    def held_out_queries(self) -> FloatArray:
        """Return at most as many held-out queries; (0, d) where there are none."""
        if self.queries is None or self.query_report is None:
            return np.empty((0, self.dim), np.float32)
        rows = np.setdiff1d(np.arange(self.query_report.rows), self.query_rows, assume_unique=True)
        return vectors_at(self.queries, evenly_spaced(rows, MOST_REFERENCE), self.metric)

    @cached_property
    def _moments(self) -> LinearMoments:
        return LinearMoments.of(self.sample, metric=self.metric)

    @cached_property
    def _fitted(self) -> dict[tuple[int, LinearKind], LinearCodec]:
        return {}

    @cached_property
    def _baselines(self) -> dict[int, dict[str, QueryFigures]]:
        return {}
