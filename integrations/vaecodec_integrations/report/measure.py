"""Run everything once and keep what came back: ids and times. No metric is computed here except those that need the
vectors themselves."""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vaecodec.calibration import scores_of
from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.errors import EvaluationInputError, InvalidVectorsError, NotCalibratedError
from vaecodec.evaluation import IdArray, exact_search, pair_scores, pair_similarity, spearman
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.linear import LinearKind, fit_linear
from vaecodec.packed_index import PackedIndex
from vaecodec.provenance import made_now
from vaecodec.scores import fit_line, original_scores
from vaecodec.vectors import as_vectors, normalised
from vaecodec_integrations.report.engines.base import SearchEngine
from vaecodec_integrations.report.run import UNCOMPRESSED, Method, Run, ScoredPairs, Scores

T = TypeVar("T")

NEIGHBOURS = 100
_FEWEST_ROWS = 11  # a document and 10 neighbours
_TIMED_RUNS = 3
_RECONSTRUCTED_ROWS = 2_000
_NEIGHBOURHOOD = 10
_NEIGHBOURHOOD_DOCUMENTS = 1_000
_CURVE_STEPS = (0.25, 0.5, 1, 2, 4)


def measure(
    base: Any,
    queries: Any,
    codec: VectorCodec,
    engine: SearchEngine,
    *,
    name: str,
    train: Any = None,
    relevant: Sequence[Sequence[int]] | None = None,
    labels: Sequence[str] | None = None,
    scored_pairs: ScoredPairs | None = None,
    budgets: Sequence[int] = (),
    dtypes: Sequence[CodeType] = (),
    on_method: Callable[[str], None] = lambda _: None,
) -> Run:
    """Measure the codec, the uncompressed vectors and the linear baselines of the same width.

    Args:
        base: float (nb, d), at least 11 rows: what is indexed.
        queries: float (nq, d), at least 1 row.
        codec: what is judged.
        engine: builds an index for each, with the same parameters.
        name: what the codec is called in the report.
        train: float (n, d), what the linear baselines are fitted on; the base itself by default.
        relevant: for each query the rows of ``base`` that answer it; empty where unknown.
        labels: for each query the slice that it belongs to.
        scored_pairs: pairs of embeddings whose similarity people have scored.
        budgets: bytes per vector at which the codec's codes are measured too; needs a :class:`vaecodec.Codec`.
        dtypes: uniform codes that are measured too: in the engine where it has them, otherwise as ``budgets`` are.
        on_method: called with the name of each method before it is measured.

    Raises:
        InvalidVectorsError: naming the first bad row.
        EvaluationInputError: too few rows, rows that are all the same, relevance or labels that do not fit the queries,
            scores that do not fit the pairs, or a codec that has no codes.
        InvalidBudgetError, NotCalibratedError: the codec has no code of that many bytes.
    """
    metric = codec.metric
    base = as_vectors(base, codec.dim, metric, name="base")
    queries = as_vectors(queries, codec.dim, metric, name="queries")
    _check(base, queries, relevant, labels, name)
    codes = [(f"{name}, {budget} bytes", _packed_index(codec, bytes=budget)) for budget in budgets]
    codes += [(f"{name}, {dtype}", _packed_index(codec, dtype=dtype)) for dtype in dtypes if dtype not in engine.dtypes]
    own = [(f"{name}, {dtype}", dtype, _code(codec, dtype)) for dtype in dtypes if dtype in engine.dtypes]
    if scored_pairs is not None:
        scored_pairs = _checked(scored_pairs, codec.dim, metric)
    if metric is Metric.COSINE:
        base, queries = normalised(base), normalised(queries)
    setting = {
        "engine": str(engine.name),
        "engine_parameters": dict(engine.parameters),
        "metric": str(metric),
        "base": {"rows": len(base), "dim": codec.dim, "fingerprint": _fingerprint(base)},
        "queries": {"rows": len(queries), "fingerprint": _fingerprint(queries)},
        "codec": {"id": codec.codec_id, "code_dim": codec.code_dim, "embedder": codec.embedder},
        "linear_fitted_on": "base" if train is None else "train",
        **made_now(),
        "cores": os.cpu_count(),
    }
    fitted_on = base if train is None else train
    linear = {
        str(kind): fit_linear(fitted_on, codec.code_dim, kind=kind, metric=metric)
        for kind in (LinearKind.TRUNCATION, LinearKind.SVD, LinearKind.PCA, LinearKind.PCA_DOCUMENTS)
        # Squared distances do not change with the origin: both kinds of PCA are one.
        if not (metric is Metric.L2 and kind is LinearKind.PCA_DOCUMENTS)
    }
    truth = exact_search(base, queries, NEIGHBOURS, metric)[0]
    hood = _Neighbourhoods(base, metric)
    methods = []
    for method, reduction in [(UNCOMPRESSED, None), *linear.items(), (name, codec)]:
        on_method(method)
        methods.append(_measure(method, reduction, base, queries, metric, engine, hood, scored_pairs))
    for method, dtype, code in own:
        on_method(method)
        methods.append(_measure(method, codec, base, queries, metric, engine, hood, scored_pairs, dtype, code))
    for method, index in codes:
        on_method(method)
        methods.append(_measure_packed(method, codec, index, base, queries, hood, scored_pairs))
    on_method("SVD at other widths")
    return Run(
        codec=name,
        setting=setting,
        truth=truth,
        relevant=relevant,
        labels=labels,
        sampled=len(hood.documents),
        methods=methods,
        svd_curve=_svd_curve(fitted_on, base, queries, codec.code_dim, metric),
    )


def _check(
    base: FloatArray,
    queries: FloatArray,
    relevant: Sequence[Sequence[int]] | None,
    labels: Sequence[str] | None,
    name: str,
) -> None:
    if len(base) < _FEWEST_ROWS or not len(queries):
        raise EvaluationInputError(
            f"expected at least {_FEWEST_ROWS} rows in base and 1 in queries, got {len(base)} and {len(queries)}"
        )
    if (base == base[0]).all():
        raise EvaluationInputError("base: all rows are the same vector, so that there is nothing to rank")
    for what, given in (("relevant", relevant), ("labels", labels)):
        if given is not None and len(given) != len(queries):
            raise EvaluationInputError(f"{what}: expected {len(queries)} entries, one for each query, got {len(given)}")
    for query, rows in enumerate(relevant or ()):
        if any(not 0 <= row < len(base) for row in rows):
            raise EvaluationInputError(f"relevant: query {query} names a row outside the base of {len(base)} rows")
    if name in (UNCOMPRESSED, *LinearKind):
        raise EvaluationInputError(f"name: {name!r} is the name of a baseline; call the codec something else")


def _checked(pairs: ScoredPairs, dim: int, metric: Metric) -> ScoredPairs:
    first = as_vectors(pairs.first, dim, metric, name="scored pairs, first")
    second = as_vectors(pairs.second, dim, metric, name="scored pairs, second")
    scores = np.asarray(pairs.scores, np.float64)
    if not (scores.ndim == 1 and len(first) == len(second) == len(scores)):
        raise EvaluationInputError(
            f"scored pairs: expected as many first and second rows as scores, got {len(first)}, {len(second)} and "
            f"scores of shape {scores.shape}"
        )
    if not np.isfinite(scores).all() or len(np.unique(scores)) < 2:
        raise EvaluationInputError("scored pairs: expected finite scores that are not all the same")
    return ScoredPairs(first, second, scores)


def _measure(
    name: str,
    codec: VectorCodec | None,
    base: FloatArray,
    queries: FloatArray,
    metric: Metric,
    engine: SearchEngine,
    hood: _Neighbourhoods,
    scored: ScoredPairs | None,
    dtype: CodeType = CodeType.FLOAT32,
    code: Code | None = None,
) -> Method:
    def quantised(vectors: FloatArray) -> FloatArray:
        latents = codec.encode(vectors) if codec else vectors
        return code.decode(code.encode(latents)) if code else latents

    stored, encode_seconds = _timed(lambda: codec.encode(base) if codec else base)
    encoded, encode_queries_seconds = _timed(lambda: codec.encode_queries(queries) if codec else queries)
    stored_metric = codec.latent_metric if codec else metric
    k = min(NEIGHBOURS, len(base))
    with tempfile.TemporaryDirectory(prefix="vaecodec-report-") as folder:
        index, build_seconds = _timed(lambda: engine.build(stored, stored_metric, Path(folder), dtype=dtype))
        try:
            index.search(encoded[:_NEIGHBOURHOOD], k)  # first calls load what later ones find loaded
            runs = [_timed(lambda: index.search(encoded, k)) for _ in range(_TIMED_RUNS)]
            size_bytes = index.size_bytes
        finally:
            index.close()
    kept = quantised(base)
    exact_ids, exact_scores = exact_search(stored, encoded, k, stored_metric)
    sample = base[:: max(1, len(base) // _RECONSTRUCTED_ROWS)]
    restored = codec.decode(quantised(sample)) if codec else sample
    return Method(
        name=name,
        packed=False,
        width=stored.shape[1],
        bytes_per_vector=code.bytes_per_vector if code else stored.itemsize * stored.shape[1],
        index_bytes=size_bytes,
        encode_seconds=encode_seconds if codec else 0.0,
        build_seconds=build_seconds,
        encode_queries_seconds=encode_queries_seconds if codec else 0.0,
        search_seconds=statistics.median(seconds for _, seconds in runs),
        pair_similarity=pair_similarity(base, kept, metric, stored_metric),
        scored_pairs=None
        if scored is None
        else spearman(pair_scores(quantised(scored.first), quantised(scored.second), stored_metric), scored.scores),
        reconstruction=_mean_cosine(sample, restored),
        scores=None if code else _scores(exact_scores, exact_ids, base, queries, metric, codec),
        unreached=hood.unreached(kept, codec.encode_queries if codec else None, stored_metric),
        exact_ids=exact_ids,
        quantised_ids=exact_search(kept, encoded, k, stored_metric)[0] if code else None,
        engine_ids=runs[0][0],
    )


def _packed_index(codec: VectorCodec, **code: Any) -> PackedIndex:
    return PackedIndex(_with_codes(codec), **code)


def _code(codec: VectorCodec, dtype: CodeType) -> Code | None:
    return None if dtype is CodeType.FLOAT32 else _with_codes(codec).code(dtype=dtype)


def _with_codes(codec: VectorCodec) -> Codec:
    if not isinstance(codec, Codec):
        raise EvaluationInputError("codec: codes need a codec loaded from a file, which holds their calibration")
    return codec


def _measure_packed(
    name: str,
    codec: VectorCodec,
    index: PackedIndex,
    base: FloatArray,
    queries: FloatArray,
    hood: _Neighbourhoods,
    scored: ScoredPairs | None,
) -> Method:
    def quantised(vectors: FloatArray) -> FloatArray:
        return index.code.decode(index.code.encode(codec.encode(vectors)))

    k = min(NEIGHBOURS, len(base))
    quantised(base[:_NEIGHBOURHOOD])  # compiles what the times below would otherwise hold
    _, build_seconds = _timed(lambda: index.add(base))
    index.search(queries[:_NEIGHBOURHOOD], k)
    runs = [_timed(lambda: index.search(queries, k)) for _ in range(_TIMED_RUNS)]
    found, scores = runs[0][0]
    with tempfile.TemporaryDirectory(prefix="vaecodec-report-") as folder:
        index.save(Path(folder) / "codes")
        size_bytes = (Path(folder) / "codes").stat().st_size
    stored = quantised(base)
    sample = slice(None, None, max(1, len(base) // _RECONSTRUCTED_ROWS))
    return Method(
        name=name,
        packed=True,
        width=codec.code_dim,
        bytes_per_vector=index.bytes_per_vector,
        index_bytes=size_bytes,
        encode_seconds=0.0,
        build_seconds=build_seconds,
        encode_queries_seconds=0.0,
        search_seconds=statistics.median(seconds for _, seconds in runs),
        pair_similarity=pair_similarity(base, stored, codec.metric, codec.latent_metric),
        scored_pairs=None
        if scored is None
        else spearman(
            pair_scores(quantised(scored.first), quantised(scored.second), codec.latent_metric), scored.scores
        ),
        reconstruction=_mean_cosine(base[sample], codec.decode(stored[sample])),
        scores=_scores(scores, found, base, queries, codec.metric, None),
        unreached=hood.unreached(stored, codec.encode_queries, codec.latent_metric),
        exact_ids=exact_search(codec.encode(base), codec.encode_queries(queries), k, codec.latent_metric)[0],
        quantised_ids=None,
        engine_ids=found,
    )


def _scores(
    scores: FloatArray, ids: IdArray, base: FloatArray, queries: FloatArray, metric: Metric, codec: VectorCodec | None
) -> Scores | None:
    """Of found pairs, (nq, k); ``codec`` is the one whose file may hold a calibration of them."""
    if metric is Metric.L2:
        return None
    original = original_scores(base, queries, ids)
    try:
        line = fit_line(scores, original, base.shape[1] if codec is None else codec.code_dim)
    except InvalidVectorsError:  # nothing to fit a line through
        return None
    try:
        stored = None if codec is None else scores_of(codec)
    except NotCalibratedError:
        stored = None
    return Scores(
        scale=line.scale,
        offset=line.offset,
        residual=line.residual,
        error=float(np.abs(scores - original).mean()),
        calibrated_error=None
        if stored is None
        else float(np.abs(stored.scale * scores + stored.offset - original).mean()),
    )


class _Neighbourhoods:
    """Sampled documents and, for each, its 10 nearest others by exact search on the uncompressed vectors.

    A document is reached when at least one of these has it among its own 10 nearest. Many are not even without
    compression (anti-hubs: Radovanović, Nanopoulos and Ivanović, JMLR 11, 2010); those are left out.
    """

    def __init__(self, base: FloatArray, metric: Metric) -> None:
        self._base = base
        # One more than wanted, because a document finds itself.
        self._k = _NEIGHBOURHOOD + 1
        count = min(_NEIGHBOURHOOD_DOCUMENTS, len(base))
        self.documents = np.sort(np.random.default_rng(0).permutation(len(base))[:count])
        found = exact_search(base, base[self.documents], self._k, metric)[0]
        pairs = [
            (document, neighbour)
            for document, row in zip(self.documents.tolist(), found.tolist(), strict=True)
            for neighbour in row
            if neighbour != document
        ]
        self._document, neighbour = np.array(pairs).T
        self._neighbours, self._neighbour = np.unique(neighbour, return_inverse=True)
        self.documents = np.setdiff1d(self.documents, self.unreached(base, None, metric))

    def unreached(
        self, stored: FloatArray, encode_queries: Callable[[FloatArray], FloatArray] | None, metric: Metric
    ) -> list[int]:
        """Which of the documents none of its neighbours finds in ``stored``."""
        asking = self._base[self._neighbours]
        found = exact_search(stored, encode_queries(asking) if encode_queries else asking, self._k, metric)[0]
        hits = (found[self._neighbour] == self._document[:, None]).any(axis=1)
        return [int(document) for document in np.setdiff1d(self.documents, self._document[hits])]


def _svd_curve(train: Any, base: FloatArray, queries: FloatArray, code_dim: int, metric: Metric) -> dict[int, IdArray]:
    widths = [int(code_dim * step) for step in _CURVE_STEPS if 1 <= code_dim * step <= base.shape[1]]
    widest = fit_linear(train, widths[-1], metric=metric)
    curve = {}
    for width in widths:
        svd = widest.truncated(width)
        curve[width] = exact_search(svd.encode(base), svd.encode_queries(queries), 10, svd.latent_metric)[0]
    return curve


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _mean_cosine(left: FloatArray, right: FloatArray) -> float:
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((np.einsum("ij,ij->i", left, right) / np.maximum(norms, np.finfo(np.float32).tiny)).mean())


def _fingerprint(vectors: FloatArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors, "<f4").tobytes()).hexdigest()
