"""List the ways to store the vectors, every codec at every width in every code, and search each of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vaecodec.codec import Codec
from vaecodec.codes import Calibration, Code, CodeType
from vaecodec.errors import InvalidBudgetError
from vaecodec.evaluation import Figures, IdArray, best, exact_search, recall, recall_among, similarities
from vaecodec.interface import FloatArray, Metric
from vaecodec.linear import LinearCodec, LinearMoments, linear_kinds
from vaecodec.vectors import check_latents, normalised

# Sizes of trellis codes: from a third of the smallest width at two bits up to where uniform codes are as good.
_BUDGETS = (16, 24, 32, 48, 64, 96, 128, 192)
_FLOAT_BYTES = 4
# Trellis codes choose among so many leading latents of a linear codec. Fitting them to more takes minutes, and in few
# bytes the others get no bits.
_MOST_TRELLIS_LATENTS = 512
# Most rows to calibrate codes on.
_CALIBRATED = 20_000
# Codes that Qdrant keeps in RAM, with the float latents on disk.
QUANTISED = frozenset({CodeType.INT8, CodeType.INT4, CodeType.INT2, CodeType.BINARY})
# Candidates per result that Qdrant scores again with these float latents: the oversampling of
# recommended_search_params. That is not imported here, because it needs qdrant-client; a test compares the two.
RESCORED = 3


@dataclass(frozen=True)
class Setting:
    """Hold a codec, a width and a code.

    Attributes:
        codec: name of the codec file, or the kind of a linear codec that is still to be fitted.
        file: the codec file given, or none.
        file_width: all the latents of the codec file; of these the first ``width`` are used.
        dim: width of the embeddings.
        width: dimensions stored.
        dtype: a uniform code, or none for a trellis code of ``code_bytes``.
        code_bytes: bytes of one vector as it is searched.
        rescored: whether codes only find ``RESCORED`` times the candidates wanted, and float latents kept on disk
            order them.
    """

    codec: str
    file: str | None
    file_width: int
    dim: int
    width: int
    dtype: CodeType | None
    code_bytes: int
    rescored: bool = False

    def __str__(self) -> str:
        code = f"{self.width} x {self.dtype}" if self.dtype else "trellis codes"
        return f"{self.codec}, {code}" + (", re-scored" if self.rescored else "")


@dataclass(frozen=True, eq=False)
class TriedSetting:
    """Hold a setting, what using it needs, and what it finds.

    Attributes:
        setting: in words and numbers.
        codec: at the setting's width.
        calibration: of that codec's latents.
        code: documents' latents to bytes.
        recalls: recall@k of every query, (nq,), by how many times k are scored again with the originals. The search
            is exact, of float queries over what the codes stand for.
    """

    setting: Setting
    codec: Codec | LinearCodec
    calibration: Calibration
    code: Code
    recalls: Mapping[int, Figures]

    def found(self, base: FloatArray, queries: FloatArray, count: int) -> IdArray:
        """Search other rows in the same way: return int64 (nq, count) for float32 (n, d) and (nq, d), nearest first."""
        latents, asked = self.codec.encode(base), self.codec.encode_queries(queries)
        stored = self.code.decode(self.code.encode(latents))
        depth = RESCORED * count if self.setting.rescored else count
        ids = exact_search(stored, asked, depth, self.codec.latent_metric)[0]
        return _rescored(ids, latents, asked, [count], self.codec.latent_metric)[0] if self.setting.rescored else ids


@dataclass(frozen=True, eq=False)
class PlanSample:
    """Hold the documents to search, and the queries.

    Attributes:
        fitted_on: float32 (m, d), under cosine of unit norm: what linear codecs are fitted on; the base is part of it.
        base: float32 (n, d), the same.
        queries: float32 (nq, d), the same.
        truth: (nq, k), the exact neighbours.
        choosing, confirming: which queries choices are made on, and which confirm them.
        metric: how the vectors are compared.
        sampled_from: how many documents there are where the base is a sample of them; otherwise None.
    """

    fitted_on: FloatArray
    base: FloatArray
    queries: FloatArray
    truth: IdArray
    choosing: NDArray[np.int64]
    confirming: NDArray[np.int64]
    metric: Metric
    sampled_from: int | None


def candidates(
    sample: PlanSample,
    files: Sequence[Path],
    factors: Sequence[int],
    wanted: Callable[[Setting], bool],
    on_step: Callable[[str], None],
) -> Iterator[TriedSetting]:
    """Yield every setting that is smaller than the uncompressed vectors and that is ``wanted``.

    ``factors`` are the amounts of re-ranking: so many times k are scored again with the originals.

    Of the linear kinds only the one that finds most at a width goes on to be quantised, as in the gate of ``vaecodec
    fit``.
    """
    for path in files:
        whole = Codec.load(path)
        for width in _nested(whole):
            on_step(f"{path.name} at {width} dimensions")
            codec = Codec.load(path, dim=width)
            encoded = _Encoded(codec, codec.encode(sample.base), codec.encode_queries(sample.queries))
            # A trellis code chooses among all latents, so nested widths add nothing.
            file = path, whole.code_dim
            trellis = width == whole.code_dim
            yield from _coded(sample, encoded, codec.calibration, factors, wanted, on_step, file, trellis=trellis)
    yield from linear_candidates(sample, _widths(sample.base.shape[1]), factors, wanted, on_step)


def linear_candidates(
    sample: PlanSample,
    widths: Sequence[int],
    factors: Sequence[int],
    wanted: Callable[[Setting], bool],
    on_step: Callable[[str], None],
) -> Iterator[TriedSetting]:
    """Yield the settings of linear codecs of the given widths; see :func:`candidates`."""
    dim = sample.base.shape[1]
    on_step("fitting linear codecs")
    moments = LinearMoments.of(sample.fitted_on, metric=sample.metric)
    calibrating = sample.fitted_on[:: -(-len(sample.fitted_on) // _CALIBRATED)]
    kinds = []
    for kind in linear_kinds(sample.metric):
        on_step(f"encoding by {kind}")
        linear = moments.codec(dim, kind)
        kinds.append(_Encoded(linear, linear.encode(sample.base), linear.encode_queries(sample.queries)))
    narrow = [width for width in widths if width <= _MOST_TRELLIS_LATENTS]
    coded_width = max(narrow or widths)
    for width in widths:
        on_step(f"linear codecs at {width} dimensions")
        best_kind = _best_linear(sample, [kind.truncated(width) for kind in kinds])
        latents = best_kind.codec.encode(calibrating)
        calibration = Calibration.fit(latents, best_kind.codec.latent_metric)
        trellis = width == coded_width
        if trellis and wanted(_setting(best_kind.codec, None, min(_BUDGETS), None)):
            on_step("fitting codes of a given number of bytes")
            calibration = calibration.with_residual(latents)
        yield from _coded(sample, best_kind, calibration, factors, wanted, on_step, trellis=trellis)


@dataclass(frozen=True, eq=False)
class _Encoded:
    """Hold a codec and the latents of the sample's base and queries: float32 (n, k) and (nq, k)."""

    codec: Codec | LinearCodec
    latents: FloatArray
    queries: FloatArray

    def truncated(self, width: int) -> _Encoded:
        """Return the same linear codec with its first latents, which are those of the narrower codec."""
        assert isinstance(self.codec, LinearCodec)
        cosine = self.codec.latent_metric is Metric.COSINE
        narrow = []
        for rows, name in ((self.latents, "documents"), (self.queries, "queries")):
            prefix = rows[:, :width]
            if cosine:
                with np.errstate(invalid="ignore"):  # a row without a direction becomes NaN, and is refused
                    prefix = normalised(prefix)
                check_latents(prefix, Metric.COSINE, name)
            narrow.append(prefix)
        return _Encoded(self.codec.truncated(width), *narrow)


def _coded(
    sample: PlanSample,
    encoded: _Encoded,
    calibration: Calibration,
    factors: Sequence[int],
    wanted: Callable[[Setting], bool],
    on_step: Callable[[str], None],
    file: tuple[Path, int] | None = None,
    *,
    trellis: bool,
) -> Iterator[TriedSetting]:
    codec, latents, queries = encoded.codec, encoded.latents, encoded.queries
    codes: list[tuple[CodeType | None, Code]] = [(dtype, calibration.code(dtype=dtype)) for dtype in CodeType]
    if trellis and find_spec("numba"):
        codes += [(None, code) for code in _trellis(calibration)]
    counts = [factor * sample.truth.shape[1] for factor in factors]
    for dtype, code in codes:
        plain = _setting(codec, file, code.bytes_per_vector, dtype)
        settings = [plain, replace(plain, rescored=True)] if dtype in QUANTISED else [plain]
        settings = [setting for setting in settings if wanted(setting)]
        if code.bytes_per_vector >= _FLOAT_BYTES * codec.dim or not settings:
            continue
        on_step(f"searching {settings[0]}")
        stored = code.decode(code.encode(latents))
        depth = max(counts) * (RESCORED if settings[-1].rescored else 1)
        ids = exact_search(stored, queries, depth, codec.latent_metric)[0]
        for setting in settings:
            found = [ids[:, :count] for count in counts]
            if setting.rescored:
                found = _rescored(ids, latents, queries, counts, codec.latent_metric)
            figures = [recall_among(nearest, sample.truth) for nearest in found]
            yield TriedSetting(setting, codec, calibration, code, dict(zip(factors, figures, strict=True)))


def _setting(
    codec: Codec | LinearCodec, file: tuple[Path, int] | None, code_bytes: int, dtype: CodeType | None
) -> Setting:
    return Setting(
        codec=file[0].name if file else _kind(codec),
        file=str(file[0]) if file else None,
        file_width=file[1] if file else codec.code_dim,
        dim=codec.dim,
        width=codec.code_dim,
        dtype=dtype,
        code_bytes=code_bytes,
    )


def _rescored(
    ids: IdArray, latents: FloatArray, queries: FloatArray, counts: Sequence[int], metric: Metric
) -> list[IdArray]:
    """Return for each count the first results by float latents among the first ``RESCORED`` times as many ids: (nq,
    count).
    """
    pairs = zip(queries, ids, strict=True)
    scores = np.stack([similarities(query[None], latents[row], metric)[0] for query, row in pairs])
    orders = [np.argsort(-scores[:, : RESCORED * count], axis=1, kind="stable")[:, :count] for count in counts]
    return [np.take_along_axis(ids, order, axis=1) for order in orders]


def _trellis(calibration: Calibration) -> Iterator[Code]:
    for budget in _BUDGETS:
        try:
            yield calibration.code(bytes=budget)
        except InvalidBudgetError:  # the latents cannot take that many bits
            return


def _best_linear(sample: PlanSample, kinds: Sequence[_Encoded]) -> _Encoded:
    """Return the linear codec that finds most neighbours of the choosing queries."""
    k = sample.truth.shape[1]
    figures = {}
    for kind in kinds:
        ids = exact_search(kind.latents, kind.queries[sample.choosing], k, kind.codec.latent_metric)[0]
        figures[_kind(kind.codec)] = {"recall": recall(ids, sample.truth[sample.choosing], k)}
    chosen = best(figures, "recall")
    return next(kind for kind in kinds if _kind(kind.codec) == chosen)


def _kind(codec: Codec | LinearCodec) -> str:
    assert isinstance(codec, LinearCodec)
    return str(codec.kind)


def _nested(codec: Codec) -> list[int]:
    """Return the widths to try; of a linear file, which has every width, only the usual ones."""
    widths = {*codec.metadata.nested_dims, codec.code_dim}
    return sorted(widths if len(widths) < codec.code_dim else widths & {*_widths(codec.dim), codec.code_dim})


def _widths(dim: int) -> list[int]:
    """Return the usual widths 16, 24, 32, 48, 64, 96 and so on, up to ``dim`` itself."""
    steps = (start << power for power in range(dim.bit_length()) for start in (16, 24))
    return sorted({dim, *(width for width in steps if width < dim)})
