"""Store the vectors in every way once, search, and keep what came back."""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vaecodec.calibration import scores_of
from vaecodec.codec import Codec
from vaecodec.codes import Code, CodeType
from vaecodec.errors import (
    EvaluationInputError,
    InvalidBudgetError,
    InvalidOptionError,
    InvalidVectorsError,
    NotCalibratedError,
)
from vaecodec.evaluation import (
    Figures,
    IdArray,
    Truth,
    exact_search,
    judge,
    pair_scores,
    pair_similarity,
    share_found,
    spearman,
)
from vaecodec.interface import FloatArray, Metric, VectorCodec
from vaecodec.linear import LinearCodec, LinearKind, LinearMoments, linear_kinds
from vaecodec.packed_index import PackedIndex
from vaecodec.provenance import made_now
from vaecodec.scores import fit_line, original_scores
from vaecodec.vectors import as_vectors, normalised
from vaecodec_integrations.report.engines.base import SearchEngine
from vaecodec_integrations.report.neighbourhoods import Neighbourhoods
from vaecodec_integrations.report.rivals import LinearCodes, best_kinds, rivals_of_codes, rivals_of_floats
from vaecodec_integrations.report.run import ADAPTED, UNCOMPRESSED, FoundIds, Method, Role, Run, ScoredPairs, Scores

T = TypeVar("T")

NEIGHBOURS = 100
RERANKED = (1, 2, 4, 8)
_FEWEST_ROWS = 11  # a document and 10 neighbours
_TIMED_RUNS = 3
_WARM_UP_QUERIES = 10
_RECONSTRUCTED_ROWS = 2_000
_CURVE_STEPS = (0.25, 0.5, 1, 2, 4)


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """Hold the data that a report is measured on.

    Attributes:
        base: float (nb, d), at least 11 rows: what is indexed.
        queries: float (nq, d), at least 1 row.
        train: float (n, d), what the linear baselines are fitted on; the base itself by default.
        relevant: for each query the rows of ``base`` that answer it; empty where unknown.
        grades: for each query how well each of these answers it; None where all answer equally.
        labels: for each query the slice that it belongs to.
        scored_pairs: pairs of embeddings whose similarity people have scored.
    """

    base: Any
    queries: Any
    train: Any = None
    relevant: Sequence[Sequence[int]] | None = None
    grades: Sequence[Sequence[float]] | None = None
    labels: Sequence[str] | None = None
    scored_pairs: ScoredPairs | None = None

    def checked(self, dim: int, metric: Metric) -> ReportData:
        """Return the same data ready to be searched; raises what :func:`measure` raises."""
        base = as_vectors(self.base, dim, metric, name="base")
        queries = as_vectors(self.queries, dim, metric, name="queries")
        if len(base) < _FEWEST_ROWS or not len(queries):
            raise EvaluationInputError(
                f"expected at least {_FEWEST_ROWS} rows in base and 1 in queries, got {len(base)} and {len(queries)}"
            )
        if (base == base[0]).all():
            raise EvaluationInputError("base: all rows are the same vector, so that there is nothing to rank")
        for what, given in (("relevant", self.relevant), ("labels", self.labels)):
            if given is not None and len(given) != len(queries):
                raise EvaluationInputError(
                    f"{what}: expected {len(queries)} entries, one for each query, got {len(given)}"
                )
        for query, rows in enumerate(self.relevant or ()):
            if any(not 0 <= row < len(base) for row in rows):
                raise EvaluationInputError(f"relevant: query {query} names a row outside the base of {len(base)} rows")
        if metric is Metric.COSINE:
            base, queries = normalised(base), normalised(queries)
        pairs = None if self.scored_pairs is None else _checked_pairs(self.scored_pairs, dim, metric)
        return ReportData(
            base=base,
            queries=queries,
            train=base if self.train is None else self.train,
            relevant=self.relevant,
            grades=self.grades,
            labels=self.labels,
            scored_pairs=pairs,
        )


def measure(
    data: ReportData,
    codecs: Mapping[str, VectorCodec],
    engine: SearchEngine,
    *,
    budgets: Sequence[int] = (),
    dtypes: Sequence[CodeType] = (),
    adapter: VectorCodec | None = None,
    on_method: Callable[[str], None] = lambda _: None,
) -> Run:
    """Measure codecs, the uncompressed vectors, and what needs no training and takes as many bytes.

    Args:
        data: what is indexed and searched.
        codecs: what is judged, by the names of the report; all for the same embeddings.
        engine: builds an index for each method, with the same parameters.
        budgets: bytes per vector at which the codecs' codes are measured too; needs :class:`vaecodec.Codec`.
        dtypes: uniform codes that are measured too: in the engine where it has them, otherwise as ``budgets`` are.
        adapter: all dimensions after the same training as the codecs, where that used pairs.
        on_method: called with the name of each method before it is measured.

    Raises:
        InvalidVectorsError: naming the first bad row.
        EvaluationInputError: too few rows, rows that are all the same, relevance or labels that do not fit the queries,
            scores that do not fit the pairs, codecs of different embeddings, or a codec that has no codes.
        InvalidBudgetError, NotCalibratedError: a codec has no code of that many bytes.
    """
    coded = codings(codecs, engine, budgets=budgets, dtypes=dtypes, adapter=adapter)
    first = next(iter(codecs.values()))
    metric = first.metric
    data_is_train = data.train is None
    data = data.checked(first.dim, metric)
    bench = _Bench(data, engine, Truth.of(data.base, data.queries, metric, depth=NEIGHBOURS), metric)
    moments = LinearMoments.of(data.train, metric=metric)

    on_method(UNCOMPRESSED)
    methods = [bench.method(UNCOMPRESSED, Role.UNCOMPRESSED, None)]
    if adapter is not None:
        on_method(ADAPTED)
        methods.append(bench.method(ADAPTED, Role.ADAPTER, adapter))
    linear = _linear_methods(bench, moments, sorted({codec.code_dim for codec in codecs.values()}), on_method)
    rivals, codes = [], LinearCodes(data.train)
    for name, codec in codecs.items():
        on_method(name)
        methods += linear.pop(codec.code_dim, [])
        of_width = [method for method in methods if method.role is Role.LINEAR and method.width == codec.code_dim]
        methods.append(bench.method(name, Role.CODEC, codec))
        kinds = [moments.codec(codec.code_dim, LinearKind(kind)) for kind in best_kinds(of_width)]
        rivals += rivals_of_floats(methods[-1], moments, codes, bench.search)
        for coding in coded[name]:
            on_method(coding.name)
            methods.append(bench.coded(coding, codec))
            rivals += rivals_of_codes(methods[-1], coding.code, kinds, moments, codes, bench.search)
    on_method("SVD at other widths")
    return Run(
        setting={
            **_setting(data, engine, metric),
            "codecs": [_described(name, codec) for name, codec in codecs.items()],
            "linear_fitted_on": "base" if data_is_train else "train",
        },
        truth=bench.truth.ids,
        relevant=data.relevant,
        labels=data.labels,
        sampled=len(bench.hood.documents),
        methods=methods,
        rivals=rivals,
        svd_curve=_svd_curve(moments, bench.truth, first.code_dim),
    )


def _linear_methods(
    bench: _Bench, moments: LinearMoments, widths: Sequence[int], on_method: Callable[[str], None]
) -> dict[int, list[Method]]:
    """Measure the linear codecs of each width."""
    found: dict[int, list[Method]] = {width: [] for width in widths}
    for width, methods in found.items():
        for kind in linear_kinds(bench.metric):
            name = str(kind) if len(widths) == 1 else f"{kind} at {width}"
            on_method(name)
            methods.append(bench.method(name, Role.LINEAR, moments.codec(width, kind), kind=str(kind)))
    return found


def codings(
    codecs: Mapping[str, VectorCodec],
    engine: SearchEngine,
    *,
    budgets: Sequence[int] = (),
    dtypes: Sequence[CodeType] = (),
    adapter: VectorCodec | None = None,
) -> dict[str, list[_Coding]]:
    """Return the codes of each codec that :func:`measure` looks at, with its arguments; no data are needed.

    Raises:
        EvaluationInputError: there are no codecs, or codecs of different embeddings, or a codec that has no codes.
        InvalidOptionError: a budget or a type is given twice.
        InvalidBudgetError, NotCalibratedError: a codec has no code of that many bytes.
    """
    if not codecs:
        raise EvaluationInputError("codecs: expected at least one codec to judge, got none")
    for name, values in (("bytes", budgets), ("dtype", dtypes)):
        if len(set(values)) < len(values):
            raise InvalidOptionError(f"{name}: expected different values, got {', '.join(map(str, values))}")
    _check_codecs(codecs, adapter)
    return {name: _codes(name, codec, engine, budgets, dtypes) for name, codec in codecs.items()}


def _check_codecs(codecs: Mapping[str, VectorCodec], adapter: VectorCodec | None) -> None:
    first = next(iter(codecs.values()))
    given = {**codecs, **({} if adapter is None else {ADAPTED: adapter})}
    for name, codec in given.items():
        if (codec.dim, codec.metric) != (first.dim, first.metric):
            raise EvaluationInputError(
                f"{name}: expected a codec for embeddings of width {first.dim} compared by {first.metric}, as the "
                f"first one, got one for width {codec.dim} and {codec.metric}"
            )
    for name in codecs:
        if name in (UNCOMPRESSED, ADAPTED) or name.split(" at ")[0] in list(LinearKind):
            raise EvaluationInputError(f"name: {name!r} is the name of a baseline; call the codec something else")


def _checked_pairs(pairs: ScoredPairs, dim: int, metric: Metric) -> ScoredPairs:
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


@dataclass(frozen=True)
class _Coding:
    """Describe a code of a codec's latents, kept by the engine itself or in a packed index."""

    name: str
    of: str
    dtype: CodeType
    code: Code | None
    packed: PackedIndex | None


def _codes(
    name: str, codec: VectorCodec, engine: SearchEngine, budgets: Sequence[int], dtypes: Sequence[CodeType]
) -> list[_Coding]:
    if not budgets and not dtypes:
        return []
    if not isinstance(codec, Codec):
        raise EvaluationInputError("codec: codes need a codec loaded from a file, which holds their calibration")
    found = []
    for dtype in dtypes:
        label = f"{name}, {dtype}"
        if dtype in engine.dtypes:
            code = None if dtype is CodeType.FLOAT32 else codec.code(dtype=dtype)
            found.append(_Coding(label, name, dtype, code, None))
        else:
            index = PackedIndex(codec, dtype=dtype)
            found.append(_Coding(label, name, dtype, index.code, index))
    for budget in budgets:
        try:
            index = PackedIndex(codec, bytes=budget)
        except InvalidBudgetError as error:
            raise InvalidBudgetError(f"{name}: {error}") from error
        found.append(_Coding(f"{name}, {budget} bytes", name, CodeType.FLOAT32, index.code, index))
    # Put the engine's own codes first.
    return sorted(found, key=lambda coding: coding.packed is not None)


class _Bench:
    """Store the base in one way after another and search it."""

    def __init__(self, data: ReportData, engine: SearchEngine, truth: Truth, metric: Metric) -> None:
        self.data, self.engine, self.truth, self.metric = data, engine, truth, metric
        self.hood = Neighbourhoods(data.base, metric)
        self._depth = min(NEIGHBOURS, len(data.base))

    def figures(self, found: IdArray) -> dict[str, Figures]:
        """Judge a search by all figures of a report."""
        relevant = self.data.relevant
        figures = judge(found, self.truth, relevant, self.data.grades)
        if relevant is not None:
            figures["relevant@10"] = share_found(found[:, :10], relevant)
        return figures

    def search(self, codec: LinearCodec, code: Code) -> dict[str, Figures]:
        """Judge an exact search on the decoded codes of a linear codec."""
        stored = code.decode(code.encode(codec.encode(self.data.base)))
        asked = codec.encode_queries(self.data.queries)
        return self.figures(exact_search(stored, asked, self._depth, codec.latent_metric)[0])

    def method(
        self,
        name: str,
        role: Role,
        codec: VectorCodec | None,
        *,
        kind: str = "",
        coding: _Coding | None = None,
    ) -> Method:
        """Index the latents of the base, or the base itself, and search it through the engine."""
        base, queries = self.data.base, self.data.queries
        code = None if coding is None else coding.code
        stored, encode_seconds = _timed(lambda: codec.encode(base) if codec else base)
        encoded, encode_queries_seconds = _timed(lambda: codec.encode_queries(queries) if codec else queries)
        stored_metric = codec.latent_metric if codec else self.metric
        with tempfile.TemporaryDirectory(prefix="vaecodec-report-") as folder:
            dtype = CodeType.FLOAT32 if coding is None else coding.dtype
            index, build_seconds = _timed(lambda: self.engine.build(stored, stored_metric, Path(folder), dtype=dtype))
            try:
                index.search(encoded[:_WARM_UP_QUERIES], self._depth)  # warm up before the timed runs
                runs = [_timed(lambda: index.search(encoded, self._depth)) for _ in range(_TIMED_RUNS)]
                size_bytes = index.size_bytes
            finally:
                index.close()
        exact_ids, exact_scores = exact_search(stored, encoded, self._depth, stored_metric)
        quantised_ids = None
        if code is not None:
            stored = code.decode(code.encode(stored))
            quantised_ids = exact_search(stored, encoded, self._depth, stored_metric)[0]
        return Method(
            name=name,
            role=role,
            of="" if coding is None else coding.of,
            kind=kind,
            packed=False,
            width=stored.shape[1],
            bytes_per_vector=code.bytes_per_vector if code else stored.itemsize * stored.shape[1],
            index_bytes=size_bytes,
            encode_seconds=encode_seconds if codec else 0.0,
            build_seconds=build_seconds,
            encode_queries_seconds=encode_queries_seconds if codec else 0.0,
            search_seconds=statistics.median(seconds for _, seconds in runs),
            scores=None if code else _scores(exact_scores, exact_ids, self.data, self.metric, codec),
            **self._geometry(codec, code, stored),
            **self._found(FoundIds(exact_ids, quantised_ids, runs[0][0])),
        )

    def coded(self, coding: _Coding, codec: VectorCodec) -> Method:
        """Search a codec's codes: through the engine where it has them, otherwise in a packed index."""
        index = coding.packed
        if index is None:
            return self.method(coding.name, Role.CODE, codec, coding=coding)
        base, queries, code = self.data.base, self.data.queries, index.code
        code.decode(code.encode(codec.encode(base[:_WARM_UP_QUERIES])))  # compile now, outside the timed part
        _, build_seconds = _timed(lambda: index.add(base))
        index.search(queries[:_WARM_UP_QUERIES], self._depth)
        runs = [_timed(lambda: index.search(queries, self._depth)) for _ in range(_TIMED_RUNS)]
        found, scores = runs[0][0]
        with tempfile.TemporaryDirectory(prefix="vaecodec-report-") as folder:
            index.save(Path(folder) / "codes")
            size_bytes = (Path(folder) / "codes").stat().st_size
        latents = codec.encode(base)
        exact_ids = exact_search(latents, codec.encode_queries(queries), self._depth, codec.latent_metric)[0]
        return Method(
            name=coding.name,
            role=Role.CODE,
            of=coding.of,
            kind="",
            packed=True,
            width=codec.code_dim,
            bytes_per_vector=index.bytes_per_vector,
            index_bytes=size_bytes,
            encode_seconds=0.0,
            build_seconds=build_seconds,
            encode_queries_seconds=0.0,
            search_seconds=statistics.median(seconds for _, seconds in runs),
            scores=_scores(scores, found, self.data, codec.metric, None),
            **self._geometry(codec, code, code.decode(code.encode(latents))),
            **self._found(FoundIds(exact_ids, None, found)),
        )

    def _geometry(self, codec: VectorCodec | None, code: Code | None, stored: FloatArray) -> dict[str, Any]:
        """Measure what happens to similarities, neighbourhoods and the vectors themselves; ``stored`` is searched."""
        base, scored = self.data.base, self.data.scored_pairs
        stored_metric = codec.latent_metric if codec else self.metric

        def kept(vectors: FloatArray) -> FloatArray:
            latents = codec.encode(vectors) if codec else vectors
            return code.decode(code.encode(latents)) if code else latents

        sample = slice(None, None, max(1, len(base) // _RECONSTRUCTED_ROWS))
        restored = codec.decode(stored[sample]) if codec else stored[sample]
        return {
            "pair_similarity": pair_similarity(base, stored, self.metric, stored_metric),
            "scored_pairs": None
            if scored is None
            else spearman(pair_scores(kept(scored.first), kept(scored.second), stored_metric), scored.scores),
            "reconstruction": float(pair_scores(base[sample], restored, Metric.COSINE).mean()),
            "unreached": self.hood.unreached(stored, codec.encode_queries if codec else None, stored_metric),
        }

    def _found(self, found: FoundIds) -> dict[str, Any]:
        quantised = found.quantised
        return {
            "figures": self.figures(found.engine),
            "exact": self.truth.recall(found.exact, 10),
            "quantised": None if quantised is None else self.truth.recall(quantised, 10),
            "reranked": {
                times: self.truth.kept(found.engine[:, : 10 * times], 10)
                for times in RERANKED
                if 10 * times <= self._depth
            },
            "found": found,
        }


def _scores(
    scores: FloatArray, ids: IdArray, data: ReportData, metric: Metric, codec: VectorCodec | None
) -> Scores | None:
    """Compare the scores of found pairs, (nq, k); the file of ``codec`` may hold a calibration of them."""
    if metric is Metric.L2:
        return None
    original = original_scores(data.base, data.queries, ids)
    try:
        line = fit_line(scores, original, data.base.shape[1] if codec is None else codec.code_dim)
    except InvalidVectorsError:  # there is nothing to fit a line through
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


def _svd_curve(moments: LinearMoments, truth: Truth, code_dim: int) -> dict[int, float]:
    widths = [int(code_dim * step) for step in _CURVE_STEPS if 1 <= code_dim * step <= truth.base.shape[1]]
    widest = moments.codec(widths[-1], LinearKind.SVD)
    curve = {}
    for width in widths:
        svd = widest.truncated(width)
        found = exact_search(svd.encode(truth.base), svd.encode_queries(truth.queries), 10, svd.latent_metric)[0]
        curve[width] = float(truth.recall(found, 10).mean())
    return curve


def _setting(data: ReportData, engine: SearchEngine, metric: Metric) -> dict[str, Any]:
    return {
        "engine": str(engine.name),
        "engine_parameters": dict(engine.parameters),
        "metric": str(metric),
        "base": {"rows": len(data.base), "dim": data.base.shape[1], "fingerprint": _fingerprint(data.base)},
        "queries": {"rows": len(data.queries), "fingerprint": _fingerprint(data.queries)},
        **made_now(),
        "cores": os.cpu_count(),
    }


def _described(name: str, codec: VectorCodec) -> dict[str, Any]:
    provenance = codec.metadata.provenance if isinstance(codec, Codec) else {}
    recipe = provenance.get("recipe")
    objective = recipe.get("objective") if isinstance(recipe, Mapping) else None
    return {
        "name": name,
        "id": codec.codec_id,
        "code_dim": codec.code_dim,
        "embedder": codec.embedder,
        "objective": objective or "neighbours",
    }


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


def _fingerprint(vectors: FloatArray) -> str:
    return hashlib.sha256(np.ascontiguousarray(vectors, "<f4").tobytes()).hexdigest()
