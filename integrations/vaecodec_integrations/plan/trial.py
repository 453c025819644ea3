"""Build the chosen setting and search it for real: one query at a time, as an application does."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from pathlib import Path

import numpy as np

from vaecodec.calibration import CodecCalibration
from vaecodec.codec import Codec
from vaecodec.codes import CodeType
from vaecodec.errors import MissingExtraError
from vaecodec.evaluation import IdArray, Interval, bootstrap, recall_among, similarities
from vaecodec.extras import require
from vaecodec.interface import FloatArray
from vaecodec.packed_index import PackedIndex
from vaecodec_integrations.plan.candidates import RESCORED, PlanSample, Setting, TriedSetting
from vaecodec_integrations.plan.stores import StoreName, ef_for
from vaecodec_integrations.report.engines import open_graph
from vaecodec_integrations.report.engines.base import SearchEngine
from vaecodec_integrations.report.engines.qdrant import QdrantEngine

_MILLION = 1_000_000
_WARM_UP = 10
_FEW = 64

Search = Callable[[FloatArray], IdArray]


@dataclass(frozen=True)
class Trial:
    """Hold the figures that the store itself gave on the sample.

    Attributes:
        recall: mean recall@k of the confirming queries with its 95 % interval: what the store's own graph and
            quantiser lose is in it.
        milliseconds: median for one query with encoding and re-ranking, the originals in memory.
        milliseconds_per_million: the same, scaled to a million vectors: in proportion where every code is looked at,
            otherwise with the logarithm, as hierarchical graphs do (Malkov and Yashunin, arXiv 1603.09320).
    """

    recall: Interval
    milliseconds: float
    milliseconds_per_million: float


def try_out(store: StoreName, candidate: TriedSetting, oversample: int, sample: PlanSample) -> Trial | None:
    """Build the store on the sample and search it; return None where its library is not installed."""
    with tempfile.TemporaryDirectory(prefix="vaecodec-plan-") as folder:
        try:
            if store is StoreName.PACKED:
                return _try_packed(candidate, oversample, sample, Path(folder))
            if store is StoreName.QDRANT:
                engine: SearchEngine = QdrantEngine(oversampling=RESCORED if candidate.setting.rescored else None)
            else:
                engine = open_graph(ef=ef_for(sample.truth.shape[1] * oversample))
        except MissingExtraError:
            return None
        return _try_graph(engine, candidate, oversample, sample, Path(folder))


def _try_graph(
    engine: SearchEngine, candidate: TriedSetting, oversample: int, sample: PlanSample, folder: Path
) -> Trial:
    codec, k = candidate.codec, sample.truth.shape[1]
    latents, dtype = codec.encode(sample.base), candidate.setting.dtype or CodeType.FLOAT32
    if dtype not in engine.dtypes:  # pgvector's halfvec: measured on a graph of the same kind
        latents, dtype = candidate.code.decode(candidate.code.encode(latents)), CodeType.FLOAT32
    index = engine.build(latents, codec.latent_metric, folder, dtype=dtype)

    def search(query: FloatArray) -> IdArray:
        found: IdArray = index.search(codec.encode_queries(query), k * oversample)[0]
        if oversample == 1:
            return found
        there = found[found >= 0]
        scores = similarities(query, sample.base[there], sample.metric)[0]
        best = np.full(k, -1, np.int64)
        best[: min(k, len(there))] = there[np.argsort(-scores, kind="stable")[:k]]
        return best

    try:
        recall, times = _timed(sample, search)
    finally:
        index.close()
    milliseconds = float(np.median(times))
    return Trial(recall, milliseconds, milliseconds * log(_MILLION) / log(len(sample.base)))


def _try_packed(candidate: TriedSetting, oversample: int, sample: PlanSample, folder: Path) -> Trial:
    codec = _codec_file(candidate, folder / "codec.onnx")
    # Do not multiply the part of a search's time that does not depend on the size.
    few = replace(sample, base=sample.base[:_FEW])
    recall, times = _timed(sample, *(_packed(codec, candidate.setting, oversample, part) for part in (sample, few)))
    milliseconds, growing = float(np.median(times[0])), max(0.0, float(np.median(times[0] - times[1])))
    return Trial(recall, milliseconds, milliseconds + growing * (_MILLION / len(sample.base) - 1))


def _packed(codec: Codec, setting: Setting, oversample: int, sample: PlanSample) -> Search:
    index = PackedIndex(codec, dtype=setting.dtype, bytes=None if setting.dtype else setting.code_bytes)
    index.add(sample.base)
    originals = sample.base if oversample > 1 else None
    k = sample.truth.shape[1]
    return lambda query: index.search(query, k, originals=originals, oversample=oversample, threads=1)[0][0]


def _codec_file(candidate: TriedSetting, path: Path) -> Codec:
    """Write the file of a linear codec: a ``PackedIndex`` takes codec files only."""
    if isinstance(candidate.codec, Codec):
        return candidate.codec
    require("onnx", extra="export")
    from vaecodec_exporters.linear import export_linear

    export_linear(candidate.codec, path, calibration=CodecCalibration(codes=candidate.calibration))
    return Codec.load(path)


def _timed(sample: PlanSample, *searches: Search) -> tuple[Interval, FloatArray]:
    """Return the recall of the confirming queries by the first search, and the milliseconds of every query by every
    search.

    Each query on its own, by one search after the other: what else the machine does then weighs on all of them alike.
    """
    truth = sample.truth[sample.confirming]
    queries = sample.queries[sample.confirming]
    for row in range(min(_WARM_UP, len(queries))):
        for search in searches:
            search(queries[row : row + 1])
    found, times = [], np.empty((len(searches), len(queries)), np.float32)
    for row in range(len(queries)):
        for number, search in enumerate(searches):
            start = time.perf_counter()
            rows = search(queries[row : row + 1])
            times[number, row] = 1_000 * (time.perf_counter() - start)
            if number == 0:
                found.append(rows)
    return bootstrap(recall_among(np.stack(found), truth)), times
